"""Attributions on networks small enough to work them out by hand, beside pytorch-grad-cam, and the laws they have to obey."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import pytorch_grad_cam
import timm
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor, nn

from coinseg.config.schema import AttributionSettings
from coinseg.errors import UserError
from coinseg.explain.attribution import (
    METHODS,
    best_layer,
    cam,
    candidate_layers,
    deletion_insertion,
    layer_named,
    rise,
    saliency,
)
from coinseg.explain.attribution.cam import KINDS, ablationcam, layercam, masked, normalised, principal, scorecam
from coinseg.explain.attribution.layer_choice import blurred, ranks
from coinseg.explain.attribution.layers import activations, activations_and_gradients
from coinseg.explain.attribution.rise import estimate, masks_of, random_grids, rise_scores
from coinseg.networks.classifier import Classifier, SmallNetwork

SETTINGS = AttributionSettings(masks=40, grid=4, batch=7)


def images(count: int, side: int = 32, seed: int = 0) -> Tensor:
    """Smooth grey images (count, 1, side, side) in [-1, 1]."""
    coarse = torch.rand(count, 1, side // 4, side // 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return F.interpolate(coarse, size=(side, side), mode="bilinear")


def small(seed: int = 0) -> Classifier:
    """The small classifier with norms that have seen something."""
    torch.manual_seed(seed)
    f = Classifier(SmallNetwork())
    for module in f.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    return f.frozen()


def tiny() -> Classifier:
    """A small trainable classifier with every kind of module that has a mode; its stages are "network.0" and "network.1"."""
    torch.manual_seed(0)

    def stage(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))

    head = nn.Linear(9, 1)
    nn.init.uniform_(head.weight, 0, 1)
    f = Classifier(nn.Sequential(stage(1, 6), stage(6, 9), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), head))
    return f.eval()


def grid(rows: list[list[float]]) -> Tensor:
    """One image (1, 1, H, W)."""
    return torch.tensor(rows)[None, None]


class Weighted(nn.Module):
    """A = conv(X) with one weight and one bias for each channel; Y = sum of W * A over channels and pixels."""

    def __init__(self, weights: list[float], biases: list[float], readout: Tensor, inplace: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, len(weights), 1)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor(weights)[:, None, None, None])
            self.conv.bias.copy_(torch.tensor(biases))
        self.readout, self.inplace = readout, inplace

    def forward(self, x: Tensor) -> Tensor:
        a = self.conv(x)
        if self.inplace:
            a = a.mul_(2)
        return (self.readout * a).sum((1, 2, 3))


class Regions(nn.Module):
    """One channel for each quarter of a 16 x 16 image; Y is the brightness of a patch in the third one."""

    def __init__(self) -> None:
        super().__init__()
        quarters = torch.zeros(4, 16, 16)
        for i, (row, column) in enumerate(itertools.product((0, 8), (0, 8))):
            quarters[i, row : row + 8, column : column + 8] = 1
        self.patch = torch.zeros(16, 16)
        self.patch[9:15, 1:7] = 1
        self.split = nn.Conv2d(1, 4, 1)
        nn.init.ones_(self.split.weight)
        nn.init.ones_(self.split.bias)
        self.quarters = nn.Identity()
        self.mask = quarters

    def forward(self, x: Tensor) -> Tensor:
        a = self.quarters(self.split(x) * self.mask)
        return (a.sum(1) * self.patch).sum((1, 2)) / 4 - 9


class Probability(nn.Module):
    """f whose probability is linear in the image: the sum of w * (X + 1) / 2, w at least 0 with a sum below 1."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.w = w

    def forward(self, x: Tensor) -> Tensor:
        return torch.logit(((x[:, 0] + 1) / 2 * self.w).sum((1, 2)))


