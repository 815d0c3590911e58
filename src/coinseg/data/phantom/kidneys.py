"""The kidneys of the phantom, their cysts and their tumours."""

import math

import numpy as np

from .canvas import FAT, KIDNEYS, Canvas, Point, ellipsoid
from .patient import Body, Look


def paint_kidney(canvas: Canvas, body: Body, look: Look, side: int, size: float) -> tuple[Point, Point]:
    """Paint one kidney in its fat and return its centre and radii in mm.

    Args:
        canvas: the scan.
        body: the build of the patient.
        look: Hounsfield units.
        side: 1 for the left kidney, -1 for the right one.
        size: factor on all radii.
    """
    rng = canvas.rng
    a, b, c = radii = (size * rng.uniform(27, 31), size * rng.uniform(23, 27), size * rng.uniform(50, 58))
    centre = (side * rng.uniform(62, 70), body.spine + rng.uniform(2, 12), 7.0 * side + rng.uniform(-6, 6))
    thick = 3 + 0.5 * body.visceral
    box = canvas.box(*(tuple(m + s * (r + thick + 16) for m, r in zip(centre, (a, a, c), strict=True)) for s in (-1, 1)))
    x, y, z = canvas.coordinates(box, centre)
    x = x + np.float32(side * rng.uniform(0.06, 0.16)) * z  # the upper pole leans to the spine
    turn = rng.uniform(0.4, 0.85)  # the hilum looks forwards and inwards
    u = -side * x * math.cos(turn) - y * math.sin(turn)
    v = y * math.cos(turn) - side * x * math.sin(turn)
    u = u - 7 * (z / c) ** 2 - 4 * (v / b) ** 2 + 4
    shape = ellipsoid(u, v, z, radii) + np.float32(1.4) * canvas.field(box, 20.0)
    room = (rng.uniform(0.62, 0.76) * a, rng.uniform(0.28, 0.42) * b, rng.uniform(0.42, 0.58) * c)
    sinus = ellipsoid(u - 0.62 * a, v, z, room) + np.float32(2.8) * canvas.field(box, 8.0)
    canvas.paint(box, shape + thick + 2 * canvas.field(box, 30.0), FAT + 5 * canvas.field(box, 20.0))
    fan = np.cos(5 * np.arctan2(v, u - 0.5 * a)) + 0.9 * np.cos(np.float32(5.2 * np.pi / c) * z)
    fan = fan + np.float32(0.5) * canvas.field(box, 12.0)  # pyramids between the columns of cortex
    deep = np.clip((np.minimum(shape, 14) - 6.0) / 2.0, 0, 1) * np.clip(fan + 0.7, 0, 1)
    tissue = look.cortex + (look.medulla - look.cortex) * deep + 4 * canvas.field(box, 10.0)
    canvas.paint(box, np.minimum(shape, 1 - sinus), tissue, "kidney_left" if side > 0 else "kidney_right")
    hollow = np.minimum(sinus, shape)
    canvas.paint(box, hollow, FAT + 25)
    canvas.paint(box, np.minimum(sinus - 3.5, np.minimum(shape - 1, 2 + 3 * canvas.field(box, 9.0))), look.pelvis)
    canvas.paint(box, np.minimum(hollow + 1, 6 * canvas.strands(box, 16, 0.35) - 3), look.vein)
    return centre, radii


def paint_cysts(canvas: Canvas, kidneys: list[tuple[Point, Point]]) -> None:
    """Paint one to three benign cysts, smooth and filled with water, into kidneys given as (centre, radii) in mm."""
    rng = canvas.rng
    for _ in range(int(rng.integers(1, 4))):
        radius = rng.uniform(4, rng.choice([10, 20]))
        box, distance = canvas.blob(_place(rng, kidneys), (radius,) * 3)
        canvas.paint(box, distance, rng.uniform(0, 15), "kidney_cyst", KIDNEYS, 1)


def paint_tumours(canvas: Canvas, kidneys: list[tuple[Point, Point]], look: Look) -> None:
    """Paint one or two masses: lobulated, uneven, darker than cortex, sometimes with a necrotic centre."""
    rng = canvas.rng
    for _ in range(1 + int(rng.random() < 0.25)):
        radius, hu = rng.uniform(5, 30), rng.uniform(40, min(110, look.cortex - 35))
        centre = _place(rng, kidneys)
        radii = tuple(radius * rng.uniform(0.85, 1.1, 3))
        box, distance = canvas.blob(centre, radii, rng.uniform(0, 3), 0.12 * radius, 0.8 * radius + 3)
        tissue = np.clip(hu + 12 * canvas.field(box, 0.45 * radius + 2), 20, look.cortex - 15)
        canvas.paint(box, distance, tissue, "kidney_tumor", KIDNEYS, 1)
        if radius > 14 and rng.random() < 0.6:
            dead = distance - 0.5 * radius + 0.15 * radius * canvas.field(box, 0.5 * radius)
            canvas.paint(box, dead, rng.uniform(12, 30), "kidney_tumor", KIDNEYS, 1)


def _place(rng: np.random.Generator, kidneys: list[tuple[Point, Point]]) -> Point:
    """Draw a point in the outer part of one of the kidneys, rarely at its hilum."""
    centre, radii = kidneys[int(rng.integers(2))]
    way = rng.normal(0, 1, 3) + (0.6 * np.sign(centre[0]), 0, 0)
    far = rng.uniform(0.55, 1.0) / np.linalg.norm(way)
    return tuple(float(c + far * w * r) for c, w, r in zip(centre, way, radii, strict=True))  # type: ignore[return-value]
