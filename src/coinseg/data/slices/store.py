"""The prepared slice store: every used slice of a cohort, resized once, memory-mapped afterwards.

On disk: `images.bin` (int16 HU or uint16 codes), `organs.bin`, `truth.bin` (0/1 bytes; only `dataset.ScoredSlices` opens it),
`index.csv` (its columns: see `index`) and `store.json`. A store is used only when its key is that of the same files and settings;
what is trained on it depends on its contents alone, so data copied elsewhere are prepared again but nothing is trained again.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np

from coinseg.config.reading import refuse
from coinseg.config.renamed import hashed
from coinseg.config.rules import of_region
from coinseg.config.schema import Settings
from coinseg.data.layouts.shared import few
from coinseg.data.readers.axes import reordered, require_views
from coinseg.data.readers.image import image_size
from coinseg.data.readers.paths import parts_of
from coinseg.data.readers.volume import peek_shape
from coinseg.errors import UserError
from coinseg.runtime.files import damaged, directory_written_aside, key_of
from coinseg.runtime.records import read_record, require_intact
from coinseg.types import Cohort

from . import intensity
from .case import require_there
from .channels import Channels, channels_of
from .crop import number_of_tiles
from .index import OF_CLASS, read_index
from .plausible import implausible, require_values
from .prepare import foreign, in_order, prepared, readers
from .scale import Greys, kind_of_intensity, said_of_intensity
from .split import LEFT_OUT, require_masks, require_usable
from .writer import FILES, FORMAT, StoreWriter

Progress = Callable[[int, int], None]
MOST_CHANNELS = 64  # of an image
KINDS = {
    "key": str, "contents": str, "fingerprint": str, "layout": str, "label_source": str, "problems": list[str], "size": int,
    "kind": Literal["hu", "percentile", "8bit"], "dtype": Literal["int16", "uint16"], "window": tuple[float, float],
    "has_organs": bool, "channels": list[str], "classes": list[str], "seconds": float,
}  # fmt: skip
"""What store.json holds, and of which kind."""


def store_key(cohort: Cohort, settings: Settings) -> str:
    """Return the hash of what a store depends on: the files (path, size, time of change), data settings, seed of the split."""
    files = {path for case in cohort.cases for path in (case.image, *case.others)}
    files |= {mask.path for case in cohort.cases for mask in (*case.organ, *case.lesion)}
    stamps = [(str(f), p.stat().st_size, p.stat().st_mtime_ns) for f in sorted(files) for p in parts_of(f)]
    labels = [(c.id, c.patient, c.series, c.place, c.label, sorted(c.slice_labels.items())) for c in cohort.cases]
    masks = [mask.values for case in cohort.cases for mask in (*case.organ, *case.lesion)]
    classes = [[list(cohort.classes), [[repr(one) for one in case.classes] for case in cohort.cases]]] if cohort.classes else []
    injected, sequences = settings.anomaly.kind != "none", [list(cohort.sequences)] if cohort.sequences else []
    return key_of([FORMAT, stamps, labels, masks, hashed(settings.data), settings.seed, injected, *sequences, *classes])


def same_files(cohort: Cohort, settings: Settings, root: Path) -> bool:
    """Return whether the store at `root`, where there is one, is that of these files and settings."""
    meta = root / "store.json"
    return not meta.exists() or read_record(meta, {"key": str})["key"] == store_key(cohort, settings)


class SliceStore:
    """The prepared store in a folder: `meta` is its store.json, `index` has its columns, `size` is the side of a slice, S.

    `channels` are the names of the C channels of its images, `classes` those of its classes where there are several: the columns
    label, weak, lesion_px and truth then mean any of them, and `views` is the store as each class sees it.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.meta = root, read_record(root / "store.json", KINDS)
        self.window = intensity.Window(*self.meta["window"])
        self.size: int = self.meta["size"]
        self.channels: Channels = tuple(self.meta["channels"])
        if not (0 < self.size <= 2**16 and 0 < len(self.channels) <= MOST_CHANNELS and self.window.low < self.window.high):
            raise damaged(root / "store.json", "it has a wrong size, window or number of channels")
        self.classes: tuple[str, ...] = tuple(self.meta["classes"])
        self.index = read_index(root / "index.csv", len(self.classes))
        self.number: int | None = None  # of the class whose view this is
        self.sound: set[str] = set()  # files whose checksum was asked
        self.drawn: dict[object, np.ndarray] = {}  # cache of `TrainingSlices.labels`
        self._views: tuple[SliceStore, ...] = tuple(map(self._of_class, range(len(self.classes))))

    def __len__(self) -> int:
        return len(self.index["case"])

    def with_sides(self, sides: np.ndarray, **facts: object) -> SliceStore:
        """Return the same slices on other sides (slices,) of the split, with `facts` and other "contents" in `meta`."""
        view = copy.copy(self)
        view.index, view.drawn = self.index | {"split": sides}, {}
        view.meta = self.meta | {"contents": key_of([self.meta["contents"], sides.tolist()])} | facts
        view._views = ()
        return view

    @property
    def views(self) -> tuple[SliceStore, ...]:
        """The store as each class sees it; itself where there is one class, or where it is such a view."""
        return self._views or (self,)  # not kept: a circle would hold the files open until it is collected

    def _of_class(self, number: int) -> SliceStore:
        """Return the store as one class sees it; slices whose label for it is not known are on no side."""
        view = copy.copy(self)
        columns = {name: self.index[f"{name}/{number}"] for name in OF_CLASS}
        known = np.where(columns["label"] < 0, LEFT_OUT, self.index["split"])
        view.index, view.drawn, view.number = self.index | columns | {"split": known}, {}, number
        view.meta = self.meta | {"contents": key_of([self.meta["contents"], number])}
        view._views, view.classes = (), ()
        return view

    def with_views(self, views: Sequence[SliceStore]) -> SliceStore:
        """Return the store with other views of its classes; the only view where there is one class."""
        if len(views) == 1:
            return views[0]
        whole = copy.copy(self)
        whole._views = tuple(views)
        whole.meta = self.meta | {"contents": key_of([self.meta["contents"], *(view.meta["contents"] for view in views)])}
        return whole

    def _map(self, name: str, dtype: str, *depth: int) -> np.ndarray:
        path, shape = self.root / name, (len(self), *depth, self.size, self.size)
        if name not in self.sound:
            if path.stat().st_size != math.prod(shape) * np.dtype(dtype).itemsize:
                raise damaged(path, "it is not as large as its slices")
            require_intact(path)
            self.sound.add(name)
        return np.memmap(path, dtype=dtype, mode="r", shape=shape)

    @cached_property
    def images(self) -> np.ndarray:
        """(slices, C, size, size) as stored."""
        return self._map("images.bin", self.meta["dtype"], len(self.channels))

    @cached_property
    def organs(self) -> np.ndarray:
        """(slices, size, size) 0/1; 1 everywhere where the data have no organ masks."""
        return self._map("organs.bin", "uint8")

    def truth(self) -> np.ndarray:
        """(slices, size, size) 0/1 lesion masks, for scoring only; meaningful where `index["truth"]` is 1."""
        if not (classes := self.meta["classes"]):
            return self._map("truth.bin", "uint8")
        every = self._map("truth.bin", "uint8", len(classes))
        return every.max(1) if self.number is None else every[:, self.number]

    def chains(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return, for rows (n,), a number for every slice's scan and region, and its number along the scan, (n,) integers."""
        scans = np.unique(self.index["series"][rows], return_inverse=True)[1]
        regions = np.stack([scans, self.index["region"][rows]], axis=1)
        return np.unique(regions, axis=0, return_inverse=True)[1].reshape(-1), self.index["slice"][rows]

    def unit(self, rows: np.ndarray) -> np.ndarray:
        """Return slices as float32 in [0, 1], (n, C, size, size)."""
        return self.window.unit(self.images[rows])

    def body(self, rows: np.ndarray) -> np.ndarray:
        """Return which pixels are not the air or the black ground around the body, (n, size, size) bool.

        Of CT by its Hounsfield units: fat is darker than an organ's window and belongs to the body.
        """
        if self.meta["kind"] == "hu":
            return np.asarray(self.images[rows][:, 0] > intensity.BODY_HU)
        return np.asarray((intensity.signed(self.unit(rows)) > intensity.BLACK).any(1))


def prepare(
    cohort: Cohort, settings: Settings, root: Path, progress: Progress | None = None, overwrite: bool = True
) -> SliceStore:
    """Make the store of a cohort at `root`, or open it when it is already there for the same files and settings.

    Args:
        cohort: the cases; one that cannot be read is reported in `meta["problems"]` and left out.
        settings: data, anomaly and seed are read.
        root: the folder of the store.
        progress: called with the number of cases that were read, and of all.
        overwrite: whether a store of other contents may be replaced; `UserError` otherwise.
    """
    began = time.perf_counter()
    key, meta = store_key(cohort, settings), root / "store.json"
    before = read_record(meta, {"key": str}) if meta.exists() else None
    if before and before["key"] == key and all((root / name).exists() for name in FILES):
        return SliceStore(root)
    kind, injected = kind_of_intensity(cohort, settings.data), settings.anomaly.kind != "none"
    refuse(of_region(settings.data, injected))
    require_masks(cohort, settings.data)
    require_views(cohort, settings.data)
    channels, said = channels_of(cohort, settings.data)
    problems = [*cohort.problems, *said]
    with directory_written_aside(root) as part:
        writer, unused = StoreWriter(part, settings, kind, cohort.classes), []
        futures = in_order(partial(prepared, settings=settings, kind=kind, channels=channels), cohort.cases, readers())
        for done, (case, future) in enumerate(zip(cohort.cases, futures, strict=True)):
            if progress:
                progress(done, len(cohort.cases))
            try:
                result = future.result()
            except UserError as error:
                require_there(case, error)
                problems.append(f"{case.id}: {error}")
                continue
            writer.add(result)
            problems += result.problems
            unused += [] if result.rows or foreign(result.facts, settings.data, kind) else [case.id]
        scans = {case.image: writer.facts[case.id] for case in cohort.cases if case.volume and case.id in writer.facts}
        greys = {path: Greys(facts.not_hu, facts.lowest, facts.body) for path, facts in scans.items()}
        problems += said_of_intensity(kind, settings.data, greys)
        if unused:
            problems.append(f"no slice of {few(unused, 3)} is used: without a label, or with too few organ pixels")
        problems += writer.said() + implausible(writer.notes) + require_values(cohort.cases, writer.notes, not injected)
        require_usable(writer.rows, problems, settings)
        writer.finish(
            key=key, layout=cohort.layout, problems=problems, channels=list(channels),
            label_source="drawn with the injected anomalies" if injected else cohort.label_source,
            has_organs=any(case.organ for case in cohort.cases), seconds=round(time.perf_counter() - began, 2),
        )  # fmt: skip
        if before and not overwrite and before.get("contents") != SliceStore(part).meta["contents"]:
            got = f"the data are not those that {root.parent} was made of (pixels, masks, labels or patients differ)"
            do = "choose another -o, or give --overwrite to redo everything"
            raise UserError(got, "the same data to go on with it", do)
    return SliceStore(root)


def bytes_needed(cohort: Cohort, settings: Settings) -> int:
    """Return an upper bound for the size of the store: two bytes of each channel and one of each mask for every pixel."""
    slices, channels = 0, len(channels_of(cohort, settings.data)[0])
    for case in cohort.cases:
        try:
            shape = peek_shape(case.image) if case.volume else (1, 1, 1)
            if settings.data.tile and not case.volume:
                shape = (1, *image_size(case.image))
            count, *plane = reordered(shape, settings.data.axis)
            slices += count * number_of_tiles((plane[0], plane[1]), settings.data.tile_side)
        except UserError:
            continue  # reported when it is read
    return 2 * (channels + 1) * slices * settings.data.side**2