class Faulty(nn.Module):
    """A classifier that fails after some calls, and says how many images it was given at most."""

    def __init__(self, calls: float = math.inf) -> None:
        super().__init__()
        self.network, self.left, self.most = tiny().network, calls, 0

    def forward(self, x: Tensor) -> Tensor:
        self.left, self.most = self.left - 1, max(self.most, len(x))
        y = self.network(x)[:, 0]
        if self.left < 0:
            raise RuntimeError("f is broken")
        return y


def hooks(f: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in f.modules())


def call(method: str, f: nn.Module, x: Tensor, batch: int = 7, layer: str = "last") -> Tensor:
    return saliency(method, f, x, replace(SETTINGS, batch=batch), 0, layer)


# Layers.


def test_layers_of_the_small_network_are_its_blocks() -> None:
    f, x = small(), images(1, 64)
    assert candidate_layers(f, x) == [f"network.blocks.{i}" for i in range(4)]
    assert layer_named(f, "last", x) is f.network.blocks[3]
    assert layer_named(f, "network.blocks.1.shortcut", x) is f.network.blocks[1].shortcut


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("resnet18", ["act1", "layer1", "layer2", "layer3", "layer4"]),
        ("tf_efficientnetv2_s", ["blocks.0", "blocks.1", "blocks.2", "blocks.4", "blocks.5"]),
        ("convnext_atto", ["stages.0", "stages.1", "stages.2", "stages.3"]),
    ],
)
def test_layers_of_timm_models_are_their_stages(name: str, wanted: list[str]) -> None:
    f, x = Classifier(timm.create_model(name, in_chans=1, num_classes=1)), images(2, 64)
    found = candidate_layers(f, x)
    assert found == [f"network.{layer}" for layer in wanted]
    sides = [activations(f, x, f.get_submodule(layer)).shape[2:] for layer in found]
    assert len(set(sides)) == len(sides)
    assert sides == sorted(sides, reverse=True)
    assert hooks(f) == 0
    assert cam("layercam", f, x, "last", 2).shape == (2, 64, 64)


@pytest.mark.parametrize(
    ("name", "depth"), [("vit_tiny_patch16_224", {"depth": 1}), ("swin_tiny_patch4_window7_224", {"depths": (1, 1)})]
)
def test_transformers_without_maps_are_told_to_take_rise(name: str, depth: dict[str, object]) -> None:
    f = Classifier(timm.create_model(name, in_chans=1, num_classes=1, img_size=64, **depth))
    for layer in ("last", "network.blocks.0"):
        with pytest.raises(UserError, match=r"has no layer with feature maps.*rise"):
            cam("layercam", f, images(1, 64), layer, 2)
    assert saliency("rise", f, images(1, 64), SETTINGS, 0).shape == (1, 64, 64)


def test_oblong_images_have_oblong_maps() -> None:
    f, x = tiny(), torch.rand(2, 1, 24, 40) * 2 - 1
    assert candidate_layers(f, x) == ["network.0", "network.1"]
    for method in ("layercam", "scorecam", "rise"):
        assert call(method, f, x).shape == (2, 24, 40)


def test_stages_are_found_inside_any_module() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU())
            self.two = nn.Sequential(nn.Conv2d(2, 3, 3, 2, 1), nn.ReLU())
            self.three = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU())
            self.twice = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.twice(self.three(self.twice(self.two(self.one(x)))))

    f = nn.Sequential(Encoder(), nn.AdaptiveAvgPool2d(1), nn.Flatten(0))
    assert candidate_layers(f, images(1)) == ["0.one", "0.two", "0.three"]


def test_a_single_convolution_is_a_layer_when_there_is_no_other() -> None:
    assert candidate_layers(Weighted([1.0, -1.0], [0.0, 0.0], torch.ones(2, 4, 4)), images(1, 16)[..., :4, :4]) == ["conv"]


