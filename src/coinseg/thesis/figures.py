"""The figures of the thesis: what methods did to the same slices, side by side, one PNG each.

Differences of a figure share one colour scale. Saliency has a scale for each method (a difference of images and an
attribution have no common unit), the same for all its slices. What the brightest colour stands for is always written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from coinseg.errors import UserError
from coinseg.report.pictures import COLOURS, WHITE, Legend, Row, Sheet, confusion, contour, draw, grey, heat, overlay
from coinseg.runtime.files import written_aside

PROTOCOLS = {"replica": "mask_replica", "honest": "mask_honest"}
"""Protocol -> the field of `Examples` with its masks."""
LEGEND: Legend = tuple(zip(COLOURS, ("true positive", "false positive", "false negative"), strict=True))
MARGIN = 0.6
"""Figure 9 shows a lesion with so much around it, in its own longer sides."""
RAMP = np.linspace(0, 1, 120)[None]


@dataclass(frozen=True)
class Examples:
    """What one method did to n slices, the same slices for every method of a figure.

    Args:
        name: (n,) str, the names of the slices.
        image: (n, H, W) in [0, 1].
        truth: (n, H, W) bool.
        saliency: (n, H, W) in [0, 1].
        mask_replica: (n, H, W) bool, by the protocol of the thesis.
        mask_honest: (n, H, W) bool, by the protocol that sees no truth.
        before: (n,), f(X).
        counterfactual: (n, H, W) in [0, 1]; None for attributions.
        after: (n,), f(X_cf); None for attributions.
    """

    name: np.ndarray
    image: np.ndarray
    truth: np.ndarray
    saliency: np.ndarray
    mask_replica: np.ndarray
    mask_honest: np.ndarray
    before: np.ndarray
    counterfactual: np.ndarray | None = None
    after: np.ndarray | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            wanted = self.name.shape if field.name in ("name", "before", "after") else self.image.shape
            if value is not None and value.shape != wanted:
                raise ValueError(f"{field.name} has the shape {value.shape}, not {wanted}")
        if self.image.ndim != 3 or self.name.shape != self.image.shape[:1] or not len(self.name):
            raise ValueError(f"{self.name.shape} names for images of the shape {self.image.shape}, not (n,) and (n, H, W)")


def save_examples(path: Path, examples: Examples) -> None:
    """Write examples as a compressed npz, whole or not at all; the types of the arrays are kept."""
    arrays = {field.name: value for field in fields(examples) if (value := getattr(examples, field.name)) is not None}
    # A file, not a path: numpy would add .npz to a path without it.
    with written_aside(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)


def load_examples(path: Path) -> Examples:
    """Read what `save_examples` wrote; anything else is a `UserError`."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return Examples(**{field.name: file[field.name] for field in fields(Examples) if field.name in file})
    except Exception as error:  # numpy, zipfile and zlib raise many kinds for a broken file
        problem = f"{path} cannot be read as examples ({error})"
        raise UserError(problem, "a file of examples that coinseg wrote whole", "make it again") from error


def _masks(examples: Examples, protocol: str) -> np.ndarray:
    if protocol not in PROTOCOLS:
        raise UserError(f"the protocol {protocol!r}", "one of " + ", ".join(PROTOCOLS), "choose one of them")
    found: np.ndarray = getattr(examples, PROTOCOLS[protocol]).astype(bool)
    return found


def _same_slices(methods: Sequence[tuple[str, Examples]]) -> Examples:
    """The first method's examples, which name the slices of all."""
    if not methods:
        raise UserError("no method to draw", "examples of at least one method", "finish a run first")
    label, first = methods[0]
    for other, examples in methods[1:]:
        if not (np.array_equal(first.name, examples.name) and np.array_equal(first.truth, examples.truth)):
            raise UserError(f"the examples of {label} and {other} are of different slices", "the same slices", "make them again")
    return first


