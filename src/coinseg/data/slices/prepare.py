"""From a case on disk to what it adds to the store of slices, several cases at once.

Threads use all cores, as unpacking, resampling and counting release Python's lock; the result does not depend on their number.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from typing import TypeVar

import numpy as np

from coinseg.config.schema import DataSettings, Settings
from coinseg.data.layouts.shared import few
from coinseg.data.readers.axes import turned
from coinseg.data.readers.image import has_more_frames
from coinseg.runtime.process_group import cores
from coinseg.types import Case

from . import intensity
from .case import cut_pixels, encoder, labelled_per_scan, load_case
from .crop import Box, Cut
from .plausible import notes_on
from .trained_on import Facts, facts_of
from .twins import look_of, pixels_of

MOST_READERS = 8  # cases that are read and cut at the same time at most; each holds a scan with its masks
T = TypeVar("T")
R = TypeVar("R")


def label_of(case: Case, cut: Cut, lesion_px: int, injected: bool, settings: DataSettings) -> tuple[int, bool]:
    """Return the label of a slice, 0, 1 or -1 (unknown), and whether training must leave it out.

    Args:
        case: as the layout describes it; a label in it comes first.
        cut: the slice.
        lesion_px: pixels of its lesion mask; -1 without one.
        injected: whether anomalies are injected; no label is then made from a mask.
        settings: min_lesion_px and small_lesions are read: smaller lesions count as normal, or are abnormal and left out.
    """
    given = case.slice_labels.get(cut.index, case.label)
    if given is not None:
        return given, False
    if injected or lesion_px < 0:
        return -1, False
    small = 0 < lesion_px <= settings.min_lesion_px
    left_out = small and settings.small_lesions == "drop"
    return int(lesion_px > 0 and (left_out or not small)), left_out


@dataclass
class Prepared:
    """What one case adds to a store."""

    case: Case
    histogram: np.ndarray | None  # of its foreground, in HU; None for percentiles
    facts: Facts
    pixels: str | None = None  # their hash, see `twins.pixels_of`
    look: np.ndarray | None = None  # of the image, or of the slice in the middle of a scan, see `twins.look_of`
    several_frames: bool = False  # whether its image has frames behind the first
    problems: list[str] = field(default_factory=list)
    notes: frozenset[str] = frozenset()  # what its masks are like, see `plausible.notes_on`
    beyond: Counter[str] = field(default_factory=Counter)  # how many "scans" and "lesions" reach beyond what a slice shows
    rows: list[dict[str, object]] = field(default_factory=list)  # of the index, one for every slice that is used
    left_out: list[bool] = field(default_factory=list)  # for every row, whether training must leave it out
    slices: list[tuple[bytes, bytes, bytes]] = field(default_factory=list)  # image, organ and lesion mask of every row


def prepared(case: Case, settings: Settings, kind: str) -> Prepared:
    """Read and cut a case; `kind` is "hu", "percentile" or "8bit". Raises `UserError` for anything wrong with it."""
    loaded, data, injected = load_case(case), settings.data, settings.anomaly.kind != "none"
    facts = facts_of(loaded, data)
    if foreign(facts, data, kind):
        return Prepared(case, None, facts)
    used = list(loaded.cuts(data))
    organ = np.logical_or.reduce(loaded.organs) if loaded.organs else None
    result = Prepared(case, intensity.foreground_histogram(loaded.scan, organ) if kind == "hu" else None, facts)
    result.pixels, result.look = pixels_of(loaded.scan), look_of(loaded.scan[len(loaded.scan) // 2])
    result.several_frames = not case.volume and has_more_frames(case.image)
    result.notes = notes_on(case, loaded.masks)
    result.problems += [loaded.masks.problem] if loaded.masks and loaded.masks.problem else []
    encoded, scan = encoder(loaded.scan, kind), turned(loaded.scan, data.axis)
    lesions = turned(loaded.lesion, data.axis) if loaded.lesion is not None else None
    if strange := [str(index) for index in sorted(case.slice_labels) if index >= len(scan)]:
        problem = f"{case.id}: labels of slices {few(strange, 3)}, but it has {len(scan)}: are its labels counted from 0, "
        result.problems.append(problem + "inferior first?")
    shape = scan.shape[1:]
    if data.spacing and not loaded.organs and used and not used[0].box.holds(Box(0, 0, *shape)):
        result.beyond["scans"] += 1
    per_scan = labelled_per_scan(case, data.label_level, len(used))
    for cut in used:
        lesion = lesions[cut.index] if lesions is not None else None
        pixels = int(lesion.sum()) if lesion is not None else -1
        label, left_out = label_of(case, cut, pixels, injected, data)
        if data.spacing and lesion is not None and cut.box.paste_mask(np.ones((2, 2)), shape)[lesion].sum() < pixels:
            result.beyond["lesions"] += 1
        # Where anomalies are injected a real one would be labelled normal; elsewhere a label is needed.
        if label == (1 if injected else -1):
            continue
        result.slices.append(_slice(encoded(scan[cut.index]), lesion, cut, data.size, kind))
        result.left_out.append(left_out)
        result.rows.append({
            # No id has a slash: a scan of plain images is never taken for a case of that name.
            "case": case.id, "patient": case.patient, "series": case.id if case.series is None else f"{case.series}/",
            "slice": cut.index if case.volume else case.place, "region": cut.region, "label": label,
            "weak": int(per_scan and cut.index not in case.slice_labels), "lesion_px": pixels,
            "truth": int(label == 0 or lesion is not None), **asdict(cut.box),
        })  # fmt: skip
    return result


def foreign(facts: Facts, settings: DataSettings, kind: str) -> bool:
    """Return whether a scan is left out because its values are no Hounsfield units, as those of the other scans are."""
    return kind == "hu" and settings.intensity == "auto" and bool(facts.not_hu)


def _slice(native: np.ndarray, lesion: np.ndarray | None, cut: Cut, size: int, kind: str) -> tuple[bytes, bytes, bytes]:
    organ = cut.box.resize_mask(cut.organ, size) if cut.organ is not None else np.ones((size, size), bool)
    truth = cut.box.resize_mask(lesion, size) if lesion is not None else np.zeros((size, size), bool)
    return cut_pixels(native, cut.box, size, kind).tobytes(), organ.tobytes(), truth.tobytes()


def in_order(work: Callable[[T], R], items: Sequence[T], threads: int) -> Iterator[Future[R]]:
    """Do `work` for every item in threads and yield the finished futures in order; at most `threads` are ahead of the reader."""
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
    """Return how many cases are read at once: one for each CPU this process may use, at most `MOST_READERS`."""
    return min(cores(), MOST_READERS)
