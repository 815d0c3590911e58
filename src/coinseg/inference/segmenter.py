"""How a mask comes about: image -> image score -> segmenter -> threshold -> clean mask.

Of the two segmenters one reads the mask off the difference |X - X_cf| (or the map of an attribution), the other asks the student
that learnt from such masks. `segment` is the rest of the way, the same for both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from coinseg.config.schema import MaskSettings, Settings
from coinseg.data.slices.intensity import signed
from coinseg.explain.registry import COUNTERFACTUAL
from coinseg.masks.confidence import agreement, confidence, mean_agreement, of_pixels
from coinseg.masks.decision_flip import flip_levels, with_peaks
from coinseg.masks.postprocess import levels_of, masks_of, peaks
from coinseg.masks.student_maps import LEVEL, rescale_to_peak, student_cleaning
from coinseg.masks.threshold import rule_of
from coinseg.networks.unet import marks, sides
from coinseg.parts.base import Part, Views
from coinseg.runtime.devices import to_device
from coinseg.runtime.forward import forward_hflip
from coinseg.types import Maps

from .explainer import Differences, Explainer
from .image_score import ImageScores


class Segmenter(Protocol):
    """What makes maps that masks are read from."""

    @property
    def level(self) -> float:
        """What a pixel of a map must exceed to be inside, in [0, 1], where the maps do not say it image by image."""

    @property
    def cleaning(self) -> MaskSettings:
        """What is done with the pixels inside."""

    def maps(self, images: Tensor, scores: ImageScores, saliency: Tensor | None = None) -> Maps:
        """The maps of images (B, C, S, S) in [-1, 1]; `saliency` (B, S, S) is that of the method, where it is known already."""


@dataclass(frozen=True)
class DifferenceSegmenter:
    """Reads masks off the refined difference; a pixel inside exceeds the threshold, in [0, 1]."""

    explainer: Explainer
    threshold: float

    @property
    def level(self) -> float:
        return self.threshold

    @property
    def cleaning(self) -> MaskSettings:
        return self.explainer.settings.masks

    def maps(self, images: Tensor, scores: ImageScores, saliency: Tensor | None = None) -> Maps:
        """The mean refined differences; 0 where f calls an image normal."""
        asked = scores.probability >= self.explainer.settings.classifier.threshold
        differences = self.explainer.differences(images, asked, saliency)
        levels, mean, other = self._flip_levels(images, differences), differences.mean, differences.other
        if other is None:
            return Maps(mean, levels)
        mirrored, agreed = np.zeros(len(images), np.float32), np.zeros(len(images), np.float32)
        if asked.any():
            level = self.threshold if levels is None else levels[asked]
            both = (masks_of(maps[asked], level, self.cleaning) for maps in (differences.own, other))
            mirrored[asked] = agreement(*both)
            sure = of_pixels(mean[asked], levels_of(mean[asked], level, self.cleaning.peak))
            agreed[asked] = mean_agreement(masks_of(mean[asked], level, self.cleaning), sure, mirrored[asked])
        return Maps(mean, levels, mirrored, agreed)

    def _flip_levels(self, images: Tensor, differences: Differences) -> np.ndarray | None:
        """What a pixel of each map must exceed, (B,), with `masks.threshold` "decision_flip"; NaN in images f calls normal."""
        explainer, settings = self.explainer, self.explainer.settings
        if rule_of(settings.masks, settings.method == COUNTERFACTUAL) != "decision_flip":
            return None

        def ask(unit: np.ndarray) -> np.ndarray:
            pixels = torch.from_numpy(signed(unit))
            return (explainer.probability(pixels).numpy() + explainer.probability(pixels.flip(-1)).numpy()) / 2

        levels, asked, maps = np.full(len(images), np.nan, np.float32), differences.asked, differences.mean
        if asked.any():
            image, painted = (x.numpy() / 2 + 0.5 for x in (images[asked], explainer.counterfactual(images[asked])))
            flips = flip_levels(image, painted, maps[asked], ask, settings.classifier.threshold)
            levels[asked] = with_peaks(flips, self.threshold, settings.masks.peak * peaks(maps[asked]))
        return levels


@dataclass(frozen=True)
class StudentSegmenter:
    """Asks the student, images (B, C, S, S) -> logits of every pixel, about images that their score or label calls abnormal.

    The masks of the difference say how far those of the student can be trusted, and nothing else.
    """

    student: nn.Module
    parts: Sequence[Part]
    difference: DifferenceSegmenter
    level: float = LEVEL

    def __post_init__(self) -> None:
        for module in (self.student, *self.parts):
            to_device(module.eval(), self.device)

    @property
    def settings(self) -> Settings:
        return self.difference.explainer.settings

    @property
    def device(self) -> torch.device:
        return self.difference.explainer.device

    @property
    def cleaning(self) -> MaskSettings:
        """A student's masks are taken as they are drawn."""
        return student_cleaning(self.settings.masks)

    def maps(self, images: Tensor, scores: ImageScores, saliency: Tensor | None = None) -> Maps:
        """The mean over an image and its mirror image; 0 below `student.gate`.

        The maps of abnormal images are rescaled to their peak (`rescale_to_peak`), and parts may add to them.
        """
        asked = scores.abnormal(self.settings.student.gate)
        mean = np.zeros((len(images), *images.shape[2:]), np.float32)
        mirrored, agreed = np.zeros(len(images), np.float32), np.zeros(len(images), np.float32)
        if asked.any():
            own, other = forward_hflip(lambda x: marks(self.student, x), images[asked], self.device, max(sides(images.shape[-1])))
            called = scores[asked].abnormal(self.settings.classifier.threshold)
            rescaled = (rescale_to_peak(maps, called, self.settings.masks.peak) for maps in ((own + other) / 2, own, other))
            views = Views(images[asked], called, *rescaled)
            for part in self.parts:
                part.add(views, self.device)
            mean[asked] = views.mean
            masks, *both = (masks_of(maps, LEVEL, self.cleaning) for maps in (views.mean, views.own, views.other))
            known = saliency if saliency is None else saliency[torch.from_numpy(asked)]
            difference = segment(self.difference, images[asked], scores[asked], known).masks
            mirrored[asked] = agreement(*both)
            agreed[asked] = mean_agreement(masks, views.mean, mirrored[asked], agreement(masks, difference))
        return Maps(mean, None, mirrored, agreed, scores.ensemble)


