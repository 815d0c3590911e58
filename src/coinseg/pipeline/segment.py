"""Segmenting what a user points at: one scan, one image, or a folder; goes on past a bad file and skips what is done.

Several processes (torchrun, srun) share a folder: each takes every n-th input and notes what it did, line by line, in a file of its
own; the first gathers these into the table and the manifest once all are done. Notes that a killed process left are taken over.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, cast

from coinseg.data.layouts.shared import files_in, is_value, stem_of
from coinseg.data.readers.geometry import Geometry
from coinseg.data.readers.image import image_size, is_image, read_image_mask
from coinseg.data.readers.paths import holds_slices, parts_of, sha256_of, split_key
from coinseg.data.readers.volume import WRITTEN, is_volume, read_geometry, read_mask, write_scan
from coinseg.errors import UserError, is_full
from coinseg.inference.checkpoint import load
from coinseg.inference.predictor import Predictor
from coinseg.inference.table import JSON, TOLD, measure, write_table
from coinseg.masks.confidence import doubtful
from coinseg.runtime.files import read_json
from coinseg.runtime.locks import claimed, locked, owned, require_apart
from coinseg.runtime.process_group import process_group, rank_info
from coinseg.runtime.stage import Report, silent
from coinseg.types import MaskSource

from .manifest import MANIFEST, model_of, write_segmented

NOTES = ".done-{}.jsonl"
"""One line for each input a process is through with."""
OF = "confidence.json"
"""In a folder of `--confidence`: of which masks, by which model."""


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
    counterfactual: Path | None = None, difference: Path | None = None, confidence: Path | None = None, command: str = "",
    classifier: str | None = None,
) -> tuple[int, list[str]]:  # fmt: skip
    """Segment a file to a file, or a folder to a folder; a DICOM folder to a file when `out` has the name of a volume.

    How far to trust each pixel can be written beside it, in percent: a file for a file, a folder for a folder. Of one volume also the
    counterfactual and the difference map can be written, in HU. Several processes share a folder; of a file the first makes the mask and
    the others return at once.

    Returns:
        The number of masks written (those already there are skipped in a folder) and one line for each input that failed, of
        all processes; (0, []) where this is not the first of them.
    """
    path, key = split_key(source)
    if not path.exists():
        raise UserError(f"{source} does not exist", "a volume, an image or a folder", "mend -i")
    to_file = path.is_file() or key is not None or out.name.lower().endswith(WRITTEN)
    if to_file and not rank_info().is_main:
        return 0, []
    maps = {target: name for target, name in ((counterfactual, "counterfactual"), (difference, "difference")) if target}
    if maps:
        _require_places(source, [out, *maps])
    run = load(model, accelerator, classifier)
    if to_file:
        _segment_file(run, source, out, organ, overwrite, maps, confidence)
        return 1, []
    if organ:
        raise UserError("--organ was given for a folder", "one scan", "segment the scans one by one, or use coinseg run")
    for folder, option in ((out, "-o"), (confidence, "--confidence")):
        if folder and source.resolve() in (folder.resolve(), *folder.resolve().parents):
            raise UserError(f"{folder} lies inside {source}", "an output folder elsewhere", f"choose another {option}")
    theirs, ours = (confidence or out).resolve(), out.resolve()
    if confidence and (theirs.is_relative_to(ours) or ours.is_relative_to(theirs)):
        raise UserError(f"{confidence} and {out} lie in each other", "a folder of its own", "choose another --confidence")
    return _segment_folder(run, source, out, confidence, model, overwrite, report, command)


def _segment_file(
    run: Predictor,
    source: Path,
    out: Path,
    organ: Sequence[Path],
    overwrite: bool,
    maps: dict[Path, str],
    confidence: Path | None,
) -> None:
    """Segment one file; the mask and the maps (place -> field of `NativeMaps`) are written at the end, the mask last."""
    endings = (".png",) if is_image(source) else WRITTEN
    for target, option in ((out, "-o"), (confidence, "--confidence")):
        if target and not target.name.lower().endswith(endings):
            raise UserError(f"the output is {target}", f"a name that ends in {' or '.join(endings)}", f"mend {option}")
    beside = [*maps, *([confidence] if confidence else [])]
    if len({target.resolve() for target in (out, *beside)}) <= len(beside):
        raise UserError(f"two outputs would go to {confidence}", "a name for each", "mend --confidence")
    require_apart([out, *beside], [split_key(source)[0], *parts_of(source), *organ])
    with claimed(out, *beside, overwrite=overwrite) as claim:
        if taken := [place for place in (out, *beside) if place.exists() and not claim.may_replace]:
            raise UserError(f"{taken[0]} exists", "a new file", "choose another name or give --overwrite")
        found = run.segment(source, _organs(run, organ), maps=bool(maps))
        claim.begin()
        for target, name in maps.items():
            write_scan(target, getattr(found.maps, name), cast(Geometry, found.geometry), overwrite=True)
        if confidence:
            found.write_confidence(confidence, overwrite=True)
        found.write(out, overwrite=True)


def _organs(run: Predictor, organ: Sequence[Path]) -> list[MaskSource]:
    # A run on the labels of an organ map ("1", "2") reads the same labels from the maps it is given here.
    labels: list[tuple[int, ...]] = [(int(name),) for name in run.settings.data.organ if is_value(name)] or [()]
    return [MaskSource(path, values) for path in organ for values in labels]


def failure(written: int, failed: Sequence[str]) -> UserError | None:
    """What a command ends with when inputs failed."""
    if not failed:
        return None
    got = f"{len(failed)} of {written + len(failed)} inputs failed: {'; '.join(failed[:5])}"
    return UserError(got, "readable inputs", "mend or remove them")


def _require_places(source: Path, places: list[Path]) -> None:
    if not is_volume(source):
        raise UserError(
            f"--counterfactual or --difference was given for {source}", "one volume", "ask for the masks of the others alone"
        )
    for target in places[1:]:
        if not target.name.lower().endswith(WRITTEN) or len({path.resolve() for path in (source, *places)}) <= len(places):
            raise UserError(f"a map would go to {target}", "a name of its own that ends in .nii.gz", "choose such a name")


def _segment_folder(
    run: Predictor, source: Path, out: Path, sure: Path | None, model: Path, overwrite: bool, report: Report, command: str
) -> tuple[int, list[str]]:
    here, found = rank_info(), inputs(source)
    of = {"masks": str(out.resolve()), "model": model_of(model)["sha256"]}
    with (
        process_group(here) as others,
        locked(out) if here.is_main else nullcontext(),
        owned(sure, OF, of, overwrite) if here.is_main and sure else nullcontext(),
    ):
        if here.is_main:
            require_apart([folder / _target(path, source) for folder in (out, sure) if folder for path in found], found)
            _take_over(out, None if overwrite else model)
        found = others.broadcast(found)
        known, share, owners = _known(out), here.share(found), {_target(path, source): path for path in reversed(found)}
        tell = report if here.is_main else silent
        out.mkdir(parents=True, exist_ok=True)
        try:
            with (out / NOTES.format(here.rank)).open("w", encoding="utf-8") as notes:
                for done, path in enumerate(share):
                    tell("segment", done, len(share), {})
                    for record in _segmented(run, path, source, out, sure, overwrite, known, owners):
                        notes.write(json.dumps(record) + "\n")
                        notes.flush()
        except BaseException:
            if here.count == 1:
                with suppress(OSError):  # the disk may be what failed
                    _take_over(out, None)
            raise
        tell("segment", len(share), len(share), {})
        others.barrier()
    if not here.is_main:
        return 0, []
    noted = {note["path"]: note for note in _notes([out / NOTES.format(rank) for rank in range(here.count)])}
    cases = [path.relative_to(source).as_posix() for path in found]
    if lost := [case for case in cases if case not in noted]:
        raise UserError(
            f"{out} does not say what became of {len(lost)} inputs, {lost[0]} among them",
            "an output folder that all processes share",
            "choose -o on a shared disk, or give the same command again",
        )
    records = [noted[case] for case in cases]
    rows = [row for record in records if (row := record.pop("row"))]
    if rows:
        write_table(out, rows)
    written, failed = sum(r["state"] == "written" for r in records), [r["error"] for r in records if r["error"]]
    write_segmented(out, source, model, records, command, here.count, failure(written, failed))
    _forget_notes(out)
    return written, failed


def _target(path: Path, source: Path) -> Path:
    """Where the mask of an input lies, below the output folder."""
    return path.relative_to(source).parent / mask_name(path)


def _segmented(
    run: Predictor, path: Path, source: Path, out: Path, sure: Path | None, overwrite: bool, known: dict[str, dict[str, Any]],
    owners: dict[Path, Path],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """One input of a folder: what becomes of it (see `manifest.write_segmented`) and its row of the table; the last one counts.

    What will be there is told before the mask is put into place: after a kill in between the mask is not there, and the
    line does not count (`_take_over`); the other way round the row would be lost.
    """
    case, mask = path.relative_to(source).as_posix(), _target(path, source)
    done = not overwrite and (out / mask).exists()
    complete = done and (sure is None or (sure / mask).exists())
    kept = known.get(case) if done else None
    # What is done is not read again: a folder of a terabyte goes on at once.
    digest = (kept or {}).get("sha256") or sha256_of(path)
    record = {"path": case, "state": "skipped" if done else "written", "mask": mask.as_posix(), "sha256": digest, "error": None}
    row: dict[str, Any] = {"case": case, "mask": mask.as_posix(), "sha256": digest}
    try:
        if (owner := owners[mask]) != path:
            raise UserError(f"{path} and {owner.name} would have one mask, {mask}", "names of their own", "rename one")
        if not complete:
            segmented = run.segment(path)
            if sure:
                segmented.write_confidence(sure / mask, overwrite=True)
        if not done:
            (out / mask).unlink(missing_ok=True)
            row |= segmented.row(run.settings.data.axis) | measure(segmented.mask, segmented.geometry)
            yield record | {"row": row}
            segmented.write(out / mask, overwrite)
        elif kept:
            yield record | {"row": kept if "doubtful" in kept else kept | {"doubtful": doubtful(kept.get("confidence"))}}
        else:
            yield record | {"row": row | dict.fromkeys(TOLD) | _measured(out / mask)}
    except UserError as error:
        if is_full(error):
            raise  # so would be every other input
        yield record | {"state": "failed", "mask": None, "error": str(error), "row": None}


def _notes(files: Iterable[Path]) -> list[dict[str, Any]]:
    """What processes noted; a last line cut short by a kill is left out."""
    found = []
    for line in (
        line for file in files if file.exists() for line in file.read_text(encoding="utf-8", errors="replace").splitlines()
    ):
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


def _forget_notes(out: Path) -> None:
    for file in out.glob(NOTES.format("*")):
        file.unlink()


def _take_over(out: Path, model: Path | None) -> None:
    """Bring the table up to date with the notes of processes that were killed; masks of another model than `model` are refused."""
    file = out / MANIFEST
    made = read_json(file) if file.exists() else {"kind": "segment"}
    if not isinstance(made, dict) or made.get("kind") != "segment":
        raise UserError(f"{out} holds the manifest of something else", "an output folder of its own", "choose another -o")
    theirs = made.get("model", {}).get("sha256")
    if model is not None and theirs is not None and theirs != model_of(model)["sha256"]:
        raise UserError(f"{out} holds masks of another model", "masks of one model", "choose another -o, or give --overwrite")
    out.mkdir(parents=True, exist_ok=True)
    known, noted = _known(out), _notes(sorted(out.glob(NOTES.format("*"))))
    if rows := {note["path"]: note["row"] for note in noted if note["row"] and (out / note["mask"]).exists()}:
        write_table(out, list((known | rows).values()))
    file.unlink(missing_ok=True)
    _forget_notes(out)


def _known(out: Path) -> dict[str, dict[str, Any]]:
    """The rows of an earlier table by case; a file of that name which is no such table is left alone."""
    if not (out / JSON).is_file():
        return {}
    table = read_json(out / JSON)
    if not isinstance(table, dict) or not {"schema", "masks"} <= table.keys():
        raise UserError(f"{out / JSON} is no table of masks", "an output folder of its own", "choose another -o")
    return {row["case"]: row for row in table["masks"]}


def _measured(mask: Path) -> dict[str, Any]:
    """The numbers of a mask that is there already."""
    if is_image(mask):
        return measure(read_image_mask(mask, image_size(mask))[None], None)
    geometry = read_geometry(mask)
    return measure(read_mask(MaskSource(mask), geometry), geometry)
