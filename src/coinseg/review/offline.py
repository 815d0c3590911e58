"""The case pages: one HTML file in which masks are looked at and decided without a server, and the table that it gives back.

The file loads nothing and needs no network. Masks are exact, on the grid of the scan; of the scan the page has reduced, lossy
pictures (WebP), so many slices as the file may weigh. What is decided goes through `review.csv` (`decisions.py`).
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment
from PIL import Image

from coinseg.config.schema import Axis
from coinseg.data.readers.axes import reordered, turned
from coinseg.errors import UserError
from coinseg.runtime.files import write_text

from .decisions import digest_of_draft
from .explanations import SliceMaps
from .kept.records import CaseRecord
from .queue import worth_looking_at
from .scans import OpenedScan, open_scan, read_region_of, read_truth, window_of
from .sources import Draft, Source

Explain = Callable[[Draft, int], SliceMaps]
"""A case and the number of a slice along the axis of the run -> what the model says of it; `UserError` where it says nothing."""
MOST_SIDE, MOST_SIDE_IMAGE = 256, 512  # pixels of the longer side of a picture, of a volume and of a plain image
OWN = 60_000  # bytes of the page itself
LEAST = 3  # slices of a volume that are shown whatever they weigh
QUALITY = 72  # of WebP
HU = ((-1024.0, 0.0), (-200.0, 50.0), (300.0, 215.0), (1500.0, 255.0))
"""Hounsfield units and the grey values they are stored as: fine where soft tissue is, so that the page can change its window."""
NUMBERS = ("confidence", "doubtful", "doubts", "pixels", "volume_ml", "components")
POLICY = "default-src 'none'; img-src data:; style-src '{style}'; script-src '{script}'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True)
class Limits:
    """How many `cases` at most, and how many `megabytes` the file has about, of which every case has its share."""

    cases: int = 100
    megabytes: float = 5.0


@dataclass(frozen=True)
class Written:
    """How many cases are on the page, a line for each that could not be read, and why others have no counterfactual, by case."""

    cases: int
    left_out: list[str]
    unexplained: dict[str, str]


def write_case_pages(
    out: Path, source: Source, explain: Explain | None = None, axis: Axis = "axial", limits: Limits = Limits(),
    report: Callable[[int, int], None] = lambda done, total: None, key: str = "",
) -> Written:  # fmt: skip
    """Write the page of the cases that are most worth a person's minute, see `worth_looking_at`.

    Args:
        out: the HTML file.
        source: cases with their masks.
        explain: asked for the counterfactual of one slice of each case, that with the largest part of the mask.
        axis: along which volumes are shown.
        limits: of the file.
        report: told how many cases are done.
        key: of what the page depends on; stands in it, see `is_of`.
    """
    drafts = {draft.record.id: draft for draft in source.drafts}
    order = [drafts[record.id] for record in ranked(source)][: limits.cases]
    shown, left_out, room = list[dict[str, Any]](), list[str](), limits.megabytes * 1e6 - OWN
    unexplained = dict[str, str]()
    for done, draft in enumerate(order):
        report(done, len(order))
        try:
            one = _case(draft, source, axis, explain, room / (len(order) - done), unexplained)
        except UserError as error:
            left_out.append(f"{draft.record.id}: {error}")
            continue
        room -= len(json.dumps(one))
        shown.append(one)
    write_text(out, _page({"cases": shown, "total": len(drafts), "left_out": left_out}, key))
    return Written(len(shown), left_out, unexplained)


def ranked(source: Source) -> list[CaseRecord]:
    """The cases of a source as the desk asks for them."""
    return worth_looking_at([draft.record for draft in source.drafts])


def is_of(page: Path, key: str) -> bool:
    """Whether case pages are there that were written with a key."""
    if not page.is_file():
        return False
    with page.open("rb") as file:
        return f'<meta name="coinseg-key" content="{key}">'.encode() in file.read(2**16)


def _page(data: dict[str, Any], key: str) -> str:
    page = files("coinseg.review") / "page"
    # "<" is written otherwise, so that no name of a file can end the element the data are in.
    content = json.dumps(data, sort_keys=True, allow_nan=False).replace("<", "\\u003c")
    outline = (page / "mask.js").read_text(encoding="utf-8").split("/** A stroke that")[0].replace("export ", "")
    script = outline + (page / "cases.js").read_text(encoding="utf-8")
    style = (page / "cases.css").read_text(encoding="utf-8")
    policy = POLICY.format(style=_hash(style), script=_hash(script))
    template = Environment(autoescape=True, trim_blocks=True).from_string((page / "cases.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        key=key,
        policy=policy,
        style=style,
        script=script,
        content=content,
        identity=sha256(content.encode()).hexdigest()[:16],
    )


def _hash(text: str) -> str:
    """What a content security policy calls a script or a style sheet by."""
    return "sha256-" + base64.b64encode(sha256(text.encode()).digest()).decode()


def _case(
    draft: Draft, source: Source, axis: Axis, explain: Explain | None, room: float, unexplained: dict[str, str]
) -> dict[str, Any]:  # fmt: skip
    """All that the page has of a case, as JSON of about `room` bytes; a plain image and `LEAST` slices are there in any case."""
    record, opened = draft.record, open_scan(draft)
    axis = axis if record.volume else "axial"
    mask = turned(read_region_of(draft.mask, opened.geometry, opened.shape), axis)
    scan, truth = turned(opened.scan, axis), _truth(draft, opened, axis)
    areas = mask.sum((1, 2))
    first = int(areas.argmax()) if areas.any() else len(areas) // 2
    knots = HU if source.hounsfield and record.volume else tuple(zip(window_of(opened.scan, False), (0.0, 255.0), strict=True))
    side = MOST_SIDE if record.volume else MOST_SIDE_IMAGE
    said = _said(draft, explain, first, knots, side, unexplained)
    apart, down, across = reordered(opened.spacing, axis)
    one: dict[str, Any] = {
        "id": record.id, "class": draft.class_name, "draft": digest_of_draft(draft), "side": record.side,
        "volume": record.volume, "axis": axis,
        "shape": list(mask.shape), "aspect": down / across, "apart": apart if record.volume else None, "first": first,
        "colour": scan.ndim == 4, "ct": knots is HU, "knots": [list(knot) for knot in knots],
        "numbers": {name: record.numbers.get(name) for name in NUMBERS},
        "said": said, "slices": [],
    }  # fmt: skip
    used = len(json.dumps(one))
    for index in slices_by_worth(areas, first):
        picture = {"at": index, "image": webp(codes(np.asarray(scan[index]), knots), side), "mask": runs(mask[index])}
        picture |= {} if truth is None else {"truth": runs(truth[index])}
        used += len(json.dumps(picture))
        if used > room and len(one["slices"]) >= LEAST:
            break
        one["slices"].append(picture)
    one["slices"].sort(key=lambda picture: picture["at"])
    return one


def _truth(draft: Draft, opened: OpenedScan, axis: Axis) -> np.ndarray | None:
    """The true mask of a case, where it has one that can be read."""
    try:
        return turned(read_truth(draft, opened), axis) if draft.lesion else None
    except UserError:
        return None


def _said(
    draft: Draft,
    explain: Explain | None,
    index: int,
    knots: Sequence[tuple[float, float]],
    side: int,
    unexplained: dict[str, str],
) -> dict[str, Any] | None:
    """The counterfactual of a slice, and f before and after; None where the model says nothing of it, and why is put down."""
    if explain is None or draft.case is None:
        return None
    try:
        maps = explain(draft, index)
    except UserError as error:
        unexplained[draft.record.id] = str(error)
        return None
    return {
        "at": index,
        "image": webp(codes(maps.counterfactual, knots), side),
        "before": round(maps.before, 4),
        "after": round(maps.after, 4),
    }


def slices_by_worth(areas: np.ndarray, first: int) -> list[int]:
    """All slices, those first that a page should have: `first`, evenly spread ones with a mask, their neighbours, the rest.

    Args:
        areas: pixels of the mask in each slice.
        first: the slice that is seen first.
    """
    marked = areas > 0
    near = np.convolve(marked, np.ones(5), "same")[: len(areas)] > 0 if len(areas) > 4 else marked
    order = [first]
    for group in (marked, near, np.ones(len(areas), bool)):
        order += [int(i) for i in _spread(np.flatnonzero(group))]
    return list(dict.fromkeys(order))


def _spread(members: np.ndarray) -> np.ndarray:
    """Members in an order of which every beginning is about evenly spread: the middle, the quarters, and so on."""
    bits = max(1, (len(members) - 1).bit_length())
    places = [int(f"{i:0{bits}b}"[::-1], 2) for i in range(2**bits)]
    return members[[place for place in places if place < len(members)]]


def codes(image: np.ndarray, knots: Sequence[tuple[float, float]]) -> np.ndarray:
    """Native values (H, W) as grey values uint8, linear between the knots (value, grey value); colour (H, W, 3) as it is."""
    if image.ndim == 3:
        return image.astype(np.uint8)
    values, greys = zip(*knots, strict=True)
    return np.asarray(np.rint(np.interp(image.astype(np.float64), values, greys)), np.uint8)


def webp(image: np.ndarray, side: int) -> str:
    """A picture as base64 of a WebP, its longer side at most `side` pixels."""
    picture = Image.fromarray(image)
    if (share := side / max(picture.size)) < 1:
        picture = picture.resize(
            (max(1, round(picture.width * share)), max(1, round(picture.height * share))), Image.Resampling.BOX
        )
    data = io.BytesIO()
    picture.save(data, format="WEBP", quality=QUALITY, method=4)
    return base64.b64encode(data.getvalue()).decode("ascii")


def runs(mask: np.ndarray) -> str:
    """A mask (H, W) exactly: lengths of its runs row by row, the first outside, LEB128 in base64; "" where it is empty."""
    flat = np.asarray(mask, bool).ravel()
    if not flat.any():
        return ""
    edges = np.flatnonzero(np.diff(flat, prepend=False)).tolist()
    found = bytearray()
    for length in np.diff([0, *edges, len(flat)]).tolist():
        while length > 127:
            found.append(128 | (length & 127))
            length >>= 7
        found.append(length)
    return base64.b64encode(bytes(found)).decode("ascii")
