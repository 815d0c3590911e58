"""Segmenting what a user points at: one scan, one image, or a folder; goes on past a bad file and skips what is done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .data.image import is_image
from .data.layout_shared import files_in, stem_of
from .data.scan_files import holds_slices, split_key
from .data.volume import WRITTEN
from .engine import Report
from .errors import UserError
from .runs import Run, load
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
    source: Path, out: Path, model: Path, organ: Sequence[Path], overwrite: bool, accelerator: str | None, report: Report
) -> tuple[int, list[str]]:
    """Segment a file to a file, or a folder to a folder; a DICOM folder to a file when `out` has the name of a volume.

    Returns:
        The number of masks written (those already there are skipped in a folder) and one line for each input that failed.
    """
    place, key = split_key(source)
    if not place.exists():
        raise UserError(f"{source} does not exist", "a volume, an image or a folder", "mend -i")
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
        run.segment_file(source, out, organs, overwrite)
        return 1, []
    return _segment_folder(run, source, out, organs, overwrite, report)


def _segment_folder(
    run: Run, source: Path, out: Path, organs: list[MaskSource], overwrite: bool, report: Report
) -> tuple[int, list[str]]:
    if organs:
        raise UserError("--organ was given for a folder", "one scan", "segment the scans one by one, or use coinseg run")
    if source.resolve() in (out.resolve(), *out.resolve().parents):
        raise UserError(f"{out} lies inside {source}", "an output folder elsewhere", "choose another -o")
    found, written, failed = inputs(source), 0, []
    for done, path in enumerate(found):
        report("segment", done, len(found), {})
        target = out / path.relative_to(source).parent / mask_name(path)
        if target.exists() and not overwrite:
            continue
        try:
            run.segment_file(path, target, organs, overwrite)
            written += 1
        except UserError as error:
            failed.append(str(error))
    report("segment", len(found), len(found), {})
    return written, failed
