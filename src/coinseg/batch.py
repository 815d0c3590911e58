"""Segmenting what a user points at: one scan, one image, or a folder; goes on past a bad file and skips what is done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .data.image import is_image
from .data.volume import is_volume
from .engine import Report
from .errors import UserError
from .runs import Run, load
from .types import MaskSource


def mask_name(path: Path) -> str:
    """The name of the mask of an input: PNG for an image, .nii.gz for a volume."""
    if is_image(path):
        return f"{path.stem}.png"
    return f"{path.name.removesuffix('.gz').removesuffix('.nii')}.nii.gz"


def inputs(source: Path) -> list[Path]:
    """The volumes and images of a folder and its folders, in order, without hidden ones."""
    found = [p for p in sorted(source.rglob("*")) if p.is_file() and not p.name.startswith(".") and (is_image(p) or is_volume(p))]
    if not found:
        raise UserError(
            f"{source} holds no image or volume", "a folder of .nii, .nii.gz, PNG, JPEG or TIFF files", "mend the path"
        )
    return found


def segment_path(
    source: Path, out: Path, model: Path, organ: Sequence[Path], overwrite: bool, accelerator: str | None, report: Report
) -> tuple[int, list[str]]:
    """Segment a file to a file, or a folder to a folder.

    Returns:
        The number of masks written (those already there are skipped in a folder) and one line for each input that failed.
    """
    if not source.exists():
        raise UserError(f"{source} does not exist", "a volume, an image or a folder", "mend -i")
    run = load(model, accelerator)
    # A run on the labels of an organ map ("1", "2") reads the same labels from the maps it is given here.
    labels: list[tuple[int, ...]] = [(int(name),) for name in run.settings.data.organ if name.isdecimal()] or [()]
    organs = [MaskSource(path, values) for path in organ for values in labels]
    if source.is_file():
        wanted = ".png" if is_image(source) else ".nii.gz"
        if not out.name.endswith((wanted, ".nii") if wanted == ".nii.gz" else wanted):
            raise UserError(f"the output is {out}", f"a name that ends in {wanted}", "mend -o")
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
