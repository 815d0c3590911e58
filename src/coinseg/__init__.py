"""coinseg: segmentation masks from image-level labels by counterfactual inpainting (COIN).

    import coinseg
    run = coinseg.load("out/run")
    explanation = run.explain(images)          # images (B, 1, S, S) in [-1, 1]
    mask = run.segment("scan.nii.gz").mask     # (slices, H, W), bool

Research software, not a medical device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import Settings
    from .errors import UserError
    from .pipeline import Workspace
    from .runs import Run, Segmentation
    from .saved import load
    from .settings import PRESETS
    from .training import train_classifier, train_coin

_PLACES = {
    "PRESETS": "settings", "Settings": "config", "UserError": "errors", "Workspace": "pipeline", "Run": "runs",
    "Segmentation": "runs", "load": "saved", "train_classifier": "training", "train_coin": "training",
}  # fmt: skip
__all__ = ["PRESETS", "Run", "Segmentation", "Settings", "UserError", "Workspace", "load", "train_classifier", "train_coin"]


def __getattr__(name: str) -> Any:
    # torch is imported when it is first needed, so that `import coinseg` and `coinseg --help` are quick.
    if name in _PLACES:
        from importlib import import_module

        return getattr(import_module(f".{_PLACES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
