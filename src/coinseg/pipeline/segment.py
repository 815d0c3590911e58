"""Segmenting what a user points at: one scan, one image, a folder or a table; goes on past a bad file and skips what is done.

Several processes (torchrun, srun) share a folder: each takes every n-th input and notes what it did (`mask_table`); the first
gathers this into the table and the manifest.
"""

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

from coinseg.data.layouts.shared import few, others_in
from coinseg.data.layouts.unlabelled import scans_in
from coinseg.data.layouts.unread import other_endings, parts_left, paths_of
from coinseg.data.readers.image import is_image
from coinseg.data.readers.paths import parts_of, split_key
from coinseg.data.readers.volume import WRITTEN, is_volume
from coinseg.data.slices.channels import sequences_of
from coinseg.errors import UserError, plain
from coinseg.inference.checkpoint import load
from coinseg.inference.classes import ClassPredictors
from coinseg.inference.predictor import Predictor
from coinseg.inference.sources import UNCHECKED
from coinseg.runtime.files import discard
from coinseg.runtime.ledger import kept
from coinseg.runtime.locks import claimed, locked, owned, require_apart, require_free
from coinseg.runtime.process_group import process_group, rank_info
from coinseg.runtime.report import silent
from coinseg.types import Case

from .label_maps import names_file, require_classes, write_label_map
from .manifest import model_of, unlike, write_segmented
from .mask_table import OF, MaskTable
from .request import Request
from .run_folder import require_outside
from .segment_case import segmented
from .segment_classes import segment_classes


def segment_path(request: Request) -> tuple[int, list[str]]:
    """Segment a file to a file, or a folder to a folder, which several processes share; a file is segmented by the first.

    Returns:
        The number of masks written (in a folder, those of the same inputs that are there are skipped) and one line for each
        input that failed, of all processes; (0, []) where this is not the first of them.
    """
    source, out, confidence = request.source, request.out, request.confidence
    request.require_there()
    if request.to_file and not rank_info().is_main:
        return 0, []
    given = [(place, name) for name in ("counterfactual", "difference") if (place := getattr(request, name))]
    maps = dict(given)
    if maps and not (is_volume(source) or is_image(source)):
        got = f"--counterfactual or --difference was given for {source}"
        raise UserError(got, "one volume or image", "ask for the masks of the others alone")
    endings = (".png",) if is_image(source) else WRITTEN
    for place in maps:
        if not place.name.lower().endswith(endings) or len({path.resolve() for path in (source, out, *maps)}) < 2 + len(given):
            raise UserError(f"a map would go to {place}", f"a name of its own that ends in {endings[0]}", "choose such a name")
    places = [place for place in (out, *maps, confidence) if place]
    predictor = load(request.model, request.accelerator, request.classifier, request.engine)
    if maps and isinstance(predictor, ClassPredictors):
        got, required = f"--counterfactual or --difference and a run of {len(predictor.of)} classes", "a run of one class"
        raise UserError(got, required, f"ask in Python: coinseg.load(...).of[{predictor.names[0]!r}].segment(file, maps=True)")
    if request.to_file:
        require_outside(places, request.model)
        _segment_file(predictor, request, maps)
        return 1, []
    if isinstance(predictor, ClassPredictors):
        return segment_classes(predictor, request, _checked_folder)
    return _checked_folder(predictor, request, places)


def _checked_folder(predictor: Predictor, request: Request, places: Sequence[Path]) -> tuple[int, list[str]]:
    """Segment a folder to a folder, or refuse the places that its results would go to."""
    source, out, confidence = request.source, request.out, request.confidence
    if request.organ and not (len(request.organ) == 1 and request.organ[0].is_dir()):
        got = f"--organ {few(map(str, request.organ), 3)} was given for a folder of scans"
        raise UserError(got, "one folder with the organ masks of all, arranged like the scans", "give that folder")
    for folder, option in ((out, "-o"), (confidence, "--confidence")):
        if folder and not request.is_table and source.resolve() in (folder.resolve(), *folder.resolve().parents):
            raise UserError(f"{folder} lies inside {source}", "an output folder elsewhere", f"choose another {option}")
    theirs, ours = (confidence or out).resolve(), out.resolve()
    if confidence and (theirs.is_relative_to(ours) or ours.is_relative_to(theirs)):
        raise UserError(f"{confidence} and {out} lie in each other", "a folder of its own", "choose another --confidence")
    MaskTable(out, confidence, request.overwrite).manifest()
    require_classes(out, ())
    if confidence:
        require_free(confidence, OF)
    require_outside(places, request.model)
    return _segment_folder(predictor, request)


