"""What a data set is, before anything is made of it: layout, cases, sizes, labels, masks. Nothing is written.

Names and tables are read for every case, headers for at most `SAMPLE` of them, and the voxels of one scan, to tell CT from MR.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coinseg.config.schema import Settings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.readers.axes import require_views
from coinseg.data.readers.geometry import Geometry
from coinseg.data.readers.image import image_size, require_size
from coinseg.data.readers.volume import on_one_grid, read_geometry
from coinseg.data.slices.case import kind_of_intensity, labelled_per_scan
from coinseg.errors import UserError
from coinseg.types import Case

SCHEMA = 1
SAMPLE = 200
"""Cases whose headers are looked at; of more, as many at equal steps."""


def inspect(data: Path, settings: Settings) -> dict[str, Any]:
    """Everything that can be said of a data set by names and headers, and the values of one scan (keys: docs/guide/manifest.md).

    Args:
        data: a folder or a CSV, as for `coinseg run`.
        settings: `data` says how it is read; `anomaly.kind` whether labels of one class are enough.

    Raises:
        UserError: the data as a whole cannot be used, as in `read_layout`, or no header that was looked at is readable.
    """
    cohort = read_layout(data, settings.data, one_class=settings.anomaly.kind != "none")
    require_views(cohort, settings.data)
    cases = cohort.cases
    looked = [cases[i] for i in np.unique(np.linspace(0, len(cases) - 1, min(SAMPLE, len(cases))).astype(int))]
    native, broken = _native(looked)
    if native["slices"] is None:
        raise UserError(f"no case of {data} is readable ({broken[0]})", "intact scans or images", "mend or remove them")
    return {
        "schema": SCHEMA,
        "data": str(data),
        "layout": cohort.layout,
        "cases": len(cases),
        "patients": len({case.patient for case in cases}),
        "volumes": sum(case.volume for case in cases),
        "images": sum(not case.volume for case in cases),
        "intensity": kind_of_intensity(cohort, settings.data),
        "native": native,
        "labels": _labels(cases, settings.data.label_level if settings.anomaly.kind == "none" else "slice"),
        "label_source": cohort.label_source,
        "organ_masks": {"cases": sum(bool(c.organ) for c in cases), "regions": max(len(c.organ) for c in cases)},
        "lesion_masks": {"cases": sum(bool(c.lesion) for c in cases)},
        "series": len({c.series for c in cases if c.series is not None}),
        "problems": [*cohort.problems, *broken],
    }


def _native(looked: Sequence[Case]) -> tuple[dict[str, Any], list[str]]:
    """Ranges over the cases that were looked at, and one line for each that cannot be read or whose mask does not fit."""
    shapes: list[tuple[int, int, int]] = []
    spacings: list[tuple[float, float, float]] = []
    problems: list[str] = []
    for case in looked:
        try:
            shape, grid = _shape_and_grid(case)
        except UserError as error:
            problems.append(f"{case.id}: {error}")
            continue
        shapes.append(shape)
        spacings += [grid.spacing] if grid else []
        try:
            for mask in (*case.organ, *case.lesion):
                _require_fits(mask.path, shape, grid)
        except UserError as error:
            problems.append(f"{case.id}: {error}")
    return {
        "looked_at": len(looked),
        "slices": _range(shape[0] for shape in shapes),
        "rows": _range(shape[1] for shape in shapes),
        "columns": _range(shape[2] for shape in shapes),
        "spacing_mm": {axis: _range(round(s[i], 4) for s in spacings) for i, axis in enumerate("zyx")} if spacings else None,
    }, problems


def _shape_and_grid(case: Case) -> tuple[tuple[int, int, int], Geometry | None]:
    """(slices, rows, columns) from the header, and the grid of a volume."""
    if not case.volume:
        return (1, *image_size(case.image)), None
    grid = read_geometry(case.image)
    return grid.canonical_shape, grid


def _require_fits(mask: Path, shape: tuple[int, int, int], grid: Geometry | None) -> None:
    """`UserError` when a mask does not lie on its image, as when it is read."""
    if grid:
        on_one_grid(mask, read_geometry(mask), grid)
    else:
        require_size(mask, image_size(mask), shape[1:])


def _labels(cases: Sequence[Case], level: str) -> dict[str, Any]:
    """How many cases are labelled how, and the share of abnormal ones among the labels that are given.

    Single slices are not told from scans here; a scan of one used slice is its slice for a run (`data.label_level` "auto").
    """
    by_slice = [case for case in cases if case.slice_labels]
    whole = [case.label for case in cases if not case.slice_labels]
    slices = [label for case in by_slice for label in case.slice_labels.values()]
    given = [label for label in whole if label is not None] + slices
    from_masks = sum(case.label is None and not case.slice_labels and bool(case.lesion) for case in cases)
    return {
        "normal": whole.count(0), "abnormal": whole.count(1),
        "abnormal_per_scan": sum(labelled_per_scan(case, level) for case in cases), "by_slice": len(by_slice),
        "from_lesion_masks": from_masks, "unknown": whole.count(None) - from_masks,
        "slices_normal": slices.count(0), "slices_abnormal": slices.count(1),
        "share_abnormal": round(given.count(1) / len(given), 4) if given else None,
    }  # fmt: skip


def _range(values: Iterable[float]) -> list[float] | None:
    """[smallest, largest], None of nothing."""
    found = list(values)
    return [min(found), max(found)] if found else None


def lines(found: dict[str, Any]) -> list[str]:
    """What `inspect` found, for a person."""
    labels, native = found["labels"], found["native"]
    share = labels["share_abnormal"]
    what = f"{labels['normal']} normal, {labels['abnormal']} abnormal"
    if labels["by_slice"]:
        what += f", {labels['by_slice']} by slice ({labels['slices_normal']} normal, {labels['slices_abnormal']} abnormal slices)"
    if labels["from_lesion_masks"]:
        what += f", {labels['from_lesion_masks']} from lesion masks once they are read"
    if labels["unknown"]:
        what += f", {labels['unknown']} unknown"
    organ = found["organ_masks"]
    sample = "" if native["looked_at"] == found["cases"] else f" (headers of {native['looked_at']} of {found['cases']} cases)"
    slices = f"{_shown(native['slices'])} slices of " if found["volumes"] else ""
    of = f", slices of {found['series']} scans: neighbouring slices can help decide" if found["series"] else ""
    said = [
        f"data       {found['data']}: layout {found['layout']}",
        f"cases      {found['cases']} of {found['patients']} patients: {found['volumes']} volumes, {found['images']} images{of}",
        f"native     {slices}{_shown(native['rows'])} x {_shown(native['columns'])} pixels (rows x columns){sample}",
    ]
    if native["spacing_mm"]:
        said.append(f"spacing    {' x '.join(_shown(native['spacing_mm'][axis]) for axis in 'zyx')} mm (z, y, x)")
    said += [
        f"labels     {what}" + (f"; {share:.0%} of the given labels are abnormal" if share is not None else ""),
        f"source     {found['label_source']}",
        *([f"per scan   {per_scan_rule(labels['abnormal_per_scan'])}"] if labels["abnormal_per_scan"] else []),
        f"masks      organ masks in {organ['cases']} cases ({organ['regions']} regions), "
        f"lesion masks in {found['lesion_masks']['cases']}",
        f"intensity  {found['intensity']}"
        + (" (MR or the like)" if found["intensity"] == "percentile" and found["volumes"] else ""),
    ]
    return said + [f"problem    {problem}" for problem in found["problems"]]


def per_scan_rule(scans: int) -> str:
    """What is done with labels that are those of scans."""
    return (
        f"{scans} abnormal scans have no labels by slice: training looks for the abnormal slices of each and leaves its others "
        "out (--data.label_level slice: all of them count as abnormal)"
    )


def _shown(pair: list[float] | None) -> str:
    if pair is None:
        return "?"
    return f"{pair[0]:g}" if pair[0] == pair[1] else f"{pair[0]:g}-{pair[1]:g}"
