"""What a data set is, before anything is made of it: layout, cases, sizes, labels, masks. Nothing is written.

Names and tables are read for every case, headers for at most `SAMPLE` of them, masks for at most `IMAGES` and `VOLUMES`, and
voxels for at most `SCANS`, to tell CT from MR. Pixels are compared as far as `twins.MOST` says.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coinseg.config.schema import Settings
from coinseg.data.layouts.classes import counts
from coinseg.data.layouts.registry import read_layout
from coinseg.data.layouts.shared import few
from coinseg.data.layouts.totalsegmentator import names_of_masks
from coinseg.data.layouts.unread import parts_left
from coinseg.data.readers.axes import reordered, require_views
from coinseg.data.readers.image import image_size, require_size
from coinseg.data.readers.volume import on_one_grid, read_geometry
from coinseg.data.slices.case import labelled_per_scan, read_masks
from coinseg.data.slices.channels import channels_of
from coinseg.data.slices.plausible import implausible, notes_on, require_values
from coinseg.data.slices.scale import ask, kind_of_intensity, said_of_intensity
from coinseg.data.slices.shortcuts import shortcuts
from coinseg.data.slices.sizes import chosen_sizes, proposal
from coinseg.errors import UserError
from coinseg.types import Case

from .twins import twins_in

SCHEMA = 1
Shape = tuple[int, int, int]
SAMPLE = 200
"""Cases whose headers are looked at; of more, as many at equal steps."""
IMAGES, VOLUMES = 100, 12
"""Plain images and volumes whose masks are read, of those whose headers are looked at."""
NAMED = 12
"""Organs whose names are shown."""
SCANS = 32
"""Scans whose voxels are looked at, likewise; `coinseg run` looks at all."""


def inspect(data: Path, settings: Settings) -> dict[str, Any]:
    """Describe a data set (keys: docs/guide/manifest.md); `UserError` where it cannot be used or no header is readable."""
    cohort = read_layout(data, settings.data, one_class=settings.anomaly.kind != "none")
    require_views(cohort, settings.data)
    channels, said = channels_of(cohort, settings.data)
    cases = cohort.cases
    sample = [cases[i] for i in np.unique(np.linspace(0, len(cases) - 1, min(SAMPLE, len(cases))).astype(int))]
    native, broken, looked_at, notes, shapes = _native(sample, settings.anomaly.kind == "none")
    if native["slices"] is None:
        raise UserError(f"no case of {data} is readable ({broken[0]})", "intact scans or images", "mend or remove them")
    kind, volumes = kind_of_intensity(cohort, settings.data), [case.image for case in cases if case.volume]
    strict = len(looked_at) == len(cases) and settings.anomaly.kind == "none"
    odd = implausible(notes) + require_values(looked_at, notes, strict)
    twins, said_of_twins = twins_in(cases)
    of = f"of {len(looked_at)} cases whose masks were read: " if len(looked_at) < len(cases) else ""
    return {
        "schema": SCHEMA, "data": str(data), "layout": cohort.layout,
        "cases": len(cases), "patients": len({case.patient for case in cases}),
        "volumes": len(volumes), "images": len(cases) - len(volumes),
        "intensity": kind, "channels": list(channels), "native": native, "classes": counts(cohort),
        "labels": _labels(cases, settings.data.label_level if settings.anomaly.kind == "none" else "slice"),
        "label_source": cohort.label_source,
        "organ_masks": {
            "cases": sum(bool(c.organ) for c in cases), "regions": max(len(c.organ) for c in cases),
            "named": names_of_masks(data, settings.data) if cohort.layout == "totalsegmentator" else [],
        },
        "lesion_masks": {"cases": sum(bool(c.lesion) for c in cases)},
        "series": len({c.series for c in cases if c.series is not None}),
        "twins": twins, "proposals": _proposals(shapes, settings),
        "problems": [
            *cohort.problems, *said, *broken,
            *said_of_intensity(kind, settings.data, ask(volumes, SCANS)), *(of + line for line in odd),
            *said_of_twins,
        ],
    }  # fmt: skip


def _proposals(shapes: Sequence[Shape], settings: Settings) -> list[str]:
    """Lines about data.size and data.tile: what "auto" would be here, and tiles for images much larger than a square."""
    planes = [reordered(shape, settings.data.axis)[1:] for shape in shapes]
    if "auto" not in (settings.data.size, settings.data.tile) or not planes:
        return proposal(planes, settings)
    from coinseg.pipeline.sizes import this_machine  # imports torch, which takes seconds

    return chosen_sizes(planes, settings, this_machine(settings))[1]


def _native(
    sample: Sequence[Case], learns_labels: bool
) -> tuple[dict[str, Any], list[str], list[Case], dict[str, list[str]], list[Shape]]:
    """Ranges over a sample of the cases, a line for each that cannot be read or whose mask does not fit, and notes on masks.

    The notes, ids by note as in `plausible`, come with the cases whose masks were read for them, and all canonical shapes.
    """
    shapes: list[Shape] = []
    sizes: dict[Path, tuple[int, int]] = {}
    placed: list[bool] = []
    spacings: list[tuple[float, float, float]] = []
    problems: list[str] = []
    looked_at: list[Case] = []
    notes: dict[str, list[str]] = {}
    for case in sample:
        try:
            grid = read_geometry(case.image) if case.volume else None
            shape = grid.canonical_shape if grid else (1, *image_size(case.image))
            shapes.append(shape)
            sizes |= {} if grid else {case.image: (shape[1], shape[2])}
            spacings += [grid.spacing] if grid else []
            placed += [grid.says_where] if grid else []
            problems += [f"{case.id}: {grid.two_sizes}"] if grid and grid.two_sizes else []
            if sum(other.volume == case.volume for other in looked_at) < (VOLUMES if case.volume else IMAGES):
                masks = read_masks(case, grid or shape[1:])
                looked_at.append(case)
                problems += [masks.problem] if masks.problem else []
                for note in notes_on(case, masks):
                    notes.setdefault(note, []).append(case.id)
                continue
            for mask in (*case.organ, *case.lesion):
                if grid:
                    on_one_grid(mask.path, read_geometry(mask.path), grid, "mask")
                else:
                    require_size(mask.path, image_size(mask.path), shape[1:])
        except UserError as error:
            problems.append(f"{case.id}: {error}")
    problems += parts_left(case.image for case in sample)
    problems += shortcuts(sizes, sample) if learns_labels else []
    if unplaced := placed.count(False):
        problems.append(f"{unplaced} scans do not say where the head is (no sform, no qform): which slice is 0 is a guess")
    return (
        {
            "looked_at": len(sample),
            "slices": _range(shape[0] for shape in shapes),
            "rows": _range(shape[1] for shape in shapes),
            "columns": _range(shape[2] for shape in shapes),
            "feet_first": all(placed) if placed else None,
            "spacing_mm": {axis: _range(round(s[i], 4) for s in spacings) for i, axis in enumerate("zyx")} if spacings else None,
        },
        problems,
        looked_at,
        notes,
        shapes,
    )


def _labels(cases: Sequence[Case], level: str) -> dict[str, Any]:
    """Numbers of cases by label, and the share of abnormal ones among the given labels; a scan of one slice counts as a scan."""
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
    numbers = list(values)
    return [min(numbers), max(numbers)] if numbers else None


def lines(facts: dict[str, Any]) -> list[str]:
    """What `inspect` found, for a person."""
    labels, native = facts["labels"], facts["native"]
    share = labels["share_abnormal"]
    numbers = f"{labels['normal']} normal, {labels['abnormal']} abnormal"
    if labels["by_slice"]:
        numbers += (
            f", {labels['by_slice']} by slice ({labels['slices_normal']} normal, {labels['slices_abnormal']} abnormal slices)"
        )
    if labels["from_lesion_masks"]:
        numbers += f", {labels['from_lesion_masks']} from lesion masks once they are read"
    if labels["unknown"]:
        numbers += f", {labels['unknown']} unknown"
    organ, lesion, intensity, volumes = (facts[name] for name in ("organ_masks", "lesion_masks", "intensity", "volumes"))
    unnamed = organ["named"] and not organ["regions"]
    sample = "" if native["looked_at"] == facts["cases"] else f" (headers of {native['looked_at']} of {facts['cases']} cases)"
    slices = f"{_shown(native['slices'])} slices of " if volumes else ""
    series = f", slices of {facts['series']} scans: neighbouring slices can help decide" if facts["series"] else ""
    text = [
        f"data       {facts['data']}: layout {facts['layout']}",
        f"cases      {facts['cases']} of {facts['patients']} patients: {volumes} volumes, {facts['images']} images{series}",
        f"native     {slices}{_shown(native['rows'])} x {_shown(native['columns'])} pixels (rows x columns){sample}",
    ]
    if volumes and native["slices"]:
        last, placed = _shown([number - 1 for number in native["slices"]]), native["feet_first"]
        ends = f"0 (feet) to {last} (head)" if placed else f"0 to {last}"
        text.append(f"numbers    slices {ends}, as tables of labels count them")
    if native["spacing_mm"]:
        text.append(f"spacing    {' x '.join(_shown(native['spacing_mm'][axis]) for axis in 'zyx')} mm (z, y, x)")
    text += [
        f"labels     {numbers}" + (f"; {share:.0%} of the given labels are abnormal" if share is not None else ""),
        f"source     {facts['label_source']}",
        *(f"class      {name}: {_of_class(of)}" for name, of in facts["classes"].items()),
        *([f"per scan   {per_scan_rule(labels['abnormal_per_scan'])}"] if labels["abnormal_per_scan"] else []),
        f"masks      organ masks in {organ['cases']} cases ({organ['regions']} regions), lesion masks in {lesion['cases']}",
        *([f"organs     {few(organ['named'], NAMED)}: --data.organ NAME ... says which to look at"] if unnamed else []),
        f"channels   {', '.join(facts['channels'])}",
        f"intensity  {intensity}" + (" (MR or the like)" if intensity == "percentile" and volumes else ""),
    ]
    if (compared := facts["twins"]["compared"]) < facts["cases"]:
        text.append(f"compared   pixels of {compared} of {facts['cases']} cases, as many as are read for it here")
    text += [f"size       {line}" for line in facts["proposals"]]
    return text + [f"problem    {problem}" for problem in facts["problems"]]


def _of_class(numbers: dict[str, int]) -> str:
    """What is known of one class, for a person; the numbers are those of `counts`."""
    words = {"with": "with", "without": "without", "from_lesion_masks": "from its masks once they are read", "unknown": "unknown"}
    found = ", ".join(f"{numbers[key]} {word}" for key, word in words.items() if numbers[key] or key == "with")
    return f"{found}; masks in {numbers['lesion_masks']}"


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
