"""ImageNet's weights: the right ones, in the right places, for images without colours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

from coinseg.errors import UserError
from coinseg.networks.imagenet import CHANNELS, DEEPEST, LEVELS, Encoder, enlarged, imagenet_weights, load_imagenet, resized


def test_the_encoder_is_that_of_timm_and_a_grey_image_has_the_features_of_its_three_equal_colours() -> None:
    image = torch.rand(2, 1, 64, 64) * 2 - 1
    ours = load_imagenet(Encoder())
    options = {"features_only": True, "out_indices": tuple(range(LEVELS))}
    grey, colour = (timm.create_model("tf_efficientnet_lite0", in_chans=n, **options) for n in (1, 3))
    assert list(ours.state_dict()) == list(grey.state_dict())
    assert tuple(grey.feature_info.channels()) == CHANNELS
    grey.load_state_dict(ours.state_dict())
    colour.load_state_dict(dict(zip(colour.state_dict(), imagenet_weights(), strict=False)))
    for network in (ours, grey, colour):
        network.eval()
    with torch.no_grad():
        features, theirs, of_colours = ours(image), grey(image), colour(image.repeat(1, 3, 1, 1))
    assert [64 // f.shape[-1] for f in features] == [2**i for i in range(1, LEVELS + 1)]
    assert 64 // features[-1].shape[-1] == DEEPEST
    for one, other, third in zip(features, theirs, of_colours, strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, third, rtol=1e-3, atol=1e-3)
    ours.train()(image)
    grey.train()(image)
    statistics = zip(ours.state_dict().values(), grey.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in statistics)


def test_another_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is missing; required"):
        imagenet_weights(tmp_path / "none.pth")
    other = tmp_path / "other.pth"
    torch.save({"a": torch.zeros(1)}, other)
    with pytest.raises(UserError, match=r"other\.pth is another file than"):
        imagenet_weights(other)


def test_images_are_shown_about_a_third_larger_and_never_smaller() -> None:
    assert [enlarged(side) for side in (16, 32, 40, 64, 96, 128, 256)] == [32, 32, 64, 96, 128, 160, 352]
    for side in range(8, 400, 8):
        assert enlarged(side) >= side
        assert enlarged(side) % DEEPEST == 0
        assert enlarged(side) <= side * 4 / 3 + DEEPEST


def test_a_map_comes_back_at_its_own_side() -> None:
    there = torch.rand(2, 1, 96, 96, generator=torch.Generator().manual_seed(0))
    assert resized(there, 96) is there
    flat = torch.full((1, 2, 64, 64), 0.25)
    assert torch.equal(resized(resized(flat, enlarged(64)), 64), flat)
    turned = resized(there.flip(-1), 128).flip(-1)
    torch.testing.assert_close(turned, resized(there, 128), rtol=0, atol=1e-6)


def test_what_fits_a_file_is_asked_without_the_compiler_of_torch() -> None:
    """Importing it takes longer than segmenting a scan; timm, and random numbers on the "meta" device, would."""
    code = (
        "import sys, torch\nfrom coinseg.networks.unet import Student\nwith torch.device('meta'):\n    Student(1).state_dict()\n"
        "print({'torch._dynamo', 'timm', 'torchvision'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    assert done.stdout == "set()\n"
