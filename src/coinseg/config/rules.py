"""Which settings do not fit one another: rules that need no data, as functions of the settings, checked before any work."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any

from coinseg.errors import EXTRAS

from .data_settings import DataSettings
from .method_settings import ClassifierSettings, CoinSettings
from .reading import NEAR, Fault, Group, read, refuse
from .schema import COUNTERFACTUAL, METHODS, EngineSettings, Settings

UNSUITED = ("64-true", "64", "bf16-true", "16-true")
"""Precisions of Fabric that turn the weights of what is trained into another type than those of the frozen f."""
PRECISIONS = ("32-true", "32", "bf16-mixed", "bf16", "16-mixed", "16", "transformer-engine", "transformer-engine-float16")
OWN = ("local", "small", "imagenet")
"""Classifiers of coinseg itself; any other is timm's, or "package.module:factory"."""


def of_method(settings: Settings) -> Iterator[Fault]:
    """A method there is none of, or one that has no counterfactual for the threshold that is asked for."""
    if settings.method not in METHODS:
        near = get_close_matches(settings.method, METHODS, 1, NEAR)
        do = f"did you mean {near[0]}?" if near else "choose one"
        yield Fault(("method",), f"method is '{settings.method}'", f"one of {', '.join(METHODS)}", do)
    elif settings.masks.threshold == "decision_flip" and settings.method != COUNTERFACTUAL:
        got = f"masks.threshold is decision_flip and method is {settings.method}"
        yield Fault(("method", "masks.threshold"), got, f"method {COUNTERFACTUAL} for it", "leave masks.threshold as it is")


def of_side(size: int, coin: CoinSettings) -> Iterator[Fault]:
    """A side in pixels that does not survive every halving, or skip connections that do not exist."""
    halvings = max(coin.depth, coin.discriminator_depth)
    if size % 2**coin.depth or size < 2**halvings:
        fitting = max(2**halvings, round(size / 2**coin.depth) * 2**coin.depth)
        names, got = (
            ("data.size", "coin.depth", "coin.discriminator_depth"),
            f"data.size is {size} and coin.depth is {coin.depth}",
        )
        do = f"set data.size to {fitting} or lower coin.depth"
        yield Fault(names, got, f"a side that is a multiple of {2**coin.depth}", do)
    if not 0 <= coin.skips <= coin.depth - 1:
        required = f"0 to coin.depth - 1 = {coin.depth - 1}"
        yield Fault(("coin.skips", "coin.depth"), f"coin.skips is {coin.skips}", required, "lower coin.skips")


def of_classifier(classifier: ClassifierSettings) -> Iterator[Fault]:
    """Pretrained weights for a classifier that reads none."""
    name, weights = classifier.name, classifier.weights
    if weights is not None and not name == weights == "imagenet" and (name in OWN or ":" in name):
        got = f"classifier.weights is {weights} and classifier.name is {name}, which does not read it"
        required = "a timm model's name beside its weights, or imagenet for both"
        yield Fault(("classifier.name", "classifier.weights"), got, required, "mend one of the two")


def of_region(data: DataSettings, injected: bool) -> Iterator[Fault]:
    """Crops of single organs, with labels that belong to whole slices."""
    if data.roi == "each" and not injected:
        got = "data.roi is each and the labels are those of whole slices"
        yield Fault(("data.roi", "anomaly.kind"), got, "labels that belong to the crop", "set data.roi to organ")


def of_tiles(data: DataSettings, injected: bool) -> Iterator[Fault]:
    """Tiles of what is cut in another way already, or whose labels are not those of whole images."""
    misfits = {
        "data.roi": (data.roi != "none", data.roi, "whole slices to cut", "none"),
        "data.spacing": (data.spacing > 0, f"{data.spacing:g}", "slices on their own grid", "0"),
        "anomaly.kind": (injected, "blob", "labels of whole images", "none"),
    }
    for name, (wrong, value, required, fitting) in misfits.items():
        if data.tile and wrong:
            got = f"data.tile is {data.tile} and {name} is {value}"
            yield Fault(("data.tile", name), got, required, f"set {name} to {fitting}, or data.tile to 0")


def of_organs(coin: CoinSettings, has_organs: bool) -> Iterator[Fault]:
    """A reconstruction loss over the organ where the data, which are known by now, have no organ masks."""
    if coin.regions == "organ" and not has_organs:
        got = "coin.regions is organ and the data have no organ masks"
        yield Fault(("coin.regions",), got, "organ masks", "set coin.regions to none")


def of_classes(settings: Settings, classes: int) -> Iterator[Fault]:
    """What COIN knows of one class only, where there are several; how many is known once the data are read."""
    coin = settings.coin
    misfits = {
        "informed": (coin.informed, "true", "one class, of which the discriminator is told", "false"),
        "keep_normal": (coin.keep_normal, "true", "one class, without which an image is normal", "false"),
        "conditions": (coin.conditions > 1, coin.conditions, "COIN for several classes, which are its conditions", "1"),
    }
    for name, (wrong, value, required, fitting) in misfits.items():
        if wrong and classes > 1 and settings.method == COUNTERFACTUAL:
            got = f"coin.{name} is {value} and there are {classes} classes"
            yield Fault((f"coin.{name}",), got, required, f"set coin.{name} to {fitting}, or name one class in data.classes")


