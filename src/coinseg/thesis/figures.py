"""The figures of the thesis: several methods on the same slices, one PNG each.

The differences of a figure share one colour scale; saliency has one for each method, because a difference and an attribution have
no common unit. The value of the brightest colour is written in every figure.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from coinseg.errors import UserError
from coinseg.report.pictures import COLOURS, WHITE, Legend, Row, Sheet, confusion, contour, draw, grey, heat, overlay
from coinseg.runtime.files import written_aside

PROTOCOLS = {"replica": "mask_replica", "honest": "mask_honest"}  # Protocol -> the field of `Examples` with its masks
LEGEND: Legend = tuple(zip(COLOURS, ("true positive", "false positive", "false negative"), strict=True))
MARGIN = 0.6  # Margin around a lesion in figure 9, in its longer sides
RAMP = np.linspace(0, 1, 120)[None]


@dataclass(frozen=True)
class Examples:
    """The results of one method on n slices, the same slices for every method of a figure."""

    name: np.ndarray  # names of the slices, (n,) str
    image: np.ndarray  # (n, H, W) in [0, 1]
    truth: np.ndarray  # (n, H, W) bool
    saliency: np.ndarray  # (n, H, W) in [0, 1]
    mask_replica: np.ndarray  # masks of the thesis' protocol, (n, H, W) bool
    mask_honest: np.ndarray  # masks of the mask-free protocol, (n, H, W) bool
    before: np.ndarray  # f(X), (n,)
    counterfactual: np.ndarray | None = None  # (n, H, W) in [0, 1]; None for attributions
    after: np.ndarray | None = None  # f(X_cf), (n,); None for attributions

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            wanted = self.name.shape if field.name in ("name", "before", "after") else self.image.shape
            if value is not None and value.shape != wanted:
                raise ValueError(f"{field.name} has the shape {value.shape}, not {wanted}")
        if self.image.ndim != 3 or self.name.shape != self.image.shape[:1] or not len(self.name):
            raise ValueError(f"{self.name.shape} names for images of the shape {self.image.shape}, not (n,) and (n, H, W)")


def save_examples(path: Path, examples: Examples) -> None:
    """Write examples as a compressed npz, atomically."""
    arrays = {field.name: value for field in fields(examples) if (value := getattr(examples, field.name)) is not None}
    # An open file, because numpy would add .npz to a path without it.
    with written_aside(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)


def load_examples(path: Path) -> Examples:
    """Read a file of `save_examples`; `UserError` for anything else."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return Examples(**{field.name: file[field.name] for field in fields(Examples) if field.name in file})
    except Exception as error:  # numpy, zipfile and zlib raise many kinds for a broken file
        fault = f"{path} cannot be read as examples ({error})"
        raise UserError(fault, "a file of examples that coinseg wrote whole", "make it again") from error


def _masks(examples: Examples, protocol: str) -> np.ndarray:
    if protocol not in PROTOCOLS:
        raise UserError(f"the protocol {protocol!r}", "one of " + ", ".join(PROTOCOLS), "choose one of them")
    return np.asarray(getattr(examples, PROTOCOLS[protocol]), bool)


def _same_slices(methods: Sequence[tuple[str, Examples]]) -> Examples:
    """The examples of the first method, when all methods have the same slices."""
    if not methods:
        raise UserError("no method to draw", "examples of at least one method", "finish a run first")
    label, first = methods[0]
    for other, examples in methods[1:]:
        if not (np.array_equal(first.name, examples.name) and np.array_equal(first.truth, examples.truth)):
            raise UserError(f"the examples of {label} and {other} are of different slices", "the same slices", "make them again")
    return first


def _top(values: np.ndarray) -> float:
    """The top of a colour scale: the 99.9th percentile of the values."""
    return max(float(np.quantile(np.nan_to_num(values.astype(np.float64)), 0.999)), 1e-3)


