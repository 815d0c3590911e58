"""A user's file, which `make lint` checks by every rule of mypy --strict: what is right passes, each `type: ignore` is needed.

Nothing here is run.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import coinseg


def progress(stage: str, done: int, total: int, losses: Mapping[str, float]) -> None:
    print(stage, done, total, losses.get("classifier"))


def masks_of(images: NDArray[np.float32], labels: list[int]) -> NDArray[np.bool_]:
    settings = coinseg.settings_from({"coin": {"steps": 60}}, base=coinseg.Settings(seed=1))
    predictor = coinseg.train(images, labels, settings=settings, report=progress, patients=["a", "b"])
    masks: NDArray[np.bool_] = predictor.masks(images)
    again: NDArray[np.bool_] = coinseg.SliceSegmenter(settings).fit(images, labels).predict(images)
    return masks & again


def volume_of(scan: Path) -> int:
    run = coinseg.load("out/run")
    if not isinstance(run, coinseg.Predictor):  # of several classes
        return sum(int(one.mask.sum()) for one in run.segment(scan).values())
    found: coinseg.Segmentation = run.segment(scan, organ=["kidney.nii.gz"])
    found.write(Path("mask.nii.gz"))
    html: str = run.show(scan)._repr_html_()
    return int(found.mask.sum()) + len(html)


def turned(run: coinseg.Predictor, images: torch.Tensor) -> torch.Tensor:
    explanation = run.explain(images)
    counterfactual, after = explanation.painted()
    difference: torch.Tensor = (images - counterfactual).abs() * after.mean()
    return difference


def wrong(images: NDArray[np.float32], run: coinseg.Predictor) -> None:
    coinseg.train(images)  # type: ignore[call-overload]
    coinseg.train(coinseg.Dataset(images, [0, 1]), report="loud")  # type: ignore[call-overload]
    run.explain(images)  # type: ignore[arg-type]
    print(run.segment("scan.nii.gz").masks)  # type: ignore[attr-defined]
    coinseg.Settings(sed=1)  # type: ignore[call-arg]
    print(coinseg.nothing)  # type: ignore[attr-defined]
