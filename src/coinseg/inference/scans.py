"""Scans and image files: cut into slices as those of the training were, segmented, and put back on the grid of the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from coinseg.config.schema import Axis
from coinseg.data.readers.axes import require_volumes, turned
from coinseg.data.readers.geometry import Geometry
from coinseg.data.readers.image import is_image, write_image_map, write_image_mask
from coinseg.data.readers.volume import write_mask, write_scan
from coinseg.data.slices.case import LoadedCase, cut_pixels, encoder, load_case
from coinseg.data.slices.crop import Cut
from coinseg.data.slices.intensity import signed
from coinseg.data.slices.plausible import notes_on, require_values
from coinseg.errors import UserError
from coinseg.masks.confidence import of_scan
from coinseg.masks.postprocess import clean_volume
from coinseg.runtime.devices import CHUNK
from coinseg.types import Case, MaskSource

from .image_score import ImageScores
from .maps import ConfidenceMap, NativeMaps
from .table import highest, told

if TYPE_CHECKING:
    from .predictor import Predictor


@dataclass(frozen=True)
class Segmentation:
    """The mask of one case on its own grid.

    Args:
        mask: canonical (slices, H, W) bool, whatever axis it was found along; one slice for a plain image.
        probability: f(X) of every slice looked at, NaN where none was, (slices along `data.axis`,).
        confidence: of the mask of a slice, in [0, 1]; NaN where there is none, and everywhere without `masks.hflip`.
        image_score: P(abnormal) of the ensemble, (slices along `data.axis`,); NaN everywhere without a student.
        geometry: the grid of a volume; None for a plain image.
        maps: counterfactual and difference in HU, where they were asked for.
    """

    mask: np.ndarray
    probability: np.ndarray
    confidence: np.ndarray
    image_score: np.ndarray
    pixel_confidence: ConfidenceMap
    geometry: Geometry | None = None
    maps: NativeMaps | None = None

    @classmethod
    def empty(cls, predictor: Predictor, case: LoadedCase, maps: bool) -> Segmentation:
        """An empty mask, to be filled in."""
        axis, shape = predictor.settings.data.axis, case.scan.shape
        f, confidence, score = (np.full(len(turned(case.scan, axis)), np.nan) for _ in range(3))
        painted = NativeMaps(case.scan, axis, predictor.preparation.window) if maps else None
        return cls(np.zeros(shape, bool), f, confidence, score, ConfidenceMap(shape, axis), case.geometry, painted)

    def row(self, axis: Axis) -> dict[str, float | bool | None]:
        """The columns `TOLD` of the table of masks; `axis` is that of the slices."""
        confidence = of_scan(self.confidence, turned(self.mask, axis).sum((1, 2)))
        return told(highest(self.probability), highest(self.image_score), confidence)

    def write(self, out: Path, overwrite: bool = False) -> None:
        """Write the mask: on the scan's own grid (.nii.gz, .nrrd, .mha), or a PNG of the image's size."""
        if self.geometry is None:
            write_image_mask(out, self.mask[0], overwrite)
        else:
            write_mask(out, self.mask, self.geometry, overwrite)

    def write_confidence(self, out: Path, overwrite: bool = False) -> None:
        """Write the confidence of every voxel in percent, in the shape of the mask."""
        if self.geometry is None:
            write_image_map(out, np.asarray(self.pixel_confidence.percent)[0], overwrite)
        else:
            write_scan(out, self.pixel_confidence.percent, self.geometry, overwrite)


class _Slice(NamedTuple):
    """A prepared slice: the index of its case, where it lies, its stored pixels (S, S), and its given label (NaN: none)."""

    owner: int
    cut: Cut
    pixels: np.ndarray
    given: float


def _cut(predictor: Predictor, cases: Sequence[LoadedCase]) -> list[_Slice]:
    data, kind = predictor.settings.data, predictor.preparation.kind
    slices = []
    for owner, case in enumerate(cases):
        encoded, scan, cuts = encoder(case.scan, kind), turned(case.scan, data.axis), list(case.cuts(data))
        for cut in cuts:
            label = case.given(cut.index, data.label_level, len(cuts))
            pixels = cut_pixels(encoded(scan[cut.index]), cut.box, data.size, kind)
            slices.append(_Slice(owner, cut, pixels, np.nan if label is None else label))
    return slices


def _images(predictor: Predictor, slices: Sequence[_Slice]) -> Tensor:
    """Images (B, 1, S, S) in [-1, 1]."""
    return torch.from_numpy(signed(predictor.preparation.window.unit(np.stack([one.pixels for one in slices]))))[:, None]


def _scores(predictor: Predictor, cases: Sequence[LoadedCase], slices: Sequence[_Slice]) -> ImageScores:
    """The scores and given labels of slices; those of one case, or of one series of plain images, are neighbours."""
    logits = [predictor.logits(_images(predictor, slices[i : i + CHUNK])) for i in range(0, len(slices), CHUNK)]
    in_series = [case.case if case.case and case.case.series else None for case in cases]
    chains = [(case.series if (case := in_series[one.owner]) else one.owner, one.cut.region) for one in slices]
    numbers = {chain: number for number, chain in enumerate(dict.fromkeys(chains))}
    places = [case.place if (case := in_series[one.owner]) else one.cut.index for one in slices]
    scores = predictor.scores(np.concatenate(logits), np.array([numbers[chain] for chain in chains]), np.array(places))
    return replace(scores, given=np.array([one.given for one in slices], float))


def segment_cases(predictor: Predictor, cases: Sequence[LoadedCase], maps: bool = False) -> list[Segmentation]:
    """Segment loaded cases, whose slices share the batches; with `maps` also paint the counterfactual and the difference.

    Raises:
        UserError: there is no counterfactual in HU.
    """
    if maps:
        require_maps(predictor)
    slices, results = _cut(predictor, cases), [Segmentation.empty(predictor, case, maps) for case in cases]
    if slices:
        scores = _scores(predictor, cases, slices)
        for start in range(0, len(slices), CHUNK):
            _segment_chunk(predictor, slices[start : start + CHUNK], scores[start : start + CHUNK], results)
    masks = predictor.settings.masks
    return [replace(one, mask=clean_volume(one.mask, grid.voxel_ml, masks)) if (grid := one.geometry) else one for one in results]


def _segment_chunk(predictor: Predictor, slices: Sequence[_Slice], scores: ImageScores, results: Sequence[Segmentation]) -> None:
    """Segment some slices and put them into the results of their cases."""
    images, axis = _images(predictor, slices), predictor.settings.data.axis
    segmented = predictor.segment_images(images, scores)
    for i, (owner, cut, _, _) in enumerate(slices):
        one = results[owner]
        one.pixel_confidence.add(cut, segmented.pixel_confidence[i])
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
            native_maps.add(cut, ((painted[i, 0] - images[i, 0]) / 2).numpy(), refined[i])


def load(predictor: Predictor, path: Path, organ: Sequence[MaskSource] = ()) -> LoadedCase:
    """Read one volume or image as the run needs it.

    Raises:
        UserError: an organ mask is missing, or the file is of another kind than those of the training.
    """
    data = predictor.settings.data
    if data.roi != "none" and not organ:
        got = f"no organ mask for {path} and the run was trained on the region around the organ (data.roi {data.roi})"
        raise UserError(got, "the organ mask of the scan", "give it with --organ")
    volume = not is_image(path)
    if predictor.preparation.kind == "hu" and not volume:
        raise UserError(f"{path} is a plain image and the run was trained on Hounsfield units", "a CT volume", "give the scan")
    if not volume:
        require_volumes(f"{path} is a plain image", data)
    loaded = load_case(case := Case(path.name, path.name, path, volume=volume, organ=tuple(organ)), with_lesion=False)
    require_values([case], {note: [case.id] for note in notes_on(case, loaded.masks)})
    return loaded


def require_maps(predictor: Predictor) -> None:
    """Raise `UserError` where there is no counterfactual in Hounsfield units."""
    if not predictor.is_counterfactual or predictor.preparation.kind != "hu":
        method, kind = predictor.settings.method, predictor.preparation.kind
        what = f"method {method}" if not predictor.is_counterfactual else f"intensity {kind}"
        raise UserError(f"the run has {what}", "a counterfactual method on Hounsfield units", "ask for the mask alone")
