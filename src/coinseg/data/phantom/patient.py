"""What differs between the patients of the phantom: build and contrast phase."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Body:
    """The build of one patient in mm.

    Args:
        wide: half width of the trunk inside the fat.
        deep: half depth of the same.
        fat: thickness of the subcutaneous fat.
        spine: y of the spine.
        visceral: amount of fat around the organs.
    """

    wide: float
    deep: float
    fat: float
    spine: float
    visceral: float


@dataclass(frozen=True)
class Look:
    """Hounsfield units of the organs in the contrast phase of one patient."""

    cortex: float
    medulla: float
    aorta: float
    vein: float
    liver: float
    spleen: float
    pelvis: float


def draw_look(rng: np.random.Generator, enhanced: bool) -> Look:
    """Draw a contrast phase; `enhanced` excludes scans without contrast agent."""
    u = rng.uniform
    phase = rng.choice(4, p=(0.0, 0.35, 0.45, 0.2) if enhanced else (0.15, 0.3, 0.38, 0.17))
    if phase == 0:
        return Look(u(32, 38), u(29, 33), u(38, 46), u(36, 42), u(52, 64), u(44, 52), u(2, 10))
    if phase == 1:  # corticomedullary: bright cortex and arteries, dark pyramids
        return Look(u(175, 220), u(95, 125), u(220, 300), u(95, 140), u(80, 100), u(115, 150), u(0, 10))
    if phase == 2:  # portal venous
        return Look(u(170, 210), u(135, 165), u(145, 190), u(135, 165), u(100, 130), u(110, 140), u(0, 10))
    return Look(u(140, 175), u(130, 160), u(120, 145), u(115, 135), u(90, 112), u(92, 115), u(5, 350))
