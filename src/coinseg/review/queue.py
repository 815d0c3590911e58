"""Which case comes next: doubtful ones first, patients in turn, unlike masks before like ones; what is left, and for how long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from statistics import median

import numpy as np

from .kept.records import OPEN, SKIPPED, CaseRecord, Decision

ENOUGH = 3  # decisions, from which the time that is left is foretold
LIKE = 0.25  # what is left of the worth of a mask that is the same as one before it
MOST_APART = 200  # cases that are chosen by their distance; behind them the confidence alone decides in each turn


@dataclass(frozen=True)
class Entry:
    """A case in the queue of one reviewer: `state` is his decision or "open"; `second` asks for a second opinion."""

    case: CaseRecord
    state: str
    comment: str = ""
    second: bool = False


def doubt(case: CaseRecord) -> tuple[bool, float]:
    """How little coinseg trusts a mask, the least first: doubtful ones, then by confidence; those without any come last."""
    confidence = case.numbers.get("confidence")
    return not case.numbers.get("doubtful"), 1.0 if confidence is None else float(confidence)


def described(cases: Sequence[CaseRecord]) -> np.ndarray:
    """What the masks of cases look like, (n, 7) in [0, 1]: empty or not, size, components, highest f, place along three axes.

    Of each number the rank among the cases counts, so that no unit and no scan of another size weighs more; what is not known is
    in the middle.
    """
    columns = np.full((len(cases), 7), np.nan)
    for i, case in enumerate(cases):
        numbers = case.numbers
        box, pixels = numbers.get("box"), numbers.get("pixels")
        known = [numbers.get("volume_ml") or pixels or None, numbers.get("components") or None, numbers.get("highest_f")]
        columns[i, 1:4] = [np.nan if value is None else float(value) for value in known]
        columns[i, 0] = np.nan if pixels is None else float(pixels > 0)
        middle = [(a + b) / 2 for a, b in zip(box["min"], box["max"], strict=True)][:3] if box else []
        columns[i, 4 : 4 + len(middle)] = middle
    return np.stack([_ranks(column) for column in columns.T], axis=1)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks in [0, 1], equal values alike; 0.5 where a value is missing, or where all are the same."""
    ranks, known = np.full(len(values), 0.5), np.isfinite(values)
    different, place = np.unique(values[known], return_inverse=True)
    if len(different) > 1:
        ranks[known] = place / (len(different) - 1)
    return ranks


def worth_looking_at(cases: Sequence[CaseRecord]) -> list[CaseRecord]:
    """The cases, those first that are most worth a person's minute.

    Doubtful masks come before the others. Of each kind the patients take turns: a second mask of one, which is often wrong in the
    same way, waits until each had a first. Whose turn it is, is chosen one by one: the case with the largest
    (1 - confidence) (`LIKE` + distance), where the distance is that of its mask to the most similar one before it in the list
    (`described`, in [0, 1]; farthest-point choice, Gonzalez 1985). The first is so the least confident of all. Equal ones stay in
    their order; no number is random.
    """
    marks, ranked = described(cases), list[int]()
    for sure in (False, True):
        left = sorted((i for i, case in enumerate(cases) if doubt(case)[0] is sure), key=lambda i: doubt(cases[i])[1])
        chosen = _apart(cases, left, marks, ranked)
        turns, first, rest = Counter(cases[i].patient for i in chosen), set(chosen), list[tuple[int, int]]()
        for i in left:
            if i not in first:
                rest.append((turns[cases[i].patient], i))
                turns[cases[i].patient] += 1
        ranked += chosen + [i for _, i in sorted(rest, key=lambda item: item[0])]
    return [cases[i] for i in ranked]


def _apart(cases: Sequence[CaseRecord], left: Sequence[int], marks: np.ndarray, ranked: Sequence[int]) -> list[int]:
    """The cases that come next by their worth, out of `left`, the least confident first; `ranked` are those before them."""
    members, chosen = np.array(left, int), list[int]()
    trust = np.array([doubt(cases[i])[1] for i in left])
    _, owner = np.unique([cases[i].patient for i in left], return_inverse=True)
    turns, waiting = np.zeros(len(members), int), np.ones(len(members), bool)
    nearest = np.full(len(members), np.inf)
    for i in ranked[:MOST_APART]:
        np.minimum(nearest, _distance(marks, members, i), out=nearest)
    while waiting.any() and len(ranked) + len(chosen) < MOST_APART:
        turn = waiting & (turns == turns[waiting].min())
        worth = (1 - trust) * (LIKE + np.where(np.isfinite(nearest), nearest, 0))
        best = int(np.where(turn, worth, -1).argmax())
        chosen.append(int(members[best]))
        waiting[best] = False
        turns[owner == owner[best]] += 1
        np.minimum(nearest, _distance(marks, members, chosen[-1]), out=nearest)
    return chosen


def _distance(marks: np.ndarray, members: np.ndarray, one: int) -> np.ndarray:
    """How unlike the masks of some cases are to that of one, in [0, 1]."""
    return np.asarray(np.sqrt(((marks[members] - marks[one]) ** 2).mean(1)))


def asks_second(case: str, share: float) -> bool:
    """Whether a case is among the `share` that two reviewers look at; always the same ones."""
    return int(sha256(f"second opinion {case}".encode("utf-8", "surrogatepass")).hexdigest()[:8], 16) < share * 2**32


def queue_of(
    cases: Sequence[CaseRecord], decisions: Sequence[Decision], reviewer: str, second: float = 0.0, budget: int = 0
) -> list[Entry]:
    """The cases of one reviewer in the order of `worth_looking_at`.

    Cases that another reviewer decided are left out, but for the share of second opinions that only one has given so far.

    Args:
        cases, decisions: of the store.
        reviewer: his name.
        second: share of the cases that two reviewers look at, in [0, 1].
        budget: so many cases at most; 0 for all.
    """
    own = {d.case: d for d in decisions if d.reviewer == reviewer}
    others: Counter[str] = Counter(d.case for d in decisions if d.reviewer != reviewer and not d.stale and d.state != SKIPPED)
    found = []
    for case in worth_looking_at(cases)[: budget or None]:
        asked = asks_second(case.id, second)
        if case.id in own or others[case.id] < 1 + asked:
            last = own.get(case.id)
            state = OPEN if last is None or last.stale else last.state
            found.append(Entry(case, state, last.comment if last else "", asked and others[case.id] > 0))
    return found


def minutes_left(entries: Sequence[Entry], decisions: Sequence[Decision], reviewer: str) -> float | None:
    """The median time a reviewer took, times the cases that are open; None before `ENOUGH` decisions."""
    took = [d.seconds for d in decisions if d.reviewer == reviewer and d.seconds > 0]
    left = sum(entry.state in (OPEN, SKIPPED) for entry in entries)
    return median(took) * left / 60 if len(took) >= ENOUGH else None
