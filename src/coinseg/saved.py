"""A trained run as a folder: model.json and the weights beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from .classifier import build, load_weights, require_fits
from .counterfactual.generator import Generator
from .data.intensity import Window
from .engine import make_fabric
from .errors import UserError
from .methods import COUNTERFACTUAL
from .runs import Run
from .settings import own_module, require_named, settings_from
from .storage import read_json, write_json
from .student import Student, load_student

MODEL = "model.json"
_Number = int | float
_KEYS: dict[str, Any] = {
    "settings": dict, "kind": Literal["hu", "percentile"], "window": list[_Number],
    "organs": bool, "threshold": _Number,
}  # fmt: skip


def save(run: Run, root: Path) -> None:
    """Write what `load` needs beside the weights (which lie in classifier/, coin/ and student/)."""
    write_json(root / MODEL, {
        "schema": 1, "settings": run.settings.as_dict(), "kind": run.kind, "organs": run.organs,
        "window": [run.window.low, run.window.high], "threshold": run.threshold, "layer": run.layer,
        "student": run.student is not None,
    })  # fmt: skip


def _model(path: Path) -> dict[str, Any]:
    """The contents of model.json, every value of its kind."""
    model = {"layer": None, "student": False} | read_json(path, *_KEYS)
    from beartype.door import is_bearable

    wrong = [key for key, kind in (_KEYS | {"layer": str | None, "student": bool}).items() if not is_bearable(model[key], kind)]
    if not wrong:
        low, high = model["window"] if len(model["window"]) == 2 else (0.0, 0.0)
        wrong += ["window"] if not -1e9 < low < high < 1e9 else []
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
    settings = settings_from(model["settings"])
    require_named(settings.classifier, classifier, "--classifier")
    # The trained weights are here; pretrained ones are not looked for.
    wanted, generator = replace(settings.classifier, weights=None), None
    places = root / "classifier" / "model.safetensors", root / "coin" / "generator.safetensors"
    if not own_module(wanted):
        require_fits(lambda: build(wanted), places[0], "classifier")
    if settings.method == COUNTERFACTUAL:
        require_fits(lambda: Generator(settings.coin), places[1], "generator")
        generator = Generator(settings.coin)
        load_weights(generator, places[1], "generator")
    student = None
    if model["student"]:
        place = root / "student" / "model.safetensors"
        require_fits(lambda: Student(settings.student.members), place, "student")
        student = load_student(place, settings.student.members)
    f = build(wanted)
    load_weights(f, places[0], "classifier")
    engine = settings.engine if accelerator is None else settings_from({"engine": {"accelerator": accelerator}}).engine
    return Run(
        settings,
        f.frozen(),
        generator,
        model["kind"],
        Window(*model["window"]),
        model["organs"],
        model["threshold"],
        make_fabric(engine),
        model.get("layer"),
        student,
    )
