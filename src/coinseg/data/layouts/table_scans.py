"""Rows of a table that are slices of one scan: labels of one volume joined, images numbered along their scans."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import gcd
from pathlib import Path

from coinseg.errors import UserError
from coinseg.types import Case, ClassLabels

from .classes import with_classes


def whole_scans(table: Path, cases: Sequence[Case]) -> list[Case]:
    """Join the cases of one volume, each of which labels a slice; `UserError` where they contradict each other."""
    joined, firsts = dict[str, Case](), list[Case]()
    for case in cases:
        if not (case.volume and case.label is None) or (first := joined.setdefault(case.id, case)) is case:
            firsts.append(case)
            continue
        if _bare(first) != _bare(case):
            got = f"rows of {table} name {case.image} with different patients or masks"
            raise UserError(got, "the same in every row", "correct the rows")
        if first.classes:
            pairs = zip(first.classes, case.classes, strict=True)
            joined[case.id] = with_classes(first, [replace(a, slice_labels=_both(a, b, table, case)) for a, b in pairs])
        else:
            joined[case.id] = replace(first, slice_labels=_both(first, case, table, case))
    return [joined.get(case.id, case) for case in firsts]


def _bare(case: Case) -> Case:
    """Return a case without its slice labels."""
    return replace(case, slice_labels={}, classes=tuple(replace(one, slice_labels={}) for one in case.classes))


def _both(first: Case | ClassLabels, other: Case | ClassLabels, table: Path, case: Case) -> dict[int, int]:
    """Join the slice labels of two rows of one volume."""
    if any(first.slice_labels.get(index, label) != label for index, label in other.slice_labels.items()):
        raise UserError(f"rows of {table} contradict each other about {case.image}", "one label per slice", "correct the rows")
    return {**first.slice_labels, **other.slice_labels}


def along_scans(cases: list[Case]) -> tuple[list[Case], int]:
    """Number images along their scans, in steps of 1; also return how many belong to none (two images with one number)."""
    times = Counter((case.series, case.place) for case in cases)
    unclear = {series for (series, _), count in times.items() if count > 1}
    cases = [replace(case, series=None, place=0) if case.series in unclear else case for case in cases]
    first = {case.series: case.place for case in sorted(cases, key=lambda case: -case.place)}
    step = gcd(*(case.place - first[case.series] for case in cases)) or 1
    if step > 1:
        cases = [replace(case, place=(case.place - first[case.series]) // step) for case in cases]
    return cases, sum(not case.volume and case.series is None for case in cases)
