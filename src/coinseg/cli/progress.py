"""Progress for people: a bar with time left on a terminal, a line now and then elsewhere. The library itself is silent."""

import time
from collections.abc import Mapping
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

NAMES = {
    "phantom": "making patients", "prepare": "preparing slices", "witnesses": "looking for witnesses",
    "classifier": "training the classifier f", "coin": "training COIN", "drawn lesions": "drawing lesions",
    "student": "training the student", "novelty": "remembering normal images", "evaluate": "scoring held-out slices",
    "masks": "writing masks", "segment": "segmenting",
}  # fmt: skip
LINE_EVERY = 20.0
"""Seconds between lines where there is no terminal."""


def _title(stage: str) -> str:
    name, of, owner = stage.partition(" of ")  # "coin of teacher-2"
    return NAMES.get(name, name) + of + owner


class ConsoleReport:
    """An `engine.Report` that draws on the standard error, so that the standard output stays for results."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description:<26}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[losses]}"), console=self.console,
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}
        self._first: dict[str, tuple[float, int]] = {}
        self._last_line = 0.0

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.console.is_terminal:
            self._bars.stop()

    def __call__(self, stage: str, done: int, total: int, values: Mapping[str, float]) -> None:
        """Show that `done` of `total` steps of a stage are done, with the latest losses."""
        if stage.startswith("warning: "):
            if stage not in self._first:
                self._first[stage] = (0.0, 0)
                self.console.print(stage, style="yellow", highlight=False, soft_wrap=True)
            return
        losses = "  ".join(f"{name} {value:.3g}" for name, value in values.items())
        if self.console.is_terminal:
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(_title(stage), total=total, losses="")
            self._bars.update(self._tasks[stage], completed=done, total=total, losses=losses)
            return
        now = time.monotonic()
        first = self._first.setdefault(stage, (now, done))
        if now - self._last_line >= LINE_EVERY or done >= total or first == (now, done):
            self._last_line = now
            left = (now - first[0]) / max(done - first[1], 1) * (total - done) if done > first[1] else None
            rest = f", about {left:.0f} s left" if left else ""
            self.console.print(f"{_title(stage)}: {done}/{total}{rest}  {losses}", highlight=False, soft_wrap=True)
