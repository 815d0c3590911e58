"""Slice HMM: neighbouring slices of a scan correct the image score of a slice, as most lesions go through several slices.

The slices of a scan are a hidden Markov chain with the states normal and abnormal (Rabiner 1989, "A tutorial on hidden Markov
models", equations 19 to 27). Only image labels are used. Measured in docs/research/image-score.md, study 27.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
from scipy.special import expit, logit

from coinseg.config.schema import Settings
from coinseg.runtime.files import damaged
from coinseg.runtime.records import fits

from .base import Learning, Part

TRUST = 0.25  # weight of the evidence of other slices, in [0, 1]; neighbours look alike, so f is wrong about both at once
LEAST = 20  # pairs of neighbouring slices below which no transitions are counted


class SliceHMM(Part):
    """`smooth` as a part of the recipe, with transitions (2, 2) from `count_transitions`."""

    name, folder = "slice_hmm", "slice_hmm"

    def __init__(self, transitions: np.ndarray) -> None:
        super().__init__()
        self.transitions = transitions

    @classmethod
    def asked_for(cls, settings: Settings) -> bool:
        return settings.student.slice_hmm

    @classmethod
    def fit(cls, learning: Learning) -> Self | None:
        """Count the transitions in the labels of the training slices.

        None where slices have no labels of their own: with injected anomalies, and where a whole scan has one label.
        """
        slices = learning.slices
        if slices.anomaly.kind != "none" or slices.weak().any():
            return None
        transitions = count_transitions(slices.labels(), *slices.store.chains(slices.rows))
        return None if transitions is None else cls(transitions)

    @classmethod
    def load(cls, settings: Settings, state: dict[str, Any], root: Path) -> Self:
        rows = state.get("transitions")
        if not are_transitions(rows):
            raise damaged(root / "model.json", "it has wrong transitions")
        return cls(np.array(rows))

    def state(self) -> dict[str, Any]:
        return {"transitions": self.transitions.tolist()}

    def smooth(self, logits: np.ndarray, scans: np.ndarray, places: np.ndarray) -> np.ndarray:
        return smooth(logits, scans, places, self.transitions)


def count_transitions(labels: np.ndarray, scans: np.ndarray, places: np.ndarray) -> np.ndarray | None:
    """Estimate the transition probabilities between neighbours, (2, 2), rows and columns: normal, abnormal.

    Pairs count in both directions, and each kind once more than it occurs (Laplace).

    Args:
        labels: of slices, (n,), 0 or 1; pairs with any other are not counted.
        scans: which scan each belongs to, (n,).
        places: their number along the scan, (n,) integers.

    Returns:
        None with fewer than `LEAST` pairs, or where one class has none.
    """
    pairs = np.zeros((2, 2))
    for members in chains(scans, places):
        for one, next_ in pairwise(members):
            if places[next_] - places[one] == 1 and {int(labels[one]), int(labels[next_])} <= {0, 1}:
                pairs[int(labels[one]), int(labels[next_])] += 1
    if pairs.sum() < LEAST or not (pairs + pairs.T).sum(1).all():
        return None
    both = pairs + pairs.T + 1
    return both / both.sum(1, keepdims=True)


def are_transitions(rows: Any) -> bool:
    """Whether these are two rows of two probabilities, none of them 0, that add up to 1."""
    sound = fits(rows, tuple[tuple[float, float], tuple[float, float]]) and all(p > 0 for row in rows for p in row)
    return sound and bool(np.allclose(np.sum(rows, 1), 1))


def chains(scans: np.ndarray, places: np.ndarray) -> list[np.ndarray]:
    """Positions of the slices of each scan, in the order of their places."""
    order = np.lexsort((places, scans))
    return np.split(order, np.flatnonzero(scans[order][1:] != scans[order][:-1]) + 1) if len(order) else []


def smooth(logits: np.ndarray, scans: np.ndarray, places: np.ndarray, transitions: np.ndarray) -> np.ndarray:
    """Smooth the image scores p_i of slices, in any order. T: the transitions; s: the share of abnormal slices; t = `TRUST`.

        e_i = logit p_i - min(0, logit s)                                  evidence of X_i without the share
        a_i = P(y_i | slices before) = expit(logit a_(i-1) + t e_(i-1)) after one transition T,   a_1 = s
        b_i = P(y_i | slices behind), the same from the other end
        logit P(y_i | scan) = logit a_i + logit b_i - logit s + e_i        s is contained in a_i and in b_i

    The p_i have a share of at most a half (`ImageScore`), and so has what is returned: a logit s above 0 is taken off. A slice
    without neighbours keeps p_i.

    Args:
        logits: of the p_i, (n,).
        scans: which scan each belongs to, (n,).
        places: their number along the scan, (n,) integers; a gap takes as many transitions.
        transitions: see `count_transitions`.
    """
    share = transitions[0, 1] / (transitions[0, 1] + transitions[1, 0])
    counted = min(0.0, float(logit(share)))
    evidence = np.asarray(logits, np.float64) - counted
    smoothed = np.empty(len(evidence))
    for members in chains(scans, places):
        gaps, own = np.diff(places[members]), evidence[members]
        before = _forward(own, gaps, transitions, share)
        behind = _forward(own[::-1], gaps[::-1], transitions, share)[::-1]
        smoothed[members] = before + behind - logit(share) + own + (counted - logit(share))
    return smoothed


def _forward(evidence: np.ndarray, gaps: np.ndarray, transitions: np.ndarray, share: float) -> np.ndarray:
    """Log-odds (n,) of each slice of a chain given the slices before it; `gaps` (n - 1,) are the steps between them."""
    log_odds, abnormal = np.empty(len(evidence)), share
    for i, own in enumerate(evidence):
        if i:
            normal_stays, abnormal_stays = np.linalg.matrix_power(transitions, int(gaps[i - 1]))[[0, 1], [0, 1]]
            abnormal = abnormal * abnormal_stays + (1 - abnormal) * (1 - normal_stays)
        log_odds[i] = logit(abnormal)
        abnormal = expit(log_odds[i] + TRUST * own)
    return log_odds
