"""The networks: the fused convolutions are the plain ones, the fusion is the identity at zero, the shapes are right."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils.flop_counter import FlopCounterMode

from coinseg.config.parsing import PRESETS
from coinseg.config.schema import CoinSettings
from coinseg.explain.counterfactual.discriminator import Discriminator
from coinseg.explain.counterfactual.generator import Generator, fuse_bounded, fuse_tanh
from coinseg.networks import layers
from coinseg.networks.classifier import LocalNetwork, SmallNetwork
from coinseg.networks.layers import ResidualBlock, convolution, convolve_then_pool, upsample_then_convolve

CONV = {2: F.conv2d, 3: F.conv3d}
POOL = {2: F.avg_pool2d, 3: F.avg_pool3d}
SIDES = {2: (6, 10), 3: (4, 6, 8)}


def tiny(**changes: object) -> CoinSettings:
    base = {"width": 4, "depth": 2, "skips": 1, "discriminator_width": 4, "discriminator_depth": 2, "fusion": "bounded"}
    return CoinSettings(**(base | changes))  # type: ignore[arg-type]


def signed(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random images in [-1, 1]."""
    return torch.rand(*shape, dtype=dtype) * 2 - 1


def awake(network: nn.Module) -> nn.Module:
    """Every parameter away from its start, so that nothing is zero by construction."""
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return network


def agree(found: Tensor, wanted: Tensor, inputs: list[Tensor], close: float = 1e-10) -> None:
    """The values and the gradients of a random projection agree."""
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, rtol=0, atol=close)
    weight = torch.randn_like(found)
    one = torch.autograd.grad((found * weight).sum(), inputs)
    other = torch.autograd.grad((wanted * weight).sum(), inputs)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=close)


