"""The classifier f with one logit: a network of coinseg, a timm model, or the user's own module."""

from __future__ import annotations

import importlib
from dataclasses import replace
from difflib import get_close_matches
from itertools import pairwise
from logging import getLogger
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from coinseg.config.parsing import own_module
from coinseg.config.reading import refuse
from coinseg.config.rules import of_classifier
from coinseg.config.schema import ClassifierSettings
from coinseg.errors import UserError, first_line, muted, out_of_memory

from .classes import whole
from .imagenet import CHANNELS, Encoder, enlarged, load_imagenet, resized
from .layers import ResidualBlock, convolution, normalisation
from .own import REQUIRED, asked, logits_in, require_usable
from .weights import load_weights, require_fits

SMALL_WIDTHS = (16, 32, 64, 128)
LOCAL_WIDTHS = (16, 32, 64)
WRAPPED = ("state_dict_ema", "model_ema", "state_dict", "model")  # keys under which training scripts keep the weights


class Classifier(nn.Module):
    """The classifier f: images (B, C, H, W) in [-1, 1] -> logits (B,), above 0 abnormal, from any network of one logit.

    Of K classes it has a logit each, (B, K), from a network of as many.
    """

    def __init__(self, network: nn.Module, classes: int = 1) -> None:
        super().__init__()
        self.network, self.classes = network, classes

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B,), or (B, K)."""
        # Of its own networks coinseg hides no error; and no compiler has to look into the catching of those of others.
        output = self.network(x) if not self.foreign or torch.compiler.is_compiling() else asked(self.network, x)
        logits = logits_in(output)
        if logits.numel() != len(x) * self.classes:
            got = f"the classifier returned shape {tuple(logits.shape)} for {len(x)} images"
            do = "wrap it so that only the logit of 'abnormal' is returned (of two logits z: z[:, 1] - z[:, 0])"
            many = f"{self.classes} logits for each image, one a class"
            raise UserError(got, *((REQUIRED, do) if self.classes == 1 else (many, "give it as many outputs")))
        return logits.reshape(len(x)) if self.classes == 1 else logits.reshape(len(x), self.classes)

    @property
    def foreign(self) -> bool:
        """Whether the network is none of coinseg's, so that `require_usable` has to look at it."""
        return not isinstance(self.network, SmallNetwork | LocalNetwork | ImageNetNetwork)

    def require_usable(self, side: int, gradient: bool = True, channels: int = 1) -> None:
        """Raise `UserError` unless a network from elsewhere answers a trial batch (B, channels, side, side) as f has to."""
        if self.foreign:
            require_usable(self, side, gradient, channels)

    def frozen(self) -> Classifier:
        """Itself, in evaluation mode and without gradients for its weights."""
        return self.eval().requires_grad_(False)


class SmallNetwork(nn.Module):
    """Four residual blocks that halve the side, then the mean over pixels and one logit; `dims` 2 for slices, 3 for volumes.

    Average pooling without strides keeps the gradient with respect to the image smooth (docs/research/first-results.md).
    """

    def __init__(self, dims: int = 2, channels: int = 1, classes: int = 1) -> None:
        super().__init__()
        widths = (SMALL_WIDTHS[0], *SMALL_WIDTHS)
        self.stem = convolution(dims, channels, widths[0])
        self.blocks = nn.Sequential(*(ResidualBlock(dims, a, b, "down") for a, b in pairwise(widths)))
        self.norm = normalisation(dims, widths[-1])
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, channels, ...) in [-1, 1]."""
        return self.head(torch.relu(self.norm(self.blocks(self.stem(x)))).flatten(2).mean(-1))


class LocalNetwork(nn.Module):
    """A map of local logits at a quarter of the side; the mean of the highest share `pooling` in (0, 1] is the image's logit.

    f then turns normal only when the whole lesion is removed (multiple-instance learning; docs/research/classifier.md, study 12).
    """

    def __init__(self, pooling: float, dims: int = 2, channels: int = 1, classes: int = 1) -> None:
        super().__init__()
        self.pooling = pooling
        widths = (LOCAL_WIDTHS[0], *LOCAL_WIDTHS)
        self.stem = convolution(dims, channels, widths[0])
        last = len(LOCAL_WIDTHS) - 1
        blocks = (ResidualBlock(dims, a, b, "down" if i < last else None) for i, (a, b) in enumerate(pairwise(widths)))
        self.blocks = nn.Sequential(*blocks)
        self.norm = normalisation(dims, widths[-1])
        self.head = convolution(dims, widths[-1], classes, kernel=1)
        nn.init.constant_(cast(Tensor, self.head.bias), -2.0)  # most positions are normal

    def evidence(self, x: Tensor) -> Tensor:
        """The local logits, (B, classes, ...) with a quarter of the side, of images (B, channels, ...) in [-1, 1]."""
        return self.head(torch.relu(self.norm(self.blocks(self.stem(x)))))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, channels, ...) in [-1, 1]."""
        local = self.evidence(x).flatten(2)
        return local.topk(max(1, round(self.pooling * local.shape[2])), dim=2).values.mean(2)


