"""`coinseg.train` on arrays, and its face in the manner of scikit-learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import coinseg
from coinseg.config.schema import Settings
from conftest import tiny_settings

SQUARE = np.indices((32, 32))
LABELS = np.arange(24) % 2
IMAGES = np.clip(
    np.random.default_rng(0).normal(0.3, 0.05, (24, 32, 32))
    + 0.5 * LABELS[:, None, None] * ((SQUARE > 9) & (SQUARE < 20)).all(0),
    0,
    1,
)


def small() -> Settings:
    base = tiny_settings()
    return replace(base, student=replace(base.student, steps=0), classifier=replace(base.classifier, steps=8))


def test_fit_and_predict_are_train_and_masks() -> None:
    from sklearn.base import clone

    told: list[str] = []
    estimator = clone(coinseg.SliceSegmenter(small(), report=lambda stage, done, total, losses: told.append(stage)))
    with pytest.raises(coinseg.UserError, match="was not trained; required: fit before predict"):
        estimator.predict(IMAGES)
    assert estimator.fit(IMAGES, LABELS, patients=np.arange(24) // 2) is estimator
    assert set(told) >= {"classifier", "coin"}
    data = coinseg.Dataset(IMAGES, LABELS, np.arange(24) // 2)
    by_hand = coinseg.train(data, small())
    with torch.no_grad():
        for name, value in by_hand.f.state_dict().items():
            torch.testing.assert_close(estimator.predictor_.f.state_dict()[name], value, rtol=0, atol=0)
    masks = estimator.predict(IMAGES)
    assert (masks.shape, masks.dtype) == ((24, 32, 32), bool)
    np.testing.assert_array_equal(masks, by_hand.masks(IMAGES))
    np.testing.assert_array_equal(masks, estimator.predict(torch.from_numpy(IMAGES[:, None])))  # with the axis of channels
    probability = estimator.predict_proba(IMAGES)
    prepared = torch.from_numpy(IMAGES).float()[:, None] * 2 - 1
    np.testing.assert_allclose(probability[:, 1], by_hand.scores(by_hand.logits(prepared)).ensemble, atol=1e-6)
    np.testing.assert_allclose(probability.sum(1), 1, atol=1e-6)
    with pytest.raises(coinseg.UserError, match="images of 16 x 16 pixels; required: 32 x 32, as the training had"):
        estimator.predict(IMAGES[:, :16, :16])
    with pytest.raises(coinseg.UserError, match="an argument 'seed'; required: settings or report"):
        estimator.set_params(seed=1)
    assert estimator.set_params(settings=None).get_params()["settings"] is None


def test_what_does_not_go_together_is_refused() -> None:
    data = coinseg.Dataset(IMAGES, LABELS)
    with pytest.raises(coinseg.UserError, match="images without labels; required: 0"):
        coinseg.train(IMAGES)  # type: ignore[call-overload]
    with pytest.raises(coinseg.UserError, match="labels or patients beside a data set"):
        coinseg.train(data, LABELS, settings=small())  # type: ignore[call-overload]


def test_the_names_of_the_package_are_offered_and_others_are_not() -> None:
    assert [name for name in dir(coinseg) if not name.startswith("__")] == sorted(coinseg.__all__)
    assert all(getattr(coinseg, name) is not None for name in coinseg.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        coinseg.nothing  # type: ignore[attr-defined]  # noqa: B018
