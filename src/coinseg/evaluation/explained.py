"""Explanations of the slices that are scored: all of a side, in batches, in memory or in files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coinseg.data.slices.dataset import ScoredBatch, ScoredSlices
from coinseg.errors import UserError
from coinseg.masks.confidence import DOUBT, confidence
from coinseg.runtime.devices import CHUNK
from coinseg.types import Explanation, Maps

Explain = Callable[[ScoredBatch], tuple[Explanation, Maps]]
"""Slices -> their explanation and the maps that masks are read from; it looks at images and labels, never at masks."""


@dataclass(frozen=True)
class Explained:
    """Explanations of n held-out slices."""

    rows: np.ndarray  # of the store, (n,)
    label: np.ndarray  # image labels, (n,), 0 or 1; below 0 (unknown) where only the scan has one
    before: np.ndarray  # f(X), (n,)
    image: np.ndarray  # (n, C, S, S) in [0, 1]
    saliency: np.ndarray  # the map of the method, (n, S, S) in [0, 1]
    refined: np.ndarray  # the map after mirror average and guided filter, (n, S, S) in [0, 1]
    truth: np.ndarray  # (n, S, S) bool
    known: np.ndarray  # whether the truth is known, (n,) bool
    after: np.ndarray | None = None  # f(X_cf), (n,); None for an attribution
    counterfactual: np.ndarray | None = None  # X_cf, (n, C, S, S) in [0, 1]; None for an attribution
    agreement: np.ndarray | None = None  # of other opinions with the masks, see `Maps`, (n,); None without mirror images
    posterior: np.ndarray | None = None  # image scores of the ensemble, (n,); None without a student
    level: np.ndarray | None = None  # thresholds of the maps, (n,), NaN: f says normal; None: one rule for all
    foreign: np.ndarray | None = None  # whether its case is unlike the training images, (n,) bool; None: nobody asked

    def levels(self, threshold: float, of: np.ndarray | list[int]) -> float | np.ndarray:
        """The threshold of the images with indices `of`, as an argument of `masks_of`."""
        return threshold if self.level is None else self.level[of]

    def confidence(self, predicted: np.ndarray) -> np.ndarray:
        """Confidence of the masks (n, S, S) of these slices, (n,) in [0, 1]; NaN for empty masks or without `agreement`."""
        unknown = np.full(len(self.rows), np.nan)
        sure = confidence(self.before, unknown if self.agreement is None else self.agreement, predicted)
        return np.where(self.is_foreign, sure * DOUBT, sure)

    @property
    def is_foreign(self) -> np.ndarray:
        """Of which slices the case is unlike the training images, (n,) bool; their masks are doubtful."""
        return np.zeros(len(self.rows), bool) if self.foreign is None else self.foreign

    @property
    def abnormal(self) -> np.ndarray:
        """Labelled abnormal, or with a lesion in the truth whatever the label."""
        return (self.label == 1) | (self.known & self.truth.any((1, 2)))

    @property
    def normal(self) -> np.ndarray:
        """Labelled normal and without a lesion."""
        return (self.label == 0) & ~self.abnormal


def explain_all(
    slices: ScoredSlices, explain: Explain, report: Callable[[int, int], None], members: np.ndarray | None = None,
    folder: Path | None = None,
) -> Explained:  # fmt: skip
    """Explain slices of this side in batches, all of them or `members` by position; pixels come back in [0, 1].

    With a folder the maps (22 bytes a grey pixel) lie there as memory-mapped files, which the caller removes.
    """
    members = np.arange(len(slices)) if members is None else members
    whole: dict[str, np.ndarray] = {}
    for start in range(0, len(members), CHUNK):
        report(start, len(members))
        batch = slices.scored(members[start : start + CHUNK])
        e, maps = explain(batch)
        found = {
            "rows": batch.rows, "label": batch.label, "truth": batch.truth, "known": batch.known, "refined": maps.values,
            "before": e.probability.numpy(), "image": batch.image.numpy() / 2 + 0.5, "saliency": e.saliency.numpy(),
        }  # fmt: skip
        known = {"agreement": maps.agreement, "posterior": maps.image_score, "level": maps.levels, "foreign": maps.foreign}
        found |= {name: of_maps for name, of_maps in known.items() if of_maps is not None}
        if e.counterfactual is not None and e.counterfactual_probability is not None:
            found |= {"after": e.counterfactual_probability.numpy(), "counterfactual": e.counterfactual.numpy() / 2 + 0.5}
        _require_numbers(slices, found)
        for name, value in found.items():
            if name not in whole:
                whole[name] = room_for(name, (len(members), *value.shape[1:]), value.dtype, folder)
            whole[name][start : start + len(value)] = value
    return Explained(**whole)


def _require_numbers(slices: ScoredSlices, found: dict[str, np.ndarray]) -> None:
    """Raise `UserError` where a classifier gives an image no number: it would count as normal, and the AUROC be anything."""
    for name in ("before", "after", "posterior"):
        if name in found and not (sound := np.isfinite(found[name])).all():
            of = name_of(slices.store.index, int(found["rows"][np.flatnonzero(~sound)[0]]))
            got = f"the classifier gives NaN or infinity for {int((~sound).sum())} held-out images, such as {of}"
            raise UserError(got, "a number for every image", "look at the image, mend the classifier, or use precision 32-true")


def room_for(name: str, shape: tuple[int, ...], kind: np.dtype, folder: Path | None) -> np.ndarray:
    """An array in memory, or in a file where it has pixels and there is a folder for them."""
    if folder is None or len(shape) == 1:
        return np.empty(shape, kind)
    folder.mkdir(parents=True, exist_ok=True)
    return np.lib.format.open_memmap(folder / f"{name}.npy", "w+", kind, shape)


def name_of(index: dict[str, np.ndarray], row: int, tiles: bool = False) -> str:
    """What a person calls a slice: plain images have no slice number, and only crops have a region; `tiles` are not named."""
    number = f", slice {index['slice'][row]}" if index["slice"].any() else ""
    region = f", region {index['region'][row]}" if index["region"][row] >= 0 and not tiles else ""
    return f"{index['case'][row]}{number}{region}"
