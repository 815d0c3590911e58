"""Weights from a safetensors file, checked by name and shape before the module is built."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from coinseg.errors import UserError
from coinseg.runtime.files import damaged, require_file
from coinseg.runtime.records import require_intact

MAX_HEADER = 2**22
"""Bytes of the header of a safetensors file, which has about a hundred for every tensor."""


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
    stored = shapes_in(path, what)
    if wrong := sorted(n for n in expected.keys() | stored.keys() if expected.get(n) != stored.get(n)):
        here, there = stored.get(wrong[0], "absent"), expected.get(wrong[0], "absent")
        got = f"{path} is a checkpoint of another architecture ({len(wrong)} tensors differ, first {wrong[0]}: "
        do = "use the settings it was trained with, or train again"
        raise UserError(f"{got}{here} in the file, {there} in the model)", f"a {what} with the settings of this run", do)


def shapes_in(path: Path, what: str) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors of a safetensors file, by name; `UserError` where it is missing, or none."""
    try:
        require_file(path)
        with path.open("rb") as start:
            if (size := int.from_bytes(start.read(8), "little")) > MAX_HEADER:
                raise damaged(path, f"its header claims {size} bytes")
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing", f"a trained {what}", "train it first, or point at another run") from error
    except (SafetensorError, OSError) as error:
        raise damaged(path, f"it is not a checkpoint: {error}") from error


def load_weights(module: nn.Module, path: Path, what: str) -> None:
    """Load a safetensors file into a module; `UserError` when they do not fit, are damaged, or not finite; see `require_fits`."""
    require_fits(lambda: module, path, what)
    require_intact(path)
    state = load_file(path)
    if any(not value.isfinite().all() for value in state.values()):
        raise UserError(f"{path} holds weights that are NaN or infinite", f"a trained {what}", "train it again")
    module.load_state_dict(state)
