"""How two implementations are compared: first that they agree, then turn by turn, so that a busy machine slows both alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        name: what was timed.
        plain_s, ours_s: seconds of the best turn, plain and coinseg; None where there is nothing to compare with or no device.
        floor: the ratio that is promised (for a row without `plain_s`: the seconds), or None for a row that only tells.
        note: sizes, what the plain version is, how well the two agree.
    """

    name: str
    plain_s: float | None
    ours_s: float | None
    floor: float | None
    note: str

    @property
    def ratio(self) -> float | None:
        """How many times faster than plain."""
        return self.plain_s / self.ours_s if self.plain_s and self.ours_s else None

    @property
    def holds(self) -> bool | None:
        """Whether the floor does; None where there is none or nothing was measured."""
        if self.floor is None or self.ours_s is None:
            return None
        return self.ours_s <= self.floor if self.plain_s is None else self.plain_s >= self.floor * self.ours_s

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "ratio": self.ratio, "holds": self.holds}


def seconds(work: Callable[[], Any]) -> float:
    """Wall seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_turns(plain: Callable[[], Any], ours: Callable[[], Any], turns: int) -> tuple[float, float]:
    """The best seconds of each of two after `turns` turns, the first of them not counted."""
    plain(), ours()
    found = [(seconds(plain), seconds(ours)) for _ in range(turns)]
    return min(a for a, _ in found), min(b for _, b in found)


def require_close(name: str, error: float, tolerance: float) -> str:
    """The words for a row; ends everything when two implementations differ by more than is allowed."""
    if not error <= tolerance:
        raise SystemExit(f"{name}: plain and coinseg differ by {error:.3g}, more than {tolerance:g}")
    return f"differ by {error:.1g} at most (allowed {tolerance:g})"