@dataclass(frozen=True)
class SegmentedImages:
    """Masks (B, S, S) bool of B images, their scores, and the maps that they were read from.

    Args:
        confidence: of the masks, (B,) in [0, 1]; NaN where one is empty, or `masks.hflip` is off.
        pixel_confidence: that a pixel is inside, (B, S, S) float32 in [0, 1]; 0.5 at the border of the mask.
    """

    scores: ImageScores
    maps: Maps
    masks: np.ndarray
    confidence: np.ndarray
    pixel_confidence: np.ndarray


def segment(segmenter: Segmenter, images: Tensor, scores: ImageScores, saliency: Tensor | None = None) -> SegmentedImages:
    """Masks of images (B, C, S, S) in [-1, 1] with known scores: maps (`saliency` as there), threshold, cleaning, confidence."""
    maps = segmenter.maps(images, scores, saliency)
    levels = segmenter.level if maps.levels is None else maps.levels
    masks = masks_of(maps.values, levels, segmenter.cleaning)
    agreed = np.full(len(masks), np.nan) if maps.agreement is None else maps.agreement
    pixel_confidence = of_pixels(maps.values, levels_of(maps.values, levels, segmenter.cleaning.peak))
    return SegmentedImages(scores, maps, masks, confidence(scores.probability, agreed, masks), pixel_confidence)
