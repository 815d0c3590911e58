"""What is left of a run while it goes on, corrected by what its stages have taken so far."""

import time
from collections.abc import Callable, Mapping

Clock = Callable[[], float]


class Countdown:
    """The seconds that are left of a run, from what was foretold and what its stages take; called as a report is.

    What is left of the stage that reports goes by its own pace. Later stages keep what was foretold, times what a stage of the
    same kind took against it ("coin" for "coin of teacher-2"), or all stages so far.
    """

    def __init__(self, foretold: Mapping[str, float], clock: Clock = time.monotonic) -> None:
        self.foretold, self.clock, self.began = dict(foretold), clock, clock()
        self.took: dict[str, float] = {}  # seconds of the stages that have ended
        self.stage, self.since, self.first, self.done = "", self.began, (self.began, 0), 0

    def __call__(self, stage: str, done: int, total: int) -> float:
        """The seconds that are left, when `done` of `total` steps of a stage are done."""
        now = self.clock()
        if stage != self.stage:
            self._end(now)
            self.stage, self.first = stage, (now, done)
        elif done < self.done:  # the next class
            self.first = (now, done)
        (began, before), self.done = self.first, done
        current = self.foretold.get(stage, 0.0) * self._ratio(stage) * (1 - done / max(total, 1))
        if done > before:
            current = (now - began) / (done - before) * (total - done)
        names = list(self.foretold)
        later = names[names.index(stage) + 1 :] if stage in names else [name for name in names if name not in self.took]
        return current + sum(self.foretold[name] * self._ratio(name) for name in later)

    def finished(self, now: float) -> dict[str, float]:
        """The seconds that each stage took, where the run has ended."""
        self._end(now)
        return self.took

    def _end(self, now: float) -> None:
        if self.stage:
            self.took[self.stage] = self.took.get(self.stage, 0.0) + now - self.since
            self.since = now

    def _ratio(self, name: str) -> float:
        """What stages took over what was foretold: those of the same kind, else all, which begin with a tenth as foretold."""
        kind = name.partition(" of ")[0]
        foretold = [other for other in self.took if self.foretold.get(other, 0) > 0]  # not what was believed to be done already
        alike = [other for other in foretold if other.partition(" of ")[0] == kind]
        known = alike or foretold
        prior = 0.0 if alike else sum(self.foretold.values()) / 10
        return (sum(self.took[other] for other in known) + prior) / max(
            sum(self.foretold[other] for other in known) + prior, 1e-9
        )
