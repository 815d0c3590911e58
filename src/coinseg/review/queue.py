"""Which case comes next: doubtful ones first, patients in turn; what is left, and how long it may take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from statistics import median

from .kept.records import OPEN, SKIPPED, CaseRecord, Decision

ENOUGH = 3  # decisions, from which the time that is left is foretold


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


def worth_looking_at(cases: Sequence[CaseRecord]) -> list[CaseRecord]:
    """The cases, those first that are most worth a person's minute: doubtful before others, and of each the patients in turn.

    Two masks of one patient are wrong in the same way, so a second one of him waits until everybody had a first.
    """
    turns: Counter[tuple[bool, str]] = Counter()
    ranked = []
    for place, case in sorted(enumerate(cases), key=lambda item: (*doubt(item[1]), item[0])):
        sure, value = doubt(case)
        ranked.append(((sure, turns[sure, case.patient], value, place), case))
        turns[sure, case.patient] += 1
    return [case for _, case in sorted(ranked, key=lambda item: item[0])]


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