@pytest.mark.parametrize(
    ("layer", "line"),
    [
        ("blocks.2", "'blocks.2', which f does not have; .*network.blocks.3; did you mean network.blocks.2"),
        ("network.blokcs.1", "did you mean network.blocks.1 or"),
        ("zzz", "network.blocks.0, network.blocks.1, .*take one of these"),
        ("", "which f does not have"),
        ("network.head", r"whose output is \(1, 1\)"),
        ("network.blocks.0.conv2", "which f never calls"),
    ],
)
def test_a_layer_that_cannot_be_looked_at_is_one_line(layer: str, line: str) -> None:
    f = small()
    with pytest.raises(UserError, match=line):
        cam("layercam", f, images(1), layer, 2)
    assert hooks(f) == 0


def test_gradient_of_the_layer_by_hand() -> None:
    readout = torch.randn(2, 4, 4)
    f, x = Weighted([2.0, -1.0], [0.5, 0.0], readout), images(3, 16)[..., :4, :4]
    a, gradient = activations_and_gradients(f, x, f.conv)
    torch.testing.assert_close(a, torch.cat([2 * x + 0.5, -x], 1))
    torch.testing.assert_close(gradient, readout.expand(3, 2, 4, 4))


@pytest.mark.parametrize("kind", ["layercam", "scorecam", "ablationcam", "eigencam"])
def test_what_works_in_place_after_the_layer_does_not_change_it(kind: str) -> None:
    readout, x = torch.rand(2, 8, 8), images(2)[..., :8, :8]
    one = Weighted([1.0, -1.0], [0.2, 0.1], 2 * readout)
    other = Weighted([1.0, -1.0], [0.2, 0.1], readout, inplace=True)
    torch.testing.assert_close(cam(kind, one, x, "conv", 3), cam(kind, other, x, "conv", 3))


def test_a_layer_that_does_not_matter_has_no_gradient() -> None:
    class Aside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.aside = nn.Conv2d(1, 2, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            self.aside(x)
            return x.mean((1, 2, 3))

    for trainable in (True, False):
        f = Aside().requires_grad_(trainable)
        assert activations_and_gradients(f, images(1), f.aside)[1].abs().sum() == 0
        assert call("layercam", f, images(1), layer="aside").abs().sum() == 0


# The maps by hand.


def test_layercam_by_hand() -> None:
    # A_1 = 2 X, A_2 = 1 - X; dY/dA = W; relu(relu(W_1) A_1 + relu(W_2) A_2)
    readout = torch.tensor([[[1.0, -1.0], [0.5, 2.0]], [[-3.0, 1.0], [2.0, 1.0]]])
    f, x = Weighted([2.0, -1.0], [0.0, 1.0], readout), grid([[0.5, -0.5], [1.0, -1.0]])
    # (1 * 1 + 0), (0 + 1 * 1.5), (0.5 * 2 + 2 * 0), relu(2 * -2 + 1 * 2)
    wanted = torch.tensor([[[1.0, 1.5], [1.0, 0.0]]])
    torch.testing.assert_close(layercam(f, x, f.conv, 1), wanted)
    torch.testing.assert_close(cam("layercam", f, x, "conv", 1), wanted / 1.5)


def test_scorecam_by_hand() -> None:
    # A_1 = X, A_2 = -X, and Y = A_1 at the first pixel + 2 A_1 at the last.
    readout = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[0.0, 0.0], [0.0, 0.0]]])
    f, x = Weighted([1.0, -1.0], [0.0, 0.0], readout), grid([[1.0, 0.0], [0.0, -1.0]])
    # On [0, 1] X is 1, .5, .5, 0; H_1 = 1, .5, .5, 0 leaves 1, .25, .25, 0 and H_2 = 0, .5, .5, 1 leaves 0, .25, .25, 0.
    first, second, black = 1 + 2 * -1, -1 + 2 * -1, -3
    for baseline in (0, black):  # the increase of confidence and the score itself give the same weights
        e1, e2 = math.exp(first - baseline), math.exp(second - baseline)
        w1, w2 = e1 / (e1 + e2), e2 / (e1 + e2)
        wanted = torch.tensor([[[w1 - w2, 0.0], [0.0, 0.0]]])
        torch.testing.assert_close(scorecam(f, x, f.conv, 1), wanted)


