"""Weights from a safetensors file, checked by name and shape before the module is built."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from coinseg.errors import UserError


def require_fits(make: Callable[[], nn.Module], path: Path, what: str) -> None:
    """Raise `UserError` unless a safetensors file has exactly the tensors of a module, without memory for either.

    Args:
        make: builds the module.
        path: the file.
        what: a name of the module for the error.
    """
    try:
        with torch.device("meta"):
            expected = {name: tuple(value.shape) for name, value in make().state_dict().items()}
    except UserError:
        raise
    except (RuntimeError, NotImplementedError, OverflowError, ValueError, TypeError) as error:
        got = f"the settings of the {what} are impossible ({type(error).__name__})"
        raise UserError(got, "those of a run", "train again") from error
    try:
        with safe_open(path, "pt") as file:
            stored = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing", f"a trained {what}", "train it first, or point at another run") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a checkpoint ({error})", f"a {what} saved by coinseg", "train it again") from error
    if wrong := sorted(n for n in expected.keys() | stored.keys() if expected.get(n) != stored.get(n)):
        here, there = stored.get(wrong[0], "absent"), expected.get(wrong[0], "absent")
        got = f"{path} is a checkpoint of another architecture ({len(wrong)} tensors differ, first {wrong[0]}: "
        do = "use the settings it was trained with, or train again"
        raise UserError(f"{got}{here} in the file, {there} in the model)", f"a {what} with the settings of this run", do)


def load_weights(module: nn.Module, path: Path, what: str) -> None:
    """Load a safetensors file into a module; `UserError` when they do not fit or a weight is not finite; see `require_fits`."""
    require_fits(lambda: module, path, what)
    state = load_file(path)
    if any(not value.isfinite().all() for value in state.values()):
        raise UserError(f"{path} holds weights that are NaN or infinite", f"a trained {what}", "train it again")
    module.load_state_dict(state)
