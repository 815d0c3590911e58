"""The threshold of masks: whose differences it is read from, and that f has no say in it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from coinseg.config.schema import MaskSettings, Settings
from coinseg.data.slices.arrays import Dataset
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.data.slices.split import TRAINING
from coinseg.inference import explainer as room
from conftest import tiny_settings
from models import SameLogit, explainer_of

SIDE, WHITE = 16, 0.9
PLAIN = MaskSettings(refine="none", hflip=False, quantile=0.5, peak=0.0)


class Changes(nn.Module):
    """A generator that lowers every pixel of images of one kind, by an amount: `bright` images have a white upper left corner."""

    def __init__(self, bright: bool, by: float) -> None:
        super().__init__()
        self.bright, self.by = bright, by

    def forward(self, x: Tensor) -> Tensor:
        kind = ((x[:, :, :2, :2].amin((1, 2, 3)) > 0.5) == self.bright).float()[:, None, None, None]
        return x - kind * self.by


def data() -> Dataset:
    """Grey images in [0.4, 0.6], every second one abnormal with a white corner; a fifth is held out."""
    images = np.random.default_rng(0).uniform(0.4, 0.6, (40, SIDE, SIDE)).astype(np.float32)
    images[::2, :2, :2] = WHITE
    return Dataset(images, (np.arange(40) % 2 == 0).astype(int))


def chosen(generator: nn.Module, store: Dataset | None = None, logit: float = -9.0, **masks: Any) -> float:
    settings: Settings = replace(tiny_settings(), masks=replace(PLAIN, **masks))
    slices = TrainingSlices(store or data(), settings.anomaly, 0)
    return explainer_of(settings, SameLogit(logit), generator).choose_threshold(slices).value


@pytest.mark.parametrize("logit", [-9.0, 9.0])
@pytest.mark.parametrize("rule", ["auto", "normals", "decision_flip"])
def test_the_threshold_is_of_normal_images_alone_whatever_f_says(rule: str, logit: float) -> None:
    assert chosen(Changes(bright=True, by=0.4), logit=logit, threshold=rule) == 0
    assert chosen(Changes(bright=False, by=0.4), logit=logit, threshold=rule) == pytest.approx(0.2, abs=1e-6)


def test_the_threshold_of_otsu_is_of_abnormal_images_alone_whatever_f_says() -> None:
    def corner(x: Tensor) -> Tensor:
        return torch.where(x > 0.7, x - 0.8, x - 0.1)

    class Corner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return corner(x)

    assert 0.05 <= chosen(Corner(), threshold="otsu") < 0.4  # between the differences of the grey and of the white pixels
    none = chosen(Changes(bright=False, by=0.4), threshold="otsu")
    assert none == pytest.approx(0, abs=1e-6)


def test_the_threshold_is_the_quantile_over_all_pixels_and_images() -> None:
    class Own(nn.Module):
        """Takes away what is above the darkest grey."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.minimum(x, torch.full_like(x, -0.2))

    store = data()
    rows = np.flatnonzero((store.index["split"] == TRAINING) & (store.index["label"] == 0))
    for quantile in (0.3, 0.98):
        wanted = np.quantile(np.clip(store.images[rows] - 0.4, 0, None), quantile)
        assert chosen(Own(), store, quantile=quantile) == pytest.approx(wanted, abs=1e-6)


def test_the_threshold_is_of_training_images_and_of_no_more_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    store, seen = data(), []
    plain = TrainingSlices.batch

    def batch(self: TrainingSlices, indices: np.ndarray, *rest: Any) -> Any:
        seen.append(self.rows[indices])
        return plain(self, indices, *rest)

    monkeypatch.setattr(TrainingSlices, "batch", batch)
    assert room.THRESHOLD_IMAGES == 400
    monkeypatch.setattr(room, "THRESHOLD_IMAGES", 10)
    chosen(Changes(bright=False, by=0.4), store)
    (rows,) = seen
    assert len(set(rows.tolist())) == 10
    assert (store.index["split"][rows] == TRAINING).all()
    assert (store.index["label"][rows] == 0).all()


