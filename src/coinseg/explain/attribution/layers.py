"""Layers of f for class activation maps: their names, their output A (B, C, h, w), and the gradient dY/dA.

f maps images (B, C, H, W) in [-1, 1] to logits Y (B,). No function here leaves hooks, gradients or another mode in f.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from coinseg.errors import UserError

STAGE_SIDES = 3  # a module that holds maps of at least this many sizes holds stages; with fewer it is a stage or a block


@contextmanager
def still(f: nn.Module) -> Iterator[None]:
    """f in evaluation mode; afterwards every module has its mode back."""
    modes = [(module, module.training) for module in f.modules()]
    f.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def hooked(hooks: list[tuple[nn.Module, Callable[..., Any]]]) -> Iterator[None]:
    """Forward hooks that are removed afterwards, also after an error."""
    with ExitStack() as stack:
        for module, hook in hooks:
            stack.callback(module.register_forward_hook(hook).remove)
        yield


def activations(f: nn.Module, x: Tensor, layer: nn.Module) -> Tensor:
    """A (B, C, h, w) of images (B, C, H, W); of a module that f calls more than once, at its last call."""
    outputs: list[Tensor] = []
    # A copy, because the next module may work in place.
    with torch.no_grad(), still(f), hooked([(layer, lambda _m, _i, output: outputs.append(output.clone()))]):
        f(x)
    return outputs[-1].to(x.dtype)


def activations_and_gradients(f: nn.Module, x: Tensor, layer: nn.Module) -> tuple[Tensor, Tensor]:
    """A and dY/dA of images (B, C, H, W), both (B, C, h, w); the graph starts at A, so no parameter gets a gradient."""
    outputs: list[Tensor] = []

    def start_graph(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        outputs.append(output.detach().requires_grad_())
        return outputs[-1].clone()  # the next module may work in place

    with torch.inference_mode(False), torch.enable_grad(), still(f), hooked([(layer, start_graph)]):
        y = f(x.clone().detach()).sum()
        a = outputs[-1]
        if y.requires_grad:  # else Y does not depend on the layer
            (gradient,) = torch.autograd.grad(y, a, allow_unused=True, materialize_grads=True)
        else:
            gradient = torch.zeros_like(a)
    return a.detach().to(x.dtype), gradient.to(x.dtype)


def logits_with(f: nn.Module, x: Tensor, layer: nn.Module, a: Tensor) -> Tensor:
    """Y (B,) of images (B, C, H, W) with the output of the layer replaced by `a` (B, C, h, w)."""
    with torch.no_grad(), still(f), hooked([(layer, lambda _m, _i, output: a.to(output.dtype))]):
        return f(x)


@dataclass(frozen=True)
class _Output:
    """The output of one call of a module of f."""

    name: str
    module: nn.Module
    shape: tuple[int, ...]  # () for anything but a tensor

    @property
    def side(self) -> tuple[int, ...]:
        return self.shape[2:]

    def is_map(self, image: Tensor) -> bool:
        """Whether it is (B, C, h, w) with h / w equal to H / W up to a pixel, unlike channels-last outputs."""
        if len(self.shape) != 4 or self.side == (1, 1) or self.shape[0] != len(image):
            return False
        (h, w), (height, width) = self.side, image.shape[-2:]
        return abs(h / height - w / width) <= 1 / height + 1 / width

    def is_tokens(self, image: Tensor) -> bool:
        """Whether it is (B, N, C) or (B, h, w, C), as in transformers."""
        return len(self.shape) in (3, 4) and self.shape[1] > 1 and self.side != (1, 1) and not self.is_map(image)

    def is_stage(self) -> bool:
        """Whether it has submodules and convolutions, unlike a single convolution, norm, activation or pooling."""
        return any(True for _ in self.module.children()) and any(isinstance(m, nn.Conv2d) for m in self.module.modules())

    def inside(self, other: _Output) -> bool:
        return self.name.startswith(other.name + ".")


def _outputs(f: nn.Module, image: Tensor) -> list[_Output]:
    """Every call of every module of f on one image, in the order in which they end."""
    outputs: list[_Output] = []

    def note(name: str, module: nn.Module, _inputs: Any, output: Any) -> None:
        outputs.append(_Output(name, module, tuple(output.shape) if isinstance(output, Tensor) else ()))

    with torch.no_grad(), still(f), hooked([(module, partial(note, name)) for name, module in f.named_modules() if name]):
        f(image)
    return outputs


def _seen(maps: list[_Output]) -> list[_Output]:
    """Without modules inside a block that changes the side, and without modules that hold whole stages."""
    sides = {o.name: {other.side for other in maps if other is o or other.inside(o)} for o in maps}
    blocks = [o for o in maps if len(sides[o.name]) < STAGE_SIDES]
    return [o for o in blocks if not any(o.inside(block) and o.side != block.side for block in blocks)]


def _picked(maps: list[_Output]) -> list[str]:
    """One name for each side, in the order of execution: the last stage, or the last module where there is no stage."""
    last: dict[tuple[int, ...], int] = {}
    for stage in (False, True):  # stages replace other modules
        last |= {o.side: i for i, o in enumerate(maps) if not stage or o.is_stage()}
    return [maps[i].name for i in sorted(last.values())]


def candidate_layers(f: nn.Module, x: Tensor) -> list[str]:
    """Return names of the layers of f with feature maps, shallow to deep: the last of each side (h, w); `UserError` for none.

    f runs on the first image of `x` (B, 1, H, W). Stages (`layer3` of a ResNet, `blocks.2`) are preferred; the first
    convolution counts only without another layer, and not before tokens: there it is the patch embedding of a transformer.
    """
    image, outputs = x[:1], _outputs(f, x[:1])
    names = Counter(o.name for o in outputs)
    tokens = [o for o in outputs if o.is_tokens(image)]
    # A module that is called more than once has several maps; (B, heads, N, N) inside an attention is none.
    maps = [o for o in outputs if o.is_map(image) and o.shape[1:] != image.shape[1:] and names[o.name] == 1]
    maps = [o for o in maps if not any(o.inside(t) for t in tokens)]
    first = next((i for i, o in enumerate(outputs) if isinstance(o.module, nn.Conv2d)), -1)
    linear = {o.name for o in outputs[: first + 1]}
    layers = _picked(_seen([o for o in maps if o.name not in linear]))
    if not layers and not any(o.name not in linear for o in tokens):
        layers = _picked(_seen(maps))
    if not layers:
        required = "a convolutional classifier for a class activation map"
        do = "set method to rise, which looks at no layer, or name a module in attribution.layer, or take another classifier"
        raise UserError("f has no layer with feature maps (B, C, h, w)", required, do)
    return layers


def layer_named(f: nn.Module, name: str, x: Tensor) -> nn.Module:
    """Return the module of f with a dotted name; "last" is the deepest candidate for images `x`.

    Args:
        f: images (B, C, H, W) in [-1, 1] -> logits (B,).
        name: `UserError` when f has no such module, does not call it, or its output is no feature map.
        x: images; the first one is given to f.
    """
    if name == "last":
        return f.get_submodule(candidate_layers(f, x)[-1])
    calls = [o for o in _outputs(f, x[:1]) if o.name == name]
    if calls and calls[-1].is_map(x[:1]):
        return calls[-1].module
    hint, known = "take one of these", [other for other, _ in f.named_modules() if other]
    if name not in known:
        fault = "which f does not have"
        near = [n for n in known if n.endswith("." + name)] or get_close_matches(name, known, 3)
        hint = f"did you mean {' or '.join(near[:3])}?" if near else hint
    else:
        fault = f"whose output is {calls[-1].shape or 'no tensor'}" if calls else "which f never calls as a module"
    required = f"last, best, or a layer with feature maps (B, C, h, w), such as {', '.join(candidate_layers(f, x))}"
    raise UserError(f"attribution.layer is '{name}', {fault}", required, hint)
