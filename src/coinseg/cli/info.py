"""What this coinseg can do, for a script or an assistant: commands, methods, layouts, presets and every setting."""

from importlib.metadata import version
from types import UnionType
from typing import Any, Union, get_args, get_origin

from coinseg.config.declare import choices_of, declarations
from coinseg.config.parsing import PRESETS, differences
from coinseg.config.schema import METHODS, Settings
from coinseg.data.layouts.registry import LAYOUTS

SCHEMA = 1
CLASSIFIERS = (
    "'local' (the default), 'small', 'imagenet', any model of timm by its name (timm.list_models() lists them), or "
    "'package.module:factory'"
)


def info(commands: dict[str, str]) -> dict[str, Any]:
    """Everything in plain JSON types (keys: docs/guide/manifest.md); commands as name -> what it does."""
    return {
        "schema": SCHEMA, "version": version("coinseg"), "commands": commands,
        "exit_codes": {
            "0": "done",
            "2": "the input, the settings or the machine (a full disk, no memory) are at fault; one line on stderr",
            "130": "interrupted (Ctrl-C)",
            "137": "killed by the system, mostly because memory ran out",
            "141": "the reader of the output went away",
            "143": "ended by SIGTERM",
        },
        "methods": list(METHODS), "layouts": list(LAYOUTS), "classifiers": CLASSIFIERS,
        "presets": {name: differences(Settings(), preset) for name, preset in PRESETS.items()},
        "settings": [
            {
                "name": each.name, "type": _type_name(each.hint), "choices": choices_of(each.hint),
                "range": each.range and [each.range.low, each.range.high], "unit": (each.range and each.range.unit) or None,
                "default": list(each.value) if isinstance(each.value, tuple) else each.value, "about": each.about,
            }
            for each in declarations(Settings())
        ],
    }  # fmt: skip


def _type_name(hint: Any) -> str:
    """A type hint in words: "int", "a list of words", "one of auto, hu", "... or number"."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(_type_name, get_args(hint)))
    if choices := choices_of(hint):
        return f"one of {', '.join(choices)}"
    names = {str: "word", int: "integer", float: "number", bool: "true or false", type(None): "null"}
    return names.get(hint) or ("list of words" if get_origin(hint) is tuple else str(hint))


def lines(facts: dict[str, Any]) -> list[str]:
    """What `info` says, for a person."""
    text = [f"coinseg {facts['version']}", "", "commands"]
    text += [f"  {name:<18} {what}" for name, what in facts["commands"].items()]
    text += ["", f"methods      {', '.join(facts['methods'])}", f"layouts      {', '.join(facts['layouts'])}"]
    text += [f"classifiers  {facts['classifiers']}", ""]
    text += [f"preset {name}: {'; '.join(changed) or 'the defaults below'}" for name, changed in facts["presets"].items()]
    text += ["", "settings (--NAME VALUE, or in YAML)"]
    for one in facts["settings"]:
        span = f", {one['range'][0]:g} to {one['range'][1]:g}{' ' + one['unit'] if one['unit'] else ''}" if one["range"] else ""
        text += [f"  {one['name']} = {one['default']}   ({one['type']}{span})", f"      {one['about']}"]
    return text
