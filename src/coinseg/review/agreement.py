"""How far reviewers agree: Dice of their masks, Cohen's kappa of whether there is a lesion at all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations
from statistics import mean
from typing import Any

import numpy as np

from coinseg.metrics.overlap import dice

from .kept.records import TEACHING, Decision
from .kept.store import Store


def kappa(pairs: Sequence[tuple[bool, bool]]) -> float | None:
    """Cohen's kappa of two raters' yes/no answers; None without cases, and where chance alone explains every answer."""
    if not pairs:
        return None
    first, second = (np.array(answers, bool) for answers in zip(*pairs, strict=True))
    by_chance = first.mean() * second.mean() + (1 - first.mean()) * (1 - second.mean())
    return None if by_chance == 1 else float(((first == second).mean() - by_chance) / (1 - by_chance))


def agreement(store: Store) -> list[dict[str, Any]]:
    """For every two reviewers who decided the same cases: their names, cases, mean Dice where one saw a lesion, kappa."""
    pairs: dict[tuple[str, str], list[tuple[float | None, tuple[bool, bool]]]] = defaultdict(list)
    for first, second in _both(store.decisions()):
        masks = [store.decided_mask(one.id) for one in (first, second)]
        if masks[0] is not None and masks[1] is not None:
            seen = (bool(masks[0].any()), bool(masks[1].any()))
            pairs[first.reviewer, second.reviewer].append((dice(masks[0], masks[1]) if any(seen) else None, seen))
    rows = []
    for names, found in sorted(pairs.items()):
        overlaps = [value for value, _ in found if value is not None]
        rows.append({
            "reviewers": list(names), "cases": len(found), "dice": mean(overlaps) if overlaps else None,
            "kappa": kappa([seen for _, seen in found]),
        })  # fmt: skip
    return rows


def _both(decisions: Sequence[Decision]) -> Iterator[tuple[Decision, Decision]]:
    """Pairs of decisions about one case, in the order of the reviewers' names."""
    cases: dict[str, list[Decision]] = defaultdict(list)
    for one in decisions:
        if one.state in TEACHING and not one.stale:
            cases[one.case].append(one)
    for found in cases.values():
        yield from combinations(sorted(found, key=lambda one: one.reviewer), 2)
