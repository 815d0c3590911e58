"""Segmenting what a user points at: one scan, one image, or a folder; goes on past a bad file and skips what is done.

Several processes (torchrun, srun) share a folder: each takes every n-th input and notes what it did, line by line, in a file of
its own; the first gathers these into the table and the manifest. Notes that a killed process left are taken over.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from coinseg.data.layouts.shared import files_in, is_value, stem_of
from coinseg.data.readers.geometry import Geometry
from coinseg.data.readers.image import image_size, is_image, read_image_mask
from coinseg.data.readers.paths import holds_slices, kind_of, parts_of, sha256_of, split_key
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

NOTES = ".done-{}.jsonl"  # one line for each input a process is through with
OF = "confidence.json"  # in a folder of `--confidence`: of which masks, by which model


def mask_name(path: Path) -> str:
    """The name of the mask of an input: .png for an image, .nii.gz for a volume of any format."""
    return f"{stem_of(path)}{'.png' if is_image(path) else '.nii.gz'}"


def inputs(source: Path) -> list[Path]:
    """The volumes and images of a folder and its folders, in order, without hidden ones.

    A folder of DICOM slices is one volume; where slices of several studies lie in `source` itself, each is one.
    """
    if holds_slices(source):
        from coinseg.data.readers.dicom import identifiers_of

        slices = (path for path in source.iterdir() if kind_of(path) in ("slice", "volume"))
        if len({identifiers_of(path, ["StudyInstanceUID"]) for path in slices} - {frozenset()}) < 2:
            raise UserError(f"{source} is one DICOM series", "the name of one mask", "give -o a name that ends in .nii.gz")
    if not (found := files_in(source)):
        needed = "a folder of volumes, DICOM folders, PNG, JPEG or TIFF files"
        raise UserError(f"{source} holds no image or volume", needed, "mend the path")
    return found


@dataclass(frozen=True)
class Request:
    """What is to be segmented, by the run in the folder `model`, and where the results go; `organ` are masks of one scan.

    `source` is a file, of which `out` is the mask, or a folder, and `out` one for the masks; a DICOM folder can be either.
    `counterfactual` and `difference` (of one volume, in HU) and `confidence` (in percent) are written where a place is given.
    """

    source: Path
    out: Path
    model: Path
    organ: Sequence[Path] = ()
    overwrite: bool = False
    accelerator: str | None = None
    classifier: str | None = None
    counterfactual: Path | None = None
    difference: Path | None = None
    confidence: Path | None = None
    report: Report = silent
    command: str = ""

    def target(self, path: Path) -> Path:
        """Where the mask of an input of a folder lies, below the output folder."""
        return path.relative_to(self.source).parent / mask_name(path)


def segment_path(request: Request) -> tuple[int, list[str]]:
    """Segment a file to a file, or a folder to a folder, which several processes share; a file is segmented by the first.

    Returns:
        The number of masks written (in a folder, existing ones are skipped) and one line for each input that failed, of all
        processes; (0, []) where this is not the first of them.
    """
    source, out, confidence = request.source, request.out, request.confidence
    path, key = split_key(source)
    if not path.exists():
        raise UserError(f"{source} does not exist", "a volume, an image or a folder", "mend -i")
    to_file = path.is_file() or key is not None or out.name.lower().endswith(WRITTEN)
    if to_file and not rank_info().is_main:
        return 0, []
    maps = {target: name for name in ("counterfactual", "difference") if (target := getattr(request, name))}
    if maps and not is_volume(source):
        got = f"--counterfactual or --difference was given for {source}"
        raise UserError(got, "one volume", "ask for the masks of the others alone")
    for place in maps:
        if not place.name.lower().endswith(WRITTEN) or len({path.resolve() for path in (source, out, *maps)}) < 2 + len(maps):
            raise UserError(f"a map would go to {place}", "a name of its own that ends in .nii.gz", "choose such a name")
    predictor = load(request.model, request.accelerator, request.classifier)
    if to_file:
        _segment_file(predictor, request, maps)
        return 1, []
    if request.organ:
        raise UserError("--organ was given for a folder", "one scan", "segment the scans one by one, or use coinseg run")
    for folder, option in ((out, "-o"), (confidence, "--confidence")):
        if folder and source.resolve() in (folder.resolve(), *folder.resolve().parents):
            raise UserError(f"{folder} lies inside {source}", "an output folder elsewhere", f"choose another {option}")
    theirs, ours = (confidence or out).resolve(), out.resolve()
    if confidence and (theirs.is_relative_to(ours) or ours.is_relative_to(theirs)):
        raise UserError(f"{confidence} and {out} lie in each other", "a folder of its own", "choose another --confidence")
    return _segment_folder(predictor, request)


def _segment_file(predictor: Predictor, request: Request, maps: dict[Path, str]) -> None:
    """Segment one file; the mask and the maps (place -> field of `NativeMaps`) are written at the end, the mask last."""
    source, out, confidence = request.source, request.out, request.confidence
    endings = (".png",) if is_image(source) else WRITTEN
    for target, option in ((out, "-o"), (confidence, "--confidence")):
        if target and not target.name.lower().endswith(endings):
            raise UserError(f"the output is {target}", f"a name that ends in {' or '.join(endings)}", f"mend {option}")
    targets = [out, *maps, *([confidence] if confidence else [])]
    if len({target.resolve() for target in targets}) < len(targets):
        raise UserError(f"two outputs would go to {confidence}", "a name for each", "mend --confidence")
    require_apart(targets, [split_key(source)[0], *parts_of(source), *request.organ])
    with claimed(*targets, overwrite=request.overwrite) as claim:
        if taken := [target for target in targets if target.exists() and not claim.may_replace]:
            raise UserError(f"{taken[0]} exists", "a new file", "choose another name or give --overwrite")
        # A run on the labels of an organ map ("1", "2") reads the same labels from the maps it is given here.
        labels: list[tuple[int, ...]] = [(int(name),) for name in predictor.settings.data.organ if is_value(name)] or [()]
        organs = [MaskSource(path, values) for path in request.organ for values in labels]
        segmentation = predictor.segment(source, organs, maps=bool(maps))
        claim.begin()
        for target, name in maps.items():
            write_scan(target, getattr(segmentation.maps, name), cast(Geometry, segmentation.geometry), overwrite=True)
        if confidence:
            segmentation.write_confidence(confidence, overwrite=True)
        segmentation.write(out, overwrite=True)


def failure(written: int, failed: Sequence[str]) -> UserError | None:
    """What a command ends with when inputs failed."""
    got = f"{len(failed)} of {written + len(failed)} inputs failed: {'; '.join(failed[:5])}"
    return UserError(got, "readable inputs", "mend or remove them") if failed else None


def _segment_folder(predictor: Predictor, request: Request) -> tuple[int, list[str]]:
    here, found, out, sure = rank_info(), inputs(request.source), request.out, request.confidence
    owner = {"masks": str(out.resolve()), "model": model_of(request.model)["sha256"]}
    with (
        process_group(here) as others,
        locked(out) if here.is_main else nullcontext(),
        owned(sure, OF, owner, request.overwrite) if here.is_main and sure else nullcontext(),
    ):
        if here.is_main:
            require_apart([folder / request.target(path) for folder in (out, sure) if folder for path in found], found)
            _take_over(out, None if request.overwrite else request.model)
        found = others.broadcast(found)
        known, share, owners = _known(out), here.share(found), {request.target(path): path for path in reversed(found)}
        report = request.report if here.is_main else silent
        out.mkdir(parents=True, exist_ok=True)
        try:
            with (out / NOTES.format(here.rank)).open("w", encoding="utf-8") as notes:
                for done, path in enumerate(share):
                    report("segment", done, len(share), {})
                    for record in _segmented(predictor, path, request, known, owners):
                        notes.write(json.dumps(record) + "\n")
                        notes.flush()
        except BaseException:
            if here.count == 1:
                with suppress(OSError):  # the disk may be what failed
                    _take_over(out, None)
            raise
        report("segment", len(share), len(share), {})
        others.barrier()
    return _gathered(request, found, here.count) if here.is_main else (0, [])


def _gathered(request: Request, found: Sequence[Path], processes: int) -> tuple[int, list[str]]:
    """Write the table and the manifest from the notes of all processes; what `segment_path` returns."""
    out, cases = request.out, [path.relative_to(request.source).as_posix() for path in found]
    noted = {note["path"]: note for note in _notes(out / NOTES.format(rank) for rank in range(processes))}
    if lost := [case for case in cases if case not in noted]:
        got = f"{out} does not say what became of {len(lost)} inputs, {lost[0]} among them"
        fix = "choose -o on a shared disk, or give the same command again"
        raise UserError(got, "an output folder that all processes share", fix)
    records = [noted[case] for case in cases]
    if rows := [row for record in records if (row := record.pop("row"))]:
        write_table(out, rows)
    written, failed = sum(r["state"] == "written" for r in records), [r["error"] for r in records if r["error"]]
    write_segmented(out, request.source, request.model, records, request.command, processes, failure(written, failed))
    _forget_notes(out)
    return written, failed


def _segmented(
    predictor: Predictor, path: Path, request: Request, known: dict[str, dict[str, Any]], owners: dict[Path, Path]
) -> Iterator[dict[str, Any]]:
    """What becomes of one input of a folder (see `manifest.write_segmented`) and its row of the table; the last record counts."""
    case, mask, out, sure = path.relative_to(request.source).as_posix(), request.target(path), request.out, request.confidence
    done = not request.overwrite and (out / mask).exists()
    kept = known.get(case) if done else None
    # What is done is not read again: a folder of a terabyte goes on at once.
    digest = (kept or {}).get("sha256") or sha256_of(path)
    row: dict[str, Any] = {"case": case, "mask": mask.as_posix(), "sha256": digest}
    record = {"path": case, "state": "skipped" if done else "written", "mask": mask.as_posix(), "sha256": digest, "error": None}
    try:
        if (owner := owners[mask]) != path:
            raise UserError(f"{path} and {owner.name} would have one mask, {mask}", "names of their own", "rename one")
        if not done or (sure and not (sure / mask).exists()):
            segmentation = predictor.segment(path)
            if sure:
                segmentation.write_confidence(sure / mask, overwrite=True)
        if not done:
            (out / mask).unlink(missing_ok=True)
            row |= segmentation.row(predictor.settings.data.axis) | measure(segmentation.mask, segmentation.geometry)
            # The row is noted first: after a kill in between there is no mask, and `_take_over` drops the row.
            yield record | {"row": row}
            segmentation.write(out / mask, request.overwrite)
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
    notes = []
    for file in files:
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else ():
            with suppress(ValueError):
                notes.append(json.loads(line))
    return notes


def _forget_notes(out: Path) -> None:
    for file in out.glob(NOTES.format("*")):
        file.unlink()


def _take_over(out: Path, model: Path | None) -> None:
    """Add the notes of killed processes to the table; masks of another model than `model` are refused."""
    file = out / MANIFEST
    manifest = read_json(file) if file.exists() else {"kind": "segment"}
    if not isinstance(manifest, dict) or manifest.get("kind") != "segment":
        raise UserError(f"{out} holds the manifest of something else", "an output folder of its own", "choose another -o")
    theirs = manifest.get("model", {}).get("sha256")
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
