"""Scores of images that were cut into tiles, over whole images: tiles overlap, and nobody looks at one alone.

What f and the generator do with a tile (`OF_TILES`) stays a score of tiles: they never see a whole image.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coinseg.config.schema import Settings
from coinseg.data.slices.crop import Box
from coinseg.masks.confidence import of_pixels, of_scan
from coinseg.masks.postprocess import levels_of
from coinseg.masks.tiles import blended, joined_mask
from coinseg.metrics import overlap as metrics

from .explained import Explained

OF_TILES = (
    "iou_oracle", "auprc", "cv", "flip_rate", "confidence_rank", "risk_area", "iou_trusted", "iou_doubtful", "masks_doubtful",
)  # fmt: skip
"""Scores that stay those of tiles."""
LONGEST = 384  # pixels along a whole image in the pictures of examples, at most


@dataclass(frozen=True)
class WholeImages:
    """Held-out slices, of which some are in tiles: the positions of the squares of each, and how they are joined.

    Args:
        found: explained squares.
        predicted: their masks, (n, S, S) bool.
        index: of the store.
        threshold: of the masks.
        settings: masks and data are read.
    """

    found: Explained
    predicted: np.ndarray
    index: dict[str, np.ndarray]
    threshold: float
    settings: Settings

    def members(self) -> list[np.ndarray]:
        """The positions of the squares of every slice, in the order of their first ones."""
        rows = self.found.rows
        places = [self.index[name][rows] for name in ("case", "slice")]
        of = np.unique(np.stack([np.unique(place, return_inverse=True)[1] for place in places]), axis=1, return_inverse=True)[1]
        of = of.reshape(-1)
        order = np.argsort(of, kind="stable")
        squares = np.split(order, np.flatnonzero(np.diff(of[order])) + 1)
        return sorted(squares, key=lambda positions: int(positions[0]))

    def boxes(self, positions: np.ndarray, scale: float = 1.0) -> list[Box]:
        """The boxes of squares in their slice, which is `scale` times as large."""
        rows = self.found.rows[positions]
        edges = np.stack([self.index[name][rows] for name in ("top", "left", "height", "width")], axis=1) * scale
        return [Box(*map(float, one)) for one in edges]

    def joined(self, positions: np.ndarray, values: np.ndarray, shape: tuple[int, int], scale: float = 1.0) -> np.ndarray:
        """Values (k, S, S) of the squares of a slice as one picture `shape`."""
        pieces = (box.part(one, shape) for box, one in zip(self.boxes(positions, scale), values, strict=True))
        return blended(pieces, shape)

    def shape(self, positions: np.ndarray, scale: float = 1.0) -> tuple[int, int]:
        """Height and width of a slice as far as squares show it."""
        boxes = self.boxes(positions, scale)
        height, width = (max(ends) for ends in zip(*((b.top + b.height, b.left + b.width) for b in boxes), strict=True))
        return round(height), round(width)

    def sure(self, positions: np.ndarray, shape: tuple[int, int], scale: float = 1.0) -> np.ndarray:
        """How sure the tiles together are of each pixel, `shape`."""
        maps = self.found.refined[positions]
        levels = levels_of(maps, self.found.levels(self.threshold, positions), self.settings.masks.peak)
        values = of_pixels(maps, np.broadcast_to(levels, len(maps))).astype(np.float16)  # as `ConfidenceMap` keeps them
        return self.joined(positions, values, shape, scale)

    def mask(self, positions: np.ndarray, shape: tuple[int, int], scale: float = 1.0) -> np.ndarray:
        """The mask of a slice, as `inference.scans` makes it of the same maps."""
        if len(positions) == 1:
            return self.boxes(positions, scale)[0].paste_mask(self.predicted[positions[0]], shape)
        data = self.settings.data
        return joined_mask(self.sure(positions, shape, scale), self.settings.masks, scale * data.tile_side / data.side)

    def truth(self, positions: np.ndarray, shape: tuple[int, int], scale: float = 1.0) -> np.ndarray:
        """The lesion mask of a slice, of those of its squares."""
        return self.joined(positions, self.found.truth[positions].astype(np.float32), shape, scale) > 0.5

    def summary(self, members: Sequence[np.ndarray], label: np.ndarray, lesion: np.ndarray) -> Explained:
        """The slices without their pixels: f, labels and scores; an image is as abnormal as its most abnormal tile."""
        found, nothing = self.found, np.zeros((len(members), 1, 1), np.float32)

        def highest(values: np.ndarray) -> np.ndarray:
            return np.array([values[positions].max() for positions in members])

        return Explained(
            rows=found.rows[[positions[0] for positions in members]], label=highest(label), before=highest(found.before),
            image=nothing[:, None], saliency=nothing, refined=nothing, truth=lesion[:, None, None],
            known=~highest(~found.known), after=None if found.after is None else highest(found.after),
            posterior=None if found.posterior is None else highest(found.posterior),
        )  # fmt: skip

    def confidence(self, members: Sequence[np.ndarray]) -> np.ndarray:
        """The confidence of the mask of each slice, (m,), from those of its tiles; NaN where nothing is marked."""
        sure, areas = self.found.confidence(self.predicted), self.predicted.sum((1, 2))
        known = [of_scan(sure[positions], areas[positions]) for positions in members]
        return np.array([np.nan if one is None else one for one in known], dtype=np.float64)

    def pictures(self, members: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Pictures of slices on a ground of one size, black where a slice ends, the longer side at most `LONGEST` pixels.

        Returns:
            image and counterfactual (m, C, H, W), saliency, refined and sure (m, H, W) float32, mask and truth (m, H, W) bool,
            and the confidence of each mask, (m,).
        """
        found = self.found
        scales = [min(1.0, LONGEST / max(self.shape(positions))) for positions in members]
        shapes = [self.shape(positions, scale) for positions, scale in zip(members, scales, strict=True)]
        ground = tuple(map(max, zip(*shapes, strict=True))) if shapes else (1, 1)
        stacks = {"image": found.image, "saliency": found.saliency[:, None], "refined": found.refined[:, None]}
        stacks |= {} if found.counterfactual is None else {"counterfactual": found.counterfactual}
        made = {name: np.zeros((len(members), values.shape[1], *ground), np.float32) for name, values in stacks.items()}
        made |= {name: np.zeros((len(members), *ground), np.float32) for name in ("sure", "mask", "truth")}
        confidence = self.confidence(members)
        for i, (positions, scale, shape) in enumerate(zip(members, scales, shapes, strict=True)):
            place = (slice(shape[0]), slice(shape[1]))
            for name, how in {"sure": self.sure, "mask": self.mask, "truth": self.truth}.items():
                made[name][(i, *place)] = how(positions, shape, scale)
            for name, values in stacks.items():
                for channel in range(values.shape[1]):
                    made[name][(i, channel, *place)] = self.joined(positions, values[positions, channel], shape, scale)
            confidence[i] = confidence[i] if made["mask"][i].any() else np.nan
        made |= {name: made[name][:, 0] for name in ("saliency", "refined")}
        return made | {name: made[name] > 0.5 for name in ("mask", "truth")} | {"confidence": confidence}

    def pairs(self, of: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Mask and truth of slices, one after another."""
        for positions in of:
            shape = self.shape(positions)
            yield self.mask(positions, shape), self.truth(positions, shape)


def labels_of_slices(label: np.ndarray, index: dict[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
    """The label of the slice that each square is of, (n,): that which the slice was given, whatever its own tile shows.

    A scan whose slices are all abnormal by a label that is not of its tiles was labelled as a whole: its slices are what their
    masks say, and unknown without, as those of scans that are not in tiles are.

    Args:
        label: of the squares, by the masks of those whose own label is not known, (n,), 0, 1 or below 0.
        index: of the store.
        rows: of the squares in it, (n,).
    """
    cases, of = np.unique(index["case"], return_inverse=True)
    first, last, weak = np.full(len(cases), np.inf), np.full(len(cases), -np.inf), np.ones(len(cases), bool)
    np.minimum.at(first, of, index["slice"])
    np.maximum.at(last, of, index["slice"])
    np.logical_and.at(weak, of, (index["weak"] == 1) & (index["label"] == 1))
    of_scan = (weak & (first < last))[of[rows]]
    return np.where(of_scan, label, np.maximum(label, index["label"][rows]))


def whole_scores(images: WholeImages, label: np.ndarray) -> tuple[dict[str, Any], Explained, list[float | None]]:
    """The scores of `protocols.mask_free` that are of masks and image labels, over whole images, and which ones are of tiles.

    Args:
        images: the held-out slices.
        label: of each square that of its slice, 0, 1 or below 0, (n,), whatever its own tile shows.

    Returns:
        The scores; the m slices without their pixels, `truth` (m, 1, 1) saying which have a lesion; and the Dice of each.
    """
    level, gate = images.settings.classifier.threshold, images.settings.student.gate
    members = images.members()
    marked, lesion, both, area = (np.zeros(len(members), np.int64) for _ in range(4))
    dices, distances = list[float | None](), list[float | None]()
    for i, (mask, truth) in enumerate(images.pairs(members)):
        marked[i], lesion[i], both[i], area[i] = mask.sum(), truth.sum(), (mask & truth).sum(), mask.size
        dices.append(metrics.dice(mask, truth))
        distances.append(metrics.hd95(mask, truth))
    whole = images.summary(members, label, lesion > 0)
    abnormal, normal, scored = whole.abnormal, whole.normal, whole.abnormal & whole.known
    union, members_scored = marked + lesion - both, np.flatnonzero(scored)
    everywhere, measured = scored | normal, [d for i in members_scored if (d := distances[i]) is not None]
    edges = metrics.size_edges(round(float(np.median(area)) ** 0.5))
    lesions = [members[i] for i in members_scored]
    scores: dict[str, Any] = {
        "iou_mask_free": _ratio(both[scored].sum(), union[scored].sum()),
        "iou_all_images": _ratio(both[everywhere].sum(), union[everywhere].sum()) if scored.any() else None,
        "dice_per_image": _mean([d for i in members_scored if (d := dices[i]) is not None]),
        "hd95_px": _mean(measured), "hd95_slices": len(measured),
        "false_positive_area": _ratio(marked[normal].sum(), area[normal].sum()),
        "normals_marked": _mean(marked[normal] > 0), "abnormals_marked": _mean(marked[abnormal] > 0),
        "lesions_touched": _mean(both[scored] > 0),
        "lesions_by_size": metrics.lesions_by_size(
            (mask for mask, _ in images.pairs(lesions)), (truth for _, truth in images.pairs(lesions)), edges
        ) if lesions else None,
        **metrics.classification_scores(whole.before, whole.label, level),
        **{f"slices_{name}": int(group.sum()) for name, group in
           {"abnormal": abnormal, "scored": scored, "normal": normal, "unknown": whole.label < 0}.items()},
        "of_tiles": [*OF_TILES],
    }  # fmt: skip
    if whole.posterior is not None:
        of_ensemble = metrics.classification_scores(whole.posterior, whole.label, gate)
        scores |= {f"posterior_{name}": value for name, value in of_ensemble.items()}
    return scores, whole, dices


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _mean(values: Sequence[float] | np.ndarray) -> float | None:
    return float(np.mean(values)) if len(values) else None
