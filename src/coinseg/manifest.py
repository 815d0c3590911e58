"""manifest.json: what a run was, in a form another program can rely on (see docs/manifest.md)."""

from __future__ import annotations

import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from .pipeline import Workspace, as_yaml
from .storage import read_json, write_json

SCHEMA = 1
LIBRARIES = ("torch", "numpy", "kornia", "nibabel", "scipy", "timm")
OUTPUTS = {
    "report": "report.html", "masks": "masks", "mask_index": "masks/index.json", "mask_table": "masks/index.csv", "model": "model.json",
    "settings": "settings.yaml", "scores": "evaluation/scores.json", "scores_per_slice": "evaluation/slices.csv",
}  # fmt: skip
SCORES = ("iou_mask_free", "iou_oracle", "dice_per_image", "false_positive_area", "cv", "flip_rate", "auroc")


def build(work: Workspace, command: str) -> dict[str, Any]:
    """The manifest of a finished run.

    Returns:
        schema, version, command, created (UTC), seed, settings, data, timings_s, scores (those of `SCORES` and more; null
        with its reason in null_because), threshold, outputs (relative to the folder), warnings, versions.
    """
    root = work.root
    scores, masks = work.evaluate(), work.write_masks()
    # An attribution trains nothing after the classifier.
    stages = ("classifier", "coin") if work.generator is not None else ("classifier",)
    searched = {"witnesses": found["seconds"]} if (found := work.store.meta.get("witnesses")) else {}
    timings = {
        "prepare": work.store.meta["seconds"], **searched, **{name: read_json(root / name / "stage.json")["seconds"] for name in stages},
        "evaluate": scores["seconds"], "masks": masks["seconds"],
    }  # fmt: skip
    threshold = read_json(root / "threshold.json")
    return {
        "schema": SCHEMA,
        "version": version("coinseg"),
        "command": command,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": work.settings.seed,
        "settings": as_yaml(work.settings.as_dict()),
        "data": work.counts(),
        "timings_s": timings,
        "scores": {name: value for name, value in scores.items() if name not in ("key", "seconds")},
        "threshold": {"value": threshold["value"], "rule": threshold["rule"]},
        "outputs": OUTPUTS | {"mask_count": len(masks["masks"])},
        "warnings": work.warnings(),
        "versions": {"python": platform.python_version(), "platform": sys.platform} | {name: version(name) for name in LIBRARIES},
    }


def write(work: Workspace, command: str) -> dict[str, Any]:
    """Build the manifest and leave it as manifest.json."""
    manifest = build(work, command)
    write_json(work.root / "manifest.json", manifest)
    return manifest
