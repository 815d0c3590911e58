"""Settings among the words of a command line: --NAME VALUE, --GROUP FILE and --config FILE, in the order they are given.

jsonargparse sees none of them, so that nothing in a file of settings can name a class to import.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from coinseg.config.declare import declarations
from coinseg.config.reading import Fault, unknown
from coinseg.config.renamed import RENAMED, with_new_names
from coinseg.errors import UserError
from coinseg.runtime.files import plain_yaml, read_yaml

SEE_HELP = ("arguments that --help lists", "see `coinseg COMMAND --help`")


@dataclass
class Split:
    """Words for the argument parser, nested settings, and the faults: unknown options and options without a value.

    `lists` are the options that took several words; one of them may have been meant for something else.
    """

    rest: list[str] = field(default_factory=list)
    lists: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)


def split(words: Sequence[str], base: Any, own: Iterable[str], stranger: Callable[[str, list[str]], Fault] = unknown) -> Split:
    """Part the settings from the other words.

    Args:
        words: behind the name of the command.
        base: the settings the command takes.
        own: names of the command's other arguments, without dashes, as a --config may have them, too.
        stranger: the fault of a name that none of the settings has.
    """
    own = (*own, "help", "help-all", "print_config")
    groups = [f.name for f in fields(base) if is_dataclass(getattr(base, f.name))]
    is_list = {each.name: isinstance(each.value, tuple) for each in declarations(base)}
    names = list(is_list)
    result, coming = Split(), list(words)
    while coming:
        word = coming.pop(0)
        option, attached, value = word.partition("=")
        name = _full_name(option[2:], [*names, *RENAMED, *groups, "config"], own) if option.startswith("--") else None
        if name is None:
            result.rest.append(word)
            continue
        if name not in (*names, *RENAMED, *groups, "config"):
            result.faults.append(stranger(name, names))
            coming = coming[int(not attached and coming != [] and not coming[0].startswith("-")) :]
            continue
        end = next((i for i, each in enumerate(coming) if re.match("-[-A-Za-z]", each)), len(coming))
        given = [value] if attached else coming[: end if is_list.get(name) else 1]
        if not given or (not attached and end == 0):
            result.faults.append(Fault((name,), f"argument {option}: expected one argument", *SEE_HELP))
            continue
        coming = coming if attached else coming[len(given) :]
        result.lists += [option] if len(given) > 1 else []
        if name == "config":
            values = _mapping(given[0], option)
            arguments = {key: values.pop(key) for key in list(values) if key in own}
            if odd := [key for key, value in arguments.items() if not _is_words(value)]:
                raise UserError(f"{odd[0]} in {option} is no plain value", "a word, a number or a list of them", "mend it")
            result.rest += [f"--config={json.dumps(arguments)}"] if arguments else []
        elif name in groups:
            values = {name: _mapping(given[0], option)}
        else:
            values = {name: _items(given, option) if is_list.get(name) else given[0]}
        result.values = _merged(result.values, with_new_names(_nested(values)))
    return result


def _full_name(name: str, settings: list[str], own: Sequence[str]) -> str | None:
    """The name an option stands for, also where it is cut short; None where it is an argument of the command."""
    if name in settings:
        return name
    if any(each.startswith(name) or each.replace("_", "-").startswith(name) for each in own):
        return None
    begun = [each for each in settings if each.startswith(name)]
    return begun[0] if len(begun) == 1 else name


def _mapping(word: str, option: str) -> Any:
    """The settings of a file, or of a mapping that is written out."""
    if os.path.isfile(word):
        return read_yaml(Path(word))
    values = _plain(word, option)
    if "--config".startswith(option) and not isinstance(values, dict):
        raise UserError(f"{option} {word} does not exist", "a YAML file of settings", "mend the path")
    return values


def _is_words(value: Any) -> bool:
    """Whether a value is what an argument of a command may be: jsonargparse would take a mapping for a class to import."""
    return all(isinstance(each, str | int | float | None) for each in (value if isinstance(value, list) else [value]))


def _items(words: Sequence[str], option: str) -> list[Any]:
    """`a b`, `a,b` and `[a, b]` are two items."""
    if len(words) == 1 and words[0].startswith("["):
        items = _plain(words[0], option)
        return items if isinstance(items, list) else [items]
    return [item for word in words for item in word.split(",")]


def _plain(word: str, option: str) -> Any:
    import yaml

    try:
        return plain_yaml(word)
    except ValueError as error:
        raise UserError(f"{option} is given aliases", "YAML of plain values", "write them out") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{option} is given no YAML, or nested too deeply", "YAML of plain values", "mend it") from error


def _nested(values: dict[Any, Any]) -> dict[Any, Any]:
    """Dotted names as groups."""
    nested: dict[Any, Any] = {}
    for name, value in values.items():
        for part in reversed(name.split(".")) if isinstance(name, str) else [name]:
            value = {part: value}
        nested = _merged(nested, value)
    return nested


def _merged(first: dict[Any, Any], second: dict[Any, Any]) -> dict[Any, Any]:
    """Two nested mappings in one; the second counts."""
    both = dict(first)
    for name, value in second.items():
        inside = both.get(name)
        both[name] = _merged(inside, value) if isinstance(inside, dict) and isinstance(value, dict) else value
    return both


def given(words: Sequence[str], *names: str) -> str | None:
    """The last value of an option, as `--option VALUE` or `--option=VALUE`; None where it is not given."""
    values = [word.partition("=")[2] for word in words if word.startswith(tuple(f"{name}=" for name in names))]
    values += [value for name, value in pairwise(words) if name in names]
    return values[-1] if values else None
