"""Settings that have a new name: the old one is read for one release, with one line that names the new one."""

import sys
from dataclasses import asdict
from typing import Any

RENAMED: dict[str, str] = {
    "student.contrast": "student.border_weight",
    "student.opinion": "student.imagenet_steps",
    "student.drawn": "student.synthetic_lesions",
    "student.neighbours": "student.slice_hmm",
    "student.novelty": "student.patchcore_quantile",
    "student.members": "student.networks",
    "masks.flips": "masks.hflip",
    "engine.tensorboard": "engine.logger",
}
"""Old dotted name -> new one."""
RENAMED_VALUES: dict[tuple[str, Any], str] = {
    ("masks.threshold", "flip"): "decision_flip",
    ("engine.logger", True): "auto", ("engine.logger", "true"): "auto",
    ("engine.logger", False): "none", ("engine.logger", "false"): "none",
}  # fmt: skip
"""(New dotted name, old value) -> new value."""
ADDED: dict[tuple[str, str], Any] = {
    ("DataSettings", "channels"): "auto",
    ("DataSettings", "classes"): (),
    ("ClassifierSettings", "beta1"): 0.9,
    ("ClassifierSettings", "beta2"): 0.999,
    ("CoinSettings", "zero_start"): True,
    ("CoinSettings", "last_block"): True,
    ("CoinSettings", "informed"): False,
    ("AttributionSettings", "hidden"): "black",
    ("AttributionSettings", "weigh"): "logit",
    ("DataSettings", "tile"): 0,
    ("DataSettings", "minutes"): 60,
    ("StudentSettings", "reviewed"): None,
}
"""(Class, name) of settings that older runs do not have -> the value that changes nothing, which is left out of keys."""
GONE = ("student.parts",)
"""Dotted names that are read no more: what they decided is decided by others."""
GROUPS = {"MaskSettings": "masks", "StudentSettings": "student"}
"""Class of settings with renamed fields -> its group."""
_told: set[str] = set()


def with_new_names(values: Any, aloud: bool = True) -> Any:
    """Nested settings by their new names and values; where old and new stand side by side, the new one counts."""
    if not isinstance(values, dict):
        return values
    values = {name: dict(value) if isinstance(value, dict) else value for name, value in values.items()}
    groups = {name: value for name, value in values.items() if isinstance(value, dict)}
    changes = []
    for old, new in RENAMED.items():
        group, _, leaf = old.rpartition(".")
        if leaf in groups.get(group, ()):
            groups[group].setdefault(new.rpartition(".")[2], groups[group].pop(leaf))
            changes.append(f"{old} is now {new}")
    for name in GONE:
        group, _, leaf = name.rpartition(".")
        if groups.get(group, {}).pop(leaf, None) is not None:
            changes.append(f"{name} is gone")
    for (name, old), new in RENAMED_VALUES.items():
        group, _, leaf = name.rpartition(".")
        if groups.get(group, {}).get(leaf) == old:
            groups[group][leaf] = new
            changes.append(f"{name} {old} is now {name} {new}")
    if aloud and (fresh := [line for line in changes if line not in _told]):
        _told.update(fresh)
        print(f"coinseg: old names of settings, read until the next release: {', '.join(fresh)}", file=sys.stderr)
    return values


def hashed(part: Any) -> dict[str, Any]:
    """A group of settings by its oldest names, for a key: the keys of existing run folders must not change."""
    group, values = GROUPS.get(type(part).__name__, ""), asdict(part)
    old_names = {new.rpartition(".")[2]: old.rpartition(".")[2] for old, new in RENAMED.items() if new.startswith(f"{group}.")}
    old_values = {(name, new): old for (name, old), new in RENAMED_VALUES.items()}
    return {
        old_names.get(name, name): old_values.get((f"{group}.{name}", value), value) if isinstance(value, str) else value
        for name, value in values.items()
        if ADDED.get((type(part).__name__, name), ...) != value
    }
