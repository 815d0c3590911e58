"""A trained run, complete when it is made: it segments images and scans, and explains images."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from coinseg.config.schema import COUNTERFACTUAL, Settings
from coinseg.data.slices.case import LoadedCase
from coinseg.data.slices.channels import GREY, Channels, are_colour
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.data.slices.intensity import Window, signed
from coinseg.data.slices.trained_on import TrainedOn
from coinseg.networks.imagenet import enlarged
from coinseg.parts.base import Part
from coinseg.runtime.devices import CHUNK, to_device
from coinseg.runtime.forward import forward
from coinseg.types import Explanation, Maps

from . import scans, show
from .distribution import Distribution, features_of, foreign, joined
from .explainer import Explainer
from .image_score import ImageScore, ImageScores
from .segmenter import DifferenceSegmenter, SegmentedImages, Segmenter, StudentSegmenter, segment
from .sources import COLOURS, Organs, Source, is_prepared, load, load_all, numbers, of_monai, unit_array

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preparation:
    """How the images of a run were prepared: values were stored as "hu", "percentile" or "8bit", and `window` makes them [0, 1].

    `organs` says whether slices were chosen by an organ mask; `trained_on` is None in runs that kept no record of their data;
    `channels` are the names of the channels.
    """

    kind: str
    window: Window
    organs: bool
    trained_on: TrainedOn | None = None
    channels: Channels = GREY


@dataclass(frozen=True)
class Predictor:
    """What `coinseg run` trains, `coinseg.load` reads and `coinseg segment` uses. All modules are on the device of `explainer`.

    Args:
        explainer: f and the method, with the settings of the run.
        threshold: of the refined difference, in [0, 1]; with a student it made the pseudo-masks.
        image_score: whether an image is abnormal.
        parts: optional parts of the recipe, in the order of `parts.table`.
        distribution: of the training images; None in older runs, and where f has no features.
    """

    explainer: Explainer
    preparation: Preparation
    threshold: float
    image_score: ImageScore
    segmenter: Segmenter
    parts: tuple[Part, ...] = ()
    distribution: Distribution | None = None

    def __post_init__(self) -> None:
        for module in (self.image_score, *self.parts, *([self.distribution] if self.distribution else [])):
            to_device(module.eval(), self.explainer.device)

    @classmethod
    def of(
        cls, explainer: Explainer, preparation: Preparation, threshold: float, student: nn.Module | None = None,
        others: Sequence[nn.Module] = (), shift: float = 0.0, parts: Sequence[Part] = (),
    ) -> Self:  # fmt: skip
        """A predictor; with a student, images (B, C, S, S) -> logits of every pixel, that makes the masks.

        `others` are the classifiers of the ensemble beside f; `shift`: see `ImageScore`.
        """
        difference = DifferenceSegmenter(explainer, threshold)
        segmenter: Segmenter = difference if student is None else StudentSegmenter(student, parts, difference)
        score = ImageScore([explainer.f, *others], shift, parts)
        return cls(explainer, preparation, threshold, score, segmenter, tuple(parts))

    def with_settings(self, settings: Settings) -> Self:
        """The same networks, asked with other settings (thresholds, cleaning, gate)."""
        explainer, segmenter = replace(self.explainer, settings=settings), self.segmenter
        difference = DifferenceSegmenter(explainer, self.threshold)
        if isinstance(segmenter, StudentSegmenter):
            return replace(self, explainer=explainer, segmenter=replace(segmenter, difference=difference))
        return replace(self, explainer=explainer, segmenter=difference)

    @property
    def settings(self) -> Settings:
        """The settings of the run."""
        return self.explainer.settings

    @property
    def f(self) -> nn.Module:
        """The frozen classifier that is explained, images (B, C, S, S) in [-1, 1] -> logits (B,)."""
        return self.explainer.f

    @property
    def generator(self) -> nn.Module | None:
        """X -> X_cf; None for an attribution."""
        return self.explainer.generator

    @property
    def has_student(self) -> bool:
        """Whether a student makes the masks."""
        return isinstance(self.segmenter, StudentSegmenter)

    @property
    def is_counterfactual(self) -> bool:
        """Whether the method has a generator and counterfactuals."""
        return self.settings.method == COUNTERFACTUAL

    @property
    def student(self) -> nn.Module | None:
        """The network that makes the masks, images -> logits of every pixel; None where the difference does."""
        return self.segmenter.student if isinstance(self.segmenter, StudentSegmenter) else None

    def explain(self, images: Tensor, inpaint_all: bool = False) -> Explanation:
        """Explain images (B, C, S, S) in [-1, 1]; see `Explainer.explain`."""
        return self.explainer.explain(images, inpaint_all)

    def probability(self, images: Tensor) -> Tensor:
        """f(X) in [0, 1] of images (B, C, S, S) in [-1, 1], (B,); `UserError` as `Explainer.explain`."""
        self.explainer.require_images(images)
        return self.explainer.probability(images)

    def look(self, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """What is known of images (B, C, S, S) in [-1, 1] before they are segmented; every classifier is asked once.

        Returns:
            The logits of f and of the ensemble, (B, 2) float32, and the distances to the training images, (B,) float32: above 1
            out of distribution, NaN where the run has no `distribution`.
        """
        side = enlarged(images.shape[-1])  # at which the largest of the classifiers may see them
        found = torch.cat(forward(lambda x: self._look(x).cpu(), images, self.explainer.device, side)).numpy()
        return found[:, :2], found[:, 2]

    def _look(self, x: Tensor) -> Tensor:
        with features_of(self.f) as seen:
            logits = self.image_score.both(x)
        features = None if self.distribution is None else joined(seen, x)
        apart = logits.new_full((len(x),), torch.nan) if features is None else self.distribution(features)  # type: ignore[misc]
        return torch.cat([logits, apart[:, None]], 1)

    def logits(self, images: Tensor) -> np.ndarray:
        """The logits of f and of the ensemble, (B, 2) float32, of images (B, C, S, S) in [-1, 1]."""
        return self.look(images)[0]

    def scores(self, logits: np.ndarray, chains: np.ndarray | None = None, places: np.ndarray | None = None) -> ImageScores:
        """Image scores from `logits` (n, 2); with the scan (`chains`) and place of each slice, (n,), its neighbours count too."""
        if chains is None or places is None:
            return ImageScores.of_logits(logits)
        smoothed = logits[:, 1].astype(np.float64)
        for part in self.parts:
            smoothed = part.smooth(smoothed, chains, places)
        return ImageScores.of_logits(logits, smoothed)

    def scores_of(self, slices: TrainingSlices) -> Callable[[np.ndarray], ImageScores]:
        """Score the slices of one side, neighbours of a scan together: rows of the store, (B,) -> their scores.

        What they say of cases that are unlike the training images is what `segment` says of the same cases.
        """
        parts = (np.arange(i, min(i + CHUNK, len(slices))) for i in range(0, len(slices), CHUNK))
        looks = [self.look(slices.batch(part).image) for part in parts]
        logits, apart = (np.concatenate(each) for each in zip(*looks, strict=True))
        index, scores = slices.store.index, self.scores(logits, *slices.store.chains(slices.rows))
        places = (index["case"][slices.rows], index["slice"][slices.rows])
        scores = replace(scores, foreign=foreign(apart, *places, tiles=bool(self.settings.data.tile)))
        positions = np.full(len(slices.store), -1)
        positions[slices.rows] = np.arange(len(slices))
        return lambda rows: scores[positions[rows]]

    def segment_images(self, images: Tensor, scores: ImageScores | None = None) -> SegmentedImages:
        """Masks of images (B, C, S, S) in [-1, 1] with confidences; `scores` are computed where they are not given.

        Raises:
            UserError: the shape does not fit.
        """
        self.explainer.require_images(images)
        return segment(self.segmenter, images, self.scores(self.logits(images)) if scores is None else scores)

    def masks(self, images: Source, organ: Organs = ()) -> np.ndarray:
        """The bool masks of images: the same as `segment` finds for the same image or scan, in the shape that was given.

        Args:
            images: (B, C, S, S) in [-1, 1] as the run prepares them; anything else is a `Source` as the file holds it, which the
                run scales, or (N, H, W) images for a run on plain images. With a run on arrays (S, S) or (N, S, S) in [0, 1].
            organ: as in `segment`.

        Raises:
            UserError: the run cannot take it. What is only doubtful is logged as a warning.
        """
        images = of_monai(self, images)
        if is_prepared(self, images):
            return self._prepared_masks(torch.from_numpy(numbers(images)))
        if (array := unit_array(self, images)) is not None:
            flat = images.ndim == 2
            found = self._prepared_masks(torch.from_numpy(signed(array)))
            return found[0] if flat else found
        cases, flat = load_all(self, images, organ)
        if are_colour(self.preparation.channels) and len(cases) in COLOURS and images.ndim == 3:
            LOG.warning("doubtful masks: %d grey images for a run in colour; one image in colour is (H, W, 3)", len(cases))
        results = self.segment_cases(cases)
        for line in dict.fromkeys(line for result in results for line in result.doubts):
            LOG.warning("doubtful masks: %s", line)
        found = np.concatenate([result.mask for result in results])
        return found[0] if flat else found

    def _prepared_masks(self, images: Tensor) -> np.ndarray:
        """Masks (B, S, S) of images (B, C, S, S) in [-1, 1]."""
        images = images.float() if images.is_floating_point() else images
        self.explainer.require_images(images)
        logits, apart = self.look(images)
        for line in self.doubts_of(images, apart):
            LOG.warning("doubtful masks: %s", line)
        return self.segment_images(images, self.scores(logits)).masks

    def doubts_of(self, images: Tensor, apart: np.ndarray) -> list[str]:
        """In what prepared images (B, C, S, S) are unlike those of the training, a line each; `apart` is of `look`, (B,)."""
        lines, side, wanted = list[str](), images.shape[-1], self.settings.data.side
        # Only as 8 bits as they are may images be bright all over.
        if self.preparation.kind != "8bit" and len(images) and float(images.min()) >= 0:
            lines.append("no value is below 0, are the images in [0, 1]? required: [-1, 1], 2 * images - 1")
        if side != wanted:
            lines.append(f"images of {side} x {side} pixels, and the training had {wanted} x {wanted}")
        if foreign := int((apart > 1).sum()):
            lines.append(f"{foreign} of {len(images)} images are unlike those of the training")
        return lines

    def evidence(self, images: Tensor, scores: ImageScores) -> tuple[Explanation, Maps]:
        """The explanation of images and the maps that their masks are read from; what scoring looks at."""
        explanation = self.explain(images)
        return explanation, replace(self.segmenter.maps(images, scores, explanation.saliency), foreign=scores.foreign)

    def segment(self, source: Source, organ: Organs = (), maps: bool = False) -> scans.Segmentation:
        """Segment one volume (NIfTI, NRRD, MetaImage, a DICOM folder or .zip) or image: a path, a nibabel image or an array.

        Args:
            source: the scan or image, see `sources.Source`; never modified.
            organ: organ masks on the same grid, as paths; required where the run was trained on an organ region.
            maps: also paint the counterfactual and the difference, in HU; only for a counterfactual method on HU.

        Raises:
            UserError: the file or a mask cannot be read, an organ mask is required, or it is of another kind than the training.
        """
        return self.segment_cases([load(self, of_monai(self, source), organ)], maps)[0]

    def show(self, source: Source, organ: Organs = (), most: int = show.MOST) -> show.Pictures:
        """Image, counterfactual, difference and mask side by side; the last line of a notebook's cell shows them.

        Args:
            source: as in `masks`. Of a scan the slices with the largest masks are shown, as the run prepares them.
            organ: as in `segment`.
            most: images or slices that are shown.

        Raises:
            UserError: as in `segment`.
        """
        return show.show(self, of_monai(self, source), organ, most)

    def segment_cases(self, cases: Sequence[LoadedCase], maps: bool = False) -> list[scans.Segmentation]:
        """Segment loaded cases together: their slices share the batches, and those of one series are neighbours."""
        return scans.segment_cases(self, cases, maps)