def of_ranges(group: str, part: Any) -> list[Fault]:
    """Values of one group of settings that are of the wrong type or out of their range."""
    return read({group: asdict(part)}, Settings())[1]


def of_student(settings: Settings) -> Iterator[Fault]:
    """A student of a counterfactual method without mirror images, which say how far its masks can be trusted."""
    if settings.method == COUNTERFACTUAL and settings.student.steps and not settings.masks.hflip:
        got = f"masks.hflip is false and student.steps is {settings.student.steps}"
        required = "mirror images for a student, which learns only from masks that can be trusted"
        do = "set masks.hflip to true, or student.steps to 0"
        yield Fault(("method", "student.steps", "masks.hflip"), got, required, do)


def of_engine(engine: EngineSettings) -> Iterator[Fault]:
    """A precision that the trainings cannot take."""
    if engine.precision not in PRECISIONS:
        needed = "weights and images in single precision" if engine.precision in UNSUITED else "a precision of Lightning Fabric"
        got = f"engine.precision is '{engine.precision}'"
        yield Fault(("engine.precision",), got, needed, "32-true, bf16-mixed or 16-mixed")


def of_extras(settings: Settings) -> Iterator[Fault]:
    """A method, a classifier or a logger whose library is not installed; asked before a training, not when it is over."""
    name, method = settings.classifier.name, settings.method
    asked = [("classifier.name", name, "timm", name not in OWN and ":" not in name)]
    asked += [("method", method, "attribution", method not in (COUNTERFACTUAL, "rise"))]
    for setting, value, extra, wanted in asked:
        if wanted and any(find_spec(module) is None for module in EXTRAS[extra][1]):
            yield Fault((setting,), f"{setting} is {value}", f"the extra {extra}", f"pip install 'coinseg[{extra}]'")
    if (logger := settings.engine.logger) in LOGGERS and find_spec(logger) is None:
        do = "pip install 'coinseg[tensorboard]'" if logger in EXTRAS else f"pip install {logger}"
        yield Fault(("engine.logger",), f"engine.logger is {logger}", f"{logger}, which is not installed", f"{do}, or set csv")


def of_tables(settings: Settings) -> Iterator[Fault]:
    """A threshold that not every method of the thesis' tables has, or tiles; asked for `coinseg reproduce` alone."""
    if settings.masks.threshold == "decision_flip":
        do = "leave it, or use coinseg run"
        yield Fault(("masks.threshold",), "masks.threshold is decision_flip", "a rule that every method of the tables has", do)
    if settings.data.tile:
        got = f"data.tile is {settings.data.tile}"
        yield Fault(("data.tile",), got, "whole slices, as in the thesis", "leave it at 0, or use coinseg run")
    if settings.data.size == "auto":
        yield Fault(("data.size",), "data.size is auto", "a number, the same for every table", "give one, such as 96")


LOGGERS = ("tensorboard", "wandb", "mlflow")
"""Values of `engine.logger` that are libraries."""
RULES: tuple[Callable[[Settings], Iterator[Fault]], ...] = (
    of_method,
    lambda s: of_side(2 ** max(s.coin.depth, s.coin.discriminator_depth) if s.data.size == "auto" else s.data.size, s.coin),
    lambda s: of_classifier(s.classifier),
    lambda s: of_region(s.data, injected=s.anomaly.kind != "none"),
    lambda s: of_tiles(s.data, injected=s.anomaly.kind != "none"),
    of_student,
    lambda s: of_engine(s.engine),
)


def judged(values: dict[str, Any], base: Group, groups: Sequence[str] = ()) -> tuple[Group, list[Fault]]:
    """The settings of nested dictionaries, and everything that is wrong with them: types, ranges, and what does not fit.

    Args:
        values: name -> value, or -> the values of a group.
        base: what is missing or wrong keeps its value from here.
        groups: only rules among these groups, such as "data", are checked; () is all.
    """
    settings, faults = read(values, base)
    wrong = {name for fault in faults for name in fault.names}
    for fault in (fault for rule in RULES for fault in rule(settings)) if isinstance(settings, Settings) else ():
        if wrong.isdisjoint(fault.names) and (not groups or {name.split(".")[0] for name in fault.names} <= set(groups)):
            faults.append(fault)
    return settings, faults


def faults(settings: Settings) -> list[Fault]:
    """Everything that is wrong with settings."""
    return judged(settings.as_dict(), Settings())[1]


def require_consistent(settings: Settings) -> None:
    """Raise one `UserError` that names every fault of the settings, see `judged`."""
    refuse(faults(settings))
