"""The manifest of a finished run: what it was made of, how long it took, what it scored (docs/guide/manifest.md)."""

from typing import Any

from coinseg.config.parsing import teacher_folders
from coinseg.data.readers.paths import sha256_of
from coinseg.parts.table import parts_of
from coinseg.runtime.files import MAX_JSON, key_of
from coinseg.runtime.records import read_record, write_record
from coinseg.runtime.stage import Stage
from coinseg.training.pseudo_masks import LEAST

from .job import has_student
from .manifest import facts, model_of, unlike, verdict
from .recipe import CHOSEN, THRESHOLD
from .run import Run, counts, warnings
from .run_folder import as_yaml

OUTPUTS = {
    "report": "report.html", "masks": "masks", "mask_index": "masks/index.json", "mask_table": "masks/index.csv",
    "confidence": "confidence", "model": "model.json", "settings": "settings.yaml",
    "scores": "evaluation/scores.json", "scores_per_slice": "evaluation/slices.csv",
}  # fmt: skip
INPUTS = {"key": str, "inputs": list[dict[str, str | None]]}
AUDIT = {"flips": dict[str, float | None], "shortcuts": list[dict[str, float | str | None]]}
"""What inputs.json and audit.json hold, and of which kind."""
SCORES = ("iou_mask_free", "iou_all_images", "iou_oracle", "dice_per_image", "false_positive_area", "cv", "flip_rate", "auroc")


def inputs_of(run: Run) -> list[dict[str, Any]]:
    """Every file of the data that was read, with its SHA-256; kept in inputs.json for as long as no file changes."""
    file, key, several = run.work.root / "inputs.json", run.store.meta["key"], len(run.store.channels) > 1
    key = key_of([key, "channels"]) if several else key  # once the first of them alone was listed
    if file.exists() and (stored := read_record(file, INPUTS, MAX_JSON))["key"] == key:
        return list(stored["inputs"])
    inputs: list[dict[str, Any]] = []
    for case in run.work.cohort.cases:
        images = [case.image, *(case.others if several else ())]
        files = {"image": images, "organ": [m.path for m in case.organ], "lesion": [m.path for m in case.lesion]}
        for role, paths in files.items():
            common = {"case": case.id, "role": role}
            inputs += [common | {"path": str(path), "sha256": sha256_of(path)} for path in dict.fromkeys(paths)]
    write_record(file, {"key": key, "inputs": inputs})
    return inputs


def timings(run: Run, scores: dict[str, Any], masks: dict[str, Any]) -> dict[str, float]:
    """Seconds of every stage that the run has."""
    root, settings = run.networks, run.work.settings

    def seconds(*names: str) -> float:
        return float(Stage(root.joinpath(*names), "").facts()["seconds"])

    # An attribution trains nothing after the classifier.
    pair = ("classifier", "coin") if run.predictor.is_counterfactual else ("classifier",)
    stages = {"prepare": run.store.meta["seconds"]}
    stages |= {"witnesses": searched["seconds"]} if (searched := run.store.meta.get("witnesses")) else {}
    stages |= {name: seconds(name) for name in pair}
    if run.predictor.has_student:
        if others := teacher_folders(settings):
            stages["teachers"] = sum(seconds(name, stage) for name in others for stage in pair)
        stages["student"] = seconds("student")
        for part in parts_of(settings):  # also one that was fitted and not kept
            if files := sorted((run.work.root / part.folder).rglob("stage.json")):
                stages[part.folder] = sum(float(Stage(file.parent, "").facts()["seconds"]) for file in files)
    return stages | {"evaluate": scores["seconds"], "masks": masks["seconds"]}


def threshold_of(run: Run) -> dict[str, Any]:
    """What a pixel must exceed to be inside, in words and as a number."""
    threshold = read_record(run.work.root / THRESHOLD, CHOSEN)
    if not run.predictor.has_student:
        method = "difference" if run.predictor.is_counterfactual else "attribution"
        return {"value": threshold["value"], "rule": threshold["rule"], "of": method}
    student, number, of = Stage(run.networks / "student", "").facts(trusted=int, abnormal=int), run.store.number, ""
    if number is not None:  # runs of earlier versions have the sum alone
        each = student.get("classes")
        student, of = (each[number], " of this class") if each else (student, " of all classes")
    rule = (
        f"half of what the student gives a pixel; it learnt from {student['trusted']} of {student['abnormal']} masks{of}, "
        f"made with {threshold['value']:.4f}: {threshold['rule']}"
    )
    rule += "".join(part.rule for part in run.predictor.parts)
    return {"value": run.predictor.segmenter.level, "rule": rule, "of": "student"}


def without_student(run: Run) -> list[str]:
    """The line that says that a class of several has no student, and why; none where it has one."""
    file = run.networks / "student" / "stage.json"
    if run.store.number is None or run.predictor.has_student or not has_student(run.work.settings) or not file.exists():
        return []
    name, each = run.store.meta["classes"][run.store.number], Stage(file.parent, "").facts().get("classes") or []
    trusted = f"only {each[run.store.number]['trusted']}" if each else "too few"
    return [f"no student for {name}: of its pseudo-masks {trusted} are trusted, {LEAST} are needed; its masks are coarser"]


def build(run: Run, scores: dict[str, Any], masks: dict[str, Any], command: str) -> dict[str, Any]:
    """The manifest of a finished run, with what `evaluate` and `write_masks` returned, and the command line.

    It begins with the verdict, and has what `facts` has, and seed, settings, data, inputs, model, timings_s, scores (null with
    the reason in null_because), audit, threshold, outputs (relative to the folder) and warnings.
    """
    root, settings = run.work.root, run.work.settings
    return {
        "verdict": verdict(root), **facts("run", command, None), "seed": settings.seed, "settings": as_yaml(settings.as_dict()),
        "data": counts(run), "inputs": inputs_of(run), "model": model_of(run.networks), "timings_s": timings(run, scores, masks),
        "scores": {name: value for name, value in scores.items() if name not in ("key", "seconds")},
        "audit": read_record(file, AUDIT) if (file := root / "evaluation" / "audit.json").exists() else None,
        "threshold": threshold_of(run), "outputs": OUTPUTS | {"mask_count": len(masks["masks"])},
        "warnings": [*warnings(run), *without_student(run), *unlike(masks["masks"])],
    }  # fmt: skip
