"""The files that coinseg reads again later: JSON of a known schema, and a checksum of each in `checksums.json` beside it.

A file that was written in full has its CRC-32 there (`sealed`); it is asked whenever the file is read (`require_intact`), so
that a flipped bit is noticed. A file without one (of an earlier version, or after a kill at the wrong instant) is read as it is.
"""

import json
import math
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from .files import REDONE, damaged, json_text, read_json, read_yaml, require_file, write_json, written_aside

CHECKSUMS = "checksums.json"
MAX_RECORD = 2**24
"""Largest size of a record in bytes, unless it has a row for every file of the data."""
_BLOCK = 2**20
Kinds = Mapping[str, Any]
"""Names that an object of JSON must have, and the kind of each: a type as in an annotation, or the `Kinds` of an object."""


def fits(value: Any, kind: Any) -> bool:
    """Whether a value that was read from JSON is of a kind, all the way down; numbers are finite, True and False are none."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if isinstance(kind, Mapping):
        return isinstance(value, dict) and all(name in value and fits(value[name], of) for name, of in kind.items())
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return isinstance(value, str | int) and value in parts
    if origin is list:
        return isinstance(value, list) and all(fits(each, parts[0]) for each in value)
    if origin is tuple:
        return isinstance(value, list) and len(value) == len(parts) and all(map(fits, value, parts))
    if origin is dict:
        return isinstance(value, dict) and all(fits(each, parts[1]) for each in value.values())
    if kind in (int, float):
        number = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
        return number and -(2.0**63) < value < 2.0**63
    return isinstance(value, kind)


def read_record(path: Path, kinds: Kinds, most: int = MAX_RECORD) -> dict[str, Any]:
    """Read an object of JSON that coinseg wrote; one line of a `UserError` where it is damaged: text, schema, or checksum."""
    value = read_json(path, most)
    if not isinstance(value, dict):
        raise damaged(path, "it is no object of JSON")
    if wrong := [name for name, kind in kinds.items() if name not in value or not fits(value[name], kind)]:
        raise damaged(path, f"it has {'a wrong' if wrong[0] in value else 'no'} {wrong[0]}")
    require_intact(path)
    return value


def write_record(path: Path, value: Any) -> None:
    """Write JSON as `files.write_json` does, with its checksum."""
    with sealed(path) as part:
        part.write_text(json_text(value), encoding="utf-8", errors="replace", newline="")


@contextmanager
def sealed(path: Path) -> Iterator[Path]:
    """Yield a path to write to, as `written_aside` does; the checksum of what was written is recorded."""
    with written_aside(path) as part:
        yield part
        checksum, known = _crc32(part), _recorded(path)
        if known.pop(path.name, None):  # killed here, the file of this name must not pass for damaged
            _record(path, known)
    _record(path, known | {path.name: checksum})


def seal(*paths: Path) -> None:
    """Record the checksums of files that are written in full, all of one folder."""
    _record(paths[0], _recorded(paths[0]) | {path.name: _crc32(path) for path in paths})


def read_settings(path: Path, *keys: str) -> dict[str, Any]:
    """Read a settings.yaml that coinseg wrote; `UserError` as in `files.read_yaml`, and where its checksum is another one."""
    values = read_yaml(path, *keys)
    require_intact(path, "put it back as it was, or choose another -o")
    return values


def require_intact(path: Path, do: str = REDONE) -> None:
    """Raise `UserError` for a pipe or a device, and for a file that is not the one whose checksum was recorded."""
    require_file(path)
    if (known := _recorded(path).get(path.name)) and known != _crc32(path):
        raise damaged(path, "its checksum is not the recorded one", do)


def _record(path: Path, known: Mapping[str, str]) -> None:
    """Write the checksums of the folder of a file, in the order of names."""
    write_json(path.with_name(CHECKSUMS), dict(sorted(known.items())))


def _recorded(path: Path) -> dict[str, str]:
    """The checksums recorded beside a file; none where its folder has no such record."""
    record = path.with_name(CHECKSUMS)
    known = read_json(record) if record.exists() else {}
    if not fits(known, dict[str, str]):
        raise damaged(record, "it is no list of checksums", "remove it: until they are written again files are read unchecked")
    return dict(known)


def _crc32(path: Path) -> str:
    """CRC-32 of a file, of JSON that of what it says, as eight hexadecimal digits; it changes with every single flipped bit."""
    if path.suffix == ".json":
        return f"{zlib.crc32(json_text(read_json(path)).encode()):08x}"
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
    return f"{checksum:08x}"


def read_lines(path: Path, kinds: Kinds) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines that have the kinds; others are left out, such as a last line cut short by a kill."""
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        lines += [value] if fits(value, kinds) else []
    return lines


def finite(values: Mapping[str, Any]) -> bool:
    """Whether all values are numbers that are neither NaN nor infinite."""
    return all(fits(value, float) and math.isfinite(value) for value in values.values())
