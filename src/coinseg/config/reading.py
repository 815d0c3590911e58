"""Settings read from nested mappings: every fault in them is found (unknown name, wrong type or range); the rest is kept."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from difflib import get_close_matches
from typing import Any, TypeVar, get_args, get_type_hints

from coinseg.errors import UserError

from .declare import Range, choices_of
from .renamed import with_new_names

Group = TypeVar("Group")
NEAR = 0.75
"""How alike two names must be, see `difflib.SequenceMatcher.ratio`, for one to be meant where the other is typed."""
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False, "null": None}
"""Words that stand for values which are no words, as YAML has them."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with the settings of these dotted names, in the words of a `UserError`."""

    names: tuple[str, ...]
    got: str
    required: str
    do: str


def refuse(faults: Iterable[Fault]) -> None:
    """Raise one `UserError` for all faults, each with what it requires; nothing happens where there are none."""
    every = list(dict.fromkeys(faults))
    if len(every) == 1:
        raise UserError(every[0].got, every[0].required, every[0].do)
    if every:
        each = ", ".join(f"({i}) {fault.got} (required: {fault.required}; {fault.do})" for i, fault in enumerate(every, 1))
        raise UserError(f"{len(every)} settings are wrong: {each}", "settings in their ranges that fit one another", "mend each")


def read(values: dict[str, Any], base: Group, aloud: bool = True) -> tuple[Group, list[Fault]]:
    """The settings of nested dictionaries, and every fault in them.

    Args:
        values: name -> value, or -> the values of a group.
        base: what is missing or wrong keeps its value from here.
        aloud: say which names are old ones; not where coinseg wrote them.
    """
    faults: list[Fault] = []
    return _filled(base, with_new_names(values, aloud), "", faults), faults


def _filled(base: Any, values: Any, prefix: str, faults: list[Fault]) -> Any:
    if not isinstance(values, dict):
        name = prefix.rstrip(".")
        got = f"{name or 'the settings'} is {_shown(values)}"
        faults.append(Fault((name,), got, "a mapping of settings", "see --print_config"))
        return base
    known, hints = {f.name: f for f in fields(base)}, get_type_hints(type(base))
    changed = {}
    for name, value in values.items():
        dotted = f"{prefix}{name}"
        if name not in known:
            faults.append(unknown(dotted, [prefix + each for each in known]))
        elif is_dataclass(getattr(base, name)):
            changed[name] = _filled(getattr(base, name), value, f"{dotted}.", faults)
        else:
            changed[name] = _as_hinted(value, hints[name])
            if fault := _fault_of(dotted, value, changed[name], hints[name], known[name].metadata.get("range")):
                faults.append(fault)
                del changed[name]
    return replace(base, **changed)


def _fault_of(name: str, given: Any, value: Any, hint: Any, limits: Range | None) -> Fault | None:
    """What is wrong with one value, as it was given and as its type has it."""
    if not _fits(value, hint):
        return Fault((name,), f"{name} is {_shown(value)}", _wanted(hint), "mend the setting")
    if limits is None or not isinstance(value, int | float) or limits.holds(value):
        return None
    required = " or ".join(filter(None, (", ".join(choices_of(hint) or []), str(limits))))
    got = f"{name} is {given if isinstance(given, str) else _shown(given)}"
    return Fault((name,), got, required, "mend it" if limits.above else "mend the setting")


def _wanted(hint: Any) -> str:
    """A type in words."""
    words, numbers = choices_of(hint), [_KINDS[part] for part in get_args(hint) if part in (int, float)]
    if words and numbers:
        return " or ".join([*numbers, *words])
    return _KINDS.get(hint) or str(hint).replace("typing.", "").replace("<class '", "").replace("'>", "")


def _as_hinted(value: Any, hint: Any) -> Any:
    """A value as its type has it: a list as a tuple of words, a whole number as a float, a word as the number it says."""
    parts = get_args(hint) or (hint,)
    if isinstance(value, list | tuple) and Ellipsis in parts:
        return tuple(str(item) for item in value)
    if isinstance(value, str) and not _fits(value, hint):
        value = WORDS.get(value.lower(), value) if bool in parts else value
        for number in (int, float):
            if number in parts and isinstance(value, str):
                with suppress(ValueError):
                    value = number(value)
    elif value == "null" and type(None) in parts:
        return None
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if float in parts and whole and abs(value) < 2**53 else value


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type; True and False are no numbers."""
    from beartype.door import is_bearable

    return is_bearable(value, hint) and (not isinstance(value, bool) or hint is bool)


def _shown(value: Any) -> str:
    """A value for a message; Python writes no whole number of more than 4300 digits."""
    try:
        return repr(value)[:300]
    except ValueError:
        return "a number of thousands of digits"


def unknown(name: str, known: list[str]) -> Fault:
    """The fault of a setting there is none of, with the nearest name where one is near."""
    by_leaf = {k.rsplit(".", 1)[-1]: k for k in reversed(known)}
    near = get_close_matches(name, known, 1, NEAR)
    near = near or [by_leaf[leaf] for leaf in get_close_matches(name.rsplit(".", 1)[-1], by_leaf, 1, NEAR)]
    do = f"did you mean '{near[0]}'?" if near else "see --print_config"
    return Fault((name,), f"unknown setting '{name}'", "a name that --print_config shows", do)
