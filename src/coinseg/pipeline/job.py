"""What a recipe works on: the data as each part of it sees them, the settings, and the folder that keeps every stage."""

from dataclasses import dataclass, replace
from pathlib import Path

from coinseg.config.schema import Settings
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.data.slices.store import SliceStore
from coinseg.data.slices.student_data import ReviewedMasks
from coinseg.explain.registry import COUNTERFACTUAL
from coinseg.inference.table import class_folder
from coinseg.runtime.files import key_of
from coinseg.runtime.stage import Report, silent
from coinseg.training.pseudo_masks import REVIEWED


@dataclass(frozen=True)
class Job:
    """What a recipe works on; no lesion mask is read from `store`, and organ masks only where `coin.regions` asks for them.

    `root` is the folder that keeps every stage; None keeps nothing. `reviewed` are masks of a person (`student.reviewed`), one
    for each class in their order; () without.
    """

    store: SliceStore
    settings: Settings
    root: Path | None = None
    report: Report = silent
    reviewed: tuple[ReviewedMasks, ...] = ()

    def folder(self, *names: str) -> Path | None:
        """A folder below the root."""
        return None if self.root is None else self.root.joinpath(*names)

    def key(self, key: str) -> str:
        """A key of what depends on the reviewed masks too."""
        return key_of([key, REVIEWED, *(one.digest for one in self.reviewed)]) if self.reviewed else key

    @property
    def classes(self) -> list["Job"]:
        """The job as each class sees it: its slices and reviewed masks, and a folder for its threshold and parts.

        Itself where there is one class.
        """
        views, names = self.store.views, self.store.classes
        if not names:
            return [self]
        roots = [self.folder(class_folder(name)) for name in names]
        reviewed: list[tuple[ReviewedMasks, ...]] = [(one,) for one in self.reviewed] or [()] * len(names)
        return [replace(self, store=v, root=r, reviewed=own) for v, r, own in zip(views, roots, reviewed, strict=True)]

    @property
    def slices(self) -> TrainingSlices:
        """The training side."""
        return TrainingSlices(self.store, self.settings.anomaly, self.settings.seed)

    @property
    def taught_slices(self) -> TrainingSlices:
        """The training side as the student sees it, of one class: with reviewed slices that nothing else is trained on."""
        return self.slices.with_rows(self.reviewed[0].rows) if self.reviewed else self.slices


def has_student(settings: Settings) -> bool:
    """Whether a student is trained: it needs a counterfactual method, and `masks.hflip` for the confidence of its masks."""
    return settings.method == COUNTERFACTUAL and settings.masks.hflip and settings.student.steps > 0
