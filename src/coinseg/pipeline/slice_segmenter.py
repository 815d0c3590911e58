"""Training and masks of slices in the manner of scikit-learn's estimators."""

from typing import Any, Self

import numpy as np
import torch

from coinseg.config.schema import Settings
from coinseg.data.slices.arrays import Images, Labels, Patients, unit_images
from coinseg.data.slices.intensity import signed
from coinseg.errors import UserError
from coinseg.inference.predictor import Predictor
from coinseg.runtime.stage import Report, silent

from .recipe import train


class SliceSegmenter:
    """Masks from image labels: `SliceSegmenter().fit(images, labels).predict(new_images)`.

    Args:
        settings: of the run; None is the defaults.
        report: progress, see `coinseg.train`.
    """

    predictor_: Predictor
    """What `fit` trained; it explains and shows as well."""
    classes_ = np.array([0, 1])

    def __init__(self, settings: Settings | None = None, report: Report = silent) -> None:
        self.settings, self.report = settings, report

    def fit(self, images: Images, labels: Labels, patients: Patients = None) -> Self:
        """Train on images (N, S, S) or (N, C, S, S) in [0, 1] with labels (N,) of 0 and 1; `UserError` as `coinseg.train`."""
        self.predictor_ = train(images, labels, settings=self.settings, report=self.report, patients=patients)
        return self

    def predict(self, images: Images) -> np.ndarray:
        """The masks (N, S, S) bool of images in [0, 1] of the trained size."""
        return self._fitted().masks(self._prepared(images))

    def predict_proba(self, images: Images) -> np.ndarray:
        """P(normal) and P(abnormal) of images in [0, 1], (N, 2): that of all classifiers, which decides what is marked."""
        predictor = self._fitted()
        abnormal = predictor.scores(predictor.logits(self._prepared(images))).ensemble
        return np.stack([1 - abnormal, abnormal], 1)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments, by name, as scikit-learn's `clone` wants them."""
        return {"settings": self.settings, "report": self.report}

    def set_params(self, **params: Any) -> Self:
        """Change arguments; what was trained stays."""
        for name, value in params.items():
            if name not in self.get_params():
                raise UserError(f"an argument {name!r}", "settings or report", "correct the name")
            setattr(self, name, value)
        return self

    def _prepared(self, images: Images) -> torch.Tensor:
        prepared, size = torch.from_numpy(signed(unit_images(images))), self._fitted().settings.data.side
        if (side := prepared.shape[-1]) != size:  # the networks would take it, and answer for lesions of another size
            raise UserError(f"images of {side} x {side} pixels", f"{size} x {size}, as the training had", "resize them")
        self._fitted().explainer.require_images(prepared)
        return prepared

    def _fitted(self) -> Predictor:
        if not hasattr(self, "predictor_"):
            raise UserError("a SliceSegmenter that was not trained", "fit before predict", "call fit(images, labels)")
        return self.predictor_
