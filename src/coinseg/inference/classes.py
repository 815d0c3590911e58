"""A trained run of several classes: a predictor of each, which share their networks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from coinseg.config.schema import Settings
from coinseg.data.slices.case import LoadedCase
from coinseg.networks.classes import whole
from coinseg.runtime.forward import forward

from .predictor import Predictor, Preparation
from .scans import Segmentation
from .show import MOST, Pictures
from .sources import Organs, Source, load, of_monai


@dataclass(frozen=True)
class ClassPredictors:
    """Predictors by the name of their class, in order; every one is complete, and asks its class alone."""

    of: Mapping[str, Predictor]

    @property
    def first(self) -> Predictor:
        """The predictor of the first class; settings, preparation and device are those of all."""
        return next(iter(self.of.values()))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.of)

    @property
    def settings(self) -> Settings:
        """The settings of the run."""
        return self.first.settings

    @property
    def preparation(self) -> Preparation:
        """How images were prepared."""
        return self.first.preparation

    def masks(self, images: Source, organ: Organs = ()) -> dict[str, np.ndarray]:
        """The bool masks of every class, see `Predictor.masks`."""
        return {name: predictor.masks(images, organ) for name, predictor in self.of.items()}

    def probability(self, images: Tensor) -> dict[str, Tensor]:
        """f(X) of every class, see `Predictor.probability`."""
        return {name: predictor.probability(images) for name, predictor in self.of.items()}

    def moved(self, images: Tensor, name: str) -> dict[str, float]:
        """How far the logit of each class moves where the class `name` is turned off: the mean |f_j(X_cf) - f_j(X)|.

        `images` are (B, C, S, S) in [-1, 1]; the run has a counterfactual method.
        """
        f, explainer = whole(self.first.f), self.of[name].explainer
        before, after = (
            torch.cat(forward(lambda x: f(x).cpu(), seen, explainer.device))
            for seen in (images, explainer.counterfactual(images))
        )
        return dict(zip(self.of, (after - before).abs().mean(0).tolist(), strict=True))

    def segment(self, source: Source, organ: Organs = (), maps: bool = False) -> dict[str, Segmentation]:
        """Segment one volume or image, every class; see `Predictor.segment`."""
        return self.segment_cases([load(self.first, of_monai(self.first, source), organ)], maps)[0]

    def show(self, source: Source, organ: Organs = (), most: int = MOST) -> dict[str, Pictures]:
        """Pictures of every class, see `Predictor.show`."""
        return {name: predictor.show(source, organ, most) for name, predictor in self.of.items()}

    def segment_cases(self, cases: Sequence[LoadedCase], maps: bool = False) -> list[dict[str, Segmentation]]:
        """Segment loaded cases together: of each the masks of every class."""
        found = [predictor.segment_cases(cases, maps) for predictor in self.of.values()]
        return [dict(zip(self.of, of_case, strict=True)) for of_case in zip(*found, strict=True)]


def predictors_of(trained: Predictor | ClassPredictors) -> dict[str, Predictor]:
    """The predictors of a run by class; of one class the name is ""."""
    return {"": trained} if isinstance(trained, Predictor) else dict(trained.of)


def of_all(trained: Predictor | ClassPredictors, change: Callable[[Predictor], Predictor]) -> Predictor | ClassPredictors:
    """A run with every predictor changed."""
    if isinstance(trained, Predictor):
        return change(trained)
    return ClassPredictors({name: change(one) for name, one in trained.of.items()})
