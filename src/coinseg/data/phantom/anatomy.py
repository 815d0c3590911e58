"""The organs of the phantom without the kidneys; each is painted on the canvas and differs between patients."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from .canvas import FAT, GAS, MUSCLE, Box, Canvas, Point, ellipsoid
from .patient import Body, Look


def paint_body(canvas: Canvas, body: Body) -> None:
    """Paint skin, fat, muscle wall, ribs, the fat that fills the cavity and the lowest recess of the lungs."""
    rng, reach = canvas.rng, (body.wide + 1.1 * body.fat + 14, body.deep + 1.1 * body.fat + 14, 1e3)
    every = canvas.box(tuple(-r for r in reach), reach)
    x, y, z = canvas.coordinates(every)
    phi, rho = np.arctan2(np.abs(x), y), np.hypot(x, y)  # phi: 0 at the back, pi at the front
    power = 2.35
    trunk = ((np.abs(np.sin(phi)) / body.wide) ** power + (np.abs(np.cos(phi)) / body.deep) ** power) ** (-1 / power)
    trunk = trunk * (1 + np.float32(rng.uniform(-2e-4, 4e-4)) * z) + canvas.field(every, 90.0) * np.float32(2.5)
    fat = body.fat * (0.5 + 0.6 * _bell(phi, 0.9, 0.5) + 0.45 * _bell(phi, 3.1, 0.8)) + 2.5
    depth, mottle = trunk - rho, canvas.field(every, 30.0)
    back = np.clip((0.86 - 0.24 * np.clip((z + 15) / 60, 0, 1) - phi) / np.float32(0.4), 0, 1)
    rectus = (y < 0) * (5 * np.exp(-(((np.abs(x) - 38) / 30) ** 4)) - 6 * _bell(x, 0, 7))
    inside = depth - (8 + 0.9 * mottle + rectus + (3 - 2 * back) * back**2 * 36)
    canvas.inside[every] = inside
    skin = depth + fat
    canvas.paint(every, skin, FAT + 5 * mottle + 90 * np.clip(2.5 - skin, 0, 1))
    layers = np.clip(1.2 - np.abs(np.abs(depth - 4.6) - 1.4), 0, 1) * (_bell(phi, 1.6, 0.6) * rng.uniform(30, 80))
    streaks = 85 * np.clip(canvas.field(every, 8.0, 4.0) - np.float32(1.6), 0, 1)
    canvas.paint(every, depth, MUSCLE - streaks - layers)
    for side in (-1, 1):  # the fascia around the erector spinae
        box = canvas.box((side * 36 - 36, body.spine + 22, -1e3), (side * 36 + 36, body.deep - 2, 1e3))
        u, v, _ = canvas.coordinates(box, (side * 31, body.deep - 23, 0))
        sheath = ellipsoid(u, v, 0 * v, (28, 20, 1)) + canvas.field(box, 20.0, 3.0)
        canvas.paint(box, 1.1 - np.abs(sheath), -40.0)
    canvas.paint(every, inside, FAT - 6 * mottle)
    _chest(canvas, every, phi, depth)


def _chest(canvas: Canvas, every: Box, phi: np.ndarray, depth: np.ndarray) -> None:
    """Paint ribs, and the lowest recess of the lungs if the scan reaches it."""
    rng, z = canvas.rng, canvas.coordinates(every)[2]
    gap, slope = 28.0, 55.0  # ribs fall towards the front, so a slice cuts each one obliquely
    turn = (z + slope * phi - rng.uniform(48, 64)) / gap
    which = np.round(turn)
    bone = 4.0 - np.hypot((turn - which) * np.float32(gap * 4.0 / 7.5), depth - 5.5)
    bone = np.where((which >= 0) & (phi < 1.1 + 0.5 * which) & (phi > 0.35), bone, np.float32(-9))
    canvas.paint(every, bone, np.where(phi > 2.0, 130, 520 - 330 * np.clip(bone - 1.2, 0, 1)))
    base = rng.uniform(40, 90)
    if base < z[-1, 0, 0]:
        up = slice(int(np.searchsorted(z[:, 0, 0], base)), None)
        box = (up, *every[1:])
        inside = canvas.inside[box]
        recess = (z[up] - base) * np.float32(0.45) * _bell(phi, 0.75, 0.5) - inside
        canvas.paint(box, np.minimum(inside + 2, recess), MUSCLE)
        canvas.paint(box, np.minimum(inside, recess - 2.5), -870 + 700 * canvas.strands(box, 22.0, 0.15))


def _bell(x: np.ndarray, middle: float, width: float) -> np.ndarray:
    return np.exp(-(((x - np.float32(middle)) / np.float32(width)) ** 2))


def paint_spine(canvas: Canvas, body: Body) -> None:
    """Paint psoas, vertebrae (body with a cortical rim, arch, processes), discs and the spinal canal."""
    rng = canvas.rng
    for side in (-1, 1):
        ends = np.array([(side * 48, body.spine - 4, -110.0), (side * 27, body.spine + 4, 60.0)])
        box, distance = canvas.tube(ends, 16.0, pad=10)
        z = canvas.coordinates(box)[2]
        canvas.paint(box, distance - 8 * np.clip((z + 30) / 100, 0, 1) + canvas.field(box, 25.0), MUSCLE + 4)
    box = canvas.box((-62, body.spine - 30, -1e3), (62, body.deep + 30, 1e3))
    x, y, z = canvas.coordinates(box, (0, body.spine, rng.uniform(0, 36)))
    phase = (z / 36) % 1
    wave = 2.0 * np.cos(2 * np.pi * (phase - 0.87))
    flat = np.float32(1)
    corpus = ellipsoid(x, y + 0 * z, 0 * z, (23 + wave, 17 + wave, flat)) + 0.4 * canvas.field(box, 12.0)
    bone = np.minimum(corpus, (0.39 - np.abs(phase - 0.39)) * 36)
    marrow = rng.uniform(130, 230) + 25 * canvas.field(box, 5.0)
    high, low = np.exp(-(((phase - 0.55) / 0.2) ** 2)), np.exp(-(((phase - 0.15) / 0.25) ** 2))
    arch = 4.5 - np.abs(np.hypot(x, (y - 29) * 1.1) - 14) + 4 * high - 3
    cross = 5.5 - np.hypot(y - 24 - np.abs(x) * 0.1, (phase - 0.55) * 36) - np.clip(np.abs(x) - 36, 0, 99)
    spike = 4.0 - np.hypot(x, np.clip(y - 62, 0, 99) + np.clip(40 - y, 0, 99)) - 4 * (1 - np.maximum(low, high))
    facet = 7.5 - np.hypot(np.abs(x) - 17, y - 36) - 5 * (1 - low)
    rest = np.maximum(np.maximum(arch, np.where(np.abs(x) > 15, cross, -9)), np.maximum(spike, facet))
    canvas.paint(box, corpus, 85.0)
    for part in (bone, rest):
        canvas.paint(box, part, np.where(part < 1.8, 720.0, marrow))
    canvas.paint(box, 9.5 - np.hypot(x, (y - 27) * 1.15) + 0 * z, 30.0)


def paint_bowel(canvas: Canvas, body: Body) -> None:
    """Paint small bowel, colon, stomach and the vessels of the mesentery."""
    rng, wide, front = canvas.rng, body.wide - 22, body.deep - 22
    box = canvas.box((-wide, -front, -1e3), (wide, body.spine - 15, 1e3))
    canvas.paint(box, 6 * canvas.strands(box, 17.0, 0.26) - 3, 110.0, limit=4)
    oral = rng.choice([rng.uniform(10, 40), rng.uniform(130, 250)], p=(0.78, 0.22))
    for _ in range(int(rng.integers(55, 80) - body.visceral)):
        angle, far = rng.uniform(0, 2 * np.pi), math.sqrt(rng.uniform(0, 1))
        across, along = 0.85 * wide * far * math.cos(angle), 0.5 * front * far * math.sin(angle)
        start = np.array([across, along - 0.33 * front, rng.uniform(-110, 30)])
        bends = np.cumsum(rng.normal(0, 1, (3, 3)) * (22, 16, 12), 0)
        _loop(canvas, np.vstack([start, start + bends]), rng.uniform(8, 13), oral, 0.2)
    for side, level in ((-1, body.spine - 15), (1, body.spine - 5)):
        zs = np.arange(-120, 100 if side > 0 else 10, 22.0)
        xs, ys = rng.normal(0, (5, 6), (len(zs), 2)).T
        ys += level - 0.7 * np.clip(zs - 10, 0, 99)  # the splenic flexure lies before the spleen
        _loop(canvas, np.stack([side * (wide - 20) + xs, ys, zs], 1), rng.uniform(14, 22), 40.0, 0.8)
    xs = np.linspace(-0.75, 0.8, 7)
    zs = rng.uniform(0, 30) + 40 * xs**2 + rng.normal(0, 7, 7)
    _loop(canvas, np.stack([xs * wide, 22 * xs**2 - front + 26, zs], 1), rng.uniform(14, 20), 40.0, 0.8)
    centre = (rng.uniform(50, 68), 48 - front, rng.uniform(60, 85))  # stomach
    box, distance = canvas.blob(centre, (rng.uniform(42, 56), rng.uniform(32, 44), rng.uniform(42, 55)), 0.5, 5.0)
    canvas.paint(box, distance, 75.0, limit=3)
    gas = canvas.coordinates(box, centre)[1] < rng.uniform(-30, 12)
    canvas.paint(box, distance - 4, np.where(gas, GAS, 30 + 12 * canvas.field(box, 6.0)), limit=7)


def _loop(canvas: Canvas, points: np.ndarray, radius: float, content: float, stool: float) -> None:
    """Paint a piece of bowel along `points` (n, 3) in mm: fat, wall, content (HU), and gas above it; `stool` is a probability."""
    rng = canvas.rng
    box, distance = canvas.tube(points, radius, pad=8)
    if not distance.size:
        return
    distance = distance + np.float32(2.2) * canvas.field(box, 16.0)
    canvas.paint(box, distance + 2.0, FAT, limit=1)
    canvas.paint(box, distance, rng.uniform(55, 85) + 9 * canvas.field(box, 6.0), limit=3)
    if stool < 0.5 and rng.random() < 0.45:
        return  # collapsed
    filling: float | np.ndarray = content
    if rng.random() < stool:
        crumbs = canvas.field(box, 5.0)
        filling = np.where(crumbs > 1.2, -450.0, 15 + 35 * crumbs)
    if rng.random() < 0.15 + 0.45 * stool:
        level = points[:, 1].mean() + rng.uniform(-0.8, 0.5) * radius
        filling = np.where(canvas.coordinates(box)[1] < level, GAS, filling)
    canvas.paint(box, distance - 2.2, filling, limit=5)


def paint_solid_organs(canvas: Canvas, body: Body, look: Look) -> None:
    """Paint spleen, pancreas, liver and gallbladder."""
    rng, size = canvas.rng, body.wide / 138
    place = (body.wide - rng.uniform(44, 52), body.spine - rng.uniform(5, 18), rng.uniform(52, 80))
    box, spleen = canvas.blob(place, (rng.uniform(27, 36), rng.uniform(42, 56), rng.uniform(38, 55)), 0.35, 3.0, 30.0)
    hollow = ellipsoid(*canvas.coordinates(box, (place[0] - 40, place[1] - 18, place[2])), (30, 40, 60))
    canvas.paint(box, np.minimum(spleen, -hollow), look.spleen + 3 * canvas.field(box, 20.0), "spleen", limit=2)
    y, z = body.spine - 26, 22 + rng.normal(0, 4)
    points = np.array([[-38, y - 18, z - 22], [-22, y - 30, z], [12, y - 28, z + 8], [48, y, z + 22]])
    box, gland = canvas.tube(points, 11.0, pad=12)
    canvas.paint(box, gland + 3.5 * canvas.field(box, 9.0), 0.5 * look.liver + 38, limit=3)
    _liver(canvas, body, look, size)
    place = (-42 * size, -42, rng.uniform(-5, 20))
    box, sac = canvas.blob(place, (rng.uniform(9, 15), rng.uniform(14, 22), 28), -0.5, 1.5)
    canvas.paint(box, sac + 1.5, 60.0, limit=3)
    canvas.paint(box, sac, rng.uniform(2, 15), limit=4)


def _liver(canvas: Canvas, body: Body, look: Look, size: float) -> None:
    """Paint two lobes that leave the spine free, the cleft between them and the vessels inside."""
    rng = canvas.rng
    whole = canvas.box((-1e3, -1e3, -95), (75 * size, 1e3, 1e3))
    liver = np.full(canvas.inside[whole].shape, -9, np.float32)
    right, left = (-70 * size, -8, rng.uniform(62, 84)), (rng.uniform(-28, 2), -50, rng.uniform(80, 100))
    for centre, radii in ((right, (72, 92, rng.uniform(88, 112))), (left, (80, 42, rng.uniform(58, 72)))):
        box, lobe = canvas.blob(centre, (radii[0] * size, *radii[1:]), 0.2, 4.0, 40.0)
        into = tuple(slice(max(p.start - w.start, 0), p.stop - w.start) for p, w in zip(box, whole, strict=True))
        room = liver[into].shape
        part = lobe[lobe.shape[0] - room[0] :, :, : room[2]]
        liver[into] = np.maximum(liver[into], part)
    x, y, z = canvas.coordinates(whole, (4, body.spine, 0))
    cleft = 2.5 - np.abs(x + 16 + 0.15 * y) - 0.4 * np.clip(y + rng.uniform(75, 95), 0, 99) - 0.2 * np.clip(z - 70, 0, 99)
    liver = np.minimum(np.minimum(liver, np.hypot(x * 0.9, y) - 44), -cleft)
    tissue = look.liver + 3 * canvas.field(whole, 25.0)
    tissue += (look.vein - look.liver) * canvas.strands(whole, 30.0, 0.22)
    canvas.paint(whole, liver, tissue, "liver", limit=2)


def paint_vessels(canvas: Canvas, body: Body, look: Look, hila: list[Point]) -> None:
    """Paint aorta, inferior vena cava, renal and mesenteric vessels, and the crura of the diaphragm.

    Args:
        canvas: the scan.
        body: the build of the patient.
        look: Hounsfield units.
        hila: centres of both kidneys in mm.
    """
    rng, y = canvas.rng, body.spine - 27
    zs = np.arange(-120.0, 121.0, 30.0)
    sway = rng.normal(0, 1.5, (2, 2, len(zs)))
    for side in (-1, 1):
        points = [(side * 19 + 2, y + 21, -10), (side * 15 + 6, y - 1, 60), (side * 17 + 6, y - 6, 130)]
        _line(canvas, points, 4.5, MUSCLE)
    for hx, hy, z in hila:
        side = 1 if hx > 0 else -1
        gate = (hx - side * 18, hy - 12, z)
        start = (-12.0, y, z + 4) if side < 0 else (-10.0, y - 11, z + 8)  # the left vein crosses before the aorta
        _line(canvas, [start, (side * 28, y - 4, z + 5), gate], 5.0, look.vein)
        _line(canvas, [(7.0, y, z + 8), (side * 30, y + 8, z + 4), (gate[0], gate[1] + 4, z - 3)], 2.8, look.aorta)
    _line(canvas, [(7, y, 30), (4, y - 16, 15), (2, y - 24, -110)], 3.5, look.aorta)
    _line(canvas, [(-8, y - 22, -110), (-8, y - 22, 12), (-30, y - 30, 45)], 5.5, look.vein)
    cava = [(-20 + dx, y + 3 - 0.06 * max(z, 0) + dy, z) for z, dx, dy in zip(zs, *sway[1], strict=True)]
    _line(canvas, cava, rng.uniform(9.5, 12), look.vein)
    aorta, radius = [(7 + dx, y + dy, z) for z, dx, dy in zip(zs, *sway[0], strict=True)], rng.uniform(8.5, 12)
    _line(canvas, aorta, radius + 1, 50.0)
    _line(canvas, aorta, radius, look.aorta, "aorta")


def _line(canvas: Canvas, points: Sequence[Point], radius: float, hu: float, name: str = "") -> None:
    canvas.paint(*canvas.tube(np.array(points, float), radius), hu, name)


def add_scanner(canvas: Canvas, body: Body) -> None:
    """Paint the table under the patient, and add the blur and the correlated noise of a scanner."""
    rng = canvas.rng
    sag, top = rng.uniform(0.0006, 0.0016), body.deep + body.fat * 0.8 + rng.uniform(6, 14)
    box = canvas.box((-1e3, 0, -1e3), (1e3, 1e3, 1e3))
    x, y, _ = canvas.coordinates(box)
    under, thick = y - top + sag * x * x, rng.uniform(14, 30)
    table = np.where((under > 0) & (under < thick), np.float32(60), 0)
    for level in (0.0, thick):
        table = np.maximum(table, np.clip(1.5 - np.abs(under - level) / 1.3, 0, 1) * np.float32(rng.uniform(850, 1100)))
    canvas.hu[box] += np.where(canvas.hu[box] < -900, table, 0)
    noise = rng.standard_normal(canvas.shape, np.float32)
    grain = rng.uniform(0.45, 0.75)
    for axis in (1, 2):
        noise = ndimage.gaussian_filter1d(noise, grain, axis, truncate=2.5)
    canvas.hu += noise * np.float32(rng.uniform(7, 18) * 2 * grain * 1.8)
