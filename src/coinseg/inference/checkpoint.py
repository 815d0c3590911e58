"""A trained run as a folder: model.json and weights as safetensors; no code is read from it."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from coinseg.config.parsing import require_named, stored_settings, teacher_folders
from coinseg.data.slices.intensity import Window
from coinseg.data.slices.trained_on import TrainedOn
from coinseg.errors import UserError
from coinseg.explain.counterfactual.generator import Generator
from coinseg.explain.registry import COUNTERFACTUAL
from coinseg.networks.classifier import load_classifier
from coinseg.networks.unet import Student, load_student
from coinseg.networks.weights import load_weights, require_fits
from coinseg.parts import table
from coinseg.parts.slice_hmm import are_transitions
from coinseg.runtime.devices import choose_device
from coinseg.runtime.files import damaged, read_json
from coinseg.runtime.records import MAX_RECORD, fits, require_intact, write_record

from . import distribution
from .explainer import Explainer
from .predictor import Predictor, Preparation

MODEL = "model.json"
SCHEMA = 2
F = Path("classifier") / "model.safetensors"
GENERATOR = Path("coin") / "generator.safetensors"
STUDENT = Path("student") / "model.safetensors"
_KEYS: dict[str, Any] = {
    "settings": dict, "kind": Literal["hu", "percentile"], "window": tuple[float, float], "organs": bool, "threshold": float,
}  # fmt: skip
# Keys that older runs do not have: their kind and what is meant then.
_LATER: dict[str, tuple[Any, Any]] = {
    "layer": (str | None, None), "student": (bool, False), "prior_shift": (float | None, None), "parts": (dict[str, dict], {}),
    "trained_on": (dict[str, Any] | None, None), "distribution": (bool, False),
}  # fmt: skip
# Keys of schema 1 whose place `parts` took, likewise.
_FIRST: dict[str, tuple[Any, Any]] = {
    "opinion": (bool, False), "novelty": (bool, False), "steps": (list | None, None),
}  # fmt: skip


def save(predictor: Predictor, root: Path) -> None:
    """Write what `load` needs beside the weights (`weights_of`)."""
    preparation, has_student = predictor.preparation, predictor.has_student
    write_record(root / MODEL, {
        "schema": SCHEMA, "settings": predictor.settings.as_dict(), "kind": preparation.kind, "organs": preparation.organs,
        "window": [preparation.window.low, preparation.window.high], "threshold": predictor.threshold,
        "layer": predictor.explainer.layer, "student": has_student,
        "prior_shift": predictor.image_score.shift if has_student else None,
        "parts": {part.name: part.state() for part in predictor.parts},
        "trained_on": preparation.trained_on and preparation.trained_on.as_dict(),
        "distribution": predictor.distribution is not None,
    })  # fmt: skip


def weights_of(root: Path) -> list[str]:
    """The files of weights that the model of a run or an export is made of, below its folder."""
    model = read_model(root / MODEL)
    settings = stored_settings(model["settings"])
    names = [F, GENERATOR] if settings.method == COUNTERFACTUAL else [F]
    names += [Path(distribution.FOLDER) / distribution.WEIGHTS] if model["distribution"] else []
    if model["student"]:
        names += [STUDENT, *(Path(name) / F for name in teacher_folders(settings) if model["prior_shift"] is not None)]
        names += [Path(part.folder) / part.weights for part in table.PARTS if part.weights and part.name in model["parts"]]
    return [name.as_posix() for name in names]


def read_model(path: Path) -> dict[str, Any]:
    """The contents of model.json, every value of its kind, in the present schema.

    Raises:
        UserError: a value is missing or of another kind.
    """
    model = read_json(path, MAX_RECORD)
    schema = model.get("schema", SCHEMA) if isinstance(model, dict) else SCHEMA
    if fits(schema, int) and schema > SCHEMA:
        raise UserError(f"{path} has schema {schema}", f"schema {SCHEMA} or lower", "use the later coinseg that wrote it")
    if not isinstance(model, dict) or (missing := [key for key in _KEYS if key not in model]):
        raise damaged(path, f"it has no {missing[0]}" if isinstance(model, dict) else "it is no object of JSON")
    optional = _LATER | (_FIRST if schema == 1 else {})
    model = {name: default for name, (_, default) in optional.items()} | model
    kinds = _KEYS | {name: kind for name, (kind, _) in optional.items()}
    wrong = [key for key, kind in kinds.items() if not fits(model[key], kind)]
    wrong += [] if schema in (1, 2) and fits(schema, int) else ["schema"]
    if not wrong:
        low, high = model["window"]
        in_range = {
            "window": -1e9 < low < high < 1e9, "prior_shift": abs(model["prior_shift"] or 0) < 1e3,
            "threshold": 0 <= model["threshold"] <= 2,
            "steps": "steps" not in optional or model["steps"] is None or are_transitions(model["steps"]),
            "parts": set(model["parts"]) <= {part.name for part in table.PARTS},
            "trained_on": model["trained_on"] is None or TrainedOn.read(model["trained_on"]) is not None,
        }  # fmt: skip
        wrong = [key for key, right in in_range.items() if not right]
    if wrong:
        raise damaged(path, f"it has a wrong {wrong[0]}")
    return _upgraded(model)


def _upgraded(model: dict[str, Any]) -> dict[str, Any]:
    """model.json of schema 1 in the present one: its parts were keys of their own."""
    if model.get("schema") != 1:
        return model
    parts: dict[str, Any] = {"patchcore": {}} if model["novelty"] else {}
    if model["prior_shift"] is not None:  # without one f alone decides
        parts |= {"imagenet_classifier": {}} if model["opinion"] else {}
        parts |= {} if model["steps"] is None else {"slice_hmm": {"transitions": model["steps"]}}
    return model | {"parts": parts}


def load(
    root: str | Path, accelerator: str | None = None, classifier: str | None = None, engine: Mapping[str, Any] | None = None
) -> Predictor:
    """Load a finished run.

    Args:
        root: the output folder of `coinseg run` or `coinseg export`.
        accelerator: "cpu" or "cuda" instead of what the run was trained on.
        engine: settings of the engine by name, such as {"threads": 1}, in the place of those of the run.
        classifier: "package.module:factory" of your own classifier, whose code is run; required where the run names one.

    Raises:
        UserError: the folder is not a run, its weights do not fit its settings, it is damaged, or it names a module that is not
            named here.
    """
    root = Path(root)
    if not (root / MODEL).exists():
        raise UserError(f"{root} has no {MODEL}", "the output folder of a finished `coinseg run`", "train first, or mend --model")
    model = read_model(root / MODEL)
    engine = dict(engine or {}) | ({} if accelerator is None else {"accelerator": accelerator})
    predictor = _loaded(model, root, engine, classifier)
    if model.get("schema") == SCHEMA:  # before it there were no checksums; last, because every other fault says more
        require_intact(root / MODEL)
    return predictor


def _loaded(model: dict[str, Any], root: Path, engine: dict[str, Any], classifier: str | None) -> Predictor:
    settings = stored_settings(model["settings"])
    settings = replace(settings, engine=stored_settings({"engine": asdict(settings.engine) | engine}).engine)
    require_named(settings.classifier, classifier, "--classifier")
    wanted = replace(settings.classifier, weights=None)  # the trained weights are here; pretrained ones are not looked for
    side = settings.data.size
    f = load_classifier(wanted, root / F, side)
    generator = None
    if settings.method == COUNTERFACTUAL:
        require_fits(lambda: Generator(settings.coin), root / GENERATOR, "generator")
        generator = Generator(settings.coin)
        load_weights(generator, root / GENERATOR, "generator")
    explainer = Explainer(settings, f, generator, choose_device(settings.engine), model["layer"])
    preparation = Preparation(model["kind"], Window(*model["window"]), model["organs"], TrainedOn.read(model["trained_on"]))
    known = distribution.Distribution.load(root) if model["distribution"] else None
    if not model["student"]:
        return replace(Predictor.of(explainer, preparation, model["threshold"]), distribution=known)
    require_fits(lambda: Student(settings.student.networks), root / STUDENT, "student")
    student = load_student(root / STUDENT, settings.student.networks)
    others, shift = [], 0.0
    if model["prior_shift"] is not None:  # None in runs from before decision 0023: f alone decides
        others, shift = (
            [load_classifier(wanted, root / name / F, side) for name in teacher_folders(settings)],
            model["prior_shift"],
        )
    parts = [part.load(settings, model["parts"][part.name], root) for part in table.PARTS if part.name in model["parts"]]
    return replace(Predictor.of(explainer, preparation, model["threshold"], student, others, shift, parts), distribution=known)
