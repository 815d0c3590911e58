"""Segmenting what a user points at: one scan, one image, or a folder; goes on past a bad file and skips what is done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .data.grid import Geometry
from .data.image import image_size, is_image, read_image_mask
from .data.layout_shared import files_in, stem_of
from .data.scan_files import holds_slices, split_key
from .data.volume import WRITTEN, is_volume, read_geometry, read_mask, write_scan
from .engine import Report
from .errors import UserError
from .runs import Run, load, write_segmentation
from .scan_table import JSON, highest, measure, write_table
from .storage import read_json
from .types import MaskSource


def mask_name(path: Path) -> str:
    """The name of the mask of an input: PNG for an image, .nii.gz for a volume of any format."""
    return f"{stem_of(path)}{'.png' if is_image(path) else '.nii.gz'}"


def inputs(source: Path) -> list[Path]:
    """The volumes (a folder of DICOM files is one) and images of a folder and its folders, in order, without hidden ones."""
    if holds_slices(source):
        raise UserError(f"{source} is one DICOM series", "the name of one mask", "give -o a name that ends in .nii.gz")
    found = files_in(source)
    if not found:
        raise UserError(
            f"{source} holds no image or volume", "a folder of volumes, DICOM folders, PNG, JPEG or TIFF files", "mend the path"
        )
    return found


def segment_path(
    source: Path, out: Path, model: Path, organ: Sequence[Path], overwrite: bool, accelerator: str | None, report: Report,
    counterfactual: Path | None = None, difference: Path | None = None,
) -> tuple[int, list[str]]:  # fmt: skip
    """Segment a file to a file, or a folder to a folder; a DICOM folder to a file when `out` has the name of a volume.

    Of one volume also the counterfactual and the difference map can be written, in HU.

    Returns:
        The number of masks written (those already there are skipped in a folder) and one line for each input that failed.
    """
    place, key = split_key(source)
    if not place.exists():
        raise UserError(f"{source} does not exist", "a volume, an image or a folder", "mend -i")
    maps = [path for path in (counterfactual, difference) if path]
    if maps:
        _require_places(source, [out, *maps], overwrite)
    run = load(model, accelerator)
    # A run on the labels of an organ map ("1", "2") reads the same labels from the maps it is given here.
    labels: list[tuple[int, ...]] = [(int(name),) for name in run.settings.data.organ if name.isdecimal()] or [()]
    organs = [MaskSource(path, values) for path in organ for values in labels]
    if place.is_file() or key is not None or out.name.lower().endswith(WRITTEN):
        endings = (".png",) if is_image(source) else WRITTEN
        if not out.name.lower().endswith(endings):
            raise UserError(f"the output is {out}", f"a name that ends in {' or '.join(endings)}", "mend -o")
        if place.resolve() in out.resolve().parents:
            raise UserError(f"{out} lies inside {source}", "an output elsewhere", "choose another -o")
        if out.exists() and not overwrite:
            raise UserError(f"{out} exists", "a new file", "choose another -o or give --overwrite")
        if maps:
            _write_maps(run, source, out, organs, overwrite, counterfactual, difference)
        else:
            run.segment_file(source, out, organs, overwrite)
        return 1, []
    return _segment_folder(run, source, out, organs, overwrite, report)


def _require_places(source: Path, places: list[Path], overwrite: bool) -> None:
    if not is_volume(source):
        raise UserError(
            f"--counterfactual or --difference was given for {source}", "one volume", "ask for the masks of the others alone"
        )
    for place in places[1:]:
        if not place.name.lower().endswith(WRITTEN) or len({path.resolve() for path in (source, *places)}) <= len(places):
            raise UserError(f"a map would go to {place}", "a name of its own that ends in .nii.gz", "choose such a name")
        if place.exists() and not overwrite:
            raise UserError(f"{place} exists", "a new file", "choose another name or give --overwrite")


def _write_maps(
    run: Run, source: Path, out: Path, organs: list[MaskSource], overwrite: bool,
    counterfactual: Path | None, difference: Path | None,
) -> None:  # fmt: skip
    found, geometry = run.segment(source, organs, maps=True), read_geometry(source)
    for place, name in ((counterfactual, "counterfactual"), (difference, "difference")):
        if place is not None:
            write_scan(place, getattr(found.maps, name), geometry, overwrite)
    write_segmentation(found, source, out, overwrite, geometry)


def _segment_folder(
    run: Run, source: Path, out: Path, organs: list[MaskSource], overwrite: bool, report: Report
) -> tuple[int, list[str]]:
    if organs:
        raise UserError("--organ was given for a folder", "one scan", "segment the scans one by one, or use coinseg run")
    if source.resolve() in (out.resolve(), *out.resolve().parents):
        raise UserError(f"{out} lies inside {source}", "an output folder elsewhere", "choose another -o")
    found, written, failed = inputs(source), 0, []
    known = _known(out)
    rows: list[dict[str, Any]] = []
    try:
        for done, path in enumerate(found):
            report("segment", done, len(found), {})
            case, target = path.relative_to(source), out / path.relative_to(source).parent / mask_name(path)
            row = {"case": case.as_posix(), "mask": target.relative_to(out).as_posix()}
            try:
                if overwrite or not target.exists():
                    segmented, geometry = run.segment(path, organs), _geometry(path)
                    write_segmentation(segmented, path, target, overwrite, geometry)
                    rows.append(row | {"highest_f": highest(segmented.probability)} | measure(segmented.mask, geometry))
                    written += 1
                else:
                    rows.append(known.get(row["case"]) or row | {"highest_f": None} | _measured(target))
            except UserError as error:
                failed.append(str(error))
    finally:  # What was made before an interruption keeps its f(X), which the masks do not hold.
        if rows:
            write_table(out, rows)
    report("segment", len(found), len(found), {})
    return written, failed


def _known(out: Path) -> dict[str, dict[str, Any]]:
    """The rows of an earlier table by case; a file of that name which is no such table is left alone."""
    if not (out / JSON).is_file():
        return {}
    table = read_json(out / JSON)
    if not isinstance(table, dict) or not {"schema", "masks"} <= table.keys():
        raise UserError(f"{out / JSON} is no table of masks", "an output folder of its own", "choose another -o")
    return {row["case"]: row for row in table["masks"]}


def _geometry(path: Path) -> Geometry | None:
    return None if is_image(path) else read_geometry(path)


def _measured(mask: Path) -> dict[str, Any]:
    """The numbers of a mask that is there already."""
    if is_image(mask):
        return measure(read_image_mask(mask, image_size(mask))[None], None)
    geometry = read_geometry(mask)
    return measure(read_mask(MaskSource(mask), geometry), geometry)
