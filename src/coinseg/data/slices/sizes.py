"""`data.size auto` and `data.tile auto`: numbers chosen from native sizes, device, memory and the time there is.

The work of a run grows with the pixels of its squares: the default recipe takes most of an hour at 96 x 96 on one CPU core
(docs/guide/settings.md). On a GPU it is the 256 x 256 of the thesis. Where the time is too short for the smallest square, the
recipe is a lighter one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from coinseg.config.schema import Settings, StudentSettings
from coinseg.data.readers.axes import reordered
from coinseg.data.readers.image import image_size
from coinseg.data.readers.volume import peek_shape
from coinseg.errors import UserError
from coinseg.types import Cohort

from .crop import number_of_tiles

SAMPLE = 200  # cases, evenly spread, whose headers are asked for their size
ANCHOR = 96  # side at which the default recipe takes `ANCHOR_MINUTES` on one CPU core
ANCHOR_MINUTES = 52  # an hour before study 34 in docs/research/student.md
GPU_SIDE = 256  # side that is taken on a GPU, whatever the time
LEAST, MOST = 64, 512  # sides that are chosen
RECIPE = ("method", "classifier", "coin", "student")  # settings that decide how long a step takes and how many there are
LIGHTER: tuple[tuple[dict[str, Any], float], ...] = (
    ({"steps": 300}, 0.85),
    ({"teachers": 1, "networks": 1, "steps": 300}, 0.5),
    ({"steps": 0}, 0.3),
)
"""Settings of the student where the default recipe takes too long, and the share of its time that they take (studies 33 and 34 in
docs/research/student.md): half of the steps, one pair of f and generator and one network, no student."""
BYTES = 11e9  # that a step of the default batches takes at `BYTES_SIDE`, rounded up
BYTES_SIDE = 256
ROOM = 0.5  # share of the free memory that may be taken
SHRINKS = 1.5  # times that images may be larger than a square before tiles are proposed
MANY_TILES = 64  # of the median image; with more, "auto" takes larger tiles, which are shrunk


@dataclass(frozen=True)
class Machine:
    """What there is to compute with: whether a GPU is used, its free memory or that of the CPU in bytes, and CPU cores."""

    gpu: bool
    free: int
    cores: int


def native_shapes(cohort: Cohort, settings: Settings) -> list[tuple[int, int]]:
    """Return height and width of the slices of at most `SAMPLE` cases, from their headers; of those that can be read."""
    cases, found = cohort.cases, list[tuple[int, int]]()
    for i in np.unique(np.linspace(0, len(cases) - 1, min(SAMPLE, len(cases))).astype(int)):
        try:
            shape = peek_shape(cases[i].image) if cases[i].volume else (1, *image_size(cases[i].image))
        except UserError:
            continue  # reported when it is prepared
        found.append(reordered(shape, settings.data.axis)[1:])
    return found


def chosen_sizes(shapes: Sequence[tuple[int, int]], settings: Settings, machine: Machine) -> tuple[Settings, list[str]]:
    """Return settings with numbers in the place of "auto", and a line of words about each choice.

    Args:
        shapes: height and width of native slices; `UserError` without any.
        settings: data.size, data.tile, data.minutes and coin.depth are read.
        machine: see there.
    """
    data, lines = settings.data, list[str]()
    if "auto" not in (data.size, data.tile):
        return settings, lines
    if not shapes:
        raise UserError("no image whose size can be read", "images, to choose data.size from", "give data.size a number")
    longer = int(np.median([max(shape) for shape in shapes]))
    if data.size == "auto":
        step = 2 ** max(settings.coin.depth, settings.coin.discriminator_depth)
        by_time = GPU_SIDE if machine.gpu else ANCHOR * (machine.cores * data.minutes / ANCHOR_MINUTES) ** 0.5
        on = "a GPU" if machine.gpu else f"{data.minutes} min on {machine.cores} CPU cores"
        by_memory = BYTES_SIDE * (ROOM * machine.free / BYTES) ** 0.5
        wanted = data.tile_side if data.tile != "auto" and data.tile else longer
        limits: dict[str, float] = {
            f"data.tile is {data.tile}" if wanted == data.tile else f"the median image is {longer} pixels long": wanted,
            f"{on} allow about {by_time:.0f} pixels": by_time,
            f"{machine.free / 1e9:.0f} GB of memory allow about {by_memory:.0f} pixels": by_memory,
        }  # fmt: skip
        why, side = min(limits.items(), key=lambda limit: limit[1])
        size = int(np.clip(step * (np.ceil if side == wanted else np.floor)(side / step), max(LEAST, step), MOST))
        data = replace(data, size=size)
        lines.append(f"data.size {size}: {why} (data.size auto)")
        settings, lighter = in_time(replace(settings, data=data), machine)
        lines += lighter
    if data.tile == "auto":
        tile, shape = data.side, sorted(shapes, key=max)[len(shapes) // 2]
        while number_of_tiles(shape, tile) > MANY_TILES:
            tile += max(1, data.side // 4)
        small = max(shape) <= SHRINKS * data.side
        data = replace(data, tile=0 if small else tile)
        count = "no tiles, as hardly an image is larger than a square" if small else (
            f"{number_of_tiles(shape, tile)} tiles of the median image, {'at their own size' if tile == data.side else 'shrunk'}"
        )  # fmt: skip
        lines.append(f"data.tile {data.tile}: {count} (data.tile auto)")
    return replace(settings, data=data), lines + proposal(shapes, replace(settings, data=data))


def in_time(settings: Settings, machine: Machine) -> tuple[Settings, list[str]]:
    """Return settings with the first recipe of `LIGHTER` for which data.minutes is enough, and lines about it.

    A student that was set to something else than the default stays as it is; the time of other settings is not known here.
    """
    side, minutes, student, default = settings.data.side, settings.data.minutes, settings.student, Settings()
    needed = ANCHOR_MINUTES * (side / ANCHOR) ** 2 / machine.cores
    if machine.gpu:
        return settings, []
    others = [name for name in RECIPE if getattr(settings, name) != getattr(default, name)]
    without = f"without what is set of {', '.join(others)}: --dry-run measures it"
    lines = [f"data.minutes is reckoned for the default recipe, {without}"] if others else []
    if needed <= minutes or student != StudentSettings():
        return settings, lines
    changes, share = next((each for each in LIGHTER if needed * each[1] <= minutes), LIGHTER[-1])
    changed = ", ".join(f"student.{name} {value}" for name, value in changes.items())
    line = (
        f"{changed}: the default recipe takes about {needed:.0f} min at {side} pixels on {machine.cores} CPU cores, this about "
        f"{needed * share:.0f} (data.minutes {minutes})"
    )
    return replace(settings, student=replace(student, **changes)), [*lines, line]


def proposal(shapes: Sequence[tuple[int, int]], settings: Settings) -> list[str]:
    """Return a line that proposes tiles where images are much larger than the squares they are shrunk to; none elsewhere."""
    data = settings.data
    if not shapes or data.tile or data.roi != "none" or data.spacing or settings.anomaly.kind != "none":
        return []
    longer = float(np.median([max(shape) for shape in shapes]))
    if longer <= SHRINKS * data.side:
        return []
    line = f"images of {longer:.0f} pixels are shrunk {longer / data.side:.1f} times to data.size {data.side}"
    return [f"{line}: where lesions are small, --data.tile {data.side} (or auto) keeps them at their own size"]
