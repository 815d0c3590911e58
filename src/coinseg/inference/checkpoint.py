"""A trained run as a folder: model.json and the weights beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from coinseg.config.parsing import OPINION, opinion_settings, own_module, require_named, stored_settings, teacher_folders
from coinseg.config.schema import ClassifierSettings
from coinseg.data.slices.intensity import Window
from coinseg.errors import UserError
from coinseg.explain.counterfactual.generator import Generator
from coinseg.explain.registry import COUNTERFACTUAL
from coinseg.networks.classifier import Classifier, build
from coinseg.networks.patchcore import load_patchcore
from coinseg.networks.unet import Student, load_student
from coinseg.networks.weights import load_weights, require_fits
from coinseg.runtime.devices import make_fabric
from coinseg.runtime.files import read_json, write_json

from .image_score import ImageScore
from .scans import Run
from .slice_hmm import are_transitions

MODEL = "model.json"
_Number = int | float
_KEYS: dict[str, Any] = {
    "settings": dict, "kind": Literal["hu", "percentile"], "window": list[_Number],
    "organs": bool, "threshold": _Number,
}  # fmt: skip


def others_of(run: Run) -> list[str]:
    """Where the classifiers lie that are asked beside f whether there is a lesion, in the folder of the run."""
    if run.posterior is None:
        return []
    return teacher_folders(run.settings) + [OPINION] * (cast(ImageScore, run.posterior).opinion is not None)


def save(run: Run, root: Path) -> None:
    """Write what `load` needs beside the weights (which lie in classifier/, coin/ and student/)."""
    write_json(root / MODEL, {
        "schema": 1, "settings": run.settings.as_dict(), "kind": run.kind, "organs": run.organs,
        "window": [run.window.low, run.window.high], "threshold": run.threshold, "layer": run.layer,
        "student": run.student is not None, "prior_shift": None if run.posterior is None else run.posterior.shift,
        "opinion": OPINION in others_of(run), "novelty": run.novelty is not None,
        "steps": None if run.steps is None else run.steps.tolist(),
    })  # fmt: skip


def _model(path: Path) -> dict[str, Any]:
    """The contents of model.json, every value of its kind."""
    model = {"layer": None, "student": False, "prior_shift": None, "opinion": False, "novelty": False, "steps": None} | read_json(
        path, *_KEYS
    )
    from beartype.door import is_bearable

    kinds = _KEYS | {
        "layer": str | None,
        "student": bool,
        "prior_shift": _Number | None,
        "opinion": bool,
        "novelty": bool,
        "steps": list[list[float]] | None,
    }
    wrong = [key for key, kind in kinds.items() if not is_bearable(model[key], kind)]
    if not wrong:
        low, high = model["window"] if len(model["window"]) == 2 else (0.0, 0.0)
        wrong += ["window"] if not -1e9 < low < high < 1e9 else []
        wrong += ["prior_shift"] if not abs(model["prior_shift"] or 0) < 1e3 else []
        wrong += ["steps"] if model["steps"] is not None and not are_transitions(model["steps"]) else []
        wrong += ["threshold"] if not 0 <= model["threshold"] <= 2 else []
    if wrong:
        raise UserError(f"{path} has a wrong {wrong[0]}", "a file coinseg wrote", "take the folder as coinseg left it")
    return dict(model)


def load(root: str | Path, accelerator: str | None = None, classifier: str | None = None) -> Run:
    """Load a finished run. No code comes from its folder: weights are safetensors, settings plain values.

    Args:
        root: the output folder of `coinseg run` or `coinseg export`.
        accelerator: "cpu" or "cuda" instead of what the run was trained on.
        classifier: "package.module:factory" where the run was trained with one of your own; its code is run, so a folder that
            names one is refused unless you name it too.

    Raises:
        UserError: the folder is not a run, its weights do not fit its settings, or it names a module that is not named here.
    """
    root = Path(root)
    if not (root / MODEL).exists():
        raise UserError(f"{root} has no {MODEL}", "the output folder of a finished `coinseg run`", "train first, or mend --model")
    model = _model(root / MODEL)
    settings = stored_settings(model["settings"])
    require_named(settings.classifier, classifier, "--classifier")
    # The trained weights are here; pretrained ones are not looked for.
    wanted = replace(settings.classifier, weights=None)
    f = _classifier(wanted, root)
    generator = student = posterior = novelty = None
    if settings.method == COUNTERFACTUAL:
        place = root / "coin" / "generator.safetensors"
        require_fits(lambda: Generator(settings.coin), place, "generator")
        generator = Generator(settings.coin)
        load_weights(generator, place, "generator")
    if model["student"]:
        place = root / "student" / "model.safetensors"
        require_fits(lambda: Student(settings.student.members), place, "student")
        student = load_student(place, settings.student.members)
    if student is not None and model["prior_shift"] is not None:  # runs from before decision 0023 have none, and f alone decides
        others = [_classifier(wanted, root / name) for name in teacher_folders(settings)]
        opinion = (
            _classifier(replace(opinion_settings(settings).classifier, weights=None), root / OPINION)
            if model["opinion"]
            else None
        )
        posterior = ImageScore([f, *others], model["prior_shift"], opinion)
    if student is not None and model["novelty"]:
        novelty = load_patchcore(root / "novelty" / "model.safetensors")
    engine = settings.engine if accelerator is None else stored_settings({"engine": {"accelerator": accelerator}}).engine
    return Run(
        settings,
        f,
        generator,
        model["kind"],
        Window(*model["window"]),
        model["organs"],
        model["threshold"],
        make_fabric(engine),
        model.get("layer"),
        student,
        posterior,
        novelty,
        None if posterior is None or model["steps"] is None else np.array(model["steps"]),
    )


def _classifier(settings: ClassifierSettings, root: Path) -> Classifier:
    """The trained classifier of a run or of a teacher, frozen."""
    place = root / "classifier" / "model.safetensors"
    if not own_module(settings):
        require_fits(lambda: build(settings), place, "classifier")
    f = build(settings)
    load_weights(f, place, "classifier")
    return f.frozen()