def _change(image: np.ndarray, counterfactual: np.ndarray) -> np.ndarray:
    return np.abs(image.astype(np.float64) - counterfactual.astype(np.float64))


def _heat_scale(words: str) -> tuple[np.ndarray, str]:
    """The colours of `heat` over a dark grey, and their meaning."""
    return heat(np.full(RAMP.shape, 0.2), RAMP, 1.0), words


def _write(path: Path, sheet: Sheet) -> Path:
    with written_aside(path) as part:
        draw(sheet).savefig(part, format="png", metadata={"Software": None}, pil_kwargs={"optimize": True})
    return path


def figure5(path: Path, images: np.ndarray, truths: np.ndarray, across: int = 4) -> Path:
    """Slices with a synthetic anomaly, and below them the same slices with the anomaly outlined.

    Args:
        path: the PNG.
        images: (n, H, W) in [0, 1].
        truths: (n, H, W) bool.
        across: slices in a row.
    """
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
    """Figures 6, 7 and 8: input, counterfactual (of an attribution its saliency) and mask against truth of each method.

    Args:
        path: the PNG.
        rows: (name, examples) of each method.
        title: of the figure.
        protocol: whose masks, a key of `PROTOCOLS`.
    """
    first = _same_slices(rows)
    masks, tops = [_masks(e, protocol) for _, e in rows], [_top(e.saliency) for _, e in rows]
    groups, lines = [], []
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
    """A square with a margin around the truth (H, W), inside the image; the whole image when the truth is empty."""
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
    """Saliency over the image and masks of every method, zoomed in on the truth; arguments as `compare`."""
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
    """Input, counterfactual, their difference with the outline of the truth, and mask against truth; arguments as `compare`."""
    counterfactual, masks = examples.counterfactual, _masks(examples, protocol)
    if counterfactual is None:
        raise UserError("examples of an attribution", "examples with counterfactual images", "choose a counterfactual method")
    changes, lines = _change(examples.image, counterfactual), []
    top = _top(changes)
    for i, (name, image) in enumerate(zip(examples.name, examples.image, strict=True)):
        truth = examples.truth[i].astype(bool)
        shown = (grey(image), grey(counterfactual[i]), contour(changes[i] / top, truth), overlay(image, masks[i], truth))
        after = "" if examples.after is None else f"f = {examples.after[i]:.2f}"
        lines.append(Row(str(name), shown, (f"f = {examples.before[i]:.2f}", after, "", "")))
    columns = ("input X", "counterfactual X_cf", "|X − X_cf|, truth outlined", "mask against truth")
    scale = (grey(RAMP), f"|X − X_cf|: 0 to {top:#.2g} of the grey range")
    return _write(path, Sheet(f"Counterfactuals ({protocol} protocol)", (("", columns),), tuple(lines), LEGEND, scale))


def both_directions(path: Path, name: str, images: Sequence[np.ndarray], values: Sequence[float]) -> Path:
    """Singla et al. on one image: the anomaly removed and one added, each with its difference and f.

    Args:
        path: the PNG.
        name: of the image.
        images: X and the X_cf without and with an anomaly, (H, W) in [0, 1] each.
        values: f of the three.
    """
    image, removed, added = images
    changes = np.stack([_change(image, removed), _change(image, added)])
    top = _top(changes)
    titles = ("input X", "anomaly removed", "|X − removed|", "anomaly added", "|X − added|")
    below = [f"f = {value:.2f}" for value in values]
    columns = tuple(map("\n".join, zip(titles, (below[0], below[1], "", below[2], ""), strict=True)))
    pictures = (grey(image), grey(removed), heat(image, changes[0], top), grey(added), heat(image, changes[1], top))
    scale = _heat_scale(f"|difference|: 0 to {top:#.2g} of the grey range")
    return _write(path, Sheet("Anomaly removed and added", (("", columns),), (Row(name, pictures),), ramp=scale))
