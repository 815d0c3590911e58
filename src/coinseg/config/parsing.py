"""Settings as people give them: read from nested mappings, compared; and the presets."""

from dataclasses import replace
from typing import Any

from coinseg.errors import UserError

from .declare import declarations
from .reading import Fault, read, refuse
from .rules import judged
from .schema import ClassifierSettings, Settings

_DEFAULT = Settings()

PRESETS: dict[str, Settings] = {
    "default": _DEFAULT,
    # 256x256 with the authors' networks and losses, and what the thesis says of optimiser and batches; wants a GPU, and for the
    # ImageNet weights of f a network or a file. A test holds every difference against docs/research/differences.md.
    "thesis": replace(
        _DEFAULT, data=replace(_DEFAULT.data, size=256),
        classifier=replace(
            _DEFAULT.classifier, name="resnet18.tv_in1k", weights="timm", batch=16, lr=2e-4, beta1=0.0, beta2=0.9, steps=20_000,
            weight_decay=0.0, blur=0.0, noise=0.0, balanced=False,
        ),
        coin=replace(
            _DEFAULT.coin, width=64, depth=5, skips=4, discriminator_width=64, discriminator_depth=5,
            late_widening=True, pooling="first", stem="relu_norm", bias=False, spectral_shortcuts=True, spectral_embedding=False,
            identity_shortcut=True, zero_start=False, informed=True, fusion="tanh", adversarial=1.0, classifier=5.0,
            keep_normal=True, identity=2.0, cycle=1.0, tv=0.05, balanced=False, hflip=False, batch=16, lr=2e-4,
            decay=False, beta1=0.0, beta2=0.9, generator_every=5, steps=150_000, ema=0.0,
        ),
        attribution=replace(_DEFAULT.attribution, masks=6000, probability=0.1, hidden="grey", weigh="probability"),
        masks=replace(_DEFAULT.masks, refine="none", hflip=False, peak=0.0, opening=3, keep="largest"),
        student=replace(_DEFAULT.student, steps=0),
    ),
}  # fmt: skip


def settings_from(values: dict[str, Any], base: Settings = _DEFAULT) -> Settings:
    """Settings from nested dictionaries (YAML, JSON); what is missing keeps its value from `base`.

    Raises:
        UserError: one for everything that is wrong: unknown names, values of the wrong type or out of range, and misfits.
    """
    settings, faults = judged(values, base)
    refuse(faults)
    return settings


def stored_settings(values: dict[str, Any]) -> Settings:
    """The settings of a folder that coinseg wrote; `UserError` for an unknown name, a wrong type or a value out of its range."""
    settings, faults = read(values, _DEFAULT, aloud=False)
    sides = {"data.size": settings.data.size, "data.tile": settings.data.tile}
    chosen = "the number that was chosen"
    refuse([*faults, *(Fault((name,), f"{name} is auto", chosen, "put it there") for name in sides if sides[name] == "auto")])
    return settings


def own_module(settings: ClassifierSettings) -> str | None:
    """The module of the user's own factory, whose code `classifier.build` runs; None where there is none."""
    name, separator, _ = settings.name.partition(":")
    return name if separator else None


def require_named(settings: ClassifierSettings, named: str | None, how: str) -> None:
    """Raise `UserError` where settings of a file name a module of their own, whose code is run, and the user does not.

    Args:
        settings: as read from the file.
        named: the factory the user names.
        how: the option that names one.
    """
    if own_module(settings) and settings.name != named:
        got = f"the classifier is '{settings.name}', a module of its own, and the command does not name it"[:500]
        raise UserError(got, f"{how} {settings.name}", "add it if you trust that module: its code is run")


def setting_names() -> list[str]:
    """The dotted names of all settings."""
    return [each.name for each in declarations(_DEFAULT)]


def differences(one: Any, other: Any) -> list[str]:
    """What differs between two settings, as "name: one -> other"; the engine is never part of it."""
    pairs = zip(declarations(one), declarations(other), strict=True)
    return [f"{a.name}: {a.value} -> {b.value}" for a, b in pairs if a.value != b.value and not a.name.startswith("engine.")]


OPINION = "opinion"
"""Folder of the classifier on ImageNet features, in the folder of the run."""


def teacher_folders(settings: Settings) -> list[str]:
    """Folders of the second and further teachers of a student, in the folder of the run."""
    return [f"teacher-{number}" for number in range(2, settings.student.teachers + 1)]


def asks_opinion(settings: Settings) -> bool:
    """Whether the classifier on ImageNet features is trained; not where f is given and no classifier is trained."""
    return settings.student.imagenet_steps > 0 and settings.classifier.steps > 0


def opinion_settings(settings: Settings) -> Settings:
    """The settings of the classifier on ImageNet features, with the rates of the student, which begins with the same ones."""
    student = settings.student
    classifier = replace(
        settings.classifier, name="imagenet", weights="imagenet", steps=student.imagenet_steps, lr=student.lr, weight_decay=1e-2,
        batch=student.batch,
    )  # fmt: skip
    return replace(settings, classifier=classifier)
