"""Masks that a person reviewed (`student.reviewed`): which of them each class of a run learns, and what is said of that."""

from collections.abc import Sequence
from dataclasses import dataclass

from coinseg.config.schema import Settings
from coinseg.data.layouts.shared import few
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.data.slices.store import SliceStore
from coinseg.data.slices.student_data import ReviewedCase, ReviewedMasks, case_of, reviewed_masks
from coinseg.errors import UserError
from coinseg.types import Cohort


def require_reviews(reviews: Sequence[ReviewedCase], settings: Settings, cohort: Cohort, has_student: bool) -> None:
    """Raise `UserError` before any work where reviewed masks are handed over that nobody would learn from.

    Args:
        reviews: the decided cases of `student.reviewed`.
        settings: of the run.
        cohort: its data; which of their cases are trained on is not known yet.
        has_student: whether one is trained.
    """
    if (folder := settings.student.reviewed) is None:
        return
    if not has_student:
        got, required = f"student.reviewed is {folder} and no student is trained", "a student, which alone learns reviewed masks"
        raise UserError(got, required, "leave student.reviewed out, or train a student")
    names, ids = _names(reviews, settings, cohort.classes), {case.id for case in cohort.cases}
    if any(case_of(one) in ids for one in reviews if one.class_name in names):
        return
    there = sorted({one.class_name for one in reviews})
    got, do = f"{folder} has {len(reviews)} decided cases, and none of them is of these data", "correct student.reviewed"
    if reviews and not set(there) & set(names):
        got += f" (they are of {_in_words(there)}, the data of {_in_words(names)})"
        do += "" if cohort.classes else ", or name the class with data.classes"
    raise UserError(got, "reviews of training cases", do)


def reviewed_of(reviews: Sequence[ReviewedCase], settings: Settings, store: SliceStore) -> tuple[ReviewedMasks, ...]:
    """The reviewed masks of training slices of each class in their order; () where `student.reviewed` is not set.

    Where the run has one class of several that were reviewed, `data.classes` says which.

    Raises:
        UserError: no reviewed case is one of the training.
    """
    if settings.student.reviewed is None:
        return ()
    names, found = _names(reviews, settings, store.classes), []
    for name, view in zip(names, store.views, strict=True):
        mine = [one for one in reviews if one.class_name == name or one.class_name not in names]
        slices = TrainingSlices(view, settings.anomaly, settings.seed)
        found.append(reviewed_masks(mine, slices, settings.data.axis, name))
    if not any(one.cases for one in found):
        got = f"{settings.student.reviewed} has {len(reviews)} decided cases, and none of them is a training case of these data"
        raise UserError(got, "reviews of training cases", "review some, or correct student.reviewed")
    return tuple(found)


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
    """

    masks: ReviewedMasks | None = None
    class_name: str = ""
    has_student: bool = False

    def said(self) -> list[str]:
        """The line that says how many were learnt; none where none were handed over."""
        found, of = self.masks, f" for {self.class_name}" if self.class_name else ""
        if found is None:
            return []
        if not self.has_student:
            return ["nothing was learnt from student.reviewed: too few masks are trusted for a student"]
        line = f"the student learnt {len(found.indices)} slices of {found.cases} cases reviewed{of} (student.reviewed)"
        if not found.cases:
            line = f"the student, which all classes share, learnt no mask reviewed{of} (student.reviewed)"
        unused = f"; {found.held_out} reviewed cases are held out or not of these data, and were not learnt from"
        return [f"not mask-free: {line}{unused if found.held_out else ''}"]

    def counts(self) -> dict[str, int] | None:
        """How many were learnt: cases, their slices, those of them with something marked, and cases that were not; or None."""
        found = self.masks
        if found is None or not self.has_student:
            return None
        marked = int(found.targets.any((1, 2)).sum())
        return {"cases": found.cases, "slices": len(found.indices), "marked": marked, "not_learnt": found.held_out}


NO_REVIEWS = Learnt()
