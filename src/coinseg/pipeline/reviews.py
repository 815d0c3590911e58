"""Masks that a person reviewed (`student.reviewed`): which of them each class of a run learns, and what is said of that."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from coinseg.config.schema import Settings
from coinseg.data.layouts.shared import few
from coinseg.data.readers.image import image_size
from coinseg.data.readers.paths import sha256_of
from coinseg.data.readers.volume import peek_shape
from coinseg.data.slices.store import SliceStore
from coinseg.data.slices.student_data import Ids, ReviewedCase, ReviewedMasks, case_of, reviewed_masks
from coinseg.data.slices.twins import pixels_in
from coinseg.errors import UserError
from coinseg.types import Case, Cohort


def ids_of(reviews: Sequence[ReviewedCase], cohort: Cohort) -> dict[str, str]:
    """Which case of the data has which scan that `segment` was given: digest -> id.

    Scans are read in whole where a reviewed one has their shape, those of the same name first, until all are found.
    """
    wanted = {review.sha256: review for review in reviews if review.sha256 is not None}
    shapes, names = ({get(one) for one in wanted.values()} for get in (lambda one: one.shape, lambda one: _name(one.case)))
    found = dict[str, str]()
    for case in sorted(cohort.cases, key=lambda case: case.image.name not in names) if wanted else ():
        if len(found) == len(wanted):
            break
        with suppress(UserError):  # what cannot be read is said where it is prepared
            if _shape(case) in shapes and (digest := sha256_of(case.image)) in wanted:
                found.setdefault(digest, case.id)
    return found


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _shape(case: Case) -> tuple[int, int, int]:
    return peek_shape(case.image) if case.volume else (1, *image_size(case.image))


def require_reviews(reviews: Sequence[ReviewedCase], settings: Settings, cohort: Cohort, has_student: bool, found: Ids) -> None:
    """Raise `UserError` before any work where reviewed masks are handed over that nobody would learn from, or of something else.

    Args:
        reviews: the decided cases of `student.reviewed`.
        settings: of the run.
        cohort: its data; which of their cases are trained on is not known yet.
        has_student: whether one is trained.
        found: see `ids_of`.
    """
    if (folder := settings.student.reviewed) is None:
        return
    if not has_student:
        got, required = f"student.reviewed is {folder} and no student is trained", "a student, which alone learns reviewed masks"
        raise UserError(got, required, "leave student.reviewed out, or train a student")
    names, cases = _names(reviews, settings, cohort.classes), {case.id: case for case in cohort.cases}
    ours = [(one, cases[i]) for one in reviews if one.class_name in names and (i := case_of(one, found)) in cases]
    for one, case in ours:
        _require_class(one, settings, cohort.classes)
        _require_shape(one, case)
        _require_pixels(one, case)
    if ours:
        return
    there = sorted({one.class_name for one in reviews})
    got, do = f"{folder} has {len(reviews)} decided cases, and none of them is of these data", "correct student.reviewed"
    if segmented := sum(one.sha256 is not None for one in reviews):
        got += f" (masks of `segment`: {segmented}, and no scan of these data has the bytes of theirs)"
        do = "add those scans unchanged and with labels, or correct student.reviewed"
    if reviews and not set(there) & set(names):
        got += f" (they are of {_in_words(there)}, the data of {_in_words(names)})"
        do += "" if cohort.classes else ", or name the class with data.classes"
    raise UserError(got, "reviews of training cases", do)


def _require_class(review: ReviewedCase, settings: Settings, classes: Sequence[str]) -> None:
    """Raise `UserError` for a mask of a run on another one class of several: cases of both have the same names."""
    asked, of = settings.data.classes, review.model_class
    if len(asked) == 1 and not classes and of and of.casefold() != asked[0].casefold():
        got = f"{settings.student.reviewed} has reviews of masks of {of}, and data.classes is {asked[0]}"
        raise UserError(got, "reviews of masks of the same class", "correct student.reviewed or data.classes")


def _require_shape(review: ReviewedCase, case: Case) -> None:
    """Raise `UserError` where a case is not as large as its reviewed mask: the name is the same, the scan is not."""
    try:
        shape = _shape(case)
    except UserError:
        return  # what cannot be read is said where it is prepared
    if shape != review.shape:
        got = f"the reviewed mask of {review.case} has {_size(review.shape)} and its case {_size(shape)} (slices x H x W)"
        raise UserError(got, "the masks of these data", "correct student.reviewed")


def _require_pixels(review: ReviewedCase, case: Case) -> None:
    """Raise `UserError` where a case has other pixels than a person looked at: another picture of that name, or a turned one."""
    if review.pixels is None:
        return
    try:
        pixels = pixels_in(case.image, case.volume)
    except UserError:
        return  # what cannot be read is said where it is prepared
    if pixels != review.pixels:
        got = f"the reviewed mask of {review.case} was drawn on other pixels than {case.image} has"
        do = "correct student.reviewed, or open the case with `coinseg review`, which begins it anew"
        raise UserError(got, "the masks of these data", do)


def _size(shape: tuple[int, int, int]) -> str:
    return " x ".join(map(str, shape))


def reviewed_of(reviews: Sequence[ReviewedCase], settings: Settings, store: SliceStore, found: Ids) -> tuple[ReviewedMasks, ...]:
    """The reviewed masks of training slices of each class in their order; () where `student.reviewed` is not set.

    Where the run has one class of several that were reviewed, `data.classes` says which.

    Args:
        reviews: the decided cases of `student.reviewed`.
        settings: of the run.
        store: as it was prepared, see `reviewed_masks`.
        found: see `ids_of`.

    Raises:
        UserError: no reviewed case is one of the training.
    """
    if settings.student.reviewed is None:
        return ()
    names, masks = _names(reviews, settings, store.classes), []
    for name in names:
        mine = [one for one in reviews if one.class_name == name or one.class_name not in names]
        masks.append(reviewed_masks(mine, store, settings.data.axis, name, found))
    if not any(one.cases for one in masks):
        got = f"{settings.student.reviewed} has {len(reviews)} decided cases, and none of them is a training case of these data"
        got += f" ({', '.join(_not_learnt(masks[0]))})" if len(masks) == 1 and reviews else ""
        raise UserError(got, "reviews of training cases", "review some, or correct student.reviewed")
    return tuple(masks)


def _not_learnt(masks: ReviewedMasks) -> Iterator[str]:
    """How many reviewed cases are not learnt from, and why."""
    if masks.held_out:
        yield f"{masks.held_out} held out"
    if masks.unknown:
        yield f"{masks.unknown} not among these data or classes"


def _names(reviews: Sequence[ReviewedCase], settings: Settings, classes: Sequence[str]) -> tuple[str, ...]:
    """How the reviews call the classes of a run; "" for the only one, where `data.classes` does not name it."""
    asked, there = {name.casefold() for name in settings.data.classes}, sorted({one.class_name for one in reviews})
    return tuple(classes) or (*(name for name in there if name.casefold() in asked), "")[:1]


def _in_words(classes: Sequence[str]) -> str:
    return f"the classes {few(classes, 5)}" if any(classes) else "one class without a name"


@dataclass(frozen=True)
class Learnt:
    """What a run says of the reviewed masks of a class.

    Args:
        masks: that the student was given; None where none were handed over.
        class_name: "" where there is one class.
        has_student: whether there is a student, for which enough masks must be trusted.
        left_out: number of the slices that nothing else is trained on: the search for abnormal slices had left them out, or their
            label for the class is not known.
    """

    masks: ReviewedMasks | None = None
    class_name: str = ""
    has_student: bool = False
    left_out: int = 0

    def said(self) -> list[str]:
        """The line that says how many were learnt; none where none were handed over."""
        found, of = self.masks, f" for {self.class_name}" if self.class_name else ""
        if found is None:
            return []
        if not self.has_student:
            return [f"nothing was learnt from student.reviewed{of}: too few masks are trusted for a student"]
        line = f"the student learnt {len(found.rows)} slices of {found.cases} cases reviewed{of} (student.reviewed)"
        line += f", of which {self.left_out} teach nothing else" if self.left_out else ""
        if not found.cases:
            line = f"the student, which all classes share, learnt no mask reviewed{of} (student.reviewed)"
        unused = ", ".join(_not_learnt(found))
        return [f"not mask-free: {line}{f'; cases reviewed and not learnt from: {unused}' if unused else ''}"]

    def counts(self) -> dict[str, int] | None:
        """How many cases and slices were learnt, how many slices are marked, or left out else, and cases not learnt; or None."""
        found = self.masks
        if found is None or not self.has_student:
            return None
        marked = int(found.targets.any((1, 2)).sum())
        counts = {"cases": found.cases, "slices": len(found.rows), "marked": marked, "left_out": self.left_out}
        return counts | {"not_learnt": found.held_out + found.unknown}


NO_REVIEWS = Learnt()
