"""report.html: pictures, scores, training curves and settings of a run, in one file without script or other sources.

jinja2 escapes every text, because file names can contain anything.
"""

import base64
import io
from collections.abc import Mapping
from datetime import timedelta
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, FileSystemLoader
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from coinseg.config.schema import Settings
from coinseg.errors import UserError
from coinseg.evaluation.verdict import standing
from coinseg.masks.confidence import DOUBT
from coinseg.runtime.files import write_text, written_aside
from coinseg.runtime.stage import COST, read_stats

from .examples import (
    GROUPS,
    MARKS,
    OVERLAY,
    PIXELS,
    Example,
    Find,
    dice_of,
    groups_of,
    is_attributed,
    load_examples,
    top_of,
    truth_of,
)  # fmt: skip
from .patients import patients_of
from .pictures import COLOURS, grey, heat, overlay

Stats = list[dict[str, float]]
INK = "#7a7d82"  # Colour of text in figures: readable on white and on black
TERMS = {
    "adversarial": "does it look real?", "classifier": "does f call it normal?", "identity": "is it still the same image?",
    "cycle": "does a second pass change little?", "tv": "is the change in one piece?",
    "discriminator": "1.39: cannot tell it from real",
}  # fmt: skip
PERCENT = (
    "masks_doubtful", "lesions_touched", "normals_marked", "abnormals_marked", "false_positive_area", "flip_rate", "cv",
    "accuracy", "posterior_accuracy",
)  # fmt: skip
SIZES = "lesions_by_size"
FLIPS = "probe_flip_rate"
UNSHOWN = ("null_because", "of_tiles", "change_by_channel")  # in the table of scores: they are told beside it
COUNTS = (
    "slices_abnormal", "slices_scored", "slices_normal", "slices_unknown", "hd95_slices", "scans_abnormal", "scans_normal",
)  # fmt: skip
OVERVIEW = {
    "iou_mask_free": "IoU", "iou_all_images": "IoU over all images", "dice_per_image": "Dice per image",
    "iou_oracle": "IoU of the oracle", "normals_marked": "marked without it", "flip_rate": "flip rate", "auroc": "AUROC of f",
    "confidence_rank": "confidence ranks masks",
}  # fmt: skip
"""Scores on the page of all classes, with their titles."""
ENVIRONMENT = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)


def _rasters(example: Example, top: float) -> dict[str, np.ndarray]:
    """The pictures of an example by column, as arrays in the colours of the thesis; see `examples.figures`."""
    image = example["image"]
    pictures = {"input": grey(image)} | ({} if is_attributed(example) else {"counterfactual": grey(example["counterfactual"])})
    pictures["attribution" if is_attributed(example) else "difference"] = heat(image, example["difference"], top)
    pictures |= {PIXELS: heat(image, example["sure"], 1.0)} if np.isfinite(example["sure"]).all() else {}
    return pictures | {OVERLAY: overlay(image, example["mask"].astype(bool), truth_of(example))}


