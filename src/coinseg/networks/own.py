"""A network from elsewhere, the user's own or timm's: a trial batch shows whether it gives every image one logit."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coinseg.errors import UserError, first_line, out_of_memory

REQUIRED = "one logit for each image, (B,) or (B, 1)"
ALONE = 3  # images of noise that are asked about by themselves too
ROUNDING = 0.01  # share of the largest logit that two answers may differ by
DRAWS = 4  # of random weights, before values in [0, 1] are taken for probabilities


def logits_in(output: Any) -> Tensor:
    """The logits in what a network returned: the tensor itself, what is named logits or logit, or the only tensor there is.

    Raises:
        UserError: it is not plain which tensor is meant.
    """
    if isinstance(output, Tensor):
        return output
    named = output._asdict() if hasattr(output, "_asdict") else output if isinstance(output, Mapping) else {}
    parts = list(named.values()) or (list(output) if isinstance(output, tuple | list) else [])
    tensors = [part for part in parts if isinstance(part, Tensor)]
    for meant in (named.get("logits"), named.get("logit"), getattr(output, "logits", None), *tensors[: len(tensors) == 1]):
        if isinstance(meant, Tensor):
            return meant
    names = f", named {', '.join(map(str, named))}"[:160] if named else ""
    got = f"the classifier returned a {type(output).__name__} with {len(tensors)} tensors{names}"
    raise UserError(got, REQUIRED, "return the logit of 'abnormal' alone, or name it logits")


def asked(network: nn.Module, x: Tensor) -> Any:
    """What a network returns for images; whatever it raises is a `UserError`, unless memory ran out."""
    try:
        return network(x)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # it is somebody else's code
        if out_of_memory(error):
            raise
        got = f"the classifier {type(network).__name__} cannot take images {tuple(x.shape)} ({first_line(error)})"
        required = f"a network of float32 images (B, {x.shape[1]}, S, S) in [-1, 1], S being data.size"
        do = "set data.size to what it takes, or wrap it so that it resizes and repeats channels itself"
        raise UserError(got, required, do) from error


def trial_images(side: int, channels: int = 1) -> Tensor:
    """Images (9, channels, S, S) in [-1, 1], as unlike as can be: noise, coarse noise, black, grey, white."""
    drawn = torch.Generator().manual_seed(0)
    fine, coarse = (torch.rand(3, channels, s, s, generator=drawn) * 2 - 1 for s in (side, side // 8 + 1))
    flat = torch.tensor([-1.0, 0.0, 1.0]).reshape(3, 1, 1, 1).expand_as(fine)
    return torch.cat([fine, F.interpolate(coarse, (side, side), mode="bilinear"), flat])


@contextmanager
def _undisturbed(f: nn.Module) -> Iterator[None]:
    """In evaluation mode, which ends with the block; random numbers go on as if nobody had drawn any."""
    modes = [(part, part.training) for part in f.modules()]
    f.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for part, mode in modes:
            part.training = mode


@torch.no_grad()
def gives_probabilities(f: nn.Module, images: Tensor) -> bool:
    """Whether f stays in [0, 1] for all images, and still does with random weights, as no logits would; weights are put back."""
    weights = [(p, p.detach().clone()) for p in f.parameters()]
    drawn = torch.Generator().manual_seed(0)
    try:
        for _ in range(1 + DRAWS):
            values = f(images)
            if not ((values >= 0) & (values <= 1)).all():
                return False
            for p, value in weights:
                noise = torch.randn(value.shape, generator=drawn).to(value)
                p.copy_(value + noise * value.abs().mean().clamp(min=0.1))
        return True
    finally:
        for p, value in weights:
            p.copy_(value)


def _require_gradient(name: str, logits: Tensor, images: Tensor) -> None:
    """Raise `UserError` unless the logits have a gradient with respect to the images."""
    try:
        found = torch.autograd.grad(logits.sum(), images, allow_unused=True)[0] if logits.requires_grad else None
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        got, do = f"{name} cannot be differentiated ({first_line(error)})", "change no tensor in place"
        raise UserError(got, "a gradient with respect to the image, which COIN follows", do) from error
    if found is None:
        got, do = f"the logits of {name} have no gradient with respect to the image", "leave out no_grad, detach and rounding"
        raise UserError(got, "a differentiable network, which COIN follows", do)


@torch.no_grad()
def _require_one_answer(name: str, f: nn.Module, images: Tensor, logits: Tensor) -> None:
    """Raise `UserError` unless an image asked about by itself has the logit that it had among others, (B,) or (B, K)."""
    alone = torch.cat([f(image[None]) for image in images[:ALONE]])
    if not torch.allclose(alone, logits[:ALONE], rtol=ROUNDING, atol=ROUNDING * (1 + float(logits.abs().max()))):
        got = f"{name} gives an image another logit when it is asked again, or beside other images, in evaluation mode"
        do = "leave out what is random, and normalise by fixed numbers, as BatchNorm in evaluation mode does"
        raise UserError(got, "one logit for one image", do)


def require_usable(f: nn.Module, side: int, gradient: bool = True, channels: int = 1) -> None:
    """Ask f about a trial batch, and raise `UserError` unless its answers are those of a classifier; f stays as it is.

    Args:
        f: images (B, channels, S, S) in [-1, 1] -> logits (B,).
        side: S.
        gradient: whether it has to have one with respect to the images.
        channels: of the images.
    """
    name = f"the classifier {type(getattr(f, 'network', f)).__name__}"
    if kinds := {str(p.dtype) for p in (*f.parameters(), *f.buffers()) if p.is_floating_point()} - {"torch.float32"}:
        got, do = f"{name} has weights of {', '.join(sorted(kinds))}", "call .float() on it (engine.precision is set apart)"
        raise UserError(got, "weights of torch.float32", do)
    weight = next(f.parameters(), None)
    if weight is None:
        raise UserError(f"{name} has no weights", "a network that learns", "register its parts as modules or parameters")
    images = trial_images(side, channels).to(weight.device)
    with _undisturbed(f), torch.enable_grad():
        f(images[:1])
        given = images.clone().requires_grad_(gradient)
        logits = f(given)
        if logits.dtype != torch.float32 or not logits.isfinite().all():
            what = "of " + str(logits.dtype) if logits.dtype != torch.float32 else "that are NaN or infinite"
            raise UserError(f"{name} gives logits {what}", "finite logits of torch.float32", "mend its output")
        _require_one_answer(name, f, images, logits.detach())
        if not torch.equal(given, images):
            raise UserError(f"{name} changes the images it is given", "one that only looks", "let it work on a clone of them")
        if gradient:
            _require_gradient(name, logits, given)
        if gives_probabilities(f, images):
            got = f"{name} gives values in [0, 1] for every image, noise among them, whatever its weights: probabilities"
            do = "leave out its last sigmoid or softmax, or declare probabilities p by returning torch.logit(p, eps=1e-6)"
            raise UserError(got, "logits: any number, above 0 abnormal", do)
