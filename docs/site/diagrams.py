"""Draw the flowcharts of the pages as SVG when the site is built, so that no script is needed to look at them.

Read is what the pages use of Mermaid: `flowchart TD` and lines `a --> b`. Everything else is an error.
"""

from __future__ import annotations

import re
from html import escape
from itertools import pairwise

ARROW = re.compile(r"([\w.]+) --> ([\w.]+)")
CHARACTER, HEIGHT, BETWEEN, APART, MARGIN = 7.6, 26, 46, 18, 8
"""In pixels: the width of a character; a box, the space between floors, between boxes, around all."""


def svg(source: str) -> str:
    """One flowchart: everybody stands above those it points to.

    Raises:
        ValueError: a line is no arrow, or arrows lead in a circle.
    """
    first, *lines = [line.strip() for line in source.strip().splitlines()]
    found = [ARROW.fullmatch(line) for line in lines]
    if first != "flowchart TD" or not all(found):
        raise ValueError(f"a diagram of other lines than 'flowchart TD' and 'a --> b': {first} ...")
    arrows = [(match[1], match[2]) for match in found if match]
    floors, ways = _with_bends(_floors(arrows), arrows)
    floors = _ordered(floors, [pair for way in ways for pair in pairwise(way)])
    widths = {name: 0 if name.startswith("/") else len(name) * CHARACTER + 16 for floor in floors for name in floor}
    across = [sum(widths[name] for name in floor) + APART * (len(floor) - 1) for floor in floors]
    width, height = max(across) + 2 * MARGIN, len(floors) * (HEIGHT + BETWEEN) - BETWEEN + 2 * MARGIN
    place = {}
    for number, floor in enumerate(floors):
        left, step = MARGIN, (width - 2 * MARGIN - sum(widths[name] for name in floor)) / (len(floor) + 1)
        for name in floor:
            left += step
            place[name] = (left + widths[name] / 2, MARGIN + number * (HEIGHT + BETWEEN))
            left += widths[name]
    drawn = []
    for way in ways:
        (x, y), path = place[way[0]], ""
        y += HEIGHT
        path = f"M{x:.0f} {y:.0f}"
        for name in way[1:]:
            to, down = place[name]
            down -= 5 * (name == way[-1])
            path += f"C{x:.0f} {(y + down) / 2:.0f} {to:.0f} {(y + down) / 2:.0f} {to:.0f} {down:.0f}"
            x, y = to, down + HEIGHT
            path += "" if name == way[-1] else f"V{y:.0f}"
        drawn.append(f'<path d="{path}"/>')
    for name in (name for floor in floors for name in floor if widths[name]):
        x, y = place[name]
        box = f'x="{x - widths[name] / 2:.0f}" y="{y:.0f}" width="{widths[name]:.0f}" height="{HEIGHT}" rx="4"'
        drawn.append(f'<rect {box}/><text x="{x:.0f}" y="{y + HEIGHT / 2 + 4:.0f}">{escape(name)}</text>')
    label = escape(", ".join(f"{a} to {b}" for a, b in arrows))
    head = (
        '<marker id="head" viewBox="0 0 8 8" refX="4" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8Z"/></marker>'
    )
    opening = f'<svg class="flowchart" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="Arrows: {label}">'
    return f"{opening}<defs>{head}</defs>{''.join(drawn)}</svg>"


def _floors(arrows: list[tuple[str, str]]) -> list[list[str]]:
    """Who stands on which floor: above everybody it points to, as low as that allows."""
    names = list(dict.fromkeys(name for arrow in arrows for name in arrow))
    floor = dict.fromkeys(names, 0)
    for _ in names:
        for a, b in arrows:
            floor[a] = max(floor[a], floor[b] + 1)
    if max(floor.values()) >= len(names):
        raise ValueError("arrows that lead in a circle")
    return [[name for name in names if floor[name] == number] for number in range(max(floor.values()), -1, -1)]


def _with_bends(floors: list[list[str]], arrows: list[tuple[str, str]]) -> tuple[list[list[str]], list[list[str]]]:
    """The floors with a point, "/...", wherever an arrow passes one, and the way of every arrow."""
    at, ways = {name: number for number, floor in enumerate(floors) for name in floor}, []
    for a, b in arrows:
        between = range(at[a] + 1, at[b])
        way = [a, *(f"/{a}/{b}/{number}" for number in between), b]
        for number, point in zip(between, way[1:-1], strict=True):
            floors[number].append(point)
        ways.append(way)
    return floors, ways


def _ordered(floors: list[list[str]], arrows: list[tuple[str, str]]) -> list[list[str]]:
    """The same floors, everybody near those it is joined to: a few sweeps of the barycentre heuristic."""
    for _ in range(8):
        at = {name: (i + 1) / (len(floor) + 1) for floor in floors for i, name in enumerate(floor)}
        for floor in floors:
            joined = {name: [at[b] for a, b in arrows if a == name] + [at[a] for a, b in arrows if b == name] for name in floor}
            floor.sort(key=lambda name: sum(joined[name]) / len(joined[name]))
            at |= {name: (i + 1) / (len(floor) + 1) for i, name in enumerate(floor)}
    return floors
