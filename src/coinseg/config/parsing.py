"""Settings as people give them: read from nested mappings, named by dots, compared; and the presets.

An unknown key is an error with the nearest known name.
"""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from typing import Any, get_type_hints

from coinseg.errors import UserError

from .schema import ClassifierSettings, Settings

_DEFAULT = Settings()

PRESETS: dict[str, Settings] = {
    "default": _DEFAULT,
    # 256x256 with the authors' networks, losses and optimiser; wants a GPU.
    "thesis": replace(
        _DEFAULT,
        classifier=replace(_DEFAULT.classifier, name="resnet18", batch=128, lr=1e-3, steps=20_000, weight_decay=0.0, blur=0.0, noise=0.0),
        coin=replace(
            _DEFAULT.coin, width=64, depth=5, skips=4, discriminator_width=64, discriminator_depth=5,
            fusion="tanh", adversarial=1.0, classifier=5.0, identity=1.0, cycle=1.0, tv=0.05,
            batch=16, lr=2e-4, decay=False, beta1=0.0, beta2=0.9, generator_every=5, steps=150_000, ema=0.0,
        ),
        masks=replace(_DEFAULT.masks, refine="none", flips=False, peak=0.0),
        student=replace(_DEFAULT.student, steps=0),
    ),
}  # fmt: skip


_STEPS, _SIDE, _SHARE, _FACTOR = (1, 10**9), (1, 8192), (0, 1), (0, 1e6)
RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**32 - 1),
    "data.size": (1, 4096), "data.spacing": (0, 100), "data.roi_margin": (0, 10), "data.min_organ_px": (0, 2**31),
    "data.min_lesion_px": (0, 2**31), "data.validation": _SHARE,
    "anomaly.probability": _SHARE, "anomaly.template": _SIDE, "anomaly.sigma": (1e-3, 100), "anomaly.alpha": (-100, 100),
    "anomaly.level": (-100, 100),
    "classifier.pooling": _SHARE, "classifier.steps": _STEPS, "classifier.batch": _SIDE, "classifier.lr": _FACTOR,
    "classifier.weight_decay": _FACTOR, "classifier.shift": _SHARE, "classifier.scale": (0, 0.99), "classifier.rotate": (0, 360),
    "classifier.blur": (0, 100), "classifier.noise": (0, 100), "classifier.threshold": _SHARE,
    "coin.conditions": (1, 1000), "coin.width": (1, 2048), "coin.depth": (1, 12), "coin.skips": (0, 12),
    "coin.discriminator_width": (1, 2048), "coin.discriminator_depth": (1, 12),
    **dict.fromkeys([f"coin.{name}" for name in ("adversarial", "classifier", "identity", "cycle", "tv", "lr")], _FACTOR),
    "coin.steps": _STEPS, "coin.generator_every": _STEPS, "coin.batch": _SIDE, "coin.beta1": (0, 0.9999), "coin.beta2": (0, 0.999999),
    "coin.ema": (0, 0.999999),
    "attribution.masks": (1, 10**6), "attribution.grid": (1, 256), "attribution.probability": _SHARE, "attribution.batch": _SIDE,
    "masks.quantile": _SHARE, "masks.peak": _SHARE, "masks.opening": (0, 1023), "masks.closing": (0, 1023),
    "masks.min_px": (0, 2**31), "masks.min_ml": _FACTOR,
    "student.steps": (0, 10**9), "student.batch": (2, 8192), "student.lr": _FACTOR, "student.trust": _SHARE,
    "student.band": (0, 1023), "student.gate": _SHARE, "student.teachers": (1, 100), "student.contrast": _FACTOR,
    "student.members": (1, 16), "student.drawn": _SHARE, "student.per_image": _SHARE, "student.opinion": (0, 10**9),
    "student.novelty": _SHARE,
    "engine.threads": (0, 1024), "engine.checkpoint_every": _STEPS, "engine.sample_every": _STEPS,
}  # fmt: skip
"""What a number may be: wide enough for any use, and narrow enough that no number of a stranger's file makes a network or an array
that fills the machine. What depends on other settings is checked where it is used."""


def settings_from(values: dict[str, Any]) -> Settings:
    """Settings from nested dictionaries (YAML, JSON); missing keys keep their defaults.

    Raises:
        UserError: an unknown key (with the nearest known one), a value of the wrong type, or a number out of `RANGES`.
    """
    return _filled(Settings(), values, "")


