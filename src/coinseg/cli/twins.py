"""Cases that have the same pixels, as `coinseg run` finds and refuses them, before anything is made of a data set."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from coinseg.data.readers.paths import parts_of
from coinseg.data.slices.case import load_case
from coinseg.data.slices.prepare import in_order, readers
from coinseg.data.slices.twins import Twins, look_of, pixels_of
from coinseg.errors import UserError
from coinseg.types import Case

MOST = 2**28
"""Bytes of the files whose pixels are read: about 25 s of small PNG on one CPU core."""


def twins_in(cases: Sequence[Case]) -> tuple[dict[str, int], list[str]]:
    """Compare the pixels of cases; see `_chosen` for which.

    Returns:
        How many cases were "compared", how many of these have the pixels of an earlier one ("copies"), and how many of these
        another label ("contradictions"); and lines for a person.
    """
    chosen, twins, errors, compared = _chosen(cases), Twins(), list[str](), 0
    for case, future in zip(chosen, in_order(_look, chosen, readers()), strict=True):
        if isinstance(future.exception(), UserError):
            continue  # it cannot be read, which is said elsewhere
        compared += 1
        try:
            twins.add(case, *future.result(), case.slice_labels)
        except UserError as error:
            errors.append(str(error))
    of = f"of {compared} cases whose pixels were compared: " if compared < len(cases) else ""
    more = f"; so do {len(errors) - 1} more" if len(errors) > 1 else ""
    lines = [f"{errors[0]}{more}"] if errors else []
    counts = {"compared": compared, "copies": len(twins.copies), "contradictions": len(errors)}
    return counts, [of + line for line in lines + twins.said()]


def _chosen(cases: Sequence[Case]) -> list[Case]:
    """All cases where their files have at most `MOST` bytes; else those whose files are as large as another's, as copies are."""
    sizes = [sum(part.stat().st_size for part in parts_of(case.image)) for case in cases]
    if sum(sizes) <= MOST:
        return list(cases)
    times = Counter(sizes)
    alike = sorted((size, i) for i, size in enumerate(sizes) if times[size] > 1)
    fit = np.cumsum([size for size, _ in alike]) <= MOST
    return [cases[i] for i in sorted(i for (_, i), fits in zip(alike, fit, strict=True) if fits)]


def _look(case: Case) -> tuple[str | None, np.ndarray | None]:
    scan = load_case(replace(case, organ=(), lesion=())).scan
    return pixels_of(scan), look_of(scan[len(scan) // 2])
