"""What a training leaves behind: checkpoints, a log, weights and facts; and how it reports progress."""

import io
import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from coinseg.errors import UserError

from . import signals as interruption
from .files import clear, damaged, written_aside
from .loggers import Logger, open_logger
from .process_group import current
from .records import finite, fits, read_lines, read_record, require_intact, sealed, write_record
from .report import Report as Report
from .report import silent as silent

FACTS, CHECKPOINT = {"key": str, "seconds": float}, {"key": str, "step": int, "seconds": float}
"""What every stage.json and every checkpoint has, and its kind."""

COST = ("images_per_s", "memory_gb")
"""Names of the numbers in a line of stats.jsonl that say how fast a training goes and the most memory that it took so far."""


@dataclass
class Stage:
    """One training: its checkpoint while it runs, its weights and facts once it is done, its log. The main process writes.

    Args:
        folder: of this stage alone; None writes nothing and keeps only the facts, in memory.
        key: what the result depends on; weights and checkpoints of another key are not used.
        logger: where the log goes beside stats.jsonl, see `loggers.open_logger`.
        seconds: spent by earlier, interrupted runs of this stage.
    """

    folder: Path | None
    key: str
    logger: str = "none"
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self._began, self._resumed = time.perf_counter(), 0
        self._logger: Logger | None = None
        self._facts: dict[str, Any] = {}

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""
        return current().here.is_main

    def file(self, name: str) -> Path:
        """The path of a file in the folder, which must be given."""
        if self.folder is None:
            raise ValueError("a stage without a folder has no files")
        return self.folder / name

    def finished(self) -> bool:
        """Whether the weights of this key are there, for which stage.json vouches; all processes call it."""
        if self.folder is None:
            return False
        done = self.file("stage.json")
        finished = done.exists() and self.facts()["key"] == self.key and any(self.folder.glob("*.safetensors"))
        if finished and self.is_main:
            self.file("checkpoint.pt").unlink(missing_ok=True)  # killed an instant before its end
        return current().broadcast(finished)

    def resume(self) -> dict[str, Any] | None:
        """The last checkpoint of this key, all finite; otherwise None, and what is there is deleted. All processes call it."""
        if self.folder is None:
            return None
        checkpoint = self.file("checkpoint.pt")
        state = load_checkpoint(checkpoint) if checkpoint.exists() else None
        state = state if state is not None and state.get("key") == self.key and not not_finite(state) else None
        step = None if state is None else state["step"]
        if (first := current().broadcast(step)) != step:
            got = f"the first process goes on after step {first or 0} and this one after {step or 0}"
            raise UserError(got, f"the same {self.folder} for all of them", "choose -o on a disk that all processes share")
        if state is not None:
            self.seconds, self._resumed = state["seconds"], state["step"]
        log = self.file("stats.jsonl")
        if self.is_main and state is not None and log.exists():  # the steps after the checkpoint are done again
            kept = [line for line in read_stats(log) if line["step"] <= state["step"]]
            with written_aside(log) as part:
                part.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        elif self.is_main and state is None:
            # stage.json goes first: what is left of another key must not pass for a whole.
            clear(
                *map(
                    self.file,
                    ("stage.json", "checkpoint.pt", "stats.jsonl", "samples", "tensorboard", "csv", "wandb", "mlflow.db"),
                )
            )
            self.folder.mkdir(parents=True, exist_ok=True)
        return state

    def steps(self, start: int, total: int) -> Iterator[int]:
        """The numbers of the steps to do; while they last, a first Ctrl-C or SIGTERM waits for `save` or `finish`."""
        with interruption.patient():
            yield from range(start, total)

    def due(self, step: int, every: int) -> bool:
        """Whether to `save` after `step` steps: every so many, or because the main process received a signal."""
        return step % every == 0 or (self.is_main and interruption.asked())

    def save(self, step: int, setting: str, **state: Any) -> None:
        """Write a checkpoint whole; then obey a signal that waits.

        Args:
            step: how many steps are done.
            setting: which lowering may keep weights finite, for the error.
            state: what `resume` shall return, beside "key", "step" and "seconds"; where it is not finite, `UserError`.
        """
        if not self.is_main:
            return
        require_sound(state, step, setting)
        if self.folder is not None:
            buffer = io.BytesIO()  # written by Python, whose errors say what the system refused (a full disk)
            torch.save({"key": self.key, "step": step, "seconds": self._spent(), **state}, buffer)
            with sealed(self.file("checkpoint.pt")) as part:
                part.write_bytes(buffer.getbuffer())
            if self._logger:
                self._logger.save()
        interruption.obey()

    def finish(self, module: nn.Module, name: str, setting: str, **facts: Any) -> None:
        """Write the weights as safetensors, then stage.json; drop the checkpoint; obey a signal that waits.

        Args:
            module: what was trained; where it is not finite, `UserError`.
            name: of the file of weights.
            setting: which lowering may keep weights finite, for the error.
            facts: what `facts` shall return, beside "key" and "seconds".
        """
        if self.is_main:
            tensors = {k: v.detach().cpu().contiguous().clone() for k, v in module.state_dict().items()}
            require_sound(tensors, "the end", setting)
            self._facts = {"key": self.key, "seconds": self._spent(), **facts}
            if self.folder is not None:
                with sealed(self.file(name)) as part:
                    part.write_bytes(safetensors_bytes(tensors))
                write_record(self.file("stage.json"), self._facts)
                self.file("checkpoint.pt").unlink(missing_ok=True)
            if self._logger:
                self._logger.finalize("success")
        interruption.obey()

    def facts(self, **kinds: Any) -> dict[str, Any]:
        """What `finish` and `amend` were given; `UserError` where it is damaged or a fact is not of its kind, see `fits`."""
        return dict(self._facts if self.folder is None else read_record(self.file("stage.json"), FACTS | kinds))

    def amend(self, **facts: Any) -> None:
        """Change some facts of a finished stage, whose weights stay."""
        if self.is_main:
            self._facts = self.facts() | facts
            if self.folder is not None:
                write_record(self.file("stage.json"), self._facts)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line to stats.jsonl, and to what `logger` names."""
        if not self.is_main or self.folder is None:
            return
        file = self.file("stats.jsonl")
        if self._logger is None and self.logger != "none":
            earlier = read_stats(file) if file.exists() else []
            self._logger = open_logger(self.logger, self.folder, self.key, self._resumed, earlier)
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"step": step, "time": round(time.time(), 1), **values}) + "\n")
        if self._logger:
            self._logger.log_metrics(dict(values), step)

    def _spent(self) -> float:
        return round(self.seconds + time.perf_counter() - self._began, 2)


def read_stats(path: Path) -> list[dict[str, float]]:
    """The lines of a stats.jsonl; a last line cut short by a kill is left out."""
    return [line for line in read_lines(path, {"step": float}) if finite(line)]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint, as plain tensors and numbers (no code is run); raises `UserError` for anything else."""
    require_intact(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds for a file that is not its own
        raise damaged(path, f"it is not a checkpoint: {type(error).__name__}") from error
    if not fits(state, CHECKPOINT):
        raise damaged(path, "it is a file of something else")
    return dict(state)


def require_finite(values: Mapping[str, float], step: int, setting: str) -> None:
    """Raise `UserError` when a loss is NaN or infinite."""
    if wrong := [name for name, value in values.items() if not math.isfinite(value)]:
        got = f"{', '.join(wrong)} became {values[wrong[0]]} at step {step}"
        raise UserError(got, "finite losses", f"lower {setting} or use precision 32-true")


def not_finite(state: Any) -> bool:
    """Whether a floating tensor anywhere in nested state (weights, optimisers) holds NaN or infinity."""
    if isinstance(state, Tensor):
        return state.is_floating_point() and not bool(torch.isfinite(state).all())
    parts = state.values() if isinstance(state, Mapping) else state if isinstance(state, list | tuple) else ()
    return any(not_finite(part) for part in parts)


def require_sound(state: Mapping[str, Any], step: int | str, setting: str) -> None:
    """Raise `UserError` when what was trained holds NaN or infinity."""
    if wrong := [name for name, part in state.items() if not_finite(part)]:
        got = f"{', '.join(wrong[:3])} of the training became NaN or infinite before step {step}"
        raise UserError(got, "finite weights", f"lower {setting} or use precision 32-true")
