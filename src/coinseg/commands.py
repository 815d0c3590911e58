"""The commands that tell and hand on: inspect, info, export, export-seg, export-nnunet. `cli` adds them to its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .config import Settings
from .settings import settings_from

COMMANDS = {
    "inspect": ("say what is recognised in a data set; nothing is written", "coinseg inspect my_images --json"),
    "info": ("list commands, methods, layouts, presets and every setting", "coinseg info --json"),
}  # fmt: skip
SETTINGS = tuple(Settings().as_dict())


def fill(sub: Any, name: str) -> None:
    """Add the arguments of one of `COMMANDS` to its parser."""
    if name == "inspect":
        sub.add_argument("data_path", metavar="data", type=Path, help="the data: a folder or a CSV")
        sub.add_argument("--json", action="store_true", help="print JSON (docs/manifest.md has the keys)")
        sub.add_argument("--config", action="config", help="YAML file of settings; options after it override it")
        sub.add_class_arguments(Settings, None)
    elif name == "info":
        sub.add_argument("--json", action="store_true", help="print JSON (docs/manifest.md has the keys)")


def _print(found: dict[str, Any], lines: list[str], as_json: bool) -> None:
    print(json.dumps(found, indent=2, allow_nan=False) if as_json else "\n".join(lines))


def _inspect(options: Any, known: Mapping[str, str]) -> None:
    from .inspection import inspect, lines

    values = options.as_dict()
    found = inspect(options.data_path, settings_from({name: values[name] for name in SETTINGS}))
    _print(found, lines(found), options.json)


def _info(options: Any, known: Mapping[str, str]) -> None:
    from .info import info, lines

    found = info(dict(known))
    _print(found, lines(found), options.json)


ACTIONS: dict[str, Callable[[Any, Mapping[str, str]], None]] = {"inspect": _inspect, "info": _info}


def act(name: str, options: Any, known: Mapping[str, str]) -> None:
    """Run one of `COMMANDS`.

    Args:
        name: of the command.
        options: as parsed.
        known: every command of the command line -> what it does.
    """
    ACTIONS[name](options, known)