def test_with_mirror_images_the_difference_is_the_mean_of_both_views() -> None:
    class Left(nn.Module):
        """Lowers the left half, and more in brighter images."""

        def forward(self, x: Tensor) -> Tensor:
            found = x.clone()
            found[..., : SIDE // 2] -= 0.2
            return found

    settings = replace(tiny_settings(), masks=replace(PLAIN, hflip=True))
    images = torch.rand(3, 1, SIDE, SIDE) * 0.5
    found = explainer_of(settings, SameLogit(1.0), Left()).differences(images, np.array([True, False, True]))
    assert found.other is not None
    left = np.zeros((SIDE, SIDE))
    left[:, : SIDE // 2] = 0.1
    for i in (0, 2):
        np.testing.assert_allclose(found.own[i], left, atol=1e-6)
        np.testing.assert_allclose(found.other[i], left[:, ::-1], atol=1e-6)
        np.testing.assert_allclose(found.mean[i], 0.05, atol=1e-6)
    assert not any(maps[1].any() for maps in (found.mean, found.own, found.other))


# --- what is asked of the generator -----------------------------------------------------------------------------------------


class Darker(nn.Module):
    """A generator that lowers everything by 0.5, below -1 as well."""

    def forward(self, x: Tensor) -> Tensor:
        return x - 0.5


class Bright(nn.Module):
    """An f whose logit is eight times the mean of an image."""

    def forward(self, x: Tensor) -> Tensor:
        return 8 * x.mean((1, 2, 3))


def levels_of(*values: float) -> Tensor:
    return torch.tensor(values).reshape(-1, 1, 1, 1).expand(-1, 1, SIDE, SIDE)


def plain(threshold: float = 0.5, **masks: Any) -> room.Explainer:
    base = tiny_settings()
    settings = replace(base, masks=replace(PLAIN, **masks), classifier=replace(base.classifier, threshold=threshold))
    return explainer_of(settings, Bright().train(), Darker().train())


def test_only_what_f_calls_abnormal_is_explained_unless_everything_is_asked_for() -> None:
    one, x = plain(threshold=0.6), levels_of(0.05, 0.06, -0.9)  # f is 0.599, 0.618 and 0.001
    assert not one.f.training
    assert not one.generator.training  # type: ignore[union-attr]
    some, everything = one.explain(x), one.explain(x, inpaint_all=True)
    assert one.probability(x).tolist() == pytest.approx([0.5987, 0.6177, 0.0007], abs=1e-4)
    assert (some.saliency.amax((1, 2)) > 0).tolist() == [False, True, False]
    assert everything.saliency[:, 0, 0].tolist() == pytest.approx([0.25, 0.25, 0.05])  # -0.9 can only become -1
    assert everything.counterfactual is not None
    assert torch.equal(one.counterfactual(x), everything.counterfactual)
    assert torch.equal(one.saliency(x), everything.saliency)
    assert everything.counterfactual[:, 0, 0, 0].tolist() == pytest.approx([-0.45, -0.44, -1.0])
    with pytest.raises(ValueError, match="an attribution has no counterfactual"):
        replace(one, generator=None).counterfactual(x)


def test_an_attribution_has_the_map_of_every_image(monkeypatch: pytest.MonkeyPatch) -> None:
    from coinseg.types import Explanation

    levels: list[float] = []

    def explain(x: Tensor, level: float) -> Explanation:
        levels.append(level)
        return Explanation(torch.sigmoid(x.mean((1, 2, 3))), x[:, 0].abs())

    monkeypatch.setattr(room, "explain_with", lambda *given: explain)
    one, x = replace(plain(), generator=None), levels_of(0.5, -0.75)
    assert torch.equal(one.saliency(x), x[:, 0].abs())
    found = one.explain(x)
    assert levels == [0.0, 0.5]
    assert found.counterfactual is found.counterfactual_probability is None


def test_differences_are_refined_along_the_image_in_grey_values_of_0_to_1(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[np.ndarray, np.ndarray]] = []

    def refine(maps: np.ndarray, guide: np.ndarray, settings: MaskSettings) -> np.ndarray:
        given.append((maps, guide))
        return maps * 2.0

    monkeypatch.setattr(room, "refine", refine)
    one, x = plain(refine="guided", hflip=True), levels_of(0.05, 0.5, -0.9)
    asked = np.array([True, False, True])
    found = one.differences(x, asked)
    for maps, guide in given:
        np.testing.assert_allclose(maps[:, 0, 0], [0.25, 0.05], atol=1e-6)
        assert guide.shape == (2, 1, SIDE, SIDE)
        np.testing.assert_allclose(guide[:, 0, 0, 0], [0.525, 0.05], atol=1e-6)
    assert len(given) == 2
    assert found.mean.dtype == np.float64
    np.testing.assert_allclose(found.mean[:, 0, 0], [0.5, 0.0, 0.1], atol=1e-6)
    assert found.asked is asked
    given.clear()
    known = torch.full((3, SIDE, SIDE), 0.125)
    known[2] = 0.375
    alone = plain(refine="guided").differences(x, asked, known)
    assert alone.other is None
    assert alone.own[:, 0, 0].tolist() == alone.mean[:, 0, 0].tolist() == [0.25, 0.0, 0.75]
    assert len(given) == 1
    assert plain().differences(x, asked).mean.dtype == np.float32  # not refined
    none = plain(refine="guided", hflip=True).differences(x, np.zeros(3, bool))
    assert none.other is not None
    assert not none.mean.any()
    assert len(given) == 2  # those of `refine="none"` alone: nobody was asked here


def test_a_threshold_that_is_a_number_looks_at_no_image_and_an_attribution_at_a_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[np.ndarray] = []
    batch = TrainingSlices.batch
    monkeypatch.setattr(TrainingSlices, "batch", lambda self, i, *rest: looked.append(i) or batch(self, i, *rest))
    store, base = data(), tiny_settings()
    slices = TrainingSlices(store, base.anomaly, 0)
    assert (
        explainer_of(replace(base, masks=replace(PLAIN, threshold=0.3)), SameLogit(0.0), Darker()).choose_threshold(slices).value
        == 0.3
    )
    assert looked == []
    normal = np.flatnonzero(slices.labels() == 0)
    monkeypatch.setattr(room, "THRESHOLD_IMAGES", 60)
    monkeypatch.setattr(room.Explainer, "saliency", lambda self, x: x[:, 0].abs())
    for seed in (0, 1):
        for method, rule, label, count in (
            ("counterfactual", "normals", 0, len(normal)),
            ("rise", "normals", 0, 6),
            ("rise", "otsu", 1, 6),
        ):
            looked.clear()
            settings = replace(base, method=method, seed=seed, masks=replace(PLAIN, threshold=rule))  # type: ignore[arg-type]
            explainer_of(settings, SameLogit(0.0), Darker()).choose_threshold(slices)
            ((indices,),) = (looked,)
            assert len(indices) == count
            assert (np.diff(indices) > 0).all()
            assert (slices.labels()[indices] == label).all()
    drawn = []
    for seed in range(6):
        looked.clear()
        settings = replace(base, method="rise", seed=seed, masks=replace(PLAIN, threshold="otsu"))
        explainer_of(settings, SameLogit(0.0), Darker()).choose_threshold(slices)
        drawn.append(tuple(looked[0].tolist()))
    assert len(set(drawn)) > 3  # another seed draws other images
    assert drawn[0] == (0, 12, 14, 18, 22, 30)  # and the same one the same, or the masks of every run would change


def test_images_that_are_black_or_white_to_the_end_are_taken() -> None:
    assert plain().explain(levels_of(-1.0, 1.0)).probability.shape == (2,)