def _painted(examples: Examples) -> np.ndarray:
    if examples.counterfactual is None:
        raise UserError("examples of an attribution", "examples with counterfactual images", "choose a counterfactual method")
    return examples.counterfactual


def _top(values: np.ndarray) -> float:
    """The top of a colour scale: all but the strongest thousandth of the pixels are below it."""
    return max(float(np.quantile(np.nan_to_num(values.astype(np.float64)), 0.999)), 1e-3)


def _change(image: np.ndarray, painted: np.ndarray) -> np.ndarray:
    return np.abs(image.astype(np.float64) - painted.astype(np.float64))


def _heat_scale(words: str) -> tuple[np.ndarray, str]:
    """The colours of `heat`, as they are over a dark grey."""
    return heat(np.full(RAMP.shape, 0.2), RAMP, 1.0), words


def _write(path: Path, sheet: Sheet) -> Path:
    with written_aside(path) as part:
        draw(sheet).savefig(part, format="png", metadata={"Software": None}, pil_kwargs={"optimize": True})
    return path


def figure5(path: Path, images: np.ndarray, truths: np.ndarray, across: int = 4) -> Path:
    """Slices (n, H, W) with a synthetic anomaly: each plain, and below it with the anomaly outlined."""
    if not len(images):
        raise UserError("no image to draw", "at least one slice with an anomaly", "choose a set that has one")
    blank = np.full((*images.shape[1:], 3), 255, np.uint8)
    rows = []
    for start in range(0, len(images), across):
        these = slice(start, start + across)
        fill = (blank,) * (min(across, len(images)) - len(images[these]))
        outlined = tuple(contour(image, truth) for image, truth in zip(images[these], truths[these], strict=True))
        rows += [Row("plain", tuple(grey(image) for image in images[these]) + fill), Row("outlined", outlined + fill)]
    columns = ("",) * len(rows[0].pictures)
    legend = ((COLOURS[1], "outline just outside the anomaly"),)
    return _write(path, Sheet("Synthetic anomalies", (("", columns),), tuple(rows), legend, together=2))


def compare(path: Path, rows: Sequence[tuple[str, Examples]], title: str, protocol: str) -> Path:
    """Figures 6, 7 and 8: for each method input, counterfactual (an attribution: its saliency) and mask against truth."""
    first = _same_slices(rows)
    masks = [_masks(examples, protocol) for _, examples in rows]
    groups, lines = [], []
    tops = [_top(examples.saliency) for _, examples in rows]
    for (label, examples), top in zip(rows, tops, strict=True):
        second = f"saliency (top {top:#.2g})" if examples.counterfactual is None else "counterfactual"
        groups.append((label, ("input", second, "mask against truth")))
    for i, name in enumerate(first.name):
        pictures, captions = [], []
        for (_, e), mask, top in zip(rows, masks, tops, strict=True):
            image = e.image[i]
            middle = heat(image, e.saliency[i], top) if e.counterfactual is None else grey(e.counterfactual[i])
            pictures += [grey(image), middle, overlay(image, mask[i], e.truth[i].astype(bool))]
            captions += [f"f = {e.before[i]:.2f}", "" if e.after is None else f"f = {e.after[i]:.2f}", ""]
        lines.append(Row(str(name), tuple(pictures), tuple(captions)))
    attributions = any(examples.counterfactual is None for _, examples in rows)
    ramp = _heat_scale("saliency: 0 to the top of its method") if attributions else None
    return _write(path, Sheet(f"{title} ({protocol} protocol)", tuple(groups), tuple(lines), LEGEND, ramp))


