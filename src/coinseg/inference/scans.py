"""Scans and image files: cut into slices as those of the training were, segmented, and put back on the grid of the file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from coinseg.config.schema import Axis
from coinseg.data.readers.axes import turned
from coinseg.data.readers.geometry import Geometry
from coinseg.data.readers.image import require_png, write_image_map, write_image_mask
from coinseg.data.readers.volume import write_mask, write_scan
from coinseg.data.slices.case import LoadedCase, cut_pixels, encoder, limits_of
from coinseg.data.slices.channels import are_colour
from coinseg.data.slices.crop import Cut, slices_in
from coinseg.data.slices.intensity import signed
from coinseg.errors import UserError
from coinseg.masks.confidence import DOUBT, of_scan
from coinseg.masks.postprocess import clean_volume
from coinseg.masks.refine import channel_changes
from coinseg.masks.tiles import joined_mask
from coinseg.runtime.devices import CHUNK

from .distribution import of_places
from .image_score import ImageScores
from .maps import ConfidenceMap, NativeMaps
from .sources import doubts_of
from .table import CHANGE, highest, median, told

if TYPE_CHECKING:
    from .predictor import Predictor


_Tiles = dict[int, list[tuple[float, int]]]
"""Of slices that are cut into tiles, by number: the confidence of each tile, and how many of its pixels are marked."""


@dataclass(frozen=True)
class Segmentation:
    """The mask of one case on its own grid.

    Args:
        mask: canonical (slices, H, W) bool, whatever axis it was found along; one slice for a plain image.
        probability: f(X) of every slice looked at, NaN where none was, (slices along `data.axis`,).
        confidence: of the mask of a slice, in [0, 1]; NaN where there is none, and everywhere without `masks.hflip`.
        image_score: P(abnormal) of the ensemble, (slices along `data.axis`,); NaN everywhere without a student.
        distance: of a slice to the training images, (slices along `data.axis`,): above 1 out of distribution; NaN as above, and
            everywhere in runs without a record of their images. Of a slice in tiles it is the median of theirs.
        geometry: the grid of a volume; None for a plain image.
        maps: counterfactual and difference in the units of the source, where they were asked for.
        doubts: in what the case lies outside of what the run was trained on, or is odd; the confidence is lowered then.
        changes: of several channels, by name: the mean |X - X_cf| / 2 inside the mask of each square, and how many of its pixels
            are marked; empty for one channel and for attributions.
    """

    mask: np.ndarray
    probability: np.ndarray
    confidence: np.ndarray
    image_score: np.ndarray
    distance: np.ndarray
    pixel_confidence: ConfidenceMap
    geometry: Geometry | None = None
    maps: NativeMaps | None = None
    doubts: tuple[str, ...] = ()
    changes: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    tiles: _Tiles = field(default_factory=lambda: defaultdict(list), repr=False)

    @classmethod
    def empty(cls, predictor: Predictor, case: LoadedCase, maps: bool) -> Segmentation:
        """An empty mask, to be filled in."""
        axis, shape = predictor.settings.data.axis, case.scan.shape[:3]
        f, confidence, score, distance = (np.full(len(turned(case.scan, axis)), np.nan) for _ in range(4))
        painted = NativeMaps(case.scan, axis, span_of(predictor, case)) if maps else None
        channels = predictor.preparation.channels if predictor.is_counterfactual else ()
        changes: dict[str, list[tuple[float, int]]] = {name: [] for name in channels} if len(channels) > 1 else {}
        of_pixels = ConfidenceMap(shape, axis)
        return cls(
            np.zeros(shape, bool), f, confidence, score, distance, of_pixels, case.geometry, painted, changes=changes
        )  # fmt: skip

    def row(self, axis: Axis) -> dict[str, Any]:
        """The columns `TOLD` of the table of masks, of several channels also `CHANGE`; `axis` is that of the slices."""
        confidence = of_scan(self.confidence, turned(self.mask, axis).sum((1, 2)))
        row = told(highest(self.probability), highest(self.image_score), confidence, median(self.distance), self.doubts)
        by_channel = {name: of_scan(*map(np.array, zip(*each, strict=True))) for name, each in self.changes.items() if each}
        return row | ({CHANGE: (by_channel if self.mask.any() else {}) or None} if self.changes else {})

    def write(self, out: Path | str, overwrite: bool = False) -> None:
        """Write the mask: on the scan's own grid (.nii.gz, .nrrd, .mha), or a PNG of the image's size."""
        if self.geometry is None:
            self._require_image()
            write_image_mask(Path(out), self.mask[0], overwrite)
        else:
            write_mask(Path(out), self.mask, self.geometry, overwrite)

    def write_confidence(self, out: Path | str, overwrite: bool = False) -> None:
        """Write the confidence of every voxel in percent, in the shape of the mask."""
        if self.geometry is None:
            self._require_image()
            write_image_map(Path(out), np.asarray(self.pixel_confidence.percent)[0], overwrite)
        else:
            write_scan(Path(out), self.pixel_confidence.percent, self.geometry, overwrite)

    def write_map(self, name: str, out: Path | str, overwrite: bool = False) -> None:
        """Write "counterfactual" or "difference" in the units of the source: a volume on its grid, or a PNG.

        Of an image with values above 255 the PNG has 16 bits, or in colour 8 of them; others are rounded. `UserError` where a PNG
        does not hold the values of the image.
        """
        values = getattr(self.maps, name)
        if self.geometry is not None:
            write_scan(Path(out), values, self.geometry, overwrite)
            return
        self._require_image()
        scan = cast(NativeMaps, self.maps).scan
        require_png(scan, f"the image that {out} is a map of")
        pixels = np.rint(np.clip(np.asarray(values)[0], 0, 65535))
        deep = scan.max() > 255
        pixels = pixels / 257 if deep and pixels.ndim == 3 else pixels
        write_image_map(Path(out), pixels.astype(np.uint16 if deep and pixels.ndim == 2 else np.uint8), overwrite)

    def _require_image(self) -> None:
        if len(self.mask) != 1:
            raise UserError("the mask of an array of slices", "a grid to write it on", "segment the file or a nibabel image")


class PreparedSlice(NamedTuple):
    """A prepared slice: the index of its case, where it lies, its stored pixels (C, S, S), and its given label (NaN: none)."""

    owner: int
    cut: Cut
    pixels: np.ndarray
    given: float


def cut_slices(predictor: Predictor, cases: Sequence[LoadedCase]) -> list[PreparedSlice]:
    """The slices of loaded cases that are looked at, prepared as those of the training were."""
    data, kind, channels = predictor.settings.data, predictor.preparation.kind, predictor.preparation.channels
    slices = []
    for owner, case in enumerate(cases):
        encoded, scan, cuts = encoder(case.scan, kind, channels), turned(case.scan, data.axis), list(case.cuts(data))
        for cut in cuts:
            label = case.given(cut, data.label_level, slices_in(cuts))
            pixels = cut_pixels(encoded(scan[cut.index]), cut.box, data.side, kind)
            slices.append(PreparedSlice(owner, cut, pixels, np.nan if label is None else label))
    return slices


def images_of(predictor: Predictor, slices: Sequence[PreparedSlice]) -> Tensor:
    """Images (B, C, S, S) in [-1, 1]."""
    return torch.from_numpy(signed(predictor.preparation.window.unit(np.stack([one.pixels for one in slices]))))


def _scores(
    predictor: Predictor, cases: Sequence[LoadedCase], slices: Sequence[PreparedSlice], results: Sequence[Segmentation]
) -> ImageScores:
    """The scores and given labels of slices; those of one case, or of one series of plain images, are neighbours.

    The distances of slices to the training images are put into the results.
    """
    looks = [predictor.look(images_of(predictor, slices[i : i + CHUNK])) for i in range(0, len(slices), CHUNK)]
    logits, apart = (np.concatenate(parts) for parts in zip(*looks, strict=True))
    places = np.array([(one.owner, one.cut.index) for one in slices])
    for (owner, index), distance in zip(*of_places(apart, places, any(one.cut.is_tile for one in slices)), strict=True):
        results[owner].distance[index] = distance
    in_series = [case.case if case.case and case.case.series else None for case in cases]
    chains = [(case.series if (case := in_series[one.owner]) else one.owner, one.cut.region) for one in slices]
    numbers = {chain: number for number, chain in enumerate(dict.fromkeys(chains))}
    along = [case.place if (case := in_series[one.owner]) else one.cut.index for one in slices]
    scores = predictor.scores(logits, np.array([numbers[chain] for chain in chains]), np.array(along))
    return replace(scores, given=np.array([one.given for one in slices], float))


def segment_cases(predictor: Predictor, cases: Sequence[LoadedCase], maps: bool = False) -> list[Segmentation]:
    """Segment loaded cases, whose slices share the batches; with `maps` also paint the counterfactual and the difference.

    Raises:
        UserError: there is no counterfactual in the units of the source.
    """
    if maps:
        require_maps(predictor)
    slices, results = cut_slices(predictor, cases), [Segmentation.empty(predictor, case, maps) for case in cases]
    if slices:
        scores = _scores(predictor, cases, slices, results)
        for start in range(0, len(slices), CHUNK):
            _segment_chunk(predictor, slices[start : start + CHUNK], scores[start : start + CHUNK], results)
    return [_finished(predictor, *pair) for pair in zip(cases, results, strict=True)]


def _join(predictor: Predictor, one: Segmentation) -> None:
    """Make the masks of slices in tiles of what all tiles say of a pixel, and their confidence as that of a scan of slices."""
    data, axis = predictor.settings.data, predictor.settings.data.axis
    for index, tiles in one.tiles.items():
        native = turned(one.mask, axis)[index]
        sure = one.pixel_confidence.sure(index)
        native[...] = joined_mask(sure, predictor.segmenter.cleaning, data.tile_side / data.side)
        known = of_scan(*map(np.array, zip(*tiles, strict=True)))
        one.confidence[index] = np.nan if known is None or not native.any() else known


def _finished(predictor: Predictor, case: LoadedCase, one: Segmentation) -> Segmentation:
    """The mask joined of tiles and cleaned in 3-D, and the confidence lowered where the case is unlike the training."""
    _join(predictor, one)
    if one.geometry or len(one.mask) > 1:  # an array of slices has no grid, and no rule in millilitres
        millilitres = one.geometry.voxel_ml if one.geometry else 1.0
        one = replace(one, mask=clean_volume(one.mask, millilitres, predictor.settings.masks))
    doubts = doubts_of(predictor, case)
    if (apart := median(one.distance) or 0) > 1:
        doubts += (f"its images are unlike those of the training ({apart:.3g} times as far as these are from one another)",)
    return replace(one, doubts=doubts, confidence=one.confidence * DOUBT) if doubts else one


def _segment_chunk(
    predictor: Predictor, slices: Sequence[PreparedSlice], scores: ImageScores, results: Sequence[Segmentation]
) -> None:
    """Segment some slices and put them into the results of their cases."""
    images, axis = images_of(predictor, slices), predictor.settings.data.axis
    segmented = predictor.segment_images(images, scores)
    _note_changes(predictor, images, segmented.masks, [results[one.owner] for one in slices])
    for i, (owner, cut, _, _) in enumerate(slices):
        one = results[owner]
        one.pixel_confidence.add(cut, segmented.pixel_confidence[i])
        if cut.is_tile:
            one.tiles[cut.index].append((float(segmented.confidence[i]), int(segmented.masks[i].sum())))
        else:
            native = turned(one.mask, axis)[cut.index]
            native |= cut.box.paste_mask(segmented.masks[i], (native.shape[0], native.shape[1]))
        one.probability[cut.index] = np.fmax(one.probability[cut.index], scores.probability[i])
        if segmented.maps.image_score is not None:
            one.image_score[cut.index] = np.fmax(one.image_score[cut.index], segmented.maps.image_score[i])
        # Of two regions of a slice the less certain one counts.
        one.confidence[cut.index] = np.fmin(one.confidence[cut.index], segmented.confidence[i])
    if results[0].maps is None:
        return
    asked = scores.probability >= predictor.settings.classifier.threshold
    painted = images.clone()
    if asked.any():
        painted[torch.from_numpy(asked)] = predictor.explainer.counterfactual(images[asked])
    # What a student gives is a probability, not a difference.
    refined = segmented.maps.values if not predictor.has_student else predictor.explainer.differences(images, asked).mean
    for i, (owner, cut, _, _) in enumerate(slices):
        if (native_maps := results[owner].maps) is not None:
            native_maps.add(cut, ((painted[i] - images[i]) / 2).numpy(), refined[i])


def _note_changes(predictor: Predictor, images: Tensor, masks: np.ndarray, owners: Sequence[Segmentation]) -> None:
    """Note by how much the counterfactual changes each channel of images (B, C, S, S) inside their masks (B, S, S)."""
    marked = np.flatnonzero(masks.any((1, 2)))
    if not owners[0].changes or not len(marked):
        return
    painted = predictor.explainer.counterfactual(images[marked])
    unit, other = (each.numpy() / 2 + 0.5 for each in (images[marked], painted))
    for i, changes in zip(marked, channel_changes(unit, other, masks[marked]), strict=True):
        for each, change in zip(owners[int(i)].changes.values(), changes, strict=True):
            each.append((float(change), int(masks[i].sum())))


def require_maps(predictor: Predictor) -> None:
    """Raise `UserError` where there is no counterfactual in the units of the source."""
    channels = predictor.preparation.channels
    if not predictor.is_counterfactual or not (len(channels) == 1 or are_colour(channels)):
        what = f"method {predictor.settings.method}" if not predictor.is_counterfactual else f"channels {', '.join(channels)}"
        raise UserError(f"the run has {what}", "a counterfactual method on one image", "ask for the mask alone")


def span_of(predictor: Predictor, case: LoadedCase) -> float:
    """Native units between 0 and 1 of the prepared images of a case."""
    low, high = predictor.preparation.window.low, predictor.preparation.window.high
    if predictor.preparation.kind != "hu":
        ((low, high),) = limits_of(case.scan, predictor.preparation.kind, predictor.preparation.channels)
    return float(high - low)
