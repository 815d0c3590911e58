"""What the slices before and behind say about a slice: a lesion goes through several, a mistake of a classifier often through one.

Slices of a scan are a chain whose states are normal and abnormal. How often one follows the other was counted in the labels of the
training slices; what the classifiers say of a slice is the evidence for its state (Rabiner 1989, "A tutorial on hidden Markov models",
equations 19 to 27). With p_i the posterior of slice i on its own, T the 2 x 2 steps of the chain and s its share of abnormal slices:

    e_i = logit p_i - logit s                                          what X_i says, whatever the share
    a_i = P(y_i | slices before) = step of expit(logit a_(i-1) + t e_(i-1)) by T,   a_1 = s
    b_i = P(y_i | slices behind), the same from the other end
    logit P(y_i | scan) = logit a_i + logit b_i - logit s + e_i        the share is in a_i and in b_i

t is `TRUST`, not 1: neighbours look alike, so where f errs about one it errs about the next.
A slice without neighbours keeps p_i, and so does every slice where labels do not depend on those of the neighbours. Image labels are
all this knows; what it is worth is in docs/decisions/0027-neighbours.md.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy.special import expit, logit

from coinseg.data.slices.dataset import TrainingSlices

TRUST = 0.25
"""What the evidence of other slices counts."""
LEAST = 20
"""Pairs of neighbours below which nothing is counted."""


def fit_transitions(slices: TrainingSlices) -> np.ndarray | None:
    """`counted` in the labels of the slices that are trained on; None where they are not those of scans, slice by slice.

    Anomalies are injected into each slice by itself, and of a scan that has one label nobody knows which slices are abnormal.
    """
    if slices.anomaly.kind != "none" or slices.weak().any():
        return None
    return count_transitions(slices.labels(), *slices.store.chains(slices.rows))


def count_transitions(labels: np.ndarray, scans: np.ndarray, places: np.ndarray) -> np.ndarray | None:
    """How probable it is that a slice is followed by a normal and by an abnormal one.

    Every pair of neighbours is counted in both directions, since a scan has none, and each kind of pair once more than there are, so that none is impossible.

    Args:
        labels: of slices, (n,), 0 or 1; pairs with any other are not counted.
        scans: which scan each belongs to, (n,).
        places: their number along the scan, (n,) integers.

    Returns:
        (2, 2), rows: normal, abnormal; None with fewer than `LEAST` pairs, or where one class has none.
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


def are_transitions(rows: list[list[float]]) -> bool:
    """Whether somebody's numbers can be what `counted` returns: two rows of two probabilities, none of them 0, that add up to 1."""
    return [len(row) for row in rows] == [2, 2] and all(p > 0 for row in rows for p in row) and np.allclose(np.sum(rows, 1), 1)


def chains(scans: np.ndarray, places: np.ndarray) -> list[np.ndarray]:
    """The positions of the slices of each scan in the order of their places."""
    order = np.lexsort((places, scans))
    return np.split(order, np.flatnonzero(scans[order][1:] != scans[order][:-1]) + 1) if len(order) else []


def smooth(logits: np.ndarray, scans: np.ndarray, places: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The equation above for slices in any order.

    Args:
        logits: of p_i, (n,).
        scans: which scan each belongs to, (n,).
        places: their number along the scan, (n,) integers; where some are missing in between, as many steps are taken.
        steps: see `counted`.

    Returns:
        (n,) float64.
    """
    share = steps[0, 1] / (steps[0, 1] + steps[1, 0])
    evidence = np.asarray(logits, np.float64) - logit(share)
    found = np.empty(len(evidence))
    for members in chains(scans, places):
        gaps = np.diff(places[members])
        own = evidence[members]
        before = _foretold(own, gaps, steps, share)
        behind = _foretold(own[::-1], gaps[::-1], steps, share)[::-1]
        found[members] = before + behind - logit(share) + own  # the share is in both
    return found


def _foretold(evidence: np.ndarray, gaps: np.ndarray, steps: np.ndarray, share: float) -> np.ndarray:
    """The log-odds of each slice of a chain as those before it foretell them."""
    found = np.empty(len(evidence))
    abnormal = share
    for i, said in enumerate(evidence):
        if i:
            normal_stays, abnormal_stays = np.linalg.matrix_power(steps, int(gaps[i - 1]))[[0, 1], [0, 1]]
            abnormal = abnormal * abnormal_stays + (1 - abnormal) * (1 - normal_stays)
        found[i] = logit(abnormal)
        abnormal = expit(found[i] + TRUST * said)
    return found