def _segment_file(predictor: Predictor | ClassPredictors, request: Request, maps: dict[Path, str]) -> None:
    """Segment one file; the mask and the maps (place -> field of `NativeMaps`) are written at the end, the mask last.

    Of several classes the mask is a label map, and what its values stand for lies beside it (`names_file`).
    """
    source, out, confidence = request.source, request.out, request.confidence
    endings = (".png",) if is_image(source) else WRITTEN
    for target, option in ((out, "-o"), (confidence, "--confidence")):
        if target and not target.name.lower().endswith(endings):
            raise UserError(f"the output is {target}", f"a name that ends in {' or '.join(endings)}", f"mend {option}")
    names, several = names_file(out), isinstance(predictor, ClassPredictors)
    targets = [out, *maps, *([confidence] if confidence else []), *([names] if several or names.exists() else [])]
    if len({target.resolve() for target in targets}) < len(targets):
        raise UserError(f"two outputs would go to {confidence}", "a name for each", "mend --confidence")
    require_apart(targets, [split_key(source)[0], *parts_of(source), *request.organ])
    with claimed(*targets, overwrite=request.overwrite) as claim:
        if taken := [target for target in targets if not claim.may_replace(target)]:
            raise UserError(f"{taken[0]} exists", "a new file", "choose another name or give --overwrite")
        segmentation = predictor.segment(source, request.organ, maps=bool(maps))
        each = segmentation.values() if isinstance(segmentation, dict) else [segmentation]
        doubts = dict.fromkeys(f"{source.name}: the mask is doubtful: {doubt}" for one in each for doubt in one.doubts)
        for line in (*unchecked(predictor), *doubts):
            request.report(f"warning: {plain(line)}", 1, 1, {})
        if isinstance(segmentation, dict):
            write_label_map(segmentation, out, names, confidence)
            return
        discard(names)  # of an earlier label map of this name
        for target, name in maps.items():
            segmentation.write_map(name, target, overwrite=True)
        if confidence:
            segmentation.write_confidence(confidence, overwrite=True)
        segmentation.write(out, overwrite=True)


def unchecked(predictor: Predictor | ClassPredictors) -> list[str]:
    """A warning line for a run that kept no record of what it was trained on."""
    return [] if predictor.preparation.trained_on else [UNCHECKED]


def failure(written: int, failed: Sequence[str]) -> UserError | None:
    """What a command ends with when inputs failed."""
    got = f"{len(failed)} inputs failed, {written} masks were written: {'; '.join(failed[:5])}"
    return UserError(got, "readable inputs", "mend or remove them") if failed else None


def _segment_folder(predictor: Predictor, request: Request) -> tuple[int, list[str]]:
    here, out, sure = rank_info(), request.out, request.confidence
    found, warnings = _cases(predictor, request)
    table, model = MaskTable(out, sure, request.overwrite), model_of(request.model)["sha256"]
    owner = {"masks": str(out.resolve()), "model": model}
    with (
        process_group(here) as others,
        locked(out) if here.is_main else nullcontext(),
        owned(sure, OF, owner, request.overwrite) if here.is_main and sure else nullcontext(),
    ):
        if here.is_main:
            targets = [folder / request.target(case.image) for folder in (out, sure) if folder for case in found]
            require_apart(targets, paths_of(found))
            table.take_over(None if request.overwrite else model)
        found = others.broadcast(found)
        share, owners = here.share(found), {request.target(case.image): case.image for case in reversed(found)}
        report = request.report if here.is_main else silent
        out.mkdir(parents=True, exist_ok=True)
        try:
            with kept(table.ledger(here.rank)) as ledger:
                known = table.rows()
                for done, case in enumerate(share):
                    report("segment", done, len(share), {})
                    for record in segmented(predictor, case, request, known, owners[request.target(case.image)], ledger):
                        table.note(here.rank, record)
                        if record["warning"]:
                            report(f"warning: {plain(record['path'])}: {record['warning']}", 0, 0, {})
        except BaseException:
            if here.count == 1:
                with suppress(OSError, UserError):  # the disk may be what failed
                    table.take_over(None)
            raise
        report("segment", len(share), len(share), {})
        others.barrier()
        return _gathered(request, table, found, here.count, warnings) if here.is_main else (0, [])


def _cases(predictor: Predictor, request: Request) -> tuple[list[Case], list[str]]:
    """The inputs of a folder or table with their organ masks, and the warnings about all."""
    data, trained_with = predictor.settings.data, predictor.preparation.organs or bool(request.organ)
    organs = "required" if data.roi != "none" else "wanted" if trained_with else "none"
    found = scans_in(request.source, data, organs, next(iter(request.organ), None), sequences_of(predictor.preparation.channels))
    warnings = [*unchecked(predictor), *found.left]
    if organs == "wanted" and (bare := [request.name_of(case.image).as_posix() for case in found.cases if not case.organ]):
        warnings.append(f"{len(bare)} inputs have no organ mask, all of their slices are searched: {few(bare, 3)}")
    return list(found.cases), warnings


def _gathered(
    request: Request, table: MaskTable, found: Sequence[Case], processes: int, general: list[str]
) -> tuple[int, list[str]]:
    """Write the table and the manifest from the notes of all processes; what `segment_path` returns.

    `general` are warnings about all inputs.
    """
    images = [case.image for case in found]
    cases = [request.name_of(path).as_posix() for path in images]
    noted = {note["path"]: note for note in table.notes() if "path" in note}
    if lost := [case for case in cases if case not in noted]:
        got = f"{request.out} does not say what became of {len(lost)} inputs, {lost[0]} among them"
        fix = "choose -o on a shared disk, or give the same command again"
        raise UserError(got, "an output folder that all processes share", fix)
    records = [noted[case] for case in cases]
    warnings = [f"{record['path']}: {warning}" for record in records if (warning := record.pop("warning"))]
    table.write(rows := [row for record in records if (row := record.pop("row"))])
    written, failed = sum(r["state"] == "written" for r in records), [r["error"] for r in records if r["error"]]
    others = [] if request.is_table else others_in(request.source, images)
    warnings += general + unlike(rows) + other_endings(others, images) + parts_left(images)
    write_segmented(
        request.out, request.source, request.model, records, request.command, processes, failure(written, failed), warnings
    )
    table.forget_notes()
    return written, failed
