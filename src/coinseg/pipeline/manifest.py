"""manifest.json: what a command did, in a form another program can rely on (docs/manifest.md, manifest.schema.json)."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from coinseg.config.parsing import OPINION, asks_opinion, teacher_folders
from coinseg.data.readers.paths import sha256_of
from coinseg.errors import UserError, exit_code, one_line
from coinseg.runtime.files import read_json, write_json

from .run import Workspace
from .run_folder import as_yaml

SCHEMA, MANIFEST = 1, "manifest.json"
LIBRARIES = ("torch", "numpy", "kornia", "nibabel", "scipy", "timm")
OUTPUTS = {
    "report": "report.html", "masks": "masks", "mask_index": "masks/index.json", "mask_table": "masks/index.csv", "confidence": "confidence", "model": "model.json",
    "settings": "settings.yaml", "scores": "evaluation/scores.json", "scores_per_slice": "evaluation/slices.csv",
}  # fmt: skip
SCORES = ("iou_mask_free", "iou_oracle", "dice_per_image", "false_positive_area", "cv", "flip_rate", "auroc")


def facts(kind: str, command: str, error: BaseException | None) -> dict[str, Any]:
    """What every manifest begins with: schema, kind, version, command, created (UTC), status, versions."""
    state = {0: "done", 130: "interrupted", 143: "interrupted"}.get(exit_code(error), "failed")
    return {
        "schema": SCHEMA,
        "kind": kind,
        "version": version("coinseg"),
        "command": command,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "status": {"state": state, "exit_code": exit_code(error), "error": None if error is None else one_line(error)},
        "versions": {"python": platform.python_version(), "platform": sys.platform} | {name: version(name) for name in LIBRARIES},
    }


def model_of(root: Path) -> dict[str, Any]:
    """The model of a run folder or an export: its method, and the SHA-256 of model.json and of the weights there are."""
    others = sorted(path.relative_to(root).as_posix() for path in root.glob("*/classifier/model.safetensors"))
    model = read_json(root / "model.json", "settings")
    memory = ["novelty/model.safetensors"] * bool(model.get("novelty"))  # written as well where it is not worth while
    names = (
        "model.json",
        "classifier/model.safetensors",
        "coin/generator.safetensors",
        "student/model.safetensors",
        *memory,
        *others,
    )
    return {
        "path": str(root.resolve()),
        "method": model["settings"]["method"],
        "sha256": {name: found for name in names if (found := sha256_of(root / name))},
    }


def inputs_of(work: Workspace) -> list[dict[str, Any]]:
    """Every file of the data that was read, with its SHA-256; kept in inputs.json for as long as no file changes."""
    file, key = work.root / "inputs.json", work.store.meta["key"]
    if file.exists() and (made := read_json(file, "key", "inputs"))["key"] == key:
        return list(made["inputs"])
    found = [
        {"case": case.id, "role": role, "path": str(path), "sha256": sha256_of(path)}
        for case in work.cohort.cases
        for role, paths in (
            ("image", [case.image]),
            ("organ", [m.path for m in case.organ]),
            ("lesion", [m.path for m in case.lesion]),
        )
        for path in dict.fromkeys(paths)
    ]
    write_json(file, {"key": key, "inputs": found})
    return found


def build(work: Workspace, command: str) -> dict[str, Any]:
    """The manifest of a finished run.

    Returns:
        What `facts` has, and seed, settings, data, inputs, model, timings_s, scores (those of `SCORES` and more; null
        with its reason in null_because), audit, threshold, outputs (relative to the folder), warnings.
    """
    root = work.root
    scores, masks = work.evaluate(), work.write_masks()
    # An attribution trains nothing after the classifier.
    stages = ("classifier", "coin") if work.generator is not None else ("classifier",)
    taught = read_json(root / "student" / "stage.json") if work.run.student is not None else None
    others = [root / name / stage / "stage.json" for name in teacher_folders(work.settings) for stage in stages] if taught else []
    opinion = root / OPINION / "classifier" / "stage.json"
    searched = {"witnesses": found["seconds"]} if (found := work.store.meta.get("witnesses")) else {}
    file = root / "novelty" / "stage.json"
    asked = taught and work.settings.student.novelty and file.exists()
    timings = {
        "prepare": work.store.meta["seconds"], **searched, **{name: read_json(root / name / "stage.json")["seconds"] for name in stages},
        **({"teachers": sum(read_json(file)["seconds"] for file in others)} if others else {}),
        **({"student": taught["seconds"]} if taught else {}), **({"opinion": read_json(opinion)["seconds"]} if taught and asks_opinion(work.settings) else {}), **({"novelty": read_json(file)["seconds"]} if asked else {}), "evaluate": scores["seconds"], "masks": masks["seconds"],
    }  # fmt: skip
    threshold = read_json(root / "threshold.json") | {"of": "difference" if work.generator is not None else "attribution"}
    if taught:
        rule = f"half of what the student gives a pixel; it learnt from {taught['trusted']} of {taught['abnormal']} masks, made with {threshold['value']:.4f}: {threshold['rule']}"
        rule += "; and wide regions unlike anything in normal images" if work.run.novelty is not None else ""
        threshold = {"value": work.run.level, "rule": rule, "of": "student"}
    return {
        **facts("run", command, None),
        "seed": work.settings.seed,
        "settings": as_yaml(work.settings.as_dict()),
        "data": work.counts(),
        "inputs": inputs_of(work),
        "model": model_of(root),
        "timings_s": timings,
        "scores": {name: value for name, value in scores.items() if name not in ("key", "seconds")},
        "audit": read_json(file) if (file := root / "evaluation" / "audit.json").exists() else None,
        "threshold": {name: threshold[name] for name in ("value", "rule", "of")},
        "outputs": OUTPUTS | {"mask_count": len(masks["masks"])},
        "warnings": work.warnings(),
    }


def write(work: Workspace, command: str) -> dict[str, Any]:
    """Build the manifest and leave it as manifest.json."""
    manifest = build(work, command)
    write_json(work.root / MANIFEST, manifest)
    return manifest


def write_failed(work: Workspace, command: str, error: BaseException) -> None:
    """Leave manifest.json of a run that did not end well: what stopped it, and null for all it did not come to."""
    unknown = dict.fromkeys(("data", "inputs", "model", "timings_s", "scores", "audit", "threshold", "outputs"))
    settings = {"seed": work.settings.seed, "settings": as_yaml(work.settings.as_dict())}
    with suppress(OSError):  # the disk may be what failed
        write_json(work.root / MANIFEST, facts("run", command, error) | settings | unknown | {"warnings": []})


def write_segmented(
    out: Path, source: Path, model: Path, records: Sequence[dict[str, Any]], command: str, processes: int, error: UserError | None
) -> None:
    """Leave manifest.json beside the masks of a folder.

    Args:
        out: the folder of the masks.
        source: the folder of the scans.
        model: the run folder.
        records: of every input: path (below `source`), state, mask (below `out`), sha256, error.
        command: the command line.
        processes: how many shared the work.
        error: what the command ends with.
    """
    made = {record["mask"] for record in records if record["mask"]}
    write_json(out / MANIFEST, facts("segment", command, error) | {
        "source": str(source.resolve()),
        "model": model_of(model),
        "inputs": list(records),
        "failed": [record["path"] for record in records if record["state"] == "failed"],
        "outputs": {"mask_count": len(made)} | ({"mask_index": "index.json", "mask_table": "index.csv"} if made else {}),
        "processes": processes,
        "warnings": [],
    })  # fmt: skip
