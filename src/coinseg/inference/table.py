"""Masks in numbers: volume, components, boxes; one row for each scan, as index.json and index.csv beside the masks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from coinseg.data.layouts.shared import safe_id
from coinseg.data.readers.geometry import Geometry
from coinseg.masks.confidence import doubtful
from coinseg.runtime.files import csv_text, write_json, write_text
from coinseg.types import ScanMask

SCHEMA = 1
JSON, CSV = "index.json", "index.csv"
CLASSES = "classes"  # folder with a folder of each class
# In a row beside the numbers of the mask; see `told`.
TOLD = ("highest_f", "highest_posterior", "confidence", "doubtful", "out_of_distribution", "distance", "doubts")

CHANGE = "change"  # in a row of a run of several channels: the mean change inside the mask by channel, or None


def class_folder(name: str) -> str:
    """The folder of a class below that of a run or of masks: what is its own."""
    return f"{CLASSES}/{safe_id(name)}"


def folders_of_classes(root: Path) -> list[Path]:
    """The folders of classes that a run folder has."""
    return [folder for folder in sorted((root / CLASSES).glob("*")) if folder.is_dir()]


def of_other_classes(root: Path, names: Sequence[str]) -> list[Path]:
    """What an earlier run of other classes left in a run folder; `names` are those of now, none where there is one class.

    Beside the folders of classes that are none any more that is the evaluation of a run of one class, where there are several.
    """
    own = [root / class_folder(name) for name in names]
    others = [folder for folder in folders_of_classes(root) if folder not in own]
    return [*others, root / "evaluation"] if names else [root / CLASSES]


def measure(mask: ScanMask, geometry: Geometry | None) -> dict[str, Any]:
    """Size and place of a mask, canonical (slices, rows, columns) bool; `geometry` is None for a plain image, (1, rows, columns).

    Returns:
        pixels; volume_ml (null for an image, and for one slice of unknown thickness); components (connected by faces,
        edges or corners, in 3-D for a volume);
        box: {"min", "max"}, inclusive indices in the order of the file's own array ([row, column] for an image), null
        where the mask is empty; box_mm: the same box to the outer edges of its voxels in RAS+ millimetres, null for an
        image; parts: pixels, volume_ml, box and box_mm of every component, the largest first.
    """
    stored = mask[0] if geometry is None else geometry.to_source(mask).reshape(geometry.shape[:3], order="A")
    millilitres = None if geometry is None or geometry.flat else geometry.voxel_ml
    whole = ndimage.find_objects(stored.view(np.uint8))
    if not whole:
        return _part(0, None, millilitres, geometry) | {"components": 0, "parts": []}
    start = np.array([side.start for side in whole[0]])
    labels, count = ndimage.label(stored[whole[0]], np.ones((3,) * stored.ndim))
    sizes = np.zeros(count, np.int64)
    for plane in labels:  # One by one: bincount takes 8 bytes a voxel.
        sizes += np.bincount(plane.ravel(), minlength=count + 1)[1:]
    boxes = [_box(place, start) for place in ndimage.find_objects(labels)]
    parts = [_part(int(sizes[i]), boxes[i], millilitres, geometry) for i in np.argsort(-sizes, kind="stable")]
    return _part(int(sizes.sum()), _box(whole[0]), millilitres, geometry) | {"components": count, "parts": parts}


def _box(place: Sequence[slice], start: np.ndarray | int = 0) -> np.ndarray:
    """(2, axes): first and last index."""
    return np.array([[side.start for side in place], [side.stop - 1 for side in place]]) + start


def _part(pixels: int, box: np.ndarray | None, millilitres: float | None, geometry: Geometry | None) -> dict[str, Any]:
    return {
        "pixels": pixels,
        "volume_ml": None if millilitres is None else _rounded(pixels * millilitres),
        "box": None if box is None else {"min": box[0].tolist(), "max": box[1].tolist()},
        "box_mm": None if box is None or geometry is None else _millimetres(box, geometry),
    }


def _rounded(volume: float) -> float:
    """To 0.0001 ml; below 0.01 ml to four digits, or what micro-CT finds would be nothing."""
    return round(volume, 4) if volume >= 0.01 else float(f"{volume:.4g}")


def _millimetres(box: np.ndarray, geometry: Geometry) -> dict[str, list[float]]:
    """The smallest box along the axes of the patient (RAS+) around a box of voxels, whose edges are half a voxel out."""
    ends = box + np.array([[-0.5], [0.5]])
    corners = np.array([(x, y, z, 1) for x in ends[:, 0] for y in ends[:, 1] for z in ends[:, 2]])
    places = (corners @ geometry.affine.T)[:, :3] * geometry.millimetres
    return {"min": np.round(places.min(0), 3).tolist(), "max": np.round(places.max(0), 3).tolist()}


def highest(probability: np.ndarray) -> float | None:
    """The highest probability of the slices that were looked at; None where none was."""
    known = probability[np.isfinite(probability)]
    return round(float(known.max()), 4) if len(known) else None


def median(distances: np.ndarray) -> float | None:
    """The median distance of the slices that were looked at; None where none is known. One odd slice says nothing of a scan."""
    known = distances[np.isfinite(distances)]
    return round(float(np.median(known)), 4) if len(known) else None


def told(
    highest_f: float | None, highest_posterior: float | None, confidence: float | None, distance: float | None = None,
    doubts: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """The columns `TOLD` of a row: the highest f and posterior of its slices, the confidence, and whether that is doubtful.

    `distance` is that to the training images, above 1 out of distribution. `doubts` say in what the case is unlike the training;
    with any the mask is doubtful, whatever its confidence.
    """
    foreign = None if distance is None else distance > 1
    doubt = True if doubts else doubtful(confidence)
    return dict(zip(TOLD, (highest_f, highest_posterior, confidence, doubt, foreign, distance, [*doubts]), strict=True))


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """The rows of index.json as a table, a column for each number and channel; the parts are left to the JSON."""
    several = ["class"] if any("class" in row for row in rows) else []
    columns = ["case", *several, "mask", "pixels", "volume_ml", "components", *TOLD]
    index = [(end, axis) for end in ("min", "max") for axis in range(3)]
    boxes = [f"{end}_{axis}" for end, axis in index] + [f"{end}_{'xyz'[axis]}_mm" for end, axis in index]
    channels = [*dict.fromkeys(name for row in rows for name in row.get(CHANGE) or ())]
    lines: list[list[Any]] = [columns + boxes + [f"change {name}" for name in channels]]
    for row in rows:
        cells = [_cell(row.get(name)) for name in columns]
        for box in (row.get("box") or {}, row.get("box_mm") or {}):
            cells += [corner[axis] if axis < len(corner := box.get(end) or []) else None for end, axis in index]
        lines.append(cells + [(row.get(CHANGE) or {}).get(name) for name in channels])
    return csv_text(lines)


def untrusted(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a mask by a run that is not usable: doubtful, whatever its confidence and even where it is empty."""
    return row | {"doubtful": True}


def _cell(value: Any) -> Any:
    return "; ".join(value) if isinstance(value, list) else int(value) if isinstance(value, bool) else value


def write_table(folder: Path, rows: Sequence[dict[str, Any]], **facts: Any) -> dict[str, Any]:
    """Write index.csv, then index.json: schema, `facts` and the rows under "masks". Returns what the JSON holds."""
    index = {"schema": SCHEMA, **facts, "masks": list(rows)}
    write_text(folder / CSV, as_csv(rows))
    write_json(folder / JSON, index)
    return index