def _zoom(truth: np.ndarray) -> tuple[slice, slice]:
    """A square around the truth (H, W) with a margin, inside the image; all of the image when there is no truth."""
    if not truth.any():
        return slice(None), slice(None)
    spans = [(int(w.min()), int(w.max()) + 1) for w in np.nonzero(truth)]
    longer = max(stop - start for start, stop in spans)
    side = max(16, round(longer * (1 + 2 * MARGIN)))
    if side > min(truth.shape):
        return slice(None), slice(None)
    starts = [min(max(0, (a + b - side) // 2), size - side) for (a, b), size in zip(spans, truth.shape, strict=True)]
    return slice(starts[0], starts[0] + side), slice(starts[1], starts[1] + side)


def figure9(path: Path, methods: Sequence[tuple[str, Examples]], protocol: str) -> Path:
    """Saliency over the image, and masks, of every method; zoomed in on the truth, which is the first column."""
    first = _same_slices(methods)
    masks, tops = [_masks(e, protocol) for _, e in methods], [_top(e.saliency) for _, e in methods]
    lines = []
    for i, name in enumerate(first.name):
        truth = first.truth[i].astype(bool)
        box = _zoom(truth)
        heats = [heat(e.image[i][box], e.saliency[i][box], top) for (_, e), top in zip(methods, tops, strict=True)]
        lines.append(Row(str(name), (grey(first.image[i][box]), *heats)))
        lines.append(Row("mask", tuple(confusion(mask, truth[box]) for mask in (None, *(m[i][box] for m in masks)))))
    columns = ("ground truth", *(f"{label}\n(top {top:#.2g})" for (label, _), top in zip(methods, tops, strict=True)))
    legend: Legend = ((WHITE, "ground truth"), *LEGEND)
    scale = _heat_scale("saliency: 0 to the top of its method")
    title = f"Saliency and masks, zoomed in on the truth ({protocol} protocol)"
    return _write(path, Sheet(title, (("", columns),), tuple(lines), legend, scale, side=168, together=2))


def figure10(path: Path, examples: Examples, protocol: str = "replica") -> Path:
    """Counterfactuals: input, counterfactual, their difference with the outline of the truth, mask against truth."""
    painted, masks = _painted(examples), _masks(examples, protocol)
    changes = _change(examples.image, painted)
    top = _top(changes)
    lines = []
    for i, (name, image) in enumerate(zip(examples.name, examples.image, strict=True)):
        truth = examples.truth[i].astype(bool)
        shown = (grey(image), grey(painted[i]), contour(changes[i] / top, truth), overlay(image, masks[i], truth))
        after = "" if examples.after is None else f"f = {examples.after[i]:.2f}"
        lines.append(Row(str(name), shown, (f"f = {examples.before[i]:.2f}", after, "", "")))
    columns = ("input X", "counterfactual X_cf", "|X − X_cf|, truth outlined", "mask against truth")
    scale = (grey(RAMP), f"|X − X_cf|: 0 to {top:#.2g} of the grey range")
    return _write(path, Sheet(f"Counterfactuals ({protocol} protocol)", (("", columns),), tuple(lines), LEGEND, scale))


def both_directions(
    path: Path,
    name: str,
    image: np.ndarray,
    removed: np.ndarray,
    added: np.ndarray,
    before: float,
    f_removed: float,
    f_added: float,
) -> Path:
    """Singla et al. on one image (H, W): the anomaly removed and added, each with its difference and f."""
    changes = np.stack([_change(image, removed), _change(image, added)])
    top = _top(changes)
    titles = ("input X", "anomaly removed", "|X − removed|", "anomaly added", "|X − added|")
    values = (f"f = {before:.2f}", f"f = {f_removed:.2f}", "", f"f = {f_added:.2f}", "")
    columns = tuple(f"{title}\n{value}".strip() for title, value in zip(titles, values, strict=True))
    pictures = (grey(image), grey(removed), heat(image, changes[0], top), grey(added), heat(image, changes[1], top))
    scale = _heat_scale(f"|difference|: 0 to {top:#.2g} of the grey range")
    return _write(path, Sheet("Anomaly removed and added", (("", columns),), (Row(name, pictures),), ramp=scale))