@pytest.fixture(params=["widened", "as it is", "as it stands"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each form of the two rewrites, whatever channels and side."""
    monkeypatch.setattr(layers, "NARROW", layers.NARROW if request.param == "widened" else 0)
    monkeypatch.setattr(layers, "SMALL", 8 if request.param == "as it stands" else 0)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("spectral", [False, True])
@pytest.mark.usefixtures("form")
def test_convolve_then_pool(dims: int, spectral: bool) -> None:
    torch.manual_seed(0)
    conv = awake(convolution(dims, 3, 2, spectral=spectral).double()).eval()
    x = torch.randn(2, 3, *SIDES[dims], dtype=torch.float64, requires_grad=True)
    wanted = POOL[dims](CONV[dims](x, conv.weight, conv.bias, padding=1), 2)
    agree(convolve_then_pool(x, conv), wanted, [x, *conv.parameters()])


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("spectral", [False, True])
@pytest.mark.usefixtures("form")
def test_upsample_then_convolve(dims: int, spectral: bool) -> None:
    torch.manual_seed(1)
    conv = awake(convolution(dims, 3, 2, spectral=spectral).double()).eval()
    x = torch.randn(2, 3, *[s // 2 for s in SIDES[dims]], dtype=torch.float64, requires_grad=True)
    wanted = CONV[dims](F.interpolate(x, scale_factor=2, mode="nearest"), conv.weight, conv.bias, padding=1)
    agree(upsample_then_convolve(x, conv), wanted, [x, *conv.parameters()])


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.usefixtures("form")
def test_fused_convolutions_on_the_smallest_image(dims: int) -> None:
    # Everything is border here.
    torch.manual_seed(2)
    conv = awake(convolution(dims, 1, 1).double())
    x = torch.randn(1, 1, *[2] * dims, dtype=torch.float64, requires_grad=True)
    agree(convolve_then_pool(x, conv), POOL[dims](conv(x), 2), [x])
    small = x[(..., *[slice(0, 1)] * dims)]
    agree(upsample_then_convolve(small, conv), conv(F.interpolate(small, scale_factor=2)), [x])


@pytest.mark.parametrize(("channels", "side", "wanted"), [((16, 32), 6, 2), ((16, 33), 6, 0), ((16, 32), 4, 0)])
def test_the_form_follows_channels_and_side_and_never_the_batch(
    channels: tuple[int, int], side: int, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wide kernels are never widened: 1024 x 1024 channels at side 8 took three times as long as the plain layers."""
    conv, widened = convolution(2, *channels), layers._widened
    for batch in (1, 16):
        asked: list[int] = []
        monkeypatch.setattr(layers, "_widened", lambda kernel, asked=asked: asked.append(1) or widened(kernel))
        x = torch.zeros(batch, channels[0], side, side)
        assert convolve_then_pool(x, conv).shape[-1] == side // 2
        assert upsample_then_convolve(x, conv).shape[-1] == side * 2
        assert len(asked) == wanted


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("resample", ["up", "down", None])
@pytest.mark.parametrize("norm", [True, False])
def test_residual_block_is_what_its_name_says(dims: int, resample: str | None, norm: bool) -> None:
    torch.manual_seed(3)
    block = awake(ResidualBlock(dims, 3, 5, resample, norm=norm).double()).eval()  # type: ignore[arg-type]
    x = torch.randn(2, 3, *SIDES[dims], dtype=torch.float64, requires_grad=True)

    def up(t: Tensor) -> Tensor:
        return F.interpolate(t, scale_factor=2, mode="nearest") if resample == "up" else t

    def down(t: Tensor) -> Tensor:
        return POOL[dims](t, 2) if resample == "down" else t

    branch = block.conv1(up(torch.relu(block.norm1(x))))
    branch = down(block.conv2(torch.relu(block.norm2(branch))))
    agree(block(x), branch + down(block.shortcut(up(x))), [x, *block.parameters()])


def test_only_the_discriminators_blocks_lack_normalisation() -> None:
    has = {type(m) for m in Generator(tiny()).modules()}, {type(m) for m in Discriminator(tiny()).modules()}
    assert nn.BatchNorm2d in has[0]
    assert nn.BatchNorm2d not in has[1]


def test_fuse_bounded_at_zero_is_the_image_to_the_last_bit() -> None:
    torch.manual_seed(4)
    x = torch.cat([signed(200_000), torch.tensor([-1.0, 1.0, 0.0, 1e-38, -1e-8, 0.99999994, -0.99999994])])
    assert torch.equal(fuse_bounded(x, torch.zeros_like(x)), x)
    assert torch.equal(fuse_bounded(x, -torch.zeros_like(x)), x)


def test_fuse_bounded_can_be_moved_from_everywhere() -> None:
    x = torch.linspace(-1, 1, 401, dtype=torch.float64)
    delta = torch.zeros_like(x, requires_grad=True)
    (gradient,) = torch.autograd.grad(fuse_bounded(x, delta).sum(), delta)
    # d/d delta at 0 is (1 - (cX)^2) / c with c = tanh 1: 0.5514 at the edges, 1.3130 in the middle.
    assert gradient[0].item() == pytest.approx(0.5514, abs=1e-4)
    assert gradient[-1].item() == pytest.approx(0.5514, abs=1e-4)
    assert gradient[200].item() == pytest.approx(1.3130, abs=1e-4)
    assert (gradient > 0.55).all()


def test_fuse_bounded_is_the_tanh_it_says_it_is() -> None:
    c = torch.tanh(torch.tensor(1.0, dtype=torch.float64))
    x = torch.linspace(-1, 1, 101, dtype=torch.float64)[:, None]
    delta = torch.linspace(-4, 4, 81, dtype=torch.float64)[None]
    wanted = torch.tanh(torch.atanh(c * x) + delta) / c
    torch.testing.assert_close(fuse_bounded(x, delta), wanted, rtol=0, atol=1e-9)
    torch.testing.assert_close(fuse_bounded(x.float(), delta.float()), wanted.float(), rtol=0, atol=1e-6)
    assert wanted.abs().max() <= 1 / c


def test_fuse_bounded_is_monotone_bounded_and_odd() -> None:
    x = torch.linspace(-1, 1, 41, dtype=torch.float64)[:, None]
    delta = torch.linspace(-5, 5, 201, dtype=torch.float64)[None]
    found = fuse_bounded(x, delta)
    assert (found.diff(dim=1) > 0).all()
    assert (found.diff(dim=0) > 0).all()
    torch.testing.assert_close(fuse_bounded(-x, -delta), -found, rtol=0, atol=1e-12)
    far = fuse_bounded(x.float(), torch.tensor([[-1e4, 1e4]]))
    assert (far.abs() <= 1.3131).all()  # 1 / tanh 1


def test_fuse_bounded_gradients() -> None:
    x = torch.tensor([-1.0, -0.3, 0.0, 0.8, 1.0], dtype=torch.float64, requires_grad=True)
    delta = torch.tensor([0.0, 2.0, -1.0, 0.4, -3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(fuse_bounded, (x, delta))


def test_fuse_tanh_is_the_thesis_formula_and_not_the_identity() -> None:
    x, delta = signed(100), torch.randn(100)
    assert torch.equal(fuse_tanh(x, delta), torch.tanh(x + delta))
    assert fuse_tanh(torch.tensor(1.0), torch.tensor(0.0)).item() == pytest.approx(0.7616, abs=1e-4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dims", [2, 3])
def test_fresh_generator_changes_nothing(training: bool, dims: int) -> None:
    torch.manual_seed(5)
    x = signed(2, 1, *[8] * dims)
    x.view(-1)[:2] = torch.tensor([-1.0, 1.0])
    generator = Generator(tiny(), dims=dims).train(training)
    assert torch.equal(generator(x), x)
    assert torch.equal(generator.perturbation(x), torch.zeros_like(x))


def test_fresh_generator_with_the_thesis_fusion_is_tanh() -> None:
    x = signed(1, 1, 8, 8)
    assert torch.equal(Generator(tiny(fusion="tanh"))(x), torch.tanh(x))


def test_fresh_generator_can_learn() -> None:
    # The last convolution starts at zero: it gets a gradient, and once it has moved so does everything before it.
    torch.manual_seed(6)
    generator, x = Generator(tiny()), signed(4, 1, 8, 8)
    step = torch.optim.SGD(generator.parameters(), lr=0.1)
    (generator(x) - torch.ones_like(x)).square().mean().backward()
    last = generator.head[-1]
    assert isinstance(last, nn.Conv2d)
    assert last.weight.grad is not None
    assert last.weight.grad.abs().max() > 0
    step.step()
    step.zero_grad()
    (generator(x) - torch.ones_like(x)).square().mean().backward()
    missing = [name for name, p in generator.named_parameters() if p.grad is None]
    assert missing == []
    assert generator.stem.weight.grad.abs().max() > 0  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("fusion", ["bounded", "tanh"])
def test_batch_equals_singles_in_evaluation_mode(dims: int, fusion: str) -> None:
    torch.manual_seed(7)
    generator, discriminator = (
        awake(Generator(tiny(fusion=fusion), dims=dims).double()),
        Discriminator(tiny(), dims=dims).double(),
    )
    x = signed(3, 1, *[8] * dims, dtype=torch.float64)
    for network in (generator, discriminator):
        for _ in range(2):
            network(x)  # the running statistics move
        network.eval()
        singles = torch.cat([network(one) for one in x.split(1)])
        torch.testing.assert_close(network(x), singles, rtol=0, atol=1e-11)
    assert (generator(x) - x).abs().max() > 1e-3


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("skips", [0, 1, 2])
def test_all_numbers_of_skips(dims: int, skips: int) -> None:
    torch.manual_seed(8)
    generator = awake(Generator(tiny(depth=3, skips=skips, width=2), channels=2, dims=dims))
    x = signed(2, 2, *[16, 8, 8][:dims])
    assert generator(x).shape == x.shape
    # Level 3 is the bottleneck (16 channels); block k takes the features of level 3 - k when it has a skip.
    inputs = [block.conv1.weight.shape[1] for block in generator.decoder]
    assert inputs == [16, 8 + 8 * (skips >= 1), 4 + 4 * (skips >= 2)]


def test_skips_carry_what_the_bottleneck_does_not() -> None:
    # With the bottleneck's way cut, a perturbation still depends on the image, but only through the skips.
    torch.manual_seed(9)
    x, y = signed(1, 1, 8, 8), signed(1, 1, 8, 8)
    for skips, depends in ((0, False), (1, True)):
        generator = awake(Generator(tiny(skips=skips))).eval()
        generator.decoder[0].register_forward_hook(lambda module, given, out: torch.zeros_like(out))
        assert (not torch.equal(generator.perturbation(x), generator.perturbation(y))) is depends


def test_the_perturbation_is_its_layers_one_after_another() -> None:
    torch.manual_seed(12)
    generator, x = awake(Generator(tiny(depth=3, skips=2, width=2)).double()).eval(), signed(2, 1, 16, 16, dtype=torch.float64)
    generator(signed(4, 1, 16, 16, dtype=torch.float64))
    down = [generator.stem(x)]
    for block in generator.encoder:
        down.append(block(down[-1]))
    h = generator.decoder[0](down[3])
    h = generator.decoder[1](torch.cat([h, down[2]], 1))
    h = generator.decoder[2](torch.cat([h, down[1]], 1))
    layers_of = {type(layer): layer for layer in generator.head}
    wanted = layers_of[nn.Conv2d](torch.relu(layers_of[nn.BatchNorm2d](h)))
    torch.testing.assert_close(generator.perturbation(x), wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(generator(x), fuse_bounded(x, wanted), rtol=0, atol=1e-12)
    plain = awake(Generator(tiny(stem="relu_norm")).double()).eval()
    stem = {type(layer): layer for layer in plain.stem}
    torch.testing.assert_close(plain.stem(x), stem[nn.BatchNorm2d](torch.relu(stem[nn.Conv2d](x))), rtol=0, atol=1e-12)


@pytest.mark.parametrize("skips", [2, 7, -1])
def test_too_many_skips(skips: int) -> None:
    with pytest.raises(ValueError, match=rf"coin\.skips is {skips}; required: between 0 and coin\.depth - 1 = 1"):
        Generator(tiny(depth=2, skips=skips))


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (3, 2, 8, 16), (2, 1, 8, 8, 8), (1, 3, 4, 8, 12)])
@pytest.mark.parametrize("fusion", ["bounded", "tanh"])
def test_shapes(shape: tuple[int, ...], fusion: str) -> None:
    x, dims = signed(*shape), len(shape) - 2
    generator = awake(Generator(tiny(fusion=fusion), channels=shape[1], dims=dims))
    discriminator = Discriminator(tiny(), channels=shape[1], dims=dims)
    assert generator(x).shape == x.shape
    assert generator.perturbation(x).shape == x.shape
    assert discriminator(x).shape == shape[:1]
    assert (generator(x).abs() <= (1.3131 if fusion == "bounded" else 1)).all()


def test_width_doubles_up_to_sixteenfold() -> None:
    generator = Generator(tiny(width=1, depth=6, skips=5))
    assert [block.conv2.weight.shape[0] for block in generator.encoder] == [2, 4, 8, 16, 16, 16]
    assert [block.conv2.weight.shape[0] for block in generator.decoder] == [16, 16, 8, 4, 2, 1]
    assert Discriminator(tiny(discriminator_width=1, discriminator_depth=6)).head.in_features == 16


@pytest.mark.parametrize("dims", [2, 3])
def test_the_blocks_of_the_authors_are_settings_of_the_same_classes(dims: int) -> None:
    """Pooled before the first convolution and enlarged bilinearly, a block is what its layers say one after another."""
    torch.manual_seed(11)
    x, pool, conv = signed(2, 3, *[8] * dims).double(), [F.avg_pool2d, F.avg_pool3d][dims - 2], [F.conv2d, F.conv3d][dims - 2]
    for resample in ("pool_first", "up_bilinear"):
        block = ResidualBlock(dims, 3, 5, resample, with_bias=False, shortcut="spectral").double().eval()
        bilinear = {"scale_factor": 2, "mode": ["bilinear", "trilinear"][dims - 2], "align_corners": True}
        change = (lambda h: pool(h, 2)) if resample == "pool_first" else (lambda h, by=bilinear: F.interpolate(h, **by))
        h = conv(change(torch.relu(block.norm1(x))), block.conv1.weight, padding=1)
        h = conv(torch.relu(block.norm2(h)), block.conv2.weight, padding=1)
        torch.testing.assert_close(block(x), h + conv(change(x), block.shortcut.weight), rtol=0, atol=1e-12)
        assert block.conv1.bias is block.shortcut.bias is None
        assert len(list(block.shortcut.parametrizations.weight)) == 1
    keeps = ResidualBlock(dims, 3, 3, None, norm=False, activate_input=False, shortcut="identity").double()
    h = conv(
        torch.relu(conv(x, keeps.conv1.weight, keeps.conv1.bias, padding=1)), keeps.conv2.weight, keeps.conv2.bias, padding=1
    )
    torch.testing.assert_close(keeps(x), x + h, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("dims", [2, 3])
def test_convolutions_start_from_glorot_uniform_without_a_bias(dims: int, kernel: int) -> None:
    """Between plus and minus gain sqrt(6 / (fan in + fan out)); before a ReLU the gain is sqrt 2, that of a shortcut 1."""
    conv = convolution(dims, 20, 30, kernel)
    bound = (2 if kernel == 3 else 1) ** 0.5 * (6 / (50 * kernel**dims)) ** 0.5
    assert 0.97 * bound < conv.weight.max() <= bound
    assert -bound <= conv.weight.min() < -0.97 * bound
    assert not conv.bias.any()
    assert convolution(dims, 2, 2, kernel, with_bias=False).bias is None


@pytest.mark.parametrize("late", [False, True])
def test_the_encoder_widens_at_its_first_block_or_one_later(late: bool) -> None:
    generator = awake(Generator(tiny(width=2, depth=3, skips=1, late_widening=late)))
    assert [block.conv1.weight.shape[0] for block in generator.encoder] == ([2, 4, 8] if late else [4, 8, 16])
    # The decoder goes from 8 or 16 channels to 8, 4 and 2; its second block also gets the encoder's 4 or 8 at that side.
    assert [block.conv1.weight.shape[1] for block in generator.decoder] == ([8, 8 + 4, 4] if late else [16, 8 + 8, 4])
    assert [block.conv1.weight.shape[0] for block in generator.decoder] == [8, 4, 2]
    x = signed(2, 1, 16, 8)
    assert generator(x).shape == x.shape


def test_each_setting_of_the_generators_blocks_changes_what_it_names_and_nothing_else() -> None:
    def facts(**changes: object) -> dict[str, list[object]]:
        generator = Generator(tiny(depth=2, **changes))
        blocks = [*generator.encoder, *generator.decoder]
        convolutions = [m for b in blocks for m in (b.conv1, b.conv2, b.shortcut)]
        return {
            "bias": [
                m.bias is not None for m in convolutions + [m for m in generator.stem.modules() if isinstance(m, nn.Conv2d)]
            ],
            "spectral_shortcuts": [is_parametrized(m, "weight") for m in convolutions],
            "pooling": [b.resample for b in generator.encoder],
            "upsampling": [b.resample for b in generator.decoder],
            "stem": [type(m) for m in generator.stem.modules()],
        }

    plain = facts()
    assert facts(bias=False) == plain | {"bias": [False] * 13}
    assert facts(spectral_shortcuts=True) == plain | {"spectral_shortcuts": [False, False, True] * 4}
    assert facts(pooling="first") == plain | {"pooling": ["pool_first"] * 2}
    assert facts(upsampling="bilinear") == plain | {"upsampling": ["up_bilinear"] * 2}
    assert facts(stem="relu_norm") == plain | {"stem": [nn.Sequential, nn.Conv2d, nn.ReLU, nn.BatchNorm2d]}
    assert plain == {
        "bias": [True] * 13, "spectral_shortcuts": [False] * 12, "pooling": ["down"] * 2, "upsampling": ["up"] * 2,
        "stem": [nn.Conv2d],
    }  # fmt: skip
    assert Generator(tiny(bias=False)).head[-1].bias is not None
    assert not Generator(tiny()).head[-1].weight.any()
    assert Generator(tiny(zero_start=False)).head[-1].weight.any()


def test_each_setting_of_the_discriminator_changes_what_it_names_and_nothing_else() -> None:
    def facts(**changes: object) -> list[object]:
        d = Discriminator(tiny(conditions=2, **changes))
        weights = [m for m in d.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        normalised = {is_parametrized(m, "weight") for m in weights}
        return [
            normalised,
            is_parametrized(d.projection, "weight"),
            [type(b.shortcut) for b in d.blocks],
            d.blocks[0].activate_input,
        ]

    deep = Discriminator(tiny(discriminator_width=2, discriminator_depth=3, conditions=3), channels=2)
    assert [tuple(block.conv1.weight.shape[:2]) for block in deep.blocks] == [(2, 2), (4, 2), (8, 4), (8, 8)]
    assert (tuple(deep.head.weight.shape), tuple(deep.projection.weight.shape)) == ((1, 8), (3, 8))
    assert deep(signed(2, 2, 16, 16), torch.tensor([0, 2])).shape == (2,)
    shortcuts = [nn.Conv2d] * 3
    assert [[kind.__name__ for kind in facts()[2]]] == [["ParametrizedConv2d"] * 3]
    assert facts(spectral=False) == [{False}, False, shortcuts, False]
    assert facts(spectral_embedding=False)[:2] == [{True}, False]
    assert facts()[:2] == [{True}, True]
    assert facts(spectral=False, identity_shortcut=True)[2] == [nn.Conv2d, nn.Conv2d, nn.Identity]
    assert [b.activate_input for b in Discriminator(tiny()).blocks] == [False, True, True]
    assert [b.resample for b in Discriminator(tiny()).blocks] == ["down", "down", None]
    five = Discriminator(tiny(last_block=False))
    assert [b.resample for b in five.blocks] == ["down", "down"]
    assert five(signed(3, 1, 8, 8)).shape == (3,)
    told = Discriminator(tiny(informed=True))
    assert tuple(told.projection.weight.shape) == (2, 8)
    x = signed(1, 1, 8, 8)
    assert told.eval()(x, torch.tensor([0])) != told(x, torch.tensor([1]))
    assert Discriminator(tiny(informed=True, conditions=5)).projection.weight.shape[0] == 5  # Singla et al. tell it anyway


def test_normalisation_by_condition_has_a_gain_and_a_shift_for_each_and_no_others() -> None:
    norm = layers.ConditionalNorm(2, 5, 3)
    assert {name: tuple(p.shape) for name, p in norm.named_parameters()} == {"gain.weight": (3, 5), "shift.weight": (3, 5)}
    x = torch.randn(4, 5, 6, 6) * 3 + 2
    found = norm(x, torch.tensor([0, 1, 2, 0]))
    torch.testing.assert_close(found.mean((0, 2, 3)), torch.zeros(5), atol=1e-5, rtol=0)  # gains start at 1 and shifts at 0
    torch.testing.assert_close(found.var((0, 2, 3), correction=0), torch.ones(5), atol=1e-3, rtol=0)


def test_the_thesis_networks_have_the_parameters_and_operations_of_the_authors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured in theirs at 256 x 256: E 53.1 million parameters (19.6 and 33.5), 104.2 GFLOP (encoder 10.2); D 38.4 and 37.6."""
    monkeypatch.setattr(layers, "upsample_then_convolve", lambda x, conv: conv(F.interpolate(x, scale_factor=2.0)))
    monkeypatch.setattr(layers, "convolve_then_pool", lambda x, conv: F.avg_pool2d(conv(x), 2))

    def operations(network: nn.Module, x: Tensor) -> float:
        with FlopCounterMode(display=False) as counter:
            network(x)
        return counter.get_total_flops() / 1e9

    with torch.device("meta"):
        theirs = replace(PRESETS["thesis"].coin, informed=False)  # measured with one condition
        generator, discriminator = Generator(theirs).eval(), Discriminator(theirs).eval()
        image = torch.zeros(1, 1, 256, 256)

    def millions(*modules: nn.Module) -> float:
        return round(sum(p.numel() for module in modules for p in module.parameters()) / 1e6, 1)

    assert millions(generator) == 53.1
    assert millions(generator.stem, generator.encoder) == 19.6
    assert millions(generator.decoder, generator.head) == 33.5
    assert millions(discriminator) == 38.4
    with torch.device("meta"):
        tuh = replace(theirs, spectral_shortcuts=False, upsampling="bilinear", last_block=False)
        assert millions(Generator(tuh)) == 53.1
        # The last block's two convolutions of 1024 channels are gone; its shortcut was the identity.
        assert millions(discriminator) - millions(Discriminator(tuh)) == pytest.approx(2 * 9 * 1024**2 / 1e6, abs=0.1)
    encoder = nn.Sequential(generator.stem, *generator.encoder)
    # Their shortcuts convolve after upsampling and before pooling, at four times the pixels; here the other way round.
    up = sum(3 * 2 * block.shortcut.weight.numel() * (8 * 2**i) ** 2 for i, block in enumerate(generator.decoder)) / 1e9
    down = (
        sum(3 * 2 * block.shortcut.weight.numel() * (128 / 2**i) ** 2 for i, block in enumerate(discriminator.blocks[:-1])) / 1e9
    )
    assert operations(generator, image) + up == pytest.approx(104.2, rel=0.001)
    assert operations(encoder, image) == pytest.approx(10.2, rel=0.02)
    assert operations(discriminator, image) + down == pytest.approx(37.6, rel=0.01)


@pytest.mark.parametrize("dims", [2, 3])
def test_spectral_norms_are_about_one(dims: int) -> None:
    torch.manual_seed(10)
    discriminator = Discriminator(tiny(discriminator_width=2), dims=dims)
    with torch.no_grad():
        for p in discriminator.parameters():
            p.mul_(5)
        for _ in range(40):
            discriminator(signed(1, 1, *[8] * dims))
    discriminator.eval()
    weights = [m.weight for m in discriminator.modules() if isinstance(m, nn.Conv2d | nn.Conv3d | nn.Linear)]
    assert len(weights) == 3 * 3 + 1
    for weight in weights:
        assert torch.linalg.matrix_norm(weight.detach().flatten(1), 2).item() == pytest.approx(1, abs=0.03)


def test_generator_has_no_spectral_norm() -> None:
    assert not any("parametrizations" in name for name, _ in Generator(tiny()).named_parameters())


def test_discriminator_sums_over_pixels() -> None:
    # Far from the border a constant image gives the same features at every pixel, so the logit grows with the area:
    # what is added for 16 more columns is the same from 64 to 80 as from 80 to 96.
    torch.manual_seed(11)
    discriminator = Discriminator(tiny()).double().eval()
    one, two, three = (discriminator(torch.full((1, 1, 32, w), 0.5, dtype=torch.float64)) for w in (64, 80, 96))
    torch.testing.assert_close(two - one, three - two, rtol=0, atol=1e-10)
    assert (two - one).abs() > 1e-3


@pytest.mark.parametrize("dims", [2, 3])
def test_the_local_classifier_is_the_mean_of_its_highest_places(dims: int) -> None:
    network = awake(LocalNetwork(0.05, dims)).eval()
    x = signed(2, 1, *[16] * dims)
    places = network.evidence(x)
    assert places.shape == (2, 1, *[4] * dims)
    count = {2: 1, 3: 3}[dims]  # 5 % of 16 places, of 64
    wanted = places.flatten(1).sort(dim=1, descending=True).values[:, :count].mean(1, keepdim=True)
    torch.testing.assert_close(network(x), wanted)
    network.pooling = 1.0
    torch.testing.assert_close(network(x), places.flatten(1).mean(1, keepdim=True))


def test_the_local_classifier_sees_34_pixels_around_a_place() -> None:
    network = awake(LocalNetwork(0.05)).eval()
    x = signed(1, 1, 80, 80).requires_grad_()
    network.evidence(x)[0, 0, 10, 10].backward()
    rows = x.grad[0, 0].abs().sum(1).nonzero().flatten()
    assert int(rows.max() - rows.min()) + 1 == 34


def test_the_discriminator_sees_the_texture_of_what_is_dark() -> None:
    """Its first block has no ReLU before the first convolution: air, fat and the ground of most images are below mid-grey."""
    torch.manual_seed(0)
    discriminator = Discriminator(tiny()).eval()
    dark = -1 + 0.9 * torch.rand(1, 1, 32, 32)
    blocks = dark.view(1, 1, 16, 2, 16, 2)
    shuffled = blocks.flip(3).flip(5).reshape(dark.shape)  # the same mean of every 2 x 2 block
    first = discriminator.blocks[0]
    branch, of_shuffled = (first(x) - first.shortcut(F.avg_pool2d(x, 2)) for x in (dark, shuffled))
    assert (branch - of_shuffled).abs().max() > 0.01 * branch.abs().max()
    assert not torch.equal(discriminator(dark), discriminator(shuffled))


def test_the_small_classifier_is_the_mean_over_all_places() -> None:
    network = awake(SmallNetwork()).eval()
    x = signed(2, 1, 32, 32)
    places = torch.relu(network.norm(network.blocks(network.stem(x))))
    assert places.shape[2:] == (2, 2)
    torch.testing.assert_close(network(x), network.head(places.mean((2, 3))))


@pytest.mark.parametrize("conditions", [1, 2, 3])
def test_everything_in_the_discriminator_that_has_weights_is_spectrally_normalised(conditions: int) -> None:
    discriminator = Discriminator(tiny(conditions=conditions))
    kinds = (nn.Conv2d, nn.Linear, nn.Embedding)
    found = {
        name: is_parametrized(module, "weight") for name, module in discriminator.named_modules() if isinstance(module, kinds)
    }
    assert len(found) == 3 * 3 + 1 + (conditions > 1)
    assert all(found.values())


def test_the_discriminator_adds_the_projection_on_the_embedding_of_the_condition() -> None:
    discriminator, x = Discriminator(tiny(conditions=3)).eval(), signed(4, 1, 16, 16)
    condition = torch.tensor([0, 2, 1, 2])
    h = torch.relu(discriminator.blocks(x)).sum((2, 3))
    assert discriminator.projection is not None
    wanted = discriminator.head(h)[:, 0] + (discriminator.projection.weight[condition] * h).sum(1)
    torch.testing.assert_close(discriminator(x, condition), wanted)
