"""What this coinseg can do, for a script or an assistant: commands, methods, layouts, presets and every setting."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields, is_dataclass
from importlib.metadata import version
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from coinseg.config.parsing import PRESETS, differences
from coinseg.config.schema import Settings
from coinseg.data.layouts.registry import LAYOUTS
from coinseg.explain.registry import METHODS

SCHEMA = 1
CLASSIFIERS = "'local' (the default), 'small', 'imagenet', any model of timm by its name (timm.list_models() lists them), or 'package.module:factory'"


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


def settings_list(base: Any, prefix: str = "") -> list[dict[str, Any]]:
    """One entry for each setting: name (dotted), type, choices (of a choice of words, else null), default, about."""
    hints, documented = get_type_hints(type(base)), arguments_of(type(base))
    found: list[dict[str, Any]] = []
    for field in fields(base):
        value, hint = getattr(base, field.name), hints[field.name]
        if is_dataclass(value):
            found += settings_list(value, f"{prefix}{field.name}.")
            continue
        found.append({
            "name": prefix + field.name, "type": type_name(hint), "choices": choices_of(hint),
            "default": list(value) if isinstance(value, tuple) else value, "about": documented.get(field.name, ""),
        })  # fmt: skip
    return found


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


def choices_of(hint: Any) -> list[str] | None:
    """The words of a `Literal`, also inside a union; None where there are none."""
    literals = [part for part in (hint, *get_args(hint)) if get_origin(part) is Literal]
    return list(get_args(literals[0])) if literals else None


def arguments_of(kind: type) -> dict[str, str]:
    """Name -> text of the "Args:" of a docstring, each on one line."""
    text = inspect.getdoc(kind) or ""
    found: dict[str, str] = {}
    name = ""
    for line in text.partition("Args:\n")[2].splitlines():
        if begin := re.fullmatch(r" {4}(\w+): (.*)", line):
            name = begin[1]
            found[name] = begin[2]
        elif name and line.startswith(" " * 8):
            found[name] += f" {line.strip()}"
        elif line.strip():
            break
    return found


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
        said += [f"  {one['name']} = {one['default']}   ({one['type']})", f"      {one['about']}"]
    return said
