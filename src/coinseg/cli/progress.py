"""Progress for people: a bar with time left on a terminal, a line now and then elsewhere. The library itself is silent."""

import time
from collections.abc import Callable, Mapping
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from coinseg.errors import plain

from .talk import SAID

NAMES = {
    "phantom": "making patients", "prepare": "preparing slices", "witnesses": "looking for witnesses",
    "classifier": "training the classifier f", "coin": "training COIN", "drawn lesions": "drawing lesions",
    "student": "training the student", "novelty": "remembering normal images", "evaluate": "scoring held-out slices",
    "masks": "writing masks", "pages": "writing case pages", "segment": "segmenting", "timing": "timing some steps",
}  # fmt: skip
LINE_EVERY = {-1: 20.0, 0: 20.0, 1: 2.0}
"""Seconds between lines where there is no terminal, by how much is to be said (`talk.Talk.level`)."""


WHOLE = "the whole run, in seconds"


def in_words(seconds: float) -> str:
    """Seconds as people say them: "40 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def title(stage: str) -> str:
    """What a person calls a stage: "training COIN of teacher-2"."""
    name, of, owner = stage.partition(" of ")  # "coin of teacher-2"
    return NAMES.get(name, name) + of + owner


class ConsoleReport:
    """An `engine.Report` that draws on the standard error, so that the standard output stays for results.

    `left` tells what is left of the whole run in seconds, from a stage, steps done and steps in all; None where nobody knows.
    """

    left: Callable[[str, int, int], float] | None = None

    def __init__(self, level: int = 0, console: Console | None = None) -> None:
        self.console, self.level = console or Console(stderr=True), level
        name, losses = Column(no_wrap=True, max_width=28), Column(ratio=1, no_wrap=True, overflow="ellipsis")
        self._bars = Progress(
            TextColumn("{task.description}", table_column=name), BarColumn(12), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[losses]}", table_column=losses),
            console=self.console, expand=True, disable=level < 0,
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
                SAID.warning("%s", stage)
            return
        losses = "  ".join(f"{name} {value:.3g}" for name, value in values.items())
        now = time.monotonic()
        first = self._first.setdefault(stage, (now, done))
        due = now - self._last_line >= LINE_EVERY[self.level] or done >= total or first == (now, done)
        left = (now - first[0]) / max(done - first[1], 1) * (total - done) if done > first[1] else None
        whole = self.left(stage, done, total) if self.left else None
        words = f", about {left:.0f} s left" if left else ""
        words += "" if whole is None else f", about {in_words(whole)} to the end of the run"
        line = f"{title(stage)}: {done}/{total}{words}  {losses}"
        if due:
            self._last_line = now
            SAID.info("%s", plain(line))
        if self.console.is_terminal:
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(title(stage), total=total, losses="")
            self._bars.update(self._tasks[stage], completed=done, total=total, losses=losses)
            if whole is not None:
                if WHOLE not in self._tasks:
                    self._tasks[WHOLE], self._began = self._bars.add_task(WHOLE, total=1, losses=""), now
                spent = now - self._began
                self._bars.update(self._tasks[WHOLE], completed=spent, total=spent + whole)
            return
        if due and self.level >= 0:
            self.console.print(line, highlight=False, soft_wrap=True)