def test_scorecam_as_in_the_authors_runs_by_hand() -> None:
    """Mid-grey is put over what is hidden, and channels are weighed by f, not by its logit."""
    readout = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[0.0, 0.0], [0.0, 0.0]]])
    f, x = Weighted([1.0, -1.0], [0.0, 0.0], readout), grid([[1.0, 0.0], [0.0, -1.0]])
    # H_1 = 1, .5, .5, 0 times X leaves 1, 0, 0, 0 and H_2 = 0, .5, .5, 1 leaves 0, 0, 0, -1: logits 1 and -2.
    e1, e2 = (math.exp(1 / (1 + math.exp(-logit))) for logit in (1, -2))
    wanted = torch.tensor([[[(e1 - e2) / (e1 + e2), 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(scorecam(f, x, f.conv, 1, hidden=0.0, weigh="probability"), wanted)
    theirs = AttributionSettings(hidden="grey", weigh="probability")
    torch.testing.assert_close(cam("scorecam", f, x, "conv", 1, theirs), normalised(wanted))
    assert torch.equal(cam("scorecam", f, x, "conv", 1, AttributionSettings()), cam("scorecam", f, x, "conv", 1))
    asked: list[Tensor] = []

    class Asked(Weighted):
        def forward(self, x: Tensor) -> Tensor:
            asked.append(x)
            return super().forward(x)

    rise_scores(Asked([1.0, -1.0], [0.0, 0.0], readout), grid([[1.0, 1.0], [1.0, 1.0]]), replace(theirs, masks=9, grid=2), 0)
    assert torch.cat(asked).min() == 0  # of a white image nothing is darker than mid-grey


def test_ablationcam_by_hand() -> None:
    # Without A_1 = X the logit loses sum(W_1 X) = .5 - .25, without A_2 = 1 it loses sum(W_2) = -1.
    readout = torch.tensor([[[1.0, 0.5], [0.0, 0.0]], [[-1.0, 0.0], [0.0, 0.0]]])
    f, x = Weighted([1.0, 0.0], [0.0, 1.0], readout), grid([[0.5, -0.5], [0.0, 1.0]])
    torch.testing.assert_close(ablationcam(f, x, f.conv, 3), (0.25 * x[:, 0] - 1).relu())
    f = Weighted([1.0, 0.0], [0.0, 1.0], -readout)
    torch.testing.assert_close(ablationcam(f, x, f.conv, 3), (-0.25 * x[:, 0] + 1).relu())


def test_principal_component_by_hand() -> None:
    # Channels (t, 2 t) have their variance along (1, 2) / sqrt 5, where a pixel is at sqrt 5 * (t - mean).
    t = torch.tensor([[0.0, 1.0], [2.0, 5.0]])
    wanted = math.sqrt(5) * (t - 2)
    torch.testing.assert_close(principal(torch.stack([t, 2 * t])[None]), wanted[None])
    torch.testing.assert_close(principal(torch.stack([-t, -2 * t])[None]), wanted[None])


def test_masking_is_dimming_towards_black() -> None:
    x = torch.tensor([-1.0, 0.0, 1.0])
    assert masked(x, torch.zeros(3)).tolist() == [-1, -1, -1]
    assert masked(x, torch.full((3,), 0.5)).tolist() == [-1, -0.5, 0]
    assert masked(x, torch.ones(3)).tolist() == x.tolist()


@pytest.mark.parametrize("method", ["scorecam", "layercam", "ablationcam", "hirescam", "rise"])
def test_the_peak_is_where_the_evidence_is(method: str) -> None:
    f, x = Regions(), torch.full((1, 1, 16, 16), 0.5)
    layer = None if method == "rise" else "quarters"
    found = saliency(method, f, x, AttributionSettings(masks=600, grid=5), 0, layer)[0]
    peak = found >= 0.9 if method == "rise" else found == 1
    quarter = f.mask[2] > 0
    assert peak.any()
    assert quarter[peak].all()
    if method in ("layercam", "hirescam"):
        assert torch.equal(found, f.patch)
    if method == "scorecam":
        assert torch.equal(peak, quarter)
    if method == "rise":
        assert found[f.patch > 0].min() > found[f.mask[1] > 0].max()


# Beside pytorch-grad-cam.


class OnUnit(nn.Module):
    """f for images in [0, 1]: pytorch-grad-cam multiplies what the network is given, so that black has to be 0."""

    def __init__(self, f: nn.Module) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        return self.f(2 * x - 1)


def theirs(name: str, f: nn.Module, x: Tensor, layer: str) -> np.ndarray:
    with getattr(pytorch_grad_cam, name)(f, [f.get_submodule(layer)]) as method:
        return method(x.clone().requires_grad_(), [lambda y: y] * len(x))


@pytest.mark.parametrize("layer", ["network.blocks.0", "network.blocks.1", "network.norm"])
@pytest.mark.parametrize("kind", ["scorecam", "layercam"])
def test_scorecam_and_layercam_rank_pixels_as_the_library(kind: str, layer: str) -> None:
    f, x = small(1), images(2, 32, 1)
    found = cam(kind, f, x, layer, 16).numpy()
    if kind == "scorecam":
        wanted = theirs("ScoreCAM", OnUnit(f), (x + 1) / 2, f"f.{layer}")
    else:
        wanted = theirs("LayerCAM", f, x, layer)
    for one, other in zip(found, wanted, strict=True):
        assert spearmanr(one.ravel(), other.ravel()).statistic >= 0.99


@pytest.mark.parametrize("layer", ["network.blocks.0", "network.norm"])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("layercam", "LayerCAM"),
        ("gradcam", "GradCAM"),
        ("gradcam++", "GradCAMPlusPlus"),
        ("gradcamelementwise", "GradCAMElementWise"),
        ("hirescam", "HiResCAM"),
        ("xgradcam", "XGradCAM"),
        ("segeigencam", "SegEigenCAM"),
        ("fem", "FEM"),
    ],
)
def test_the_family_is_the_library(kind: str, name: str, layer: str) -> None:
    f, x = small(1), images(2, 32, 1)
    np.testing.assert_allclose(cam(kind, f, x, layer, 16).numpy(), theirs(name, f, x, layer), atol=1e-5)


# RISE.


def test_masks_are_the_upsampled_grids_cut_at_their_shifts() -> None:
    settings, size = AttributionSettings(masks=6, grid=3), (10, 14)  # cells of 4 x 5 pixels
    grids, shifts = random_grids(settings, size, 0)
    masks = masks_of(grids, shifts, size, torch.zeros(()))
    whole = F.interpolate(grids[:, None].float(), size=(16, 20), mode="bilinear")[:, 0]
    wanted = torch.stack([m[r : r + 10, c : c + 14] for m, (r, c) in zip(whole, shifts.tolist(), strict=True)])
    torch.testing.assert_close(masks, wanted)


def test_random_grids() -> None:
    settings = AttributionSettings(masks=3000, grid=4, probability=0.2)
    grids, shifts = random_grids(settings, (10, 16), 3)
    assert grids.shape == (3000, 4, 4)
    assert grids.dtype == torch.bool
    assert grids.float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert set(shifts[:, 0].tolist()) == {0, 1, 2}
    assert set(shifts[:, 1].tolist()) == {0, 1, 2, 3}
    # At every pixel, the corners too, a mask shows its share.
    means = masks_of(grids, shifts, (10, 16), torch.zeros(())).mean(0)
    assert (means - 0.2).abs().max() < 0.03


def second_moment(grid: int, size: int, probability: float) -> Tensor:
    """E[m_j m_k] of pixels j and k, by its definition: cells are independent, shifts equally likely. (pixels, pixels)."""
    cell = math.ceil(size / grid)
    total = torch.zeros(size * size, size * size)
    for row, column in itertools.product(range(cell), range(cell)):
        shift = torch.tensor([[row, column]]).expand(grid * grid, 2)
        # How much of each cell a pixel sees.
        part = masks_of(torch.eye(grid * grid).reshape(-1, grid, grid), shift, (size, size), torch.zeros(())).flatten(1)
        total += probability**2 + probability * (1 - probability) * part.T @ part
    return total / cell**2


def expected(w: Tensor, x: Tensor, grid: int, probability: float) -> Tensor:
    """E[f(X . m) m] / p for a linear f, (H, W)."""
    weighted = (w * (x[0, 0] + 1) / 2).flatten()
    return (second_moment(grid, len(w), probability) @ weighted / probability).reshape(w.shape)


def linear() -> tuple[Probability, Tensor]:
    w = torch.full((4, 4), 0.02)
    w[1, 2] = 0.4
    return Probability(w), torch.linspace(-0.5, 0.9, 16).reshape(1, 1, 4, 4)


def test_rise_over_all_masks_is_its_expectation() -> None:
    f, x = linear()
    # 16 grids of 2 x 2 cells at 2 x 2 shifts; with p = 1/2 all are equally likely.
    grids = torch.tensor(list(itertools.product((0, 1), repeat=4))).reshape(16, 2, 2).bool().repeat(4, 1, 1)
    shifts = torch.tensor(list(itertools.product((0, 1), (0, 1)))).repeat_interleave(16, 0)
    found = estimate(f, x, grids, shifts, 0.5, 5)
    torch.testing.assert_close(found[0], expected(f.w, x, 2, 0.5), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("probability", [0.3, 0.5])
def test_rise_converges_to_its_expectation(probability: float) -> None:
    f, x = linear()
    wanted = expected(f.w, x, 3, probability)
    errors = []
    for count in (200, 20000):
        settings = AttributionSettings(masks=count, grid=3, probability=probability, batch=5000)
        errors.append((rise_scores(f, x, settings, 1)[0] - wanted).abs().mean().item())
    assert errors[1] < 0.2 * errors[0]
    assert errors[1] < 0.01 * wanted.mean()


def test_rise_with_everything_visible_is_f() -> None:
    f, x = linear()
    settings = replace(SETTINGS, probability=1.0)
    probability = torch.sigmoid(f(x)).item()
    torch.testing.assert_close(rise_scores(f, x, settings, 0), torch.full((1, 4, 4), probability))
    assert rise(f, x, settings, 0).abs().sum() == 0


def test_rise_follows_its_seed_and_not_the_state_of_torch() -> None:
    f, x = tiny(), images(2)
    torch.manual_seed(1)
    one = rise(f, x, SETTINGS, 5)
    torch.manual_seed(2)
    assert torch.equal(one, rise(f, x, SETTINGS, 5))
    assert not torch.equal(one, rise(f, x, SETTINGS, 6))
    torch.testing.assert_close(one, normalised(rise_scores(f, x, SETTINGS, 5)))


@pytest.mark.parametrize("change", [{"masks": 0}, {"grid": 0}, {"probability": 0.0}, {"probability": 1.5}])
def test_rise_settings_without_sense(change: dict[str, float]) -> None:
    with pytest.raises(UserError, match="at least one mask and one cell"):
        rise(tiny(), images(1), replace(SETTINGS, **change), 0)


# Laws of every method.


@pytest.mark.parametrize("method", METHODS)
def test_shape_range_and_a_batch_is_its_singles(method: str) -> None:
    f, x, layer = tiny().frozen(), images(3), "network.0"
    together = call(method, f, x, 7, layer)
    assert together.shape == (3, 32, 32)
    assert together.dtype == torch.float32
    assert not together.requires_grad
    for one in together:
        assert (one.min(), one.max()) == (0, 1)
    singles = torch.cat([call(method, f, one, 7, layer) for one in x.split(1)])
    torch.testing.assert_close(together, singles, rtol=0, atol=1e-5)
    for batch in (1, 2, 128):
        torch.testing.assert_close(together, call(method, f, x, batch, layer), rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_f_is_left_as_it_was(method: str) -> None:
    f = tiny().frozen()
    frozen = call(method, f, images(2))
    with torch.inference_mode():
        torch.testing.assert_close(call(method, f, images(2)), frozen, rtol=0, atol=1e-5)
    f.train().requires_grad_(True)
    f.network[1].eval().requires_grad_(False)
    f.network[-1].weight.grad = torch.ones(1, 9)

    def state() -> list[object]:
        weights = [(p.requires_grad, None if p.grad is None else p.grad.tolist()) for p in f.parameters()]
        return [*weights, *(m.training for m in f.modules()), *(b.tolist() for b in f.buffers()), hooks(f)]

    before = state()
    torch.testing.assert_close(call(method, f, images(2)), frozen, rtol=0, atol=1e-5)
    assert state() == before


ASK_AGAIN = ("scorecam", "ablationcam", "rise")
"""The methods that ask f more often than once for its layers and once for the map."""


@pytest.mark.parametrize(("method", "calls"), [(m, n) for m in METHODS for n in range(3 if m in ASK_AGAIN else 2)])
def test_an_error_inside_f_leaves_no_hook(method: str, calls: int) -> None:
    f = Faulty(calls)  # in training, its network in evaluation
    with pytest.raises(RuntimeError, match="f is broken"):
        call(method, f, images(1))
    assert hooks(f) == 0
    assert f.training
    assert not any(m.training for m in f.network.modules())
    assert all(p.grad is None for p in f.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_f_is_never_given_more_than_a_batch(method: str) -> None:
    f = Faulty()
    call(method, f, images(6), batch=4)
    assert 1 <= f.most <= 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_map_is_zero(kind: str) -> None:
    f = Weighted([0.0, 0.0], [0.3, -0.1], torch.ones(2, 32, 32))
    assert cam(kind, f, images(2), "conv", 4).abs().sum() == 0


def test_normalised() -> None:
    maps = torch.tensor([[[1.0, 3.0]], [[5.0, 5.0]], [[1e-20, 3e-20]], [[1.0, 1.0 + 2**-23]], [[-4.0, 0.0]], [[0.0, 0.0]]])
    wanted = [[[0, 1]], [[0, 0]], [[0, 1]], [[0, 0]], [[0, 1]], [[0, 0]]]
    assert normalised(maps).tolist() == wanted


def test_unknown_methods_and_unchosen_layers_are_one_line() -> None:
    f, x = small(), images(1)
    with pytest.raises(UserError, match=r"'score-cam'; required: one of scorecam, .*, rise; did you mean scorecam"):
        saliency("score-cam", f, x, SETTINGS, 0)
    with pytest.raises(UserError, match=r"'qqqq'.*take one of these"):
        saliency("qqqq", f, x, SETTINGS, 0)
    with pytest.raises(UserError, match="the attribution method is 'rise'"):
        cam("rise", f, x, "last", 2)
    with pytest.raises(UserError, match="no layer was chosen"):
        saliency("layercam", f, x, replace(SETTINGS, layer="best"), 0)
    with pytest.raises(UserError, match=r"attribution\.batch is 0"):
        saliency("rise", f, x, replace(SETTINGS, batch=0), 0)
    chosen = saliency("layercam", f, x, replace(SETTINGS, layer="best"), 0, "network.blocks.1")
    assert torch.equal(chosen, saliency("layercam", f, x, replace(SETTINGS, layer="network.blocks.1"), 0))


# The choice of the layer.


def test_blur_keeps_constants_and_is_strong() -> None:
    torch.testing.assert_close(blurred(torch.full((1, 1, 20, 30), 0.3)), torch.full((1, 1, 20, 30), 0.3))
    point = -torch.ones(1, 1, 40, 40)
    point[..., 18:22, 18:22] = 1
    assert blurred(point).max() < -0.7
    torch.testing.assert_close(blurred(point), blurred(point.mT).mT)


def test_ranks_fall_with_saliency_and_break_ties_without_order() -> None:
    assert ranks(torch.tensor([[[0.2, 0.9], [0.5, 0.1]]])).tolist() == [[[2, 0], [1, 3]]]
    flat = ranks(torch.zeros(2, 20, 20))
    assert sorted(flat[0].flatten().tolist()) == list(range(400))
    assert torch.equal(flat[0], flat[1])
    assert abs(spearmanr(flat[0].flatten(), range(400)).statistic) < 0.2


def test_deletion_and_insertion_by_hand() -> None:
    # All evidence is in the first pixel and so is the peak: after a quarter of the pixels everything is gone, or there.
    w = torch.tensor([[0.5, 0.0], [0.0, 0.0]])
    x = grid([[0.8, -0.6], [-0.6, -0.6]])
    sharp, blur = 0.5 * 0.9, 0.5 * (blurred(x)[0, 0, 0, 0].item() + 1) / 2
    first = torch.tensor([[[1.0, 0.3], [0.2, 0.1]]])
    deletion, insertion = deletion_insertion(Probability(w), x, first, 4)
    assert deletion.item() == pytest.approx((sharp / 2 + blur * 3.5) / 4, abs=1e-6)
    assert insertion.item() == pytest.approx((blur / 2 + sharp * 3.5) / 4, abs=1e-6)
    deletion, insertion = deletion_insertion(Probability(w), x, -first, 4)
    assert deletion.item() == pytest.approx((sharp * 3.5 + blur / 2) / 4, abs=1e-6)


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_deletion_and_insertion_of_a_linear_f_add_up(steps: int) -> None:
    f, x = Probability(torch.rand(8, 8) / 64), images(3)[..., :8, :8]
    deletion, insertion = deletion_insertion(f, x, torch.rand(3, 8, 8), steps)
    torch.testing.assert_close(deletion + insertion, f(x).sigmoid() + f(blurred(x)).sigmoid())


class TwoLooks(nn.Module):
    """What it decides by is in `seen`; `noise` says something else everywhere and hardly counts."""

    def __init__(self) -> None:
        super().__init__()

        class Noise(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                fixed = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
                return fixed * (1 + x.mean((2, 3), keepdim=True))

        self.stem, self.seen, self.noise = nn.Conv2d(1, 2, 1), nn.ReLU(), Noise()
        nn.init.ones_(self.stem.weight)
        nn.init.zeros_(self.stem.bias)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.seen(self.stem(x))
        return 60 * seen.square().mean((1, 2, 3)) + 1e-3 * self.noise(seen).mean((1, 2, 3)) - 2


@pytest.mark.parametrize("kind", ["layercam", "gradcam", "hirescam"])
def test_the_best_layer_is_the_one_that_knows_the_evidence(kind: str) -> None:
    x = torch.full((5, 1, 32, 32), -0.5)
    for i, image in enumerate(x):
        image[0, 4 + 2 * i : 12 + 2 * i, 10:18] = 0.9
    f = TwoLooks()
    name, scores = best_layer(kind, f, x, 2)
    assert name == "seen"
    assert list(scores) == ["seen", "noise"]
    assert scores["seen"] > scores["noise"] + 0.2
    assert best_layer(kind, f, x, 5)[1] == pytest.approx(scores, abs=1e-6)
    assert hooks(f) == 0


def test_of_equally_good_layers_the_deepest_is_taken() -> None:
    f = small()
    nn.init.zeros_(f.network.head.weight)
    name, scores = best_layer("layercam", f, images(2), 4)
    assert set(scores.values()) == {0.0}
    assert name == candidate_layers(f, images(1))[-1]


@pytest.mark.parametrize("method", METHODS)
def test_maps_have_the_precision_of_the_images(method: str) -> None:
    single, double = call(method, tiny(), images(2)), call(method, tiny().double(), images(2).double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(single, double.float(), rtol=0, atol=1e-4)