class ImageNetNetwork(nn.Module):
    """The ImageNet encoder, the mean of its features over the enlarged image, and one logit.

    A second classifier for the image score, which makes other errors than f; too coarse to localise, so it is not explained.
    """

    def __init__(self, channels: int = 1, classes: int = 1) -> None:
        super().__init__()
        self.encoder = Encoder(channels)
        self.head = nn.Linear(CHANNELS[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, channels, S, S) in [-1, 1]."""
        x = resized(x, enlarged(x.shape[-1])).contiguous(memory_format=torch.channels_last)
        return self.head(self.encoder(x)[-1].mean((2, 3)))


def _timm_network(settings: ClassifierSettings, channels: int, classes: int) -> nn.Module:
    import timm

    if not timm.is_model(settings.name.split(".")[0]):
        near = get_close_matches(settings.name, timm.list_models(), 3)
        do = f"did you mean one of {', '.join(near)}?" if near else "see timm.list_models()"
        required = "'local', 'small', a timm model, or 'package.module:factory'"
        raise UserError(f"classifier.name is '{settings.name}'", required, do)
    options: dict[str, Any] = {"in_chans": channels, "num_classes": classes}
    if settings.weights and settings.weights != "timm":
        overlay = {"state_dict": _pretrained(Path(settings.weights)), "custom_load": False}
        try:
            return timm.create_model(settings.name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
        except (RuntimeError, KeyError, AttributeError, ValueError, TypeError) as error:
            got = f"{settings.weights} does not fit {settings.name} ({str(error).strip().splitlines()[0][:200]})"
            raise UserError(got, "pretrained weights of this very model", "set classifier.weights or classifier.name") from error
    try:
        with muted(getLogger("huggingface_hub")):  # without a network it tells of every try
            return timm.create_model(settings.name, pretrained=settings.weights == "timm", **options)
    except OSError as error:
        got = f"timm could not fetch the weights of {settings.name} ({first_line(error)[:150]})"
        do = "set classifier.weights to that file, or to null for a random start"
        raise UserError(got, "a network, timm's cache, or a file of them", do) from error
    except (RuntimeError, KeyError, AttributeError, ValueError, TypeError, AssertionError) as error:
        if out_of_memory(error):
            raise
        got = f"timm cannot make {settings.name} for {channels} channels and {classes} logits ({first_line(error)})"
        raise UserError(got, "a model that takes in_chans and num_classes", "set classifier.name") from error


def _pretrained(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of weights; not read by timm, because some versions of it unpickle any file."""
    if not path.is_file():
        raise UserError(f"{path} is missing", "a file of pretrained weights", "set classifier.weights")
    try:
        state: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
        state = next((state[key] for key in WRAPPED if isinstance(state.get(key), dict)), state)
        if not state or not all(isinstance(value, Tensor) for value in state.values()):
            raise TypeError("it holds more than tensors")
    except Exception as error:  # the readers raise many kinds for a broken file
        got = f"{path} cannot be read as weights ({type(error).__name__})"
        required = "safetensors, or a .pth of tensors alone; anything that would run code is refused"
        raise UserError(got, required, "save its state_dict as safetensors") from error
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def build(settings: ClassifierSettings, channels: int = 1, classes: int = 1) -> Classifier:
    """A fresh classifier of images (B, channels, S, S) by its name; "package.module:factory" calls the user's own factory."""
    refuse(of_classifier(settings))
    if settings.name == "local":
        return Classifier(LocalNetwork(settings.pooling, 2, channels, classes), classes)
    if settings.name == "small":
        return Classifier(SmallNetwork(2, channels, classes), classes)
    if settings.name == "imagenet":
        network = ImageNetNetwork(channels, classes)
        if settings.weights == "imagenet":
            load_imagenet(network.encoder)
        return Classifier(network, classes)
    own = own_module(settings)
    return Classifier(_own_network(settings.name) if own else _timm_network(settings, channels, classes), classes)


def _own_network(name: str) -> nn.Module:
    """What the user's factory "package.module:factory" returns."""
    module, _, factory = name.partition(":")
    try:
        network = getattr(importlib.import_module(module), factory)()
    except (ImportError, AttributeError) as error:
        fault = f"classifier.name is '{name}' ({error})"
        raise UserError(fault, "an importable 'package.module:factory'", "mend the path") from error
    except (Exception, SystemExit) as error:  # it is the user's code
        if isinstance(error, UserError) or out_of_memory(error):
            raise
        got = f"classifier.name is '{name}' ({first_line(error)})"
        raise UserError(got, "a factory that returns a network", "mend it") from error
    if not isinstance(network, nn.Module):
        got = f"classifier.name is '{name}', which returned a {type(network).__name__}"
        raise UserError(got, "a factory that returns a torch.nn.Module", "return the network itself")
    return network


def load_classifier(settings: ClassifierSettings, path: Path, side: int, channels: int = 1, classes: int = 1) -> Classifier:
    """A trained classifier of images (B, channels, side, side) from its weights, frozen; `UserError` where others lie there."""
    settings = replace(settings, weights=None)  # those it was trained from are not needed, and may not be at hand
    if not own_module(settings):
        require_fits(lambda: build(settings, channels, classes), path, "classifier")
    f = build(settings, channels, classes)
    if own_module(settings):
        f.require_usable(side, False, channels)  # before its weights are asked about: lazy ones are made by it
    load_weights(f, path, "classifier")
    return f.frozen()


def local_network(f: nn.Module) -> LocalNetwork | None:
    """The network of f, or of one class of it (`networks.classes.logit_of`), that has local logits; None where it has none."""
    network = whole(f)
    network = network.network if isinstance(network, Classifier) else network
    return network if isinstance(network, LocalNetwork) else None


def local_evidence(f: nn.Module, x: Tensor) -> Tensor:
    """Where f, which has a `local_network`, sees an anomaly in images (B, C, S, S): the sigmoid of local logits, (B, S, S)."""
    network = local_network(f)
    assert network is not None
    logits = network.evidence(x)[:, getattr(f, "number", 0), None]
    return F.interpolate(torch.sigmoid(logits), x.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


def probabilities(f: nn.Module, x: Tensor) -> Tensor:
    """f(X) in [0, 1], (B,), without gradients."""
    with torch.no_grad():
        return torch.sigmoid(f(x))
