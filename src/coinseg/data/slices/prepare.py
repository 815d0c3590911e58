"""From a case on disk to what it adds to the store of slices, several cases at once.

Threads use all cores, as unpacking, resampling and counting release Python's lock; the result does not depend on their number.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from typing import TypeVar, cast

import numpy as np

from coinseg.config.schema import DataSettings, Settings
from coinseg.data.layouts.shared import few
from coinseg.data.readers.axes import turned
from coinseg.data.readers.image import unread_in
from coinseg.runtime.process_group import cores
from coinseg.types import Case

from . import intensity
from .case import CaseMasks, LoadedCase, cut_pixels, encoder, is_weak, load_case, read_masks
from .channels import Channels, first_of
from .crop import Box, Cut, slices_in
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
    size: tuple[int, int] | None = None  # (H, W) of a plain image
    pixels: str | None = None  # their hash, see `twins.pixels_of`
    look: np.ndarray | None = None  # of the image, or of the slice in the middle of a scan, see `twins.look_of`
    unread: Sequence[str] = ()  # what of its image is not read, see `readers.image.UNREAD`
    problems: list[str] = field(default_factory=list)
    notes: frozenset[str] = frozenset()  # what its masks are like, see `plausible.notes_on`
    beyond: Counter[str] = field(default_factory=Counter)  # how many "scans" and "lesions" reach beyond what a slice shows
    rows: list[dict[str, object]] = field(default_factory=list)  # of the index, one for every slice that is used
    left_out: list[bool] = field(default_factory=list)  # for every row, whether training must leave it out
    slices: list[tuple[bytes, bytes, bytes]] = field(default_factory=list)  # image, organ and lesion masks of every row


def prepared(case: Case, settings: Settings, kind: str, channels: Channels) -> Prepared:
    """Read and cut a case; `kind` is "hu", "percentile" or "8bit". Raises `UserError` for anything wrong with it."""
    data, injected = settings.data, settings.anomaly.kind != "none"
    loaded = load_case(case, with_lesion=not case.classes, channels=channels)
    facts = facts_of(loaded, data)
    if foreign(facts, data, kind):
        return Prepared(case, None, facts)
    used = list(loaded.cuts(data))
    organ = np.logical_or.reduce(loaded.organs) if loaded.organs else None
    result = Prepared(case, intensity.foreground_histogram(first_of(loaded.scan), organ) if kind == "hu" else None, facts)
    result.pixels, result.look = pixels_of(loaded.scan), look_of(first_of(loaded.scan)[len(loaded.scan) // 2])
    result.unread = () if case.volume else unread_in(case.image)
    result.size = None if case.volume else (loaded.scan.shape[1], loaded.scan.shape[2])
    encoded, scan = encoder(loaded.scan, kind, channels), turned(loaded.scan, data.axis)
    classes = [_of_class(one, loaded, slices_in(used), settings, result) for one in classes_of(case)]
    if strange := [str(index) for index in sorted(case.slice_labels) if index >= len(scan)]:
        problem = f"{case.id}: labels of slices {few(strange, 3)}, but it has {len(scan)}: are its labels counted from 0, "
        result.problems.append(problem + "inferior first?")
    shape = scan.shape[1:3]
    if data.spacing and not loaded.organs and used and not used[0].box.holds(Box(0, 0, *shape)):
        result.beyond["scans"] += 1
    for cut in used:
        facts_of_classes = [one.facts(cut) for one in classes]
        for one in classes:
            result.beyond["lesions"] += bool(data.spacing and one.is_cut_off(cut, shape))
        # Where anomalies are injected a real one would be labelled normal; elsewhere a label is needed.
        if all(known["label"] == (1 if injected else -1) for known in facts_of_classes):
            continue
        result.slices.append(_slice(encoded(scan[cut.index]), [one.lesion_in(cut) for one in classes], cut, data.side, kind))
        result.left_out.append(len(classes) == 1 and classes[0].label(cut)[1])
        result.rows.append({
            # No id has a slash: a scan of plain images is never taken for a case of that name.
            "case": case.id, "patient": case.patient, "series": case.id if case.series is None else f"{case.series}/",
            "slice": cut.index if case.volume else case.place, "region": cut.region, **asdict(cut.box),
            **together(facts_of_classes),
        })  # fmt: skip
    result.beyond += Counter()  # without zeros
    return result


def classes_of(case: Case) -> list[Case]:
    """Return a case as each of its classes sees it; as it is where there is one class."""
    return [case.of_class(number) for number in range(max(len(case.classes), 1))]


@dataclass(frozen=True)
class ClassOfCase:
    """What one class has in a case that is cut into slices."""

    case: Case  # as the class sees it
    lesions: np.ndarray | None  # masks of the slices, turned
    used: int  # how many slices of the case are used
    settings: Settings

    def lesion_in(self, cut: Cut) -> np.ndarray | None:
        """Return its lesion mask in a native slice."""
        return None if self.lesions is None else self.lesions[cut.index]

    def pixels(self, cut: Cut, in_tile: bool = False) -> int:
        """Return the number of pixels of that mask, of a tile with `in_tile` those inside of it; -1 without one."""
        lesion = self.lesion_in(cut)
        if lesion is not None and in_tile and cut.is_tile:
            (top, bottom), (left, right) = cut.box.pixels((lesion.shape[0], lesion.shape[1]))
            lesion = lesion[top:bottom, left:right]
        return -1 if lesion is None else int(lesion.sum())

    def label(self, cut: Cut) -> tuple[int, bool]:
        """Return the label of a slice, see `label_of`."""
        return label_of(self.case, cut, self.pixels(cut), self.settings.anomaly.kind != "none", self.settings.data)

    def facts(self, cut: Cut) -> dict[str, int]:
        """Return the columns of the index that are of a class."""
        # A label made from a mask is that of the whole slice too: no mask says which tile is abnormal.
        (label, _), pixels = self.label(cut), self.pixels(cut, in_tile=True)
        weak = int(is_weak(self.case, cut, label, self.settings.data.label_level, self.used))
        return {"label": label, "weak": weak, "lesion_px": pixels, "truth": int(label == 0 or pixels >= 0)}

    def is_cut_off(self, cut: Cut, shape: tuple[int, int]) -> bool:
        """Return whether the lesion reaches beyond the box of a slice."""
        lesion = self.lesion_in(cut)
        return lesion is not None and bool(cut.box.paste_mask(np.ones((2, 2)), shape)[lesion].sum() < lesion.sum())


def together(classes: Sequence[dict[str, int]]) -> dict[str, int]:
    """Return the columns of all classes: those of the only one, or whether any is there, and each as NAME/NUMBER."""
    if len(classes) == 1:
        return classes[0]
    labels = [known["label"] for known in classes]
    label = 1 if 1 in labels else -1 if -1 in labels else 0
    pixels = [known["lesion_px"] for known in classes]
    joined = {
        "label": label, "weak": 0, "lesion_px": max(max(pixels), sum(n for n in pixels if n > 0)) if max(pixels) >= 0 else -1,
        "truth": int(all(known["truth"] for known in classes)),
    }  # fmt: skip
    return joined | {f"{name}/{number}": known[name] for number, known in enumerate(classes) for name in joined}


def _of_class(one: Case, loaded: LoadedCase, used: int, settings: Settings, result: Prepared) -> ClassOfCase:
    """Read the masks of a class; what is to be said about them is put into the result."""
    if loaded.case is not None and loaded.case.classes:
        grid = loaded.geometry or loaded.scan.shape[1:3]
        masks = replace(read_masks(replace(one, organ=()), grid), organs=loaded.organs)
    else:
        masks = cast(CaseMasks, loaded.masks)
    result.notes |= notes_on(one, masks)
    result.problems += [masks.problem] if masks.problem else []
    lesions = None if masks.lesion is None else turned(masks.lesion, settings.data.axis)
    return ClassOfCase(one, lesions, used, settings)


def foreign(facts: Facts, settings: DataSettings, kind: str) -> bool:
    """Return whether a scan is left out because its values are no Hounsfield units, as those of the other scans are."""
    return kind == "hu" and settings.intensity == "auto" and bool(facts.not_hu)


def _slice(
    native: np.ndarray, lesions: Sequence[np.ndarray | None], cut: Cut, size: int, kind: str
) -> tuple[bytes, bytes, bytes]:  # fmt: skip
    organ = cut.box.resize_mask(cut.organ, size) if cut.organ is not None else np.ones((size, size), bool)
    truth = [np.zeros((size, size), bool) if lesion is None else cut.box.resize_mask(lesion, size) for lesion in lesions]
    return cut_pixels(native, cut.box, size, kind).tobytes(), organ.tobytes(), np.stack(truth).tobytes()


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
