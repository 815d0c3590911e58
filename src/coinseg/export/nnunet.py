"""Masks as training data for nnU-Net (raw data, version 2): 0 background, a label a class, then ignore, the highest label.

Files: OUT/dataset.json, OUT/imagesTr/CASE_0000.nii.gz (_0001 and on are further sequences of the scan) and
OUT/labelsTr/CASE.nii.gz, all on the grid of the scan; of plain images .png, which nnU-Net reads as "natural images" (grey, or
red, green and blue in one file).
"""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from coinseg.config.parsing import stored_settings
from coinseg.config.schema import DataSettings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.layouts.sequence_names import plain_name
from coinseg.data.layouts.shared import few
from coinseg.data.layouts.unlabelled import scans_in, sequences_in
from coinseg.data.readers.geometry import Geometry
from coinseg.data.readers.image import image_size, is_coloured, is_image, read_image, require_png, require_size, write_image_map
from coinseg.data.readers.image_mask import read_image_region, read_marked
from coinseg.data.readers.volume import read_geometry, read_on_grid, read_volume, write_scan
from coinseg.data.slices.channels import channels_of, sequences_of
from coinseg.errors import UserError
from coinseg.pipeline.label_maps import read_labels
from coinseg.pipeline.request import mask_name
from coinseg.pipeline.run_folder import data_of, require_named
from coinseg.runtime.files import read_json, write_json
from coinseg.runtime.records import read_settings
from coinseg.types import ScanMask

from .folder import new_folder

CHANNELS = ("CT",)
OTHERS = ("scan",)
"""The channel of volumes: nnU-Net clips and scales "CT" as Hounsfield units, any other name by its own mean and deviation."""
LESION = ("lesion",)
ENDING, PICTURE = ".nii.gz", ".png"
NAME = re.compile(r"Dataset\d{3}_.+")
"""What nnU-Net calls a data set."""
MAX_MODEL = 2**24  # bytes of model.json


@dataclass(frozen=True)
class TrainingCase:
    """One scan or image for nnU-Net."""

    id: str  # unique, safe as a file name
    image: Path  # the volume, or a plain image
    mask: Path | None  # on the grid of the image, of several classes a label map; None for a scan without a lesion
    difference: Path | None = None  # a map on the grid of the image, for `Uncertain.between`
    others: tuple[Path, ...] = ()  # further channels on the grid of the image


@dataclass(frozen=True)
class Uncertain:
    """Pixels that are labelled `ignore`."""

    band: float = 1.0  # distance from the border of the mask in pixels, within each slice; 0 for none
    between: tuple[float, float] | None = None  # range of the difference, the first included, the second not; None for none


def ring(mask: ScanMask, band: float) -> ScanMask:
    """Return the pixels within `band` pixels of the border of a mask (slices, H, W); of small components the outer ones."""
    uncertain = np.zeros(mask.shape, bool)
    for z in np.flatnonzero(mask.any((1, 2))) if band > 0 else ():
        inside = mask[z]
        core = np.asarray(ndimage.distance_transform_edt(np.pad(inside, 1)))[1:-1, 1:-1] > band
        parts, count = ndimage.label(inside)
        small = np.setdiff1d(np.arange(1, count + 1), parts[core])
        outer = ~inside & (np.asarray(ndimage.distance_transform_edt(~inside)) <= band)
        uncertain[z] = outer | (inside & ~core & ~np.isin(parts, small))
    return uncertain


