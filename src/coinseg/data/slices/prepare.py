"""From a case on disk to what it adds to the store of slices, several cases at once, in threads.

Unpacking, resampling and counting let go of Python's lock, so threads use the cores, without a second interpreter, and pass scans
on without copying them. What is appended, and its order, does not depend on how many there are.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from typing import TypeVar

import numpy as np

from coinseg.config.schema import DataSettings, Settings
from coinseg.data.layouts.shared import few
from coinseg.data.readers.axes import turned
from coinseg.runtime.process_group import cores
from coinseg.types import Case

from . import intensity
from .case import cut_pixels, encoder, labelled_per_scan, load_case
from .crop import Box, Cut

MOST_READERS = 8
"""Cases that are read and cut at the same time at most; each holds a scan with its masks."""
T = TypeVar("T")
R = TypeVar("R")


def label_of(case: Case, cut: Cut, lesion_px: int, injected: bool, settings: DataSettings) -> tuple[int, bool]:
    """0, 1, or -1 for "unknown", and whether training must leave the slice out.

    Given labels first; from the size of the lesion (-1: no mask) only where no label was given. A lesion of at most
    `min_lesion_px` is normal, or abnormal and left out, as `small_lesions` says.
    """
    given = case.slice_labels.get(cut.index, case.label)
    if given is not None:
        return given, False
    if injected or lesion_px < 0:
        return -1, False
    small = 0 < lesion_px <= settings.min_lesion_px
    if small and settings.small_lesions == "drop":
        return 1, True
    return int(lesion_px > 0 and not small), False


@dataclass
class Prepared:
    """What one case adds to a store: a row and the bytes of each file for every slice that is used.

    Args:
        case: the case.
        histogram: of its foreground, in HU; None for percentiles.
        beyond: how many scans and lesions reach beyond what a slice shows.
        problems: lines for a person.
    """

    case: Case
    histogram: np.ndarray | None
    problems: list[str] = field(default_factory=list)
    beyond: Counter[str] = field(default_factory=Counter)
    rows: list[dict[str, object]] = field(default_factory=list)
    left_out: list[bool] = field(default_factory=list)
    slices: list[tuple[bytes, bytes, bytes]] = field(default_factory=list)
    """Of images, organs and truth."""


def prepared(case: Case, settings: Settings, kind: str) -> Prepared:
    """Read a case and cut it; raises `UserError` for anything wrong with it."""
    loaded, data, injected = load_case(case), settings.data, settings.anomaly.kind != "none"
    used = list(loaded.cuts(data))
    organ = np.logical_or.reduce(loaded.organs) if loaded.organs else None
    made = Prepared(case, intensity.foreground_histogram(loaded.scan, organ) if kind == "hu" else None)
    encoded, scan = encoder(loaded.scan, kind), turned(loaded.scan, data.axis)
    lesions = turned(loaded.lesion, data.axis) if loaded.lesion is not None else None
    if strange := sorted(index for index in case.slice_labels if index >= len(scan)):
        made.problems.append(
            f"{case.id}: labels of slices {few([str(index) for index in strange], 3)}, but it has {len(scan)}: are its labels counted from 0, "
            "inferior first?"
        )
    shape = scan.shape[1:]
    if data.spacing and not loaded.organs and used and not used[0].box.holds(Box(0, 0, *shape)):
        made.beyond["scans"] += 1
    per_scan = labelled_per_scan(case, data.label_level, len(used))
    for cut in used:
        lesion = lesions[cut.index] if lesions is not None else None
        pixels = int(lesion.sum()) if lesion is not None else -1
        label, left_out = label_of(case, cut, pixels, injected, data)
        if data.spacing and lesion is not None and cut.box.paste_mask(np.ones((2, 2)), shape)[lesion].sum() < pixels:
            made.beyond["lesions"] += 1
        # Where anomalies are injected a real one would be labelled normal; elsewhere a label is needed.
        if label == (1 if injected else -1):
            continue
        made.slices.append(_slice(encoded(scan[cut.index]), lesion, cut, data.size, kind))
        made.left_out.append(left_out)
        made.rows.append({
            # No id has a slash: a scan of plain images is never taken for a case of that name.
            "case": case.id, "patient": case.patient, "series": case.id if case.series is None else f"{case.series}/",
            "slice": cut.index if case.volume else case.place, "region": cut.region, "label": label,
            "weak": int(per_scan and cut.index not in case.slice_labels), "lesion_px": pixels, "truth": int(label == 0 or lesion is not None), **asdict(cut.box),
        })  # fmt: skip
    return made


def _slice(native: np.ndarray, lesion: np.ndarray | None, cut: Cut, size: int, kind: str) -> tuple[bytes, bytes, bytes]:
    organ = cut.box.resize_mask(cut.organ, size) if cut.organ is not None else np.ones((size, size), bool)
    truth = cut.box.resize_mask(lesion, size) if lesion is not None else np.zeros((size, size), bool)
    return cut_pixels(native, cut.box, size, kind).tobytes(), organ.tobytes(), truth.tobytes()


def in_order(work: Callable[[T], R], items: Sequence[T], threads: int) -> Iterator[Future[R]]:
    """`work` of every item in threads, finished and in the order of the items; at most `threads` are ahead of the reader."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > threads:
                    wait([waiting[0]])
                    yield waiting.popleft()
            while waiting:
                wait([waiting[0]])
                yield waiting.popleft()
        finally:
            pool.shutdown(cancel_futures=True)


def readers() -> int:
    """Cases read at once: one for each CPU this process may use, as far as the memory of so many scans is reasonable."""
    return min(cores(), MOST_READERS)
