"""Segmenting what a user points at: one scan, one image, or a folder; goes on past a bad file and skips what is done.

Several processes (torchrun, srun) share a folder: each takes every n-th input and notes what it did (`mask_table`); the first
gathers this into the table and the manifest.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from coinseg.data.layouts.shared import files_in, others_in, stem_of
from coinseg.data.layouts.unread import later_frames, other_endings
from coinseg.data.readers.image import image_size, is_image
from coinseg.data.readers.image_mask import INVERTED, read_image_region
from coinseg.data.readers.paths import holds_slices, kind_of, parts_of, sha256_of, split_key
from coinseg.data.readers.volume import WRITTEN, is_volume, read_geometry, read_mask
from coinseg.errors import UserError, is_full, plain
from coinseg.evaluation.verdict import trusted
from coinseg.inference.checkpoint import load
from coinseg.inference.classes import ClassPredictors
from coinseg.inference.predictor import Predictor
from coinseg.inference.sources import UNCHECKED
from coinseg.inference.table import TOLD, measure, untrusted
from coinseg.masks.confidence import doubtful
from coinseg.runtime.files import discard
from coinseg.runtime.ledger import Ledger, kept
from coinseg.runtime.locks import claimed, locked, owned, require_apart, require_free
from coinseg.runtime.process_group import process_group, rank_info
from coinseg.runtime.stage import Report, silent
from coinseg.types import MaskSource

from .manifest import model_of, unlike, verdict_of, write_segmented
from .mask_table import OF, MaskTable, Row
from .run_folder import require_outside
from .segment_classes import segment_classes

REMADE = "another scan than the one its mask was made of; the mask was made anew"
CHANGED = "its mask is not as coinseg wrote it; it was kept as it is"


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
    `counterfactual` and `difference` (of one volume or image, in its units) and `confidence` (in percent) are written where a
    place is given.
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

    @cached_property
    def trusted(self) -> bool:
        """Whether masks by the run may be called trusted."""
        return trusted(verdict_of(self.model))

    def target(self, path: Path) -> Path:
        """Where the mask of an input of a folder lies, below the output folder."""
        return path.relative_to(self.source).parent / mask_name(path)


def segment_path(request: Request) -> tuple[int, list[str]]:
    """Segment a file to a file, or a folder to a folder, which several processes share; a file is segmented by the first.

    Returns:
        The number of masks written (in a folder, those of the same inputs that are there are skipped) and one line for each
        input that failed, of all processes; (0, []) where this is not the first of them.
    """
    source, out, confidence = request.source, request.out, request.confidence
    path, key = split_key(source)
    if not path.exists():
        raise UserError(f"{source} does not exist", "a volume, an image or a folder", "mend -i")
    to_file = path.is_file() or key is not None or out.name.lower().endswith(WRITTEN)
    if to_file and not rank_info().is_main:
        return 0, []
    maps = {target: name for name in ("counterfactual", "difference") if (target := getattr(request, name))}
    if maps and not (is_volume(source) or is_image(source)):
        got = f"--counterfactual or --difference was given for {source}"
        raise UserError(got, "one volume or image", "ask for the masks of the others alone")
    endings = (".png",) if is_image(source) else WRITTEN
    for place in maps:
        if not place.name.lower().endswith(endings) or len({path.resolve() for path in (source, out, *maps)}) < 2 + len(maps):
            raise UserError(f"a map would go to {place}", f"a name of its own that ends in {endings[0]}", "choose such a name")
    places = [place for place in (out, *maps, confidence) if place]
    predictor = load(request.model, request.accelerator, request.classifier)
    if isinstance(predictor, ClassPredictors):
        return segment_classes(predictor, request, _checked_folder, bool(maps))
    if to_file:
        require_outside(places, request.model)
        _segment_file(predictor, request, maps)
        return 1, []
    return _checked_folder(predictor, request, places)


def _checked_folder(predictor: Predictor, request: Request, places: Sequence[Path]) -> tuple[int, list[str]]:
    """Segment a folder to a folder, or refuse the places that its results would go to."""
    source, out, confidence = request.source, request.out, request.confidence
    if request.organ:
        raise UserError("--organ was given for a folder", "one scan", "segment the scans one by one, or use coinseg run")
    for folder, option in ((out, "-o"), (confidence, "--confidence")):
        if folder and source.resolve() in (folder.resolve(), *folder.resolve().parents):
            raise UserError(f"{folder} lies inside {source}", "an output folder elsewhere", f"choose another {option}")
    theirs, ours = (confidence or out).resolve(), out.resolve()
    if confidence and (theirs.is_relative_to(ours) or ours.is_relative_to(theirs)):
        raise UserError(f"{confidence} and {out} lie in each other", "a folder of its own", "choose another --confidence")
    MaskTable(out, confidence, request.overwrite).manifest()
    if confidence:
        require_free(confidence, OF)
    require_outside(places, request.model)
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
        if taken := [target for target in targets if not claim.may_replace(target)]:
            raise UserError(f"{taken[0]} exists", "a new file", "choose another name or give --overwrite")
        segmentation = predictor.segment(source, request.organ, maps=bool(maps))
        for line in (*unchecked(predictor), *(f"{source.name}: the mask is doubtful: {doubt}" for doubt in segmentation.doubts)):
            request.report(f"warning: {plain(line)}", 1, 1, {})
        for target, name in maps.items():
            segmentation.write_map(name, target, overwrite=True)
        if confidence:
            segmentation.write_confidence(confidence, overwrite=True)
        segmentation.write(out, overwrite=True)


def unchecked(predictor: Predictor) -> list[str]:
    """A warning line for a run that kept no record of what it was trained on."""
    return [] if predictor.preparation.trained_on else [UNCHECKED]


def failure(written: int, failed: Sequence[str]) -> UserError | None:
    """What a command ends with when inputs failed."""
    got = f"{len(failed)} of {written + len(failed)} inputs failed: {'; '.join(failed[:5])}"
    return UserError(got, "readable inputs", "mend or remove them") if failed else None


def _segment_folder(predictor: Predictor, request: Request) -> tuple[int, list[str]]:
    here, found, out, sure = rank_info(), inputs(request.source), request.out, request.confidence
    table, model = MaskTable(out, sure, request.overwrite), model_of(request.model)["sha256"]
    owner = {"masks": str(out.resolve()), "model": model}
    with (
        process_group(here) as others,
        locked(out) if here.is_main else nullcontext(),
        owned(sure, OF, owner, request.overwrite) if here.is_main and sure else nullcontext(),
    ):
        if here.is_main:
            require_apart([folder / request.target(path) for folder in (out, sure) if folder for path in found], found)
            table.take_over(None if request.overwrite else model)
        found = others.broadcast(found)
        share, owners = here.share(found), {request.target(path): path for path in reversed(found)}
        report = request.report if here.is_main else silent
        out.mkdir(parents=True, exist_ok=True)
        try:
            with kept(table.ledger(here.rank)) as ledger:
                known = table.rows()
                for done, path in enumerate(share):
                    report("segment", done, len(share), {})
                    for record in _segmented(predictor, path, request, known, owners[request.target(path)], ledger):
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
        return _gathered(request, table, found, here.count, unchecked(predictor)) if here.is_main else (0, [])


def _gathered(
    request: Request, table: MaskTable, found: Sequence[Path], processes: int, unknown: list[str]
) -> tuple[int, list[str]]:
    """Write the table and the manifest from the notes of all processes; what `segment_path` returns.

    `unknown` are warnings about what could not be checked.
    """
    cases = [path.relative_to(request.source).as_posix() for path in found]
    noted = {note["path"]: note for note in table.notes() if "path" in note}
    if lost := [case for case in cases if case not in noted]:
        got = f"{request.out} does not say what became of {len(lost)} inputs, {lost[0]} among them"
        fix = "choose -o on a shared disk, or give the same command again"
        raise UserError(got, "an output folder that all processes share", fix)
    records = [noted[case] for case in cases]
    warnings = [f"{record['path']}: {warning}" for record in records if (warning := record.pop("warning"))]
    table.write(rows := [row for record in records if (row := record.pop("row"))])
    written, failed = sum(r["state"] == "written" for r in records), [r["error"] for r in records if r["error"]]
    warnings += unknown + unlike(rows) + other_endings(others_in(request.source, found), found) + later_frames(found)
    write_segmented(
        request.out, request.source, request.model, records, request.command, processes, failure(written, failed), warnings
    )
    table.forget_notes()
    return written, failed


def _segmented(
    predictor: Predictor, path: Path, request: Request, known: dict[str, Row], owner: Path, ledger: Ledger
) -> Iterator[Row]:
    """What becomes of one input of a folder (see `manifest.write_segmented`), its row of the table, a warning; the last counts.

    `owner` is the input to which the mask's place belongs; a mask that is there is kept where it is of this very input.
    """
    case, mask, sure = path.relative_to(request.source).as_posix(), request.target(path), request.confidence
    place, places = request.out / mask, [folder / mask for folder in (request.out, sure) if folder]
    digest, before = sha256_of(path), known.get(mask.as_posix())
    same = before is not None and digest is not None and (before["case"], before.get("sha256")) == (case, digest)
    drawn = before is None and not ledger.is_own(place)  # nobody knows of what
    done = place.exists() and not request.overwrite and (same or drawn)
    row: Row = {"case": case, "mask": mask.as_posix(), "sha256": digest}

    def noted(row: Row) -> Row:
        return record | {"row": row if request.trusted else untrusted(row)}

    record = {"path": case, "state": "skipped" if done else "written", "mask": mask.as_posix(), "sha256": digest, "error": None}
    record |= {"warning": REMADE if before and place.exists() and not same else None}
    try:
        if owner != path:
            raise UserError(f"{path} and {owner.name} would have one mask, {mask}", "names of their own", "rename one")
        for output in places if not done else ():
            ledger.require_own(output)
        if not done or (sure and not (sure / mask).exists()):
            segmentation = predictor.segment(path)
            if sure:
                segmentation.write_confidence(sure / mask, overwrite=True)
        if not done:
            discard(place)
            row |= segmentation.row(predictor.settings.data.axis) | measure(segmentation.mask, segmentation.geometry)
            # The row is noted first: after a kill in between there is no mask, and `take_over` drops the row.
            yield noted(row)
            segmentation.write(place, overwrite=True)
        elif before and (ledger.is_own(place) or not ledger.noted(place)):
            yield noted(before if "doubtful" in before else before | {"doubtful": doubtful(before.get("confidence"))})
        else:
            yield noted(_of_somebody(place, row, before)) | {"warning": CHANGED}
    except UserError as error:
        if is_full(error):
            raise  # so would be every other input
        yield record | {"state": "failed", "mask": None, "error": str(error), "row": None, "warning": None}


def _of_somebody(mask: Path, row: Row, before: Row | None) -> Row:
    """The row of a mask that somebody made: as it is now, or where it cannot be read as it was `before`."""
    try:
        return row | dict.fromkeys(TOLD) | _measured(mask)
    except UserError:
        if before is None:
            raise
        return before


def _measured(mask: Path) -> Row:
    """The numbers of a mask that is there already."""
    if is_image(mask):
        inside, notes = read_image_region(mask, image_size(mask))
        return measure((inside ^ (INVERTED in notes))[None], None)  # one that marks all of the border is as it was written
    geometry = read_geometry(mask)
    return measure(read_mask(MaskSource(mask), geometry), geometry)
