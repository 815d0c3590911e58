"""What this coinseg can do, for a script or an assistant: commands, methods, layouts, presets and every setting."""

from importlib.metadata import version
from types import UnionType
from typing import Any, Union, get_args, get_origin

from coinseg.config.declare import choices_of, declarations
from coinseg.config.parsing import PRESETS, differences
from coinseg.config.schema import Settings
from coinseg.data.layouts.registry import LAYOUTS
from coinseg.explain.registry import METHODS

SCHEMA = 1
CLASSIFIERS = (
    "'local' (the default), 'small', 'imagenet', any model of timm by its name (timm.list_models() lists them), or "
    "'package.module:factory'"
)


def info(commands: dict[str, str]) -> dict[str, Any]:
    """Everything in plain JSON types (keys: docs/guide/manifest.md).

    Args:
        commands: name -> what it does, as the command line knows them.
    """
    return {
        "schema": SCHEMA,
        "version": version("coinseg"),
        "commands": commands,
        "exit_codes": {
            "0": "done",
            "2": "the input, the settings or the machine (a full disk, no memory) are at fault; one line on stderr",
            "130": "interrupted (Ctrl-C)",
            "137": "killed by the system, mostly because memory ran out",
            "141": "the reader of the output went away",
            "143": "ended by SIGTERM",
        },
        "methods": list(METHODS),
        "layouts": list(LAYOUTS),
        "classifiers": CLASSIFIERS,
        "presets": {name: differences(Settings(), preset) for name, preset in PRESETS.items()},
        "settings": settings_list(Settings()),
    }


def settings_list(settings: Settings) -> list[dict[str, Any]]:
    """One entry for each setting: name (dotted), type, choices (of a choice of words, else null), range, unit, default, about."""
    return [
        {
            "name": each.name, "type": type_name(each.hint), "choices": choices_of(each.hint),
            "range": each.range and [each.range.low, each.range.high], "unit": (each.range and each.range.unit) or None,
            "default": list(each.value) if isinstance(each.value, tuple) else each.value, "about": each.about,
        }
        for each in declarations(settings)
    ]  # fmt: skip


def type_name(hint: Any) -> str:
    """A type hint in words: "int", "a list of words", "one of auto, hu", "... or number"."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    named = {str: "word", int: "integer", float: "number", bool: "true or false", type(None): "null"}
    words = []
    for part in parts:
        if choices := choices_of(part):
            words.append(f"one of {', '.join(choices)}")
        else:
            words.append(named.get(part) or ("list of words" if get_origin(part) is tuple else str(part)))
    return " or ".join(words)


def lines(found: dict[str, Any]) -> list[str]:
    """What `info` says, for a person."""
    said = [f"coinseg {found['version']}", "", "commands"]
    said += [f"  {name:<18} {what}" for name, what in found["commands"].items()]
    said += ["", f"methods      {', '.join(found['methods'])}", f"layouts      {', '.join(found['layouts'])}"]
    said += [f"classifiers  {found['classifiers']}", ""]
    for name, changed in found["presets"].items():
        said.append(f"preset {name}: {'; '.join(changed) or 'the defaults below'}")
    said += ["", "settings (--NAME VALUE, or in YAML)"]
    for one in found["settings"]:
        span = f", {one['range'][0]:g} to {one['range'][1]:g}{' ' + one['unit'] if one['unit'] else ''}" if one["range"] else ""
        said += [f"  {one['name']} = {one['default']}   ({one['type']}{span})", f"      {one['about']}"]
    return said
