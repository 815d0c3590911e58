"""One input of a folder: its mask is made, or kept where it is that of this very input or somebody drew it."""

from collections.abc import Iterator
from pathlib import Path

from coinseg.data.readers.image import image_size, is_image
from coinseg.data.readers.image_mask import read_marked
from coinseg.data.readers.paths import sha256_of
from coinseg.data.readers.volume import read_geometry, read_mask
from coinseg.errors import UserError, is_full, names_that_fit
from coinseg.inference.predictor import Predictor
from coinseg.inference.scans import Segmentation
from coinseg.inference.table import TOLD, measure, untrusted
from coinseg.masks.confidence import doubtful
from coinseg.runtime.files import discard, key_of
from coinseg.runtime.ledger import Ledger
from coinseg.types import Case, MaskSource

from .mask_table import Row
from .request import Request

REMADE = "another scan, channel or organ mask than those its mask was made of; the mask was made anew"
CHANGED = "its mask is not as coinseg wrote it; it was kept as it is"


def segmented(
    predictor: Predictor, one: Case, request: Request, known: dict[str, Row], owner: Path, ledger: Ledger
) -> Iterator[Row]:
    """What becomes of one input of a folder, as `_made` says, or its failure, which costs the others nothing; the last counts."""
    try:
        with names_that_fit():
            yield from _made(predictor, one, request, known, owner, ledger)
    except UserError as error:
        if is_full(error):
            raise  # so would be every other input
        record: Row = dict.fromkeys(("mask", "row", "warning")) | {"state": "failed", "error": str(error)}
        yield record | {"path": request.name_of(one.image).as_posix(), "sha256": sha256_of(one.image)}


def _made(
    predictor: Predictor, one: Case, request: Request, known: dict[str, Row], owner: Path, ledger: Ledger
) -> Iterator[Row]:  # fmt: skip
    """Make the mask of one input; what became of it (see `manifest.write_segmented`), its row of the table, a warning.

    `owner` is the input to which the mask's place belongs; a mask that is there is kept where it is of this very input.
    """
    path, sure = one.image, request.confidence
    case, mask = request.name_of(path).as_posix(), request.target(path)
    place, places = request.out / mask, [folder / mask for folder in (request.out, sure) if folder]
    digest, before = sha256_of(path), known.get(mask.as_posix())
    beside = [(sha256_of(organ.path), organ.values) for organ in one.organ] + [(sha256_of(other), ()) for other in one.others]
    organs = key_of(beside) if beside else None
    made_of = (case, digest, organs)
    same = before is not None and digest is not None and tuple(map(before.get, ("case", "sha256", "organs"))) == made_of
    drawn = before is None and not ledger.is_own(place)  # nobody knows of what
    done = place.exists() and not request.overwrite and (same or drawn)
    row: Row = {"case": case, "mask": mask.as_posix(), "sha256": digest} | ({"organs": organs} if organs else {})

    def noted(row: Row) -> Row:
        return record | {"row": row if request.trusted else untrusted(row)}

    record = {"path": case, "state": "skipped" if done else "written", "mask": mask.as_posix(), "sha256": digest, "error": None}
    record |= {"warning": REMADE if before and place.exists() and not same else None}
    if owner != path:
        raise UserError(f"{path} and {owner.name} would have one mask, {mask}", "names of their own", "rename one")
    for output in places if not done else ():
        ledger.require_own(output)
    if not done or (sure and not (sure / mask).exists()):
        segmentation = _read_and_segmented(predictor, one)
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


def _read_and_segmented(predictor: Predictor, one: Case) -> Segmentation:
    """Segment one input; what a disk says of it is no matter of the output, and `is_full` must not find it."""
    try:
        return predictor.segment(one if one.others else one.image, one.organ)
    except UserError as error:
        raise UserError(error.got, error.required, error.do) from None


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
        return measure(read_marked(mask, image_size(mask))[None], None)
    geometry = read_geometry(mask)
    return measure(read_mask(MaskSource(mask), geometry), geometry)
