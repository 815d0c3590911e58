"""Masks of several classes as one label map of each case: where classes overlap, the surest one counts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from PIL import Image

from coinseg.data.layouts.shared import few, stem_of
from coinseg.data.readers.geometry import Geometry
from coinseg.data.readers.image import read_image
from coinseg.data.readers.volume import is_volume, labels_of_volume, read_mask, read_volume, write_scan
from coinseg.errors import UserError
from coinseg.inference.table import JSON
from coinseg.runtime.files import damaged, new_file, read_json, write_json
from coinseg.runtime.records import fits
from coinseg.types import MaskSource

if TYPE_CHECKING:  # it imports torch, and the desk, which needs none, reads label maps
    from coinseg.inference.scans import Segmentation

LABELS = "labels.json"
OVERLAP = "the class with the highest confidence of the pixel"


def surest(masks: np.ndarray, confidences: np.ndarray) -> np.ndarray:
    """Labels of masks (K, ...) bool with confidences (K, ...): 0 outside of all, else 1 + the class inside that is surest.

    Of equally sure classes the first counts.
    """
    sure = np.where(masks, confidences.astype(np.int16) + 1, 0)
    return np.where(masks.any(0), sure.argmax(0) + 1, 0).astype(np.uint8)


def palette(classes: int) -> list[int]:
    """Red, green and blue of 256 values: black, then a colour for each class that colour-blind readers can tell."""
    colours = [
        (0, 0, 0),
        *(tuple(round(255 * part) for part in colormaps["tab10"](number % 10)[:3]) for number in range(classes)),
    ]
    return [part for colour in colours for part in colour] + [0] * (768 - 3 * len(colours))


def names_of(folders: Mapping[str, Path]) -> list[str]:
    """Names of the masks that any class has, below its folder `masks`, sorted."""
    masks = [folder / "masks" for folder in folders.values()]
    return sorted({path.relative_to(of).as_posix() for of in masks for path in of.rglob("*") if _is_mask(path)})


def write_label_maps(folders: Mapping[str, Path], out: Path) -> list[Path]:
    """Write a label map into `out` for every mask that a class has, and labels.json, which names the values.

    Args:
        folders: of each class in order, with `masks` and `confidence` below; a mask of one name is of one case.
        out: receives NIfTI on the grid of the masks, or palette PNG.
    """
    names = names_of(folders)
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        _write_joined(name, folders, out)
    write_json(out / LABELS, _values(folders))
    return [out / name for name in names]


def write_label_map(found: Mapping[str, "Segmentation"], out: Path, names: Path, confidence: Path | None = None) -> np.ndarray:
    """Write the label map of one case, and what its values stand for; return it, (slices, H, W) uint8.

    Args:
        found: what `ClassPredictors.segment` gave.
        out: a volume on the grid of the scan, or a palette PNG.
        names: receives the classes and their values as JSON.
        confidence: receives the percent of the class that a pixel has, outside of all masks those of the surest class.
    """
    masks = np.stack([one.mask for one in found.values()])
    percents = np.stack([np.asarray(one.pixel_confidence.percent) for one in found.values()])
    labels, geometry = surest(masks, percents), next(iter(found.values())).geometry
    if confidence is not None:
        shown = np.where(labels > 0, np.take_along_axis(percents, np.maximum(labels, 1)[None] - 1, 0)[0], percents.max(0))
        _write(confidence, shown, geometry, 0)
    write_json(names, _values(found))
    _write(out, labels, geometry, len(found))
    return labels


def names_beside(masks: Path) -> tuple[str, ...]:
    """The classes whose values 1, 2, ... a label map has, or those of a folder have; () where masks are of one class.

    They stand beside a file that `segment` wrote alone, and in `LABELS` of the folder of masks it belongs to, which is the
    nearest with a table. `UserError` where such a file is damaged.
    """
    alone = [] if masks.is_dir() else [names_file(masks)]
    near = [folder for folder in (masks, *masks.parents) if (folder / JSON).is_file() or (folder / LABELS).is_file()]
    file = next((file for file in (*alone, *(folder / LABELS for folder in near[:1])) if file.is_file()), None)
    if file is None:
        return ()
    contents = read_json(file)
    values = contents["labels"] if fits(contents, {"labels": dict[str, int]}) else {}
    if list(values.values()) != list(range(len(values))) or not 2 <= len(values) <= 256:
        raise damaged(file, "it does not number a background and classes from 0 on", "put it back as coinseg wrote it")
    return tuple(values)[1:]


def require_classes(out: Path, names: Sequence[str]) -> None:
    """Raise `UserError` where a folder has masks of other classes: what stays of them would be read by the `names` of these."""
    if not ((out / LABELS).is_file() or (out / JSON).is_file()) or (there := names_beside(out)) == tuple(names):
        return
    got = f"{out} has {_in_words(there)}, and the model finds {_in_words(names)}"
    raise UserError(got, "a folder for masks of the same classes", "choose another -o")


def _in_words(names: Sequence[str]) -> str:
    return f"the classes {few(names)}" if names else "masks of one class"


def names_file(out: Path) -> Path:
    """Where the names of the classes of a label map lie that is no part of a folder: beside it."""
    return out.with_name(f"{stem_of(out)}.{LABELS}")


def read_labels(path: Path, names: Sequence[str], like: Geometry) -> np.ndarray:
    """Read a label map, (slices, H, W) uint8 on the canonical grid of `like`; of one class, no or one name, 1 is inside.

    Raises:
        UserError: it cannot be read, lies on another grid, or has a value that stands for no class.
    """
    inside = read_mask(MaskSource(path), like)
    labels = inside.astype(np.uint8)
    if len(names) > 1:
        labels[:] = 0
        for value in range(1, len(names) + 1):
            labels[read_mask(MaskSource(path, (value,)), like)] = value
        if (inside & (labels == 0)).any():
            odd = [f"{value:g}" for value in labels_of_volume(path) if value > len(names)]
            got, required = f"{path} has the values {few(odd)}", f"0, and 1 to {len(names)}, which {few(names)} have"
            raise UserError(got, required, "correct the label map: a value for each class")
    return labels


def _values(names: Mapping[str, Any]) -> dict[str, Any]:
    values = {"background": 0} | {name: number for number, name in enumerate(names, 1)}
    return {"labels": values, "overlap": OVERLAP}


def _is_mask(path: Path) -> bool:
    return path.suffix.lower() == ".png" or path.name.lower().endswith(".nii.gz")


def _write_joined(name: str, folders: Mapping[str, Path], out: Path) -> None:
    places = [(folder / "masks" / name, folder / "confidence" / name) for folder in folders.values()]
    there = next(mask for mask, _ in places if mask.exists())
    volume = is_volume(there)
    like = read_volume(there) if volume else None
    shape = like.scan.shape if like else read_image(there).shape
    masks, confidences = np.zeros((len(places), *shape), bool), np.zeros((len(places), *shape), np.uint8)
    for number, (mask, confidence) in enumerate(places):
        if mask.exists():
            masks[number] = (read_volume(mask).scan if volume else read_image(mask)) > 0
            confidences[number] = read_volume(confidence).scan if volume else read_image(confidence)
    labels = surest(masks, confidences)
    _write(out / name, labels if like else labels[None], like.geometry if like else None, len(places))


def _write(out: Path, values: np.ndarray, geometry: Geometry | None, classes: int) -> None:
    """Write (slices, H, W) uint8: a volume on its grid, or a PNG in the colours of `classes`, or in grey where there are none."""
    if geometry is not None:
        write_scan(out, values, geometry, overwrite=True)
        return
    picture = Image.fromarray(values[0], mode="P" if classes else "L")
    if classes:
        picture.putpalette(palette(classes))
    with new_file(out, overwrite=True) as part:
        picture.save(part, format="PNG")
