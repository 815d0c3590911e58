"""The pictures of a report: images with their maps as WebP, masks and truth as outlines over them, in native pixels where known.

Marks differ by colour and by line, so that every reader can tell them: found blue, marked without a lesion orange, missed white;
the mask has a solid orange outline, the truth a dotted white one (colours of Okabe and Ito).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from skimage.measure import find_contours

from coinseg.metrics import overlap as metrics
from coinseg.runtime.records import require_intact
from coinseg.types import NativeSlice

from .pictures import grey, heat

Example = dict[str, Any]  # One row of examples.npz
Find = Callable[[str], NativeSlice | None]
"""The name of an example -> its slice in native pixels."""
GROUPS = ("best", "median", "worst", "doubtful", "abnormal", "unknown", "normal", "missed", "alarm")
FIELDS = ("group", "name", "image", "counterfactual", "difference", "mask", "truth", "known", "before", "after")
PIXELS = "confidence of pixels"
OVERLAY = "mask against truth"
MARKS = {"found": "#56b4e9", "false": "#e69f00", "missed": "#ffffff"}
DIM = 0.55  # of the ground below a heat map, so that its scale can be read over bright tissue
MOST_SIDE = 320  # pixels of the longer side of a picture
QUALITY = 75  # of WebP


def load_examples(path: Path) -> list[Example] | None:
    """The examples of a file; None when it is absent or broken."""
    try:
        require_intact(path)
        with np.load(path, allow_pickle=False) as file:
            fields = {name: file[name] for name in FIELDS}
            # Runs of earlier versions have no confidence.
            fields["confidence"] = file.get("confidence", np.full(len(fields["name"]), np.nan))
            fields["sure"] = file.get("sure", np.full_like(fields["difference"], np.nan))
            return [dict(zip(fields, row, strict=True)) for row in zip(*fields.values(), strict=True)]
    except Exception:  # numpy, zipfile and zlib raise many kinds for a broken file, and a report must not fail for one
        return None


def top_of(examples: list[Example], threshold: float = 0.0) -> float:
    """The largest difference of the colour scale, the same for all pictures."""
    strongest = [np.nan_to_num(e["difference"].astype(np.float64)).ravel() for e in examples]
    return max([2 * threshold, 1e-3, *([float(np.quantile(np.concatenate(strongest), 0.999))] if strongest else [])])


def truth_of(example: Example) -> np.ndarray | None:
    """The truth of an example, None when unknown; empty for an image labelled normal, which is scored so."""
    if example["group"] in ("normal", "alarm"):
        return np.zeros(example["mask"].shape, bool)
    return example["truth"].astype(bool) if example["known"] else None


def dice_of(example: Example) -> float | None:
    """The Dice of an example in prepared pixels, as it is scored; None of a normal one, or without truth."""
    truth = truth_of(example)
    return None if truth is None or not truth.any() else metrics.dice(example["mask"].astype(bool), truth)


def is_attributed(example: Example) -> bool:
    """Whether the map is an attribution, without a counterfactual."""
    return bool(np.isnan(example["counterfactual"]).all())


def figures(example: Example, top: float, native: NativeSlice | None = None) -> dict[str, str]:
    """The pictures of an example by column, as HTML; no counterfactual for an attribution, no confidence in earlier runs."""
    name, attributed = str(example["name"]), is_attributed(example)
    image, mask, truth = example["image"].astype(np.float32), example["mask"].astype(bool), truth_of(example)
    lift: Callable[[np.ndarray], np.ndarray] = lambda values: values
    ground, aspect, sides = image, 1.0, None
    if native is not None:
        lift, aspect, sides = native.lift, native.aspect, native.sides
        ground = native.image if native.clean is None else native.image + _lifted(lift, image - native.clean, native.image)
        mask = lift(mask.astype(np.float32)) >= 0.5
        truth = None if truth is None else truth if truth.shape == mask.shape else lift(truth.astype(np.float32)) >= 0.5
        if truth is not None and native.lesion is not None and truth.any():
            truth = native.lesion
    pictures = {"input": grey(ground)}
    if not attributed:
        change = example["counterfactual"].astype(np.float32) - image
        pictures["counterfactual"] = grey(ground + _lifted(lift, change, ground))
    label = "attribution" if attributed else "difference"
    pictures[label] = heat(DIM * ground, lift(np.nan_to_num(example["difference"].astype(np.float32))), top)
    if np.isfinite(example["sure"]).all():
        pictures[PIXELS] = heat(DIM * ground, lift(example["sure"].astype(np.float32)), 1.0)
    found = {title: _picture(p, f"{title} of {name}", aspect, sides) for title, p in pictures.items()}
    return found | {OVERLAY: _picture(grey(ground), f"{OVERLAY} of {name}", aspect, None, marks(mask, truth))}


def _lifted(lift: Callable[[np.ndarray], np.ndarray], change: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """A change of all channels in native pixels, of the shape of the ground."""
    if change.ndim == 2:
        return lift(change) if ground.ndim == 2 else np.stack([lift(change)] * len(ground))
    return np.stack([lift(one) for one in change])


def uri_of(picture: np.ndarray) -> str:
    """A picture as a data URI of a WebP, its longer side at most `MOST_SIDE`; always with the same bytes."""
    image = Image.fromarray(picture)
    if (share := MOST_SIDE / max(image.size)) < 1:
        wide, tall = (max(1, round(length * share)) for length in image.size)
        image = image.resize((wide, tall), Image.Resampling.BOX)
    data = io.BytesIO()
    image.save(data, format="WEBP", quality=QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode("ascii")


def _picture(rgb: np.ndarray, label: str, aspect: float, sides: tuple[str, str] | None, marked: str = "") -> str:
    """An image as inline SVG of its true proportions, with what is drawn over it."""
    rows, columns = rgb.shape[:2]
    tall = rows * aspect
    size = 0.09 * max(tall, columns)
    letters = "" if sides is None else "".join(
        f'<text x="{x:.1f}" y="{tall / 2:.1f}" font-size="{size:.1f}" text-anchor="{anchor}">{escape(letter)}</text>'
        for letter, x, anchor in ((sides[0], 0.02 * columns, "start"), (sides[1], 0.98 * columns, "end"))
    )  # fmt: skip
    over = f'<g transform="scale(1 {aspect:.4g})">{marked}</g>' if marked else ""
    return (  # every text in it is escaped
        f'<svg class="picture" viewBox="0 0 {columns} {tall:.4g}" role="img" aria-label="{escape(label)}">'
        f'<image href="{uri_of(rgb)}" width="{columns}" height="{tall:.4g}" preserveAspectRatio="none"/>{over}{letters}</svg>'
    )


def marks(mask: np.ndarray, truth: np.ndarray | None) -> str:
    """SVG paths of a mask (H, W) against its truth: filled parts, then both outlines; of an unknown truth the outline alone."""
    parts: list[tuple[str, np.ndarray]] = []
    if truth is not None:
        parts = [("found", mask & truth), ("false", mask & ~truth), ("missed", truth & ~mask)]
    parts += [("mask", mask), *([("truth", truth)] if truth is not None else [])]
    return "".join(f'<path class="{name}" d="{drawn}"/>' for name, part in parts if (drawn := outline(part)))


def outline(mask: np.ndarray) -> str:
    """The outline of a mask (H, W) as the path of an SVG, in pixels from the outer corner; "" where it is empty."""
    rings = find_contours(np.pad(mask, 1).astype(np.float32), 0.5)
    return "".join("M" + "L".join(f"{x - 0.5:.4g} {y - 0.5:.4g}" for y, x in _straight(ring)) + "Z" for ring in rings)


def _straight(ring: np.ndarray) -> Sequence[np.ndarray]:
    """The corners of a closed line: without points that lie between two others on a line, and without the repeated end."""
    points = ring[:-1]
    before, after = points - np.roll(points, 1, 0), np.roll(points, -1, 0) - points
    turns = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-9
    return list(points[turns])


def groups_of(examples: list[Example], top: float, find: Find = lambda name: None) -> dict[str, list[Example]]:
    """The fields of the template for every example, by group."""
    groups: dict[str, list[Example]] = {name: [] for name in GROUPS}
    natives = {name: find(name) for name in sorted({str(e["name"]) for e in examples})}  # slices of one scan together
    for e in examples:
        confidence, native = float(e["confidence"]), natives[str(e["name"])]
        groups.setdefault(str(e["group"]), []).append({
            "name": native.title if native else str(e["name"]), "before": float(e["before"]), "after": float(e["after"]),
            "dice": dice_of(e), "confidence": confidence if np.isfinite(confidence) else None, "known": truth_of(e) is not None,
            "normal": e["group"] in ("normal", "alarm"), "marked": float(e["mask"].mean()),
            "pictures": list(figures(e, top, native).items()),
        })  # fmt: skip
    return {name: group for name, group in groups.items() if group}
