"""What every training loop needs: devices (Lightning Fabric), reproducible steps, checkpoints, a log, progress."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from safetensors.torch import save_file
from torch import Tensor, nn

from .config import EngineSettings
from .errors import UserError
from .processes import place
from .storage import read_json, write_json, written_aside
from .threads import threads

CHUNK = 64
"""Images per forward pass outside training."""
Report = Callable[[str, int, int, Mapping[str, float]], None]
"""Called with the name of the stage, steps done, steps in all and the latest losses."""


def silent(stage: str, done: int, total: int, values: Mapping[str, float]) -> None:
    """The default report: the library says nothing."""


def make_fabric(settings: EngineSettings) -> Fabric:
    """One device and precision as the settings name them; raises `UserError` when they are not there.

    Of several processes on a node each takes a GPU of its own, while there are some.
    """
    torch.set_num_threads(settings.threads or threads())
    if settings.accelerator == "cuda" and not torch.cuda.is_available():
        raise UserError("engine.accelerator is cuda and no GPU is visible", "a CUDA device", "set engine.accelerator to cpu")
    accelerator = "cuda" if settings.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    devices = [place().local % torch.cuda.device_count()] if accelerator == "cuda" else 1
    try:
        return Fabric(accelerator=accelerator, devices=devices, precision=settings.precision)  # type: ignore[arg-type]
    except ValueError as error:
        raise UserError(f"engine.precision is '{settings.precision}'", "a precision of Lightning Fabric", str(error)) from error


def to_device(module: nn.Module, fabric: Fabric) -> nn.Module:
    """Onto the device, channels last (the faster layout for 2-D convolutions on CPUs and GPUs alike)."""
    return module.to(device=fabric.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def images_to(fabric: Fabric, images: Tensor) -> Tensor:
    """A batch onto the device, channels last."""
    return images.to(fabric.device, memory_format=torch.channels_last)


def compiled(module: nn.Module, settings: EngineSettings) -> nn.Module:
    """The module, compiled when the engine asks for it."""
    return cast(nn.Module, torch.compile(module)) if settings.compile else module


def seed_step(seed: int, step: int) -> None:
    """Make every random draw of a step a function of (seed, step), so a resumed run repeats an uninterrupted one."""
    value = int(np.random.SeedSequence([seed, step]).generate_state(1)[0])
    random.seed(value)
    torch.manual_seed(value)


def one_cycle(step: int, steps: int, warmup: float = 0.1) -> float:
    """Share of the learning rate at a step: linear warm-up, then half a cosine down to 0."""
    done = step / max(steps, 1)
    return min(done / warmup, 1.0) * 0.5 * (1 + math.cos(math.pi * max(0.0, done - warmup) / (1 - warmup))) + 1e-3


@dataclass
class Stage:
    """The folder of one training: its log, its checkpoint while it runs, its weights once it is done.

    Args:
        folder: where everything of this stage lies.
        key: what the result depends on; weights and checkpoints of another key are not used.
        tensorboard: also write TensorBoard event files.
    """

    folder: Path
    key: str
    tensorboard: bool = False
    seconds: float = 0.0
    """Spent by earlier, interrupted runs of this stage."""

    def __post_init__(self) -> None:
        self._began = time.perf_counter()

    def finished(self) -> bool:
        """Whether the weights of this very key are there."""
        done = self.folder / "stage.json"
        return done.exists() and read_json(done).get("key") == self.key

    def resume(self) -> dict[str, Any] | None:
        """The last checkpoint of this key, or None to begin anew (a stage of another key is forgotten)."""
        checkpoint = self.folder / "checkpoint.pt"
        state = load_checkpoint(checkpoint) if checkpoint.exists() else None
        if state is not None and state.get("key") == self.key:
            self._cut_log(state["step"])
            self.seconds = state["seconds"]
            return state
        for name in ("stats.jsonl", "checkpoint.pt", "stage.json"):
            (self.folder / name).unlink(missing_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        return None

    def save(self, step: int, **state: Any) -> None:
        """Write a checkpoint whole, after `step` steps."""
        with written_aside(self.folder / "checkpoint.pt") as part:
            torch.save({"key": self.key, "step": step, "seconds": self._spent(), **state}, part)

    def finish(self, module: nn.Module, name: str, **facts: Any) -> None:
        """Write the weights as safetensors, then the word that the stage is done; drop the checkpoint."""
        tensors = {k: v.detach().cpu().contiguous().clone() for k, v in module.state_dict().items()}
        with written_aside(self.folder / name) as part:
            save_file(tensors, part)
        write_json(self.folder / "stage.json", {"key": self.key, "seconds": self._spent(), **facts})
        (self.folder / "checkpoint.pt").unlink(missing_ok=True)

    def _spent(self) -> float:
        return round(self.seconds + time.perf_counter() - self._began, 2)

    def facts(self) -> dict[str, Any]:
        """What `finish` was told."""
        return dict(read_json(self.folder / "stage.json"))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line to stats.jsonl (and to TensorBoard)."""
        with (self.folder / "stats.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "time": round(time.time(), 1), **values}) + "\n")
        if self.tensorboard:
            for name, value in values.items():
                self._writer().add_scalar(name, value, step)

    def close(self) -> None:
        """Flush what is still buffered."""
        if self.tensorboard and hasattr(self, "_events"):
            self._events.close()

    def _writer(self) -> Any:
        if not hasattr(self, "_events"):
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(self.folder / "tensorboard"))
        return self._events

    def _cut_log(self, step: int) -> None:
        """Drop the lines after the checkpoint: those steps are done again."""
        log = self.folder / "stats.jsonl"
        if log.exists():
            kept = [line for line in read_stats(log) if line["step"] <= step]
            with written_aside(log) as part:
                part.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")


def read_stats(path: Path) -> list[dict[str, float]]:
    """The lines of a stats.jsonl; a last line cut short by a kill is left out."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint, as plain tensors and numbers (no code is run); raises `UserError` for anything else."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds for a file that is not its own
        raise UserError(
            f"{path} is not a checkpoint ({type(error).__name__})",
            "a checkpoint coinseg wrote",
            "remove it to start this stage anew",
        ) from error
    if not isinstance(state, dict) or "step" not in state:
        raise UserError(f"{path} is a file of something else", "a checkpoint coinseg wrote", "remove it to start this stage anew")
    return state


def require_finite(values: Mapping[str, float], step: int, setting: str) -> None:
    """Raise `UserError` when a loss is NaN or infinite."""
    wrong = [name for name, value in values.items() if not math.isfinite(value)]
    if wrong:
        raise UserError(
            f"{', '.join(wrong)} became {values[wrong[0]]} at step {step}",
            "finite losses",
            f"lower {setting} or use precision 32-true",
        )
