"""Settings as people give them: read from nested mappings, named by dots, compared; and the presets.

An unknown key is an error with the nearest known name.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from typing import Any, get_type_hints

from .config import Settings
from .errors import UserError

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
    ),
}  # fmt: skip


def settings_from(values: dict[str, Any]) -> Settings:
    """Settings from nested dictionaries (YAML, JSON); missing keys keep their defaults.

    Raises:
        UserError: an unknown key (with the nearest known one) or a value of the wrong type.
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
        elif hint is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not is_bearable(value, hint):
            wanted = str(hint).replace("typing.", "").replace("<class '", "").replace("'>", "")
            raise UserError(f"{prefix}{name} is {value!r}", wanted, "mend the setting")
        changed[name] = value
    return replace(base, **changed)


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
