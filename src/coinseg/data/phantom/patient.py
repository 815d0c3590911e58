"""What differs between the patients of the phantom: build and contrast phase."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Body:
    """The build of one patient in mm."""

    wide: float  # half width of the trunk inside the fat
    deep: float  # half depth
    fat: float  # thickness of the subcutaneous fat
    spine: float  # y of the spine
    visceral: float  # amount of fat around the organs


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


_PHASES = (
    ((32, 38), (29, 33), (38, 46), (36, 42), (52, 64), (44, 52), (2, 10)),  # without contrast agent
    ((175, 220), (95, 125), (220, 300), (95, 140), (80, 100), (115, 150), (0, 10)),  # corticomedullary: dark pyramids
    ((170, 210), (135, 165), (145, 190), (135, 165), (100, 130), (110, 140), (0, 10)),  # portal venous
    ((140, 175), (130, 160), (120, 145), (115, 135), (90, 112), (92, 115), (5, 350)),  # excretory
)


def draw_look(rng: np.random.Generator, enhanced: bool) -> Look:
    """Draw a contrast phase; `enhanced` excludes scans without contrast agent."""
    phase = rng.choice(4, p=(0.0, 0.35, 0.45, 0.2) if enhanced else (0.15, 0.3, 0.38, 0.17))
    return Look(*(rng.uniform(*limits) for limits in _PHASES[phase]))
