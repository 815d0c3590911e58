"""What a part of the recipe is: a module with hooks, each of which does nothing unless the part says otherwise."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from coinseg.config.schema import Settings
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.data.slices.student_data import Examples, PseudoMasks
from coinseg.runtime.stage import Report


@dataclass(frozen=True)
class Learning:
    """What a part may learn from. There is no lesion mask among it.

    Args:
        slices: images and image labels of the training side.
        key: of all that the masks depend on; a part whose key is unchanged is not fitted again.
        root: the folder of the run; a part keeps its files in `root / part.folder`. None keeps nothing.
        train_classifier: settings, folder, name for progress -> a frozen classifier trained on the same slices.
        probability: images (B, C, S, S) in [-1, 1] -> mean f(X) of the ensemble, (B,) in [0, 1].
        segment: images likewise -> masks (B, S, S) bool of the predictor as it is before this part is added.
    """

    slices: TrainingSlices
    settings: Settings
    key: str
    root: Path | None
    report: Report
    train_classifier: Callable[[Settings, Path | None, str], nn.Module]
    probability: Callable[[Tensor], np.ndarray]
    segment: Callable[[Tensor], np.ndarray]

    def folder(self, part: type["Part"]) -> Path | None:
        """Where a part keeps its files."""
        return None if self.root is None else self.root / part.folder


@dataclass(frozen=True)
class Views:
    """Maps of images that are asked about, as the student gives them; hooks change the arrays in place.

    Args:
        images: (b, C, S, S) in [-1, 1].
        called: (b,) bool, the ensemble calls the image abnormal.
        mean, own, other: (b, S, S) in [0, 1]: the mean of both views, that of the image, that of its mirror image.
    """

    images: Tensor
    called: np.ndarray
    mean: np.ndarray
    own: np.ndarray
    other: np.ndarray


class Part(nn.Module):
    """One optional part. Its modules are moved to the device with it.

    Class attributes:
        name: in the table of parts, in model.json and in the manifest.
        folder: of its files in the folder of a run.
        weights: its file of weights below `folder`; None where it has none.
        rule: what it adds to the sentence that says how masks are made; "" adds nothing.
        onnx: the name of its network in an ONNX export; None where it is part of another one.
    """

    name: ClassVar[str]
    folder: ClassVar[str]
    weights: ClassVar[str | None] = None
    rule: ClassVar[str] = ""
    onnx: ClassVar[str | None] = None

    @classmethod
    def asked_for(cls, settings: Settings) -> bool:
        """Whether the settings ask for this part."""
        raise NotImplementedError

    @classmethod
    def examples(cls, learning: Learning, pseudo_masks: PseudoMasks) -> Examples | None:
        """Examples for the training of the student, beside the pseudo-masks."""
        return None

    @classmethod
    def fit(cls, learning: Learning) -> Self | None:
        """Learn, or load what was learnt with the same key; None where there is nothing to learn from, or nothing to keep."""
        return None

    @classmethod
    def load(cls, settings: Settings, state: dict[str, Any], root: Path) -> Self:
        """Read a part that was saved in the folder of a run; `UserError` where its files do not fit."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """What model.json keeps of the part beside its weights."""
        return {}

    @staticmethod
    def of_channels(channels: int) -> dict[str, int]:
        """A `state` with the number of channels of the images; nothing for one, as in runs of grey images."""
        return {} if channels == 1 else {"channels": channels}

    def score(self, logits: Tensor, x: Tensor) -> Tensor:
        """Change the logits (B,) of the ensemble for images (B, C, S, S), each image by itself."""
        return logits

    def smooth(self, logits: np.ndarray, scans: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Change the logits (n,) float64 of slices by those of their neighbours: of the same value in `scans`, (n,).

        `places` (n,) is the integer number of each along its scan.
        """
        return logits

    def add(self, views: Views, device: torch.device) -> None:
        """Change the maps of the student in place."""