def _uri(picture: np.ndarray | Figure) -> str:
    """A picture as a data URI of a PNG, always with the same bytes."""
    data = io.BytesIO()
    if isinstance(picture, Figure):
        picture.savefig(data, format="png", dpi=150, transparent=True, metadata={"Software": None})
    else:
        Image.fromarray(picture).save(data, format="PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode("ascii")


def _curves(classifier: Stats, coin: Stats) -> str | None:
    """One plot of every quantity that the two trainings logged, as a data URI."""
    panels = [("classifier f: loss", "0.69: guessing", ["loss"], classifier)] if classifier else []
    logged = {name for line in coin for name in line} - {"step", "time", *COST}
    terms = [n for n in TERMS if n in logged] + sorted(n for n in logged - {*TERMS} if not n.startswith("probe_"))
    panels += [(f"COIN: {name}", TERMS.get(name, ""), [name], coin) for name in terms]
    if FLIPS in logged:
        panels.append(("probe: flip rate", "abnormal turned normal for f", [FLIPS], coin))
    if changes := sorted(n for n in logged if n.startswith("probe_") and n != FLIPS):
        panels.append(("probe: mean change", "small, larger where abnormal", changes, coin))
    if not panels:
        return None
    rows = -(-len(panels) // 3)
    figure = Figure(figsize=(11, 0.15 + 2.2 * rows), layout="constrained")
    grid = figure.subplots(rows, 3, squeeze=False).ravel()
    for axis in grid[len(panels) :]:
        axis.set_axis_off()
    for axis, panel in zip(grid, panels, strict=False):
        _panel(axis, *panel)
    return _uri(figure)


def _panel(axis: Any, title: str, meaning: str, names: list[str], lines: Stats) -> None:
    for name, colour in zip(names, ("#2f7ed8", "#e07b00", "#7a5bd0", "#1a9c74"), strict=False):
        points = [(line["step"], line[name]) for line in lines if name in line and "step" in line]
        if not points:
            continue
        steps, values = np.array(points, dtype=float).T
        window = max(1, len(values) // 20)
        # Padded with the edge values, so that the smoothed line is not bent at its ends.
        padded = np.pad(values, (window // 2, window - 1 - window // 2), "edge")
        smooth = np.convolve(padded, np.ones(window) / window, "valid")
        axis.plot(steps, values, color=colour, alpha=0.3, lw=0.8)
        marker = "." if len(values) <= 30 else ""
        axis.plot(steps, smooth, color=colour, lw=1.6, marker=marker, label=name.removeprefix("probe_change_"))
        if values.min() > 0 and values.max() > 30 * np.median(values):
            axis.set_yscale("log")
    if len(names) > 1:
        axis.legend(fontsize=7, frameon=False, labelcolor=INK)
    if names == [FLIPS]:
        axis.set_ylim(-0.03, 1.03)
    axis.set_title(title, fontsize=9, color=INK, loc="left", weight="bold", pad=14)
    axis.text(0, 1.03, meaning, fontsize=7.5, color=INK, transform=axis.transAxes)
    axis.tick_params(labelsize=7, colors=INK)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(INK)
    axis.set_xlabel("step", fontsize=7, color=INK)
    axis.grid(alpha=0.2)


def _shown(name: str, value: Any) -> str | None:
    """A score in words; None stays None."""
    if name in PERCENT and isinstance(value, int | float):
        # Small shares keep their digits: 0.04% must not become 0.0%.
        return f"{100 * value:.3g}%" if value < 0.1 else f"{value:.1%}"
    return f"{value:.3f}" if isinstance(value, int | float) else None if value is None else str(value)


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name; tuples as lists, which is what JSON makes of them."""
    if isinstance(values, Mapping):
        return {k: v for name, part in values.items() for k, v in _flat(part, f"{prefix}{name}.").items()}
    return {prefix[:-1]: list(values) if isinstance(values, tuple) else values}


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_plain(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value)) or "none"
    return {"None": "none", "": "empty", "True": "yes", "False": "no"}.get(str(value), str(value))


def write_reports(
    out: Path, manifest: dict[str, Any], of_classes: Mapping[str, dict[str, Any]], find: Mapping[str, Find] = MappingProxyType({})
) -> Path:
    """Write report.html of a run folder and return its path: of the only class, or a page that leads to that of each.

    Args:
        out: the run folder.
        manifest: of the run, from `pipeline.classes.together`.
        of_classes: the manifest of every class by its name; "" is the only one.
        find: the slices in native pixels, by class.
    """
    if "" in of_classes:
        return write_report(out, manifest, find=find.get("", _nowhere))
    rows: list[dict[str, Any]] = []
    deviations = {name: one.get("logit_deviation") for name, one in manifest["classes"].items()}
    for name, one in of_classes.items():
        folder = manifest["classes"][name]["folder"]
        write_report(out / folder, one, out, name, find.get(name, _nowhere))
        row = {"name": name, "folder": folder, "verdict": one["verdict"], "scores": one["scores"]}
        rows.append(row | {"moved": _moved(name, manifest["classes"][name].get("logits_moved"), deviations)})
    shown = {name: title for name, title in OVERVIEW.items() if any(row["scores"].get(name) is not None for row in rows)}
    page = ENVIRONMENT.get_template("classes.html.jinja").render(
        m=manifest,
        rows=rows,
        shown=shown,
        say=_shown,
        link=lambda folder: quote(f"{folder}/report.html"),
        pages=(out / "cases.html").is_file(),
    )
    write_text(out / "report.html", page.encode("utf-8", "replace").decode("utf-8"))
    return out / "report.html"


def _moved(name: str, logits: dict[str, float] | None, deviations: Mapping[str, float | None]) -> dict[str, Any] | None:
    """How far the own logit of a class moves where it is turned off, the others on average, and the one that moves most.

    "of_deviation" is the second in standard deviations of each logit; None where one is not known.
    """
    others = {other: value for other, value in (logits or {}).items() if other != name}
    if logits is None or not others:
        return None
    most = max(others, key=lambda other: others[other])
    shares = [value / deviation for other, value in others.items() if (deviation := deviations.get(other))]
    of_deviation = sum(shares) / len(shares) if len(shares) == len(others) else None
    mean = sum(others.values()) / len(others)
    return {"own": logits[name], "others": mean, "of_deviation": of_deviation, "most": most, "by": others[most]}


def _nowhere(name: str) -> None:
    """No slice in native pixels: the prepared one is shown."""


def write_report(
    out: Path, manifest: dict[str, Any], networks: Path | None = None, name: str = "", find: Find = _nowhere
) -> Path:
    """Write report.html of a run folder and return its path; missing files are named on the page.

    It reads evaluation/examples.npz of `out` and */stats.jsonl of `networks`, by default the same folder; the manifest is from
    `pipeline.run_manifest.build`. `name` is that of the class, where there are several; `find` finds slices in native pixels.
    """
    names = ("settings", "scores", "audit", "threshold", "data", "timings_s", "outputs")
    parts = {name: manifest.get(name) or {} for name in names}
    settings, scores, level = parts["settings"], parts["scores"], float(parts["threshold"].get("value") or 0.0)
    attributed = settings.get("method", "counterfactual") != "counterfactual"
    stages = ("classifier",) if attributed else ("classifier", "coin")
    stats = {f"{stage}/stats.jsonl": read_stats((networks or out) / stage / "stats.jsonl") for stage in stages}
    examples = load_examples(out / "evaluation" / "examples.npz")
    drawn = parts["threshold"].get("of") == "student"
    top = top_of(examples or [], 0.0 if drawn else level)  # the level of a student is not one of the differences shown
    current, usual = _flat(settings), _flat(Settings().as_dict())
    # The page itself counts as written, or the first writing would differ from the second.
    there = {v for v in parts["outputs"].values() if v == "report.html" or (isinstance(v, str) and (out / v).exists())}
    ramp = np.tile(np.linspace(0, 1, 256), (12, 1))
    page = ENVIRONMENT.get_template("page.html.jinja").render(
        **parts, m=manifest, doubt=DOUBT, standing=standing(manifest.get("verdict")), attributed=attributed, level=level,
        drawn=drawn, class_name=name,
        inside=(settings.get("data") or {}).get("split_by") == "slice",
        called_from=(settings.get("classifier") or {}).get("threshold", 0.5),
        synthetic=(settings.get("anomaly") or {}).get("kind", "none") != "none",
        shown={name: _shown(name, value) for name, value in scores.items() if name not in (*COUNTS, *UNSHOWN, SIZES)},
        sizes=scores.get(SIZES) or [], counts=[scores.get(name) for name in COUNTS],
        gate=(settings.get("student") or {}).get("gate"), peak=(settings.get("masks") or {}).get("peak"),
        groups=None if examples is None else groups_of(examples, top, find), top=top, marks=MARKS,
        patients=patients_of(out / "evaluation" / "slices.csv"), pages="cases.html" if (out / "cases.html").is_file() else "",
        repeated=len({e["image"].tobytes() for e in examples or []}) < len(examples or []),
        ramp=_uri(heat(np.full(ramp.shape, 0.3), ramp, 1.0)), columns=list(_rasters(examples[0], top)) if examples else (),
        curves=_curves(*stats.values(), *[[]] * (2 - len(stats))),
        unlogged=[name for name, lines in stats.items() if not lines], current=current, plain=_plain,
        changed=[(n, v, usual[n]) for n, v in current.items() if n in usual and v != usual[n]],
        duration=lambda seconds: timedelta(seconds=round(seconds)),
        # Quoted, so that no path can be a scheme ("javascript:") or leave its attribute.
        link=lambda v: quote(v, errors="replace") if isinstance(v, str) and v in there else "",
    )  # fmt: skip
    # A file name that is not UTF-8 has lone surrogates in Python, which cannot be written to a file.
    write_text(out / "report.html", page.encode("utf-8", "replace").decode("utf-8"))
    return out / "report.html"


def examples_figure(examples: Path, out: Path, rows: int = 3) -> None:
    """A small grid of examples as a PNG; `UserError` where the file has none.

    Args:
        examples: evaluation/examples.npz of a run.
        out: the PNG.
        rows: number of examples, in turn from each group (best, median, worst, ...), every image once.
    """
    loaded = load_examples(examples) or []
    turns = zip_longest(*([e for e in loaded if e["group"] == group] for group in GROUPS))
    unique: dict[bytes, Example] = {}
    for example in (e for turn in turns for e in turn if e is not None):
        unique.setdefault(example["image"].tobytes(), example)
    chosen = list(unique.values())[:rows]
    if not chosen:
        raise UserError(f"{examples} has no examples", "examples.npz of a finished evaluation", "finish the run first")
    top = top_of(loaded)
    titles = list(_rasters(chosen[0], top))
    figure = Figure(figsize=(2 * len(titles), 0.6 + 1.84 * len(chosen)), layout="constrained", facecolor="white")
    grid = figure.subplots(len(chosen), len(titles), squeeze=False)
    for row, example in zip(grid, chosen, strict=True):
        for axis, picture in zip(row, _rasters(example, top).values(), strict=True):
            axis.imshow(picture, interpolation="antialiased")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        dice = "" if (value := dice_of(example)) is None else f"Dice {value:.2f}\n"
        group = str(example["group"])
        group = {"missed": "missed by f", "alarm": "alarm of f"}.get(group, group)  # the student may mark it
        row[0].set_ylabel(f"{group}\n{dice}f {example['before']:.2f} → {example['after']:.2f}", fontsize=9)
    for axis, title in zip(grid[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    words = ("lesion found", "marked, no lesion", "lesion missed")
    patches = [Patch(color=f"#{bytes(colour).hex()}", label=w) for colour, w in zip(COLOURS, words, strict=True)]
    figure.legend(handles=patches, loc="outside lower right", ncols=3, fontsize=9, frameon=False)
    with written_aside(out) as part:
        figure.savefig(part, format="png", dpi=110, metadata={"Software": None})
