"""Slices as they were before they were cut to squares: what the report shows, in the pixels of the scan or image."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from coinseg.config.schema import Axis
from coinseg.data.readers.axes import reordered, turned
from coinseg.data.slices.case import LoadedCase, encoder, load_case
from coinseg.data.slices.crop import Box
from coinseg.errors import UserError
from coinseg.evaluation.explained import name_of
from coinseg.types import NativeSlice

from .run import Run

WHOLE, AROUND = 0.6, 0.25
"""A box with more than this share of its slice is shown with all of it, others with this part of their sides around them."""
SIDES: dict[Axis, tuple[str, str]] = {"axial": ("R", "L"), "coronal": ("R", "L"), "sagittal": ("A", "P")}


def native_slices(run: Run) -> Callable[[str], NativeSlice | None]:
    """A function that finds the slice of an example by its name; None where it is not there any more.

    The last scan is kept in memory, so ask for slices of one scan together. The examples of a run with tiles are whole images
    already, and are not looked for.
    """
    if run.work.settings.data.tile:
        return lambda name: None
    index, cases = run.store.index, {case.id: case for case in run.work.cohort.cases}
    rows = {name_of(index, row): row for row in range(len(run.store))}
    injected = run.work.settings.anomaly.kind != "none"

    @lru_cache(maxsize=1)
    def loaded(case: str) -> LoadedCase:
        return load_case(cases[case], channels=run.store.channels)

    def find(name: str) -> NativeSlice | None:
        row = rows.get(name)
        if row is None or (case := str(index["case"][row])) not in cases:
            return None
        try:
            content = loaded(case)
        except UserError:
            return None
        return _slice(run, content, row, injected)

    return find


def _slice(run: Run, content: LoadedCase, row: int, injected: bool) -> NativeSlice | None:
    index, data, store = run.store.index, run.work.settings.data, run.store
    scan = turned(content.scan, data.axis)
    number, region = int(index["slice"][row]), int(index["region"][row])
    at = number if content.geometry is not None else 0
    if at >= len(scan):
        return None
    shape = (scan.shape[1], scan.shape[2])
    box = Box(*(float(index[name][row]) for name in ("top", "left", "height", "width")))
    view = shown(box, shape)
    encoded = encoder(content.scan, store.meta["kind"], store.channels)(np.asarray(scan[at]))
    unit = store.window.unit(encoded)[view]
    lesion = None if content.lesion is None or injected else np.asarray(turned(content.lesion, data.axis)[at][view])
    _, down, across = reordered(content.geometry.spacing, data.axis) if content.geometry else (1.0, 1.0, 1.0)
    words = [str(index["case"][row])] + ([f"slice {number}"] if index["slice"].any() else [])
    if region >= 0:
        words.append(data.organ[region] if region < len(data.organ) else f"region {region}")
    return NativeSlice(
        image=unit if unit.ndim == 2 else np.moveaxis(unit, 2, 0), lesion=lesion,
        lift=lambda values: box.paste(values, shape)[view], title=", ".join(words),
        sides=SIDES[data.axis] if content.geometry is not None else None, aspect=down / across,
        clean=store.unit(np.array([row]))[0] if injected else None,
    )  # fmt: skip


def shown(box: Box, shape: tuple[int, int]) -> tuple[slice, slice]:
    """The rows and columns of a slice that are shown of it: all, or a box with some of its surroundings."""
    if box.height * box.width > WHOLE * shape[0] * shape[1]:
        return slice(0, shape[0]), slice(0, shape[1])
    around = Box(
        box.top - AROUND * box.height, box.left - AROUND * box.width, box.height * (1 + 2 * AROUND), box.width * (1 + 2 * AROUND)
    )
    rows, columns = around.pixels(shape)
    return slice(*rows), slice(*columns)
