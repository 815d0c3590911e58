"""coinseg: segmentation masks from image-level labels by counterfactual inpainting (COIN).

    import coinseg
    predictor = coinseg.load("out/run")
    explanation = predictor.explain(images)          # images (B, 1, S, S) in [-1, 1]
    mask = predictor.segment("scan.nii.gz").mask     # (slices, H, W), bool

Research software, not a medical device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coinseg.config.parsing import PRESETS, settings_from
    from coinseg.config.schema import Settings
    from coinseg.data.slices.arrays import Dataset
    from coinseg.inference.checkpoint import load
    from coinseg.inference.predictor import Predictor
    from coinseg.inference.scans import Segmentation
    from coinseg.pipeline.recipe import train
    from coinseg.pipeline.run import Workspace
    from coinseg.pipeline.slice_segmenter import SliceSegmenter
    from coinseg.training.classifier import train_classifier
    from coinseg.training.coin import train_coin
    from coinseg.training.student import train_student

    from .errors import UserError

_PLACES = {
    "PRESETS": "config.parsing", "Dataset": "data.slices.arrays", "Predictor": "inference.predictor",
    "Segmentation": "inference.scans", "Settings": "config.schema", "SliceSegmenter": "pipeline.slice_segmenter",
    "UserError": "errors", "Workspace": "pipeline.run",
    "load": "inference.checkpoint", "settings_from": "config.parsing", "train": "pipeline.recipe",
    "train_classifier": "training.classifier", "train_coin": "training.coin", "train_student": "training.student",
}  # fmt: skip
__all__ = [
    "PRESETS", "Dataset", "Predictor", "Segmentation", "Settings", "SliceSegmenter", "UserError", "Workspace", "load",
    "settings_from", "train", "train_classifier", "train_coin", "train_student",
]  # fmt: skip


def __dir__() -> list[str]:
    return sorted({*(name for name in globals() if name.startswith("__")), *_PLACES})


if not TYPE_CHECKING:  # for a type checker a name that is not there is an error

    def __getattr__(name: str) -> Any:
        # torch is imported when it is first needed, so that `import coinseg` and `coinseg --help` are quick.
        if name in _PLACES:
            from importlib import import_module

            return getattr(import_module(f".{_PLACES[name]}", __name__), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
