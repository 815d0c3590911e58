"""A trained run as a folder: model.json and weights as safetensors; no code is read from it."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from coinseg.config.parsing import require_named, stored_settings, teacher_folders
from coinseg.data.slices.channels import GREY
from coinseg.data.slices.intensity import Window
from coinseg.data.slices.store import MOST_CHANNELS
from coinseg.data.slices.trained_on import TrainedOn
from coinseg.errors import UserError
from coinseg.explain.counterfactual.generator import build_generator
from coinseg.explain.registry import COUNTERFACTUAL
from coinseg.networks.classes import generator_of, logit_of, map_of
from coinseg.networks.classifier import load_classifier
from coinseg.networks.unet import Student, load_student
from coinseg.networks.weights import load_weights, require_fits
from coinseg.parts import table
from coinseg.parts.slice_hmm import are_transitions
from coinseg.runtime.devices import choose_device
from coinseg.runtime.files import damaged, read_json
from coinseg.runtime.records import MAX_RECORD, fits, require_intact, write_record

from . import distribution
from .classes import ClassPredictors, predictors_of
from .explainer import Explainer
from .predictor import Predictor, Preparation
from .table import class_folder

MODEL = "model.json"
SCHEMA = 2
F = Path("classifier") / "model.safetensors"
GENERATOR = Path("coin") / "generator.safetensors"
STUDENT = Path("student") / "model.safetensors"
_KEYS: dict[str, Any] = {
    "settings": dict, "kind": Literal["hu", "percentile", "8bit"], "window": tuple[float, float], "organs": bool,
    "threshold": float,
}  # fmt: skip
# Keys that older runs do not have: their kind and what is meant then.
_LATER: dict[str, tuple[Any, Any]] = {
    "layer": (str | None, None), "student": (bool, False), "prior_shift": (float | None, None), "parts": (dict[str, dict], {}),
    "trained_on": (dict[str, Any] | None, None), "distribution": (bool, False), "channels": (list[str], list(GREY)),
    "classes": (list[dict[str, Any]], []),
}  # fmt: skip
# Keys of schema 1 whose place `parts` took, likewise.
_FIRST: dict[str, tuple[Any, Any]] = {
    "opinion": (bool, False), "novelty": (bool, False), "steps": (list | None, None),
}  # fmt: skip


def save(trained: Predictor | ClassPredictors, root: Path) -> None:
    """Write what `load` needs beside the weights (`weights_of`)."""
    predictors = predictors_of(trained)
    first = next(iter(predictors.values()))
    with_student = next((one for one in predictors.values() if one.has_student), None)
    preparation, known = first.preparation, first.preparation.trained_on
    of_classes = [{"name": name, **_of_class(predictor)} for name, predictor in predictors.items()]
    write_record(root / MODEL, {
        "schema": SCHEMA, "settings": first.settings.as_dict(), "kind": preparation.kind, "organs": preparation.organs,
        "window": [preparation.window.low, preparation.window.high], "student": with_student is not None,
        **_of_class(with_student or first),
        "trained_on": known and known.as_dict(), "distribution": first.distribution is not None,
        "channels": list(preparation.channels), "classes": [] if isinstance(trained, Predictor) else of_classes,
    })  # fmt: skip


def _of_class(predictor: Predictor) -> dict[str, Any]:
    """What one class has of its own in model.json."""
    return {
        "threshold": predictor.threshold, "layer": predictor.explainer.layer,
        "prior_shift": predictor.image_score.shift if predictor.has_student else None,
        "parts": {part.name: part.state() for part in predictor.parts},
    }  # fmt: skip


def weights_of(root: Path) -> list[str]:
    """The files of weights that the model of a run or an export is made of, below its folder."""
    model = read_model(root / MODEL)
    settings = stored_settings(model["settings"])
    names = [F, GENERATOR] if settings.method == COUNTERFACTUAL else [F]
    names += [Path(distribution.FOLDER) / distribution.WEIGHTS] if model["distribution"] else []
    if model["student"]:
        names += [STUDENT, *(Path(name) / F for name in teacher_folders(settings) if model["prior_shift"] is not None)]
        for one in model["classes"] or [model | {"name": ""}]:
            folder = Path(class_folder(one["name"]) if one["name"] else "")
            names += [folder / part.folder / part.weights for part in table.PARTS if part.weights and part.name in one["parts"]]
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
    wrong += ["classes"] if not wrong and not all(map(_is_class, model["classes"])) else []
    if not wrong:
        low, high = model["window"]
        in_range = {
            "window": -1e9 < low < high < 1e9, "prior_shift": abs(model["prior_shift"] or 0) < 1e3,
            "threshold": 0 <= model["threshold"] <= 2,
            "steps": "steps" not in optional or model["steps"] is None or are_transitions(model["steps"]),
            "channels": 0 < len(model["channels"]) <= MOST_CHANNELS,
            "parts": set(model["parts"]) <= {part.name for part in table.PARTS},
            "trained_on": model["trained_on"] is None or TrainedOn.read(model["trained_on"]) is not None,
        }  # fmt: skip
        wrong = [key for key, right in in_range.items() if not right]
    if wrong:
        raise damaged(path, f"it has a wrong {wrong[0]}")
    return _upgraded(model)


def _is_class(one: dict[str, Any]) -> bool:
    """Whether a class of model.json has what it needs, every value of its kind."""
    kinds = {"name": str, "threshold": float, "layer": str | None, "prior_shift": float | None, "parts": dict[str, dict]}
    if set(one) != set(kinds) or not all(fits(one[key], kind) for key, kind in kinds.items()):
        return False
    right = 0 <= one["threshold"] <= 2 and abs(one["prior_shift"] or 0) < 1e3 and bool(one["name"])
    return right and set(one["parts"]) <= {part.name for part in table.PARTS}


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
) -> Predictor | ClassPredictors:
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
    if not str(root):
        raise UserError("no folder of a run, but an empty word", "the output folder of a finished `coinseg run`", "give it")
    root = Path(root)
    if not (root / MODEL).exists():
        raise UserError(f"{root} has no {MODEL}", "the output folder of a finished `coinseg run`", "train first, or mend --model")
    model = read_model(root / MODEL)
    engine = dict(engine or {}) | ({} if accelerator is None else {"accelerator": accelerator})
    predictor = _loaded(model, root, engine, classifier)
    if model.get("schema") == SCHEMA:  # before it there were no checksums; last, because every other fault says more
        require_intact(root / MODEL)
    return predictor


def _loaded(model: dict[str, Any], root: Path, engine: dict[str, Any], classifier: str | None) -> Predictor | ClassPredictors:
    try:
        settings = stored_settings(model["settings"])
    except UserError as error:
        if error.got.startswith("unknown setting"):  # no coinseg of this schema wrote it
            raise damaged(root / MODEL, error.got) from error
        raise
    channels, classes = tuple(model["channels"]), len(model["classes"]) or 1
    settings = replace(settings, engine=stored_settings({"engine": asdict(settings.engine) | engine}).engine)
    require_named(settings.classifier, classifier, "--classifier")
    wanted = replace(settings.classifier, weights=None)  # the trained weights are here; pretrained ones are not looked for
    side, depth = settings.data.side, len(channels)
    f, generator = load_classifier(wanted, root / F, side, depth, classes), None
    if settings.method == COUNTERFACTUAL:
        require_fits(lambda: build_generator(settings.coin, depth, classes), root / GENERATOR, "generator")
        generator = build_generator(settings.coin, depth, classes)
        load_weights(generator, root / GENERATOR, "generator")
    known = TrainedOn.read(model["trained_on"])
    preparation = Preparation(model["kind"], Window(*model["window"]), model["organs"], known, channels)
    fitted = distribution.Distribution.load(root) if model["distribution"] else None
    student, others = None, []
    if model["student"]:
        require_fits(lambda: Student(settings.student.networks, depth, classes), root / STUDENT, "student")
        student = load_student(root / STUDENT, settings.student.networks, depth, classes)
        if model["prior_shift"] is not None:  # None in runs from before decision 0023: f alone decides
            others = [load_classifier(wanted, root / name / F, side, depth, classes) for name in teacher_folders(settings)]

    def of_class(number: int, one: dict[str, Any], folder: Path) -> Predictor:
        own_f, own_generator = logit_of(f, number, classes), generator_of(generator, number, classes)
        explainer = Explainer(settings, own_f, own_generator, choose_device(settings.engine), one["layer"], depth)
        if student is None or (model["classes"] and one["prior_shift"] is None):  # of several classes a rare one has none
            return replace(Predictor.of(explainer, preparation, one["threshold"]), distribution=fitted)
        scorers = [logit_of(other, number, classes) for other in others]
        named = [part for part in table.PARTS if part.name in one["parts"]]
        parts = [part.load(settings, one["parts"][part.name], folder) for part in named]
        # Older runs were moved towards abnormal, too, which `parts.slice_hmm.smooth` no longer counts on.
        own_student, shift = map_of(student, number, classes), min(0.0, one["prior_shift"] or 0.0)
        made = Predictor.of(explainer, preparation, one["threshold"], own_student, scorers, shift, parts)
        return replace(made, distribution=fitted)

    if not model["classes"]:
        return of_class(0, model, root)
    return ClassPredictors({
        one["name"]: of_class(i, one, root / class_folder(one["name"])) for i, one in enumerate(model["classes"])
    })  # fmt: skip