def write_nnunet(
    out: Path, cases: Sequence[TrainingCase], uncertain: Uncertain | None = None,
    channels: Sequence[str] = CHANNELS, labels: Sequence[str] = LESION, overwrite: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Write an nnU-Net raw data set, atomically, and return its dataset.json.

    Args:
        out: the folder; nnU-Net finds it as `DatasetXXX_name`.
        cases: with their masks; `UserError` for none, volumes beside plain images, ids that are not unique, or a misfit.
        uncertain: pixels to label `ignore`; None for none, then there is no such label.
        channels: names of the image and the others of every case; a name selects the normalisation of nnU-Net ("CT" in any
            capitals clips to a fingerprint, others take z-scores). Of plain images, which are no CT, "CT" is "grey", and
            colour ones have R, G and B whatever it says.
        labels: names of the classes, whose values in the masks are 1, 2, ...; of one everything inside is it.
        overwrite: replace an earlier data set of coinseg; else it is a `UserError`.
    """
    uncertain = uncertain or Uncertain(0.0)
    if not cases or len({case.id for case in cases}) < len(cases):
        raise UserError(f"{len(cases)} cases, {len({case.id for case in cases})} names", "scans with unique names", "rename some")
    if wrong := [case.id for case in cases if len(case.others) + 1 != len(channels)]:
        got = f"{len(wrong)} of {len(cases)} cases have not the channels {', '.join(channels)}: {few(wrong, 3)}"
        raise UserError(got, "the same channels for every case", "add them, or leave these cases out")
    if taken := next((label for label in labels if label in ("background", "ignore")), None):
        raise UserError(f"the lesion is named {taken!r}", "another name than background and ignore", "mend --label")
    plain = is_image(cases[0].image)
    if odd := next((case for case in cases if is_image(case.image) != plain), None):
        raise UserError(f"{cases[0].image} and {odd.image}: a volume and a plain image", "one kind", "write a data set of each")
    if plain and uncertain.between:
        raise UserError("--between and plain images", "difference maps of volumes", "leave it out, or give --band")
    colour = plain and len(channels) == 1 and any(is_coloured(case.image) for case in cases)
    if plain:
        channels = ("R", "G", "B") if colour else ("grey",) if tuple(channels) in (CHANNELS, OTHERS) else channels
    names = ["background", *labels, *(["ignore"] if uncertain.band > 0 or uncertain.between else [])]
    about = {
        "channel_names": {str(number): plain_name(name) for number, name in enumerate(channels)},
        "labels": {name: value for value, name in enumerate(names)},
        "numTraining": len(cases), "file_ending": PICTURE if plain else ENDING, "coinseg": version("coinseg"),
    }  # fmt: skip
    with new_folder(out, overwrite, "dataset.json") as part:
        for folder in ("imagesTr", "labelsTr"):
            (part / folder).mkdir()
        for case in cases:
            _write_image(part, case, uncertain, labels, colour) if plain else _write_case(part, case, uncertain, labels)
        write_json(part / "dataset.json", about)
    return about


def channels_of_run(run: Path | None) -> tuple[str, ...]:
    """`OTHERS` where a run says that the values of its scans are no Hounsfield units, else `CHANNELS`."""
    file = run and run / "model.json"
    model = read_json(file, MAX_MODEL) if file and file.is_file() else None
    return OTHERS if isinstance(model, dict) and model.get("kind", "hu") != "hu" else CHANNELS


def _write_case(root: Path, case: TrainingCase, uncertain: Uncertain, names: Sequence[str]) -> None:
    volume = read_volume(case.image)
    labels, ignore = np.zeros(volume.scan.shape, np.int16), len(names) + 1
    if case.mask is not None:
        labels[:] = _with_rings(read_labels(case.mask, names, volume.geometry), uncertain, ignore)
    if uncertain.between is not None and case.mask is not None:
        if case.difference is None:
            raise UserError(f"{case.id} has no difference map", "one for every mask", "make them with segment --difference")
        difference = read_on_grid(case.difference, volume.geometry, "difference map")
        labels[(difference >= uncertain.between[0]) & (difference < uncertain.between[1])] = ignore
    for number, path in enumerate((case.image, *case.others)):
        scan = read_on_grid(path, volume.geometry, "channel") if number else volume.scan
        image = root / "imagesTr" / f"{case.id}_{number:04}{ENDING}"
        if path.name.endswith(ENDING) and _is_exactly(read_geometry(path), volume.geometry):
            shutil.copyfile(path, image)
        else:
            write_scan(image, scan, volume.geometry)
    write_scan(root / "labelsTr" / f"{case.id}{ENDING}", labels, volume.geometry)


def _is_exactly(grid: Geometry, other: Geometry) -> bool:
    return grid.shape == other.shape and np.array_equal(grid.affine, other.affine)


def _write_image(root: Path, case: TrainingCase, uncertain: Uncertain, names: Sequence[str], colour: bool) -> None:
    shape = image_size(case.image)
    for number, path in enumerate((case.image, *case.others)):
        pixels = read_image(path, colour)
        require_size(path, (pixels.shape[0], pixels.shape[1]), shape, "channel")
        require_png(pixels, str(path))
        deep = bool(pixels.max() > 255)
        pixels = np.rint(pixels / 257 if deep and colour else pixels).astype(np.uint16 if deep and not colour else np.uint8)
        write_image_map(root / "imagesTr" / f"{case.id}_{number:04}{PICTURE}", pixels)
    labels = np.zeros((1, *shape), np.uint8)
    if case.mask is not None:
        for value in range(1, len(names) + 1):
            several = len(names) > 1
            inside = read_image_region(case.mask, shape, (value,))[0] if several else read_marked(case.mask, shape)
            labels[0][inside] = value
        labels = _with_rings(labels, uncertain, len(names) + 1)
    write_image_map(root / "labelsTr" / f"{case.id}{PICTURE}", labels[0].astype(np.uint8))


def _with_rings(labels: np.ndarray, uncertain: Uncertain, ignore: int) -> np.ndarray:
    """Labels (slices, H, W), the pixels around the border of each class labelled `ignore`."""
    found = labels.copy()
    for value in range(1, ignore) if uncertain.band > 0 else ():
        found[ring(labels == value, uncertain.band)] = ignore
    return found


Cases = tuple[list[TrainingCase], tuple[str, ...]]
"""The cases, and the names of the sequences that each has; () where it has one."""


def cases_of_run(root: Path, data: Path | None = None) -> Cases:
    """Return the cases of a finished run: those with a mask, and those labelled normal; `UserError` without masks or data.

    Without `data` they are those that the run names, where it was made with them on this machine (`run_folder.data_of`).
    """
    if not (root / "settings.yaml").is_file():
        raise UserError(f"{root} is not a coinseg run", "a run folder, or a folder of scans with --masks", "mend the path")
    settings, data = stored_settings(read_settings(root / "settings.yaml", "settings")["settings"]), data or data_of(root)
    require_named(root, data, settings)
    cohort = read_layout(data, settings.data, one_class=settings.anomaly.kind != "none")
    masks = {case.id: root / "masks" / f"{case.id}{ENDING if case.volume else PICTURE}" for case in cohort.cases}
    channels = sequences_of(channels_of(cohort, settings.data)[0])
    others = {case.id: case.others if channels else () for case in cohort.cases}
    masked = [TrainingCase(c.id, c.image, masks[c.id], others=others[c.id]) for c in cohort.cases if masks[c.id].is_file()]
    if not masked and settings.anomaly.kind != "none":
        got = f"{root} has masks of anomalies that were injected, and none of its scans"
        raise UserError(got, "a run on labels of the data", "segment scans with it, then give them with --masks")
    if not masked:
        raise UserError(f"{root} has no masks", "a finished run", "finish it with `coinseg run` first")
    normal = [c for c in cohort.cases if c.label == 0 and not c.slice_labels]
    return masked + [TrainingCase(c.id, c.image, None, others=others[c.id]) for c in normal], channels


def cases_in(images: Path, masks: Path, differences: Path | None = None) -> Cases:
    """Return the scans or images of a folder that have a mask in another one; `UserError` when there are none.

    Where several volumes are sequences of one scan and one of them has its mask, the others are channels beside it.

    Args:
        images: the folder of the scans.
        masks, differences: folders of masks and difference maps, named as `coinseg segment` does.
    """
    cases, (scans, channels) = [], _scans_in(images, masks)
    for image, *others in scans:
        file = _mask_of(image, images)
        if (masks / file).is_file():
            name = "__".join((*file.parts[:-1], file.name.removesuffix(ENDING).removesuffix(PICTURE)))
            map_ = differences / file if differences else None
            cases.append(TrainingCase(name, image, masks / file, map_, tuple(others)))
    if not cases:
        got = f"no scan or image in {images} has a mask in {masks}"
        raise UserError(got, "masks by the names of their scans", "mend --masks")
    return cases, channels


def _mask_of(image: Path, images: Path) -> Path:
    return image.relative_to(images).parent / mask_name(image)


def _scans_in(images: Path, masks: Path) -> tuple[list[tuple[Path, ...]], tuple[str, ...]]:
    """The volumes of each scan in a folder, those of one channel for all first, and the names of the channels."""
    settings = DataSettings()
    sequences = sequences_in(images)
    if sequences:
        cases = [case for case in scans_in(images, settings, channels=sequences).cases if case.volume]
        files = [(case.image, *case.others) for case in cases]
        masked = {number for scan in files for number, path in enumerate(scan) if (masks / _mask_of(path, images)).is_file()}
        if len(masked) == 1:  # with masks of several of them each is a scan of its own
            (first,) = masked
            order = [first, *(number for number in range(len(sequences)) if number != first)]
            return [tuple(scan[i] for i in order) for scan in files], tuple(sequences[i] for i in order)
    return [(case.image,) for case in scans_in(images, settings).cases], ()