def _filled(base: Any, values: dict[str, Any], prefix: str) -> Any:
    from beartype.door import is_bearable

    hints = get_type_hints(type(base))
    if not isinstance(values, dict):
        raise UserError(f"{prefix.rstrip('.') or 'the settings'} is {values!r}", "a mapping of settings", "see --print_config")
    changed = {}
    for name, value in values.items():
        if name not in hints:
            raise unknown_setting(f"{prefix}{name}", [prefix + known for known in hints])
        current, hint = getattr(base, name), hints[name]
        if is_dataclass(current):
            value = _filled(current, value, f"{prefix}{name}.")
        elif isinstance(current, tuple) and isinstance(value, list | tuple):
            value = tuple(str(item) for item in value)
        elif hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
            value = float(value)
        if not is_bearable(value, hint):
            wanted = str(hint).replace("typing.", "").replace("<class '", "").replace("'>", "")
            raise UserError(f"{prefix}{name} is {_shown(value)}", wanted, "mend the setting")
        low, high = RANGES.get(f"{prefix}{name}", (-math.inf, math.inf))
        if isinstance(value, int | float) and not low <= value <= high:
            raise UserError(f"{prefix}{name} is {_shown(value)}", f"{low:g} to {high:g}", "mend the setting")
        changed[name] = value
    return replace(base, **changed)


def _shown(value: Any) -> str:
    """A value for a message; Python writes no whole number of more than 4300 digits."""
    try:
        return repr(value)[:300]
    except ValueError:
        return "a number of thousands of digits"


def own_module(settings: ClassifierSettings) -> str | None:
    """The module of the user's own factory, whose code `classifier.build` runs; None where there is none."""
    name, separator, _ = settings.name.partition(":")
    return name if separator else None


def require_named(settings: ClassifierSettings, named: str | None, how: str) -> None:
    """Raise `UserError` where a file names a module of its own and the user does not: it would run whatever code it likes.

    Args:
        settings: as read from the file.
        named: the factory the user names.
        how: to name one.
    """
    if own_module(settings) and settings.name != named:
        raise UserError(
            f"the classifier is '{settings.name}', a module of its own, and the command does not name it"[:500],
            f"{how} {settings.name}",
            "add it if you trust that module: its code is run",
        )


def unknown_setting(name: str, known: list[str]) -> UserError:
    """The error for a setting there is none of, with the nearest name."""
    leaf = {k.rsplit(".", 1)[-1]: k for k in known}
    near = get_close_matches(name, known, 1, 0.5) or [
        leaf[m] for m in get_close_matches(name.rsplit(".", 1)[-1], list(leaf), 1, 0.5)
    ]
    return UserError(
        f"unknown setting '{name}'",
        "a name that --print_config shows",
        f"did you mean '{near[0]}'?" if near else "see --print_config",
    )


def setting_names(base: Any = _DEFAULT, prefix: str = "") -> list[str]:
    """All settings, dotted."""
    names = []
    for f in fields(base):
        value = getattr(base, f.name)
        names += setting_names(value, f"{prefix}{f.name}.") if is_dataclass(value) else [prefix + f.name]
    return names


def differences(one: Any, other: Any, prefix: str = "") -> list[str]:
    """What differs between two settings, as "name: one -> other"; the engine is never part of it."""
    found = []
    for f in fields(one):
        a, b = getattr(one, f.name), getattr(other, f.name)
        if is_dataclass(a):
            found += [] if f.name == "engine" else differences(a, b, f"{prefix}{f.name}.")
        elif a != b:
            found.append(f"{prefix}{f.name}: {a} -> {b}")
    return found


OPINION = "opinion"
"""The folder of the second opinion, in that of the run."""


def teacher_folders(settings: Settings) -> list[str]:
    """Where the teachers of a student beside the first are kept, in the folder of the run."""
    return [f"teacher-{number}" for number in range(2, settings.student.teachers + 1)]


def asks_opinion(settings: Settings) -> bool:
    """Whether a classifier on ImageNet's features is to be asked; not where f is somebody's own and no classifier is trained."""
    return settings.student.opinion > 0 and settings.classifier.steps > 0


def opinion_settings(settings: Settings) -> Settings:
    """Those of a run with the classifier on ImageNet's features in the place of its own; what it is shown is changed alike.

    Its rates are those of the student, which begins with the same features.
    """
    own = replace(
        settings.classifier, name="imagenet", weights="imagenet", steps=settings.student.opinion, lr=settings.student.lr, weight_decay=1e-2,
        batch=settings.student.batch,
    )  # fmt: skip
    return replace(settings, classifier=own)
