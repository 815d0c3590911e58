"""Files: reading prepared slices, making a phantom cohort, preparing NIfTI."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.timing import Row, in_turns, require_close, seconds
from coinseg.config.schema import DataSettings, Settings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.phantom.cohort import PhantomSettings, write_cohort
from coinseg.data.slices import prepare as preparing
from coinseg.data.slices import store as slices
from coinseg.runtime.threads import cores

BATCH, COLD = 16, 5
"""Slices of a batch; turns of cold reading."""


def digest(root: Path, leave: tuple[str, ...] = ()) -> str:
    """Of the contents of all files below a folder."""
    found = hashlib.sha256()
    for file in sorted(f for f in root.rglob("*") if f.is_file() and f.name not in leave):
        found.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return found.hexdigest()


def forget(root: Path) -> None:
    """Let the system drop what it has cached of the files below a folder."""
    for file in (f for f in root.rglob("*") if f.is_file()):
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def plain_reader(root: Path, store: slices.SliceStore, dtype: type) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    """One float memory map in [0, 1] for each scan, opened for every slice that is read."""
    root.mkdir()
    cases = store.index["case"]
    place = {row: (case, i) for case in np.unique(cases) for i, row in enumerate(np.flatnonzero(cases == case))}
    for case in np.unique(cases):
        np.save(root / f"{case}.npy", store.unit(np.flatnonzero(cases == case)).astype(dtype))

    def read(batches: list[np.ndarray]) -> list[np.ndarray]:
        def one(row: int) -> np.ndarray:
            case, i = place[row]
            return np.asarray(np.load(root / f"{case}.npy", mmap_mode="r")[i], np.float32)

        return [np.stack([one(row) for row in batch]) for batch in batches]

    return read


def cold(read: Callable[[list[np.ndarray]], object], root: Path, store: slices.SliceStore, order: list[np.ndarray]) -> float:
    """Seconds to read what the system has forgotten."""
    store.__dict__.pop("images", None)  # what is mapped cannot be forgotten
    forget(root)
    return seconds(lambda: read(order))


def rows(quick: bool) -> Iterator[Row]:
    """A cohort is made, prepared, and its slices read."""
    with tempfile.TemporaryDirectory(dir="out") as folder:
        work, cohort = Path(folder), PhantomSettings(patients=4 if quick else 8, slices=40, size=256)
        plain = seconds(lambda: write_cohort(work / "one", cohort, processes=1))
        ours = seconds(lambda: write_cohort(work / "data", cohort))
        require_close("phantom", float(digest(work / "one") != digest(work / "data")), 0)
        yield Row(
            "phantom cohort",
            plain,
            ours,
            None,
            f"{cohort.patients} scans of 40 slices 256x256, {cores()} processes against a plain loop, one turn; the same bytes",
        )
        settings = Settings(data=DataSettings(size=256, organ=("kidney_left", "kidney_right")))
        settings = replace(settings, anomaly=replace(settings.anomaly, kind="blob"))
        found, made = read_layout(work / "data", settings.data), []

        def prepare(readers: int) -> None:
            slices.readers = lambda: readers
            made.append(slices.prepare(found, settings, work / f"store{len(made)}").root)

        times = in_turns(lambda: prepare(1), lambda: prepare(preparing.readers()), 2)
        require_close("preparing", float(len({digest(root, ("store.json",)) for root in made}) > 1), 0)
        yield Row(
            "preparing NIfTI",
            *times,
            None,
            f"the same scans with two organ masks each, {preparing.readers()} threads against a plain loop; the same bytes",
        )
        store = slices.SliceStore(made[-1])
        rng = np.random.default_rng(0)
        order = [rng.permutation(len(store))[:BATCH] for _ in range(20)]
        for dtype in (np.float32, np.float64):
            name = np.dtype(dtype).name
            read = plain_reader(work / name, store, dtype)
            error = max(float(np.abs(a - store.unit(rows)).max()) for a, rows in zip(read(order), order, strict=True))
            agreed = require_close("reading", error, 1e-6)
            times = in_turns(lambda read=read: read(order), lambda: [store.unit(rows) for rows in order], 5)
            stored = [(work / name), store.root / "images.bin"]
            plain_mb, ours_mb = (sum(f.stat().st_size for f in (at.iterdir() if at.is_dir() else [at])) / 1e6 for at in stored)
            note = f"20 batches of {BATCH} slices 256x256, shuffled, to float32 in [0, 1]; values {agreed}"
            yield Row(f"reading, MB on disk (not seconds), {name}", plain_mb, ours_mb, 2.0, "megabytes of the maps against int16")
            yield Row(f"reading, warm, {name}", *times, 3.0, note)
            both = (read, work / name), (lambda batches: [store.unit(rows) for rows in batches], store.root)
            plain_s, ours_s = zip(
                *([cold(reader, root, store, order) for reader, root in both] for _ in range(COLD)), strict=True
            )
            yield Row(
                f"reading, cold, {name}",
                min(plain_s),
                min(ours_s),
                3.0,
                f"the same after posix_fadvise(DONTNEED), the best of {COLD} turns; how cold depends on the disk",
            )
