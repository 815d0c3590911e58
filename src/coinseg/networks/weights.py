"""Weights from a file: checked by name and shape before anything is built from them, then loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from coinseg.errors import UserError


def require_fits(make: Callable[[], nn.Module], path: Path, what: str) -> None:
    """Raise `UserError` unless a safetensors file has the tensors of a module; neither is made: a header says what it holds.

    So settings that ask for a module of any size cost nothing where the weights beside them are another's.
    """
    try:
        with torch.device("meta"):
            expected = {name: tuple(value.shape) for name, value in make().state_dict().items()}
    except UserError:
        raise
    except (RuntimeError, NotImplementedError, OverflowError, ValueError, TypeError) as error:
        raise UserError(
            f"the settings of the {what} are impossible ({type(error).__name__})", "those of a run", "train again"
        ) from error
    try:
        with safe_open(path, "pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing", f"a trained {what}", "train it first, or point at another run") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a checkpoint ({error})", f"a {what} saved by coinseg", "train it again") from error
    wrong = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
    if wrong:
        name = wrong[0]
        raise UserError(
            f"{path} is a checkpoint of another architecture ({len(wrong)} tensors differ, first {name}: "
            f"{found.get(name, 'absent')} in the file, {expected.get(name, 'absent')} in the model)",
            f"a {what} with the settings of this run",
            "use the settings it was trained with, or train again",
        )


def load_weights(module: nn.Module, path: Path, what: str) -> None:
    """Fill a module from a safetensors file; raises `UserError` for another architecture or something else."""
    require_fits(lambda: module, path, what)
    state = load_file(path)
    if any(not value.isfinite().all() for value in state.values()):
        raise UserError(f"{path} holds weights that are NaN or infinite", f"a trained {what}", "train it again")
    module.load_state_dict(state)
