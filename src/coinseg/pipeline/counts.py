"""What a cohort will have when it is prepared, from a few of its cases: for the estimate of the time a run takes."""

import time
from dataclasses import dataclass
from typing import cast

import numpy as np

from coinseg.data.slices.case import labelled_per_scan, load_case
from coinseg.data.slices.channels import channels_of
from coinseg.data.slices.prepare import prepared
from coinseg.data.slices.scale import kind_of_intensity
from coinseg.errors import UserError

from .countdown import Clock
from .run import Workspace

CASES = 3  # of the cohort that are read to see how long it takes and how many slices they have


@dataclass(frozen=True)
class Counts:
    """What a cohort has: cases, slices (or tiles) to train and score on, those of `abnormal` label, and whether it is searched.

    `cut` are the squares of the cases that get a mask, of which there are `wanted`, `squares` those of one slice; `reading` is
    the seconds of one case.
    """

    cases: int
    slices: int
    abnormal: int
    weak: bool
    wanted: int
    cut: int
    reading: float
    squares: float = 1.0


def counted(work: Workspace, clock: Clock = time.perf_counter) -> Counts:
    """Read `CASES` cases of a cohort, evenly spread, and count what all of them have."""
    settings, cohort = work.settings, work.cohort
    kind, channels = kind_of_intensity(cohort, settings.data), channels_of(cohort, settings.data)[0]
    began, rows, cut, slices_cut, read = clock(), list[dict[str, object]](), 0, 0, 0
    for i in np.unique(np.linspace(0, len(cohort.cases) - 1, min(CASES, len(cohort.cases))).astype(int)):
        try:
            rows += prepared(cohort.cases[i], settings, kind, channels).rows
            cuts = [one.index for one in load_case(cohort.cases[i], with_lesion=False, channels=channels).cuts(settings.data)]
            cut, slices_cut = cut + len(cuts), slices_cut + len(set(cuts))
            read += 1
        except UserError:
            continue  # said when it is prepared
    reading = (clock() - began) / 2 / max(read, 1)  # every case was read twice
    injected, labels = settings.anomaly.kind != "none", [int(cast(int, row["label"]) > 0) for row in rows]
    given = [label for case in cohort.cases for label in (case.slice_labels.values() or [case.label]) if label in (0, 1)]
    share = settings.anomaly.probability if injected else float(np.mean(given or labels)) if given or labels else 0.5
    slices = round(len(cohort.cases) * len(rows) / max(read, 1))
    wanted = 0 if injected else sum(case.label != 0 for case in cohort.cases)
    masks = round(settings.data.validation * slices) if injected else round(wanted * cut / max(read, 1))
    return Counts(
        len(cohort.cases), slices, round(share * slices), searched(work), wanted, masks, reading, cut / max(slices_cut, 1)
    )


def searched(work: Workspace) -> bool:
    """Whether abnormal slices or tiles are looked for, because labels are those of scans or larger images."""
    data = work.settings.data
    level = data.label_level if work.settings.anomaly.kind == "none" else "slice"
    return any(labelled_per_scan(case, level) for case in work.cohort.cases) or bool(data.tile and level != "slice")
