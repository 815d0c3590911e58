"""Whose a run folder is: settings.yaml says which data and settings it was made with, and other ones are refused.

Data that only lie elsewhere are the same data; the prepared slices tell (`data.slices.prepare`). A run folder may come from a
stranger: of what settings.yaml names outside of the folder, only that is read which the folder was made with on this machine
(`origins_of`), or which is named on the command line.
"""

import hashlib
import heapq
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from coinseg.config.parsing import differences, stored_settings
from coinseg.config.schema import Settings
from coinseg.errors import UserError, names_that_fit
from coinseg.runtime.files import holds_nothing, key_of
from coinseg.runtime.records import read_settings, sealed

SETTINGS = "settings.yaml"
KNOWN_BY = 16  # entries of a folder by which it is known again


@names_that_fit()
def resolve(data: Path | None, out: Path, settings: Settings, overwrite: bool, words: Sequence[str] = ()) -> Path:
    """The data of a run folder; `words` are those of the command line.

    Raises:
        UserError: `out` holds something else, was made with other data or settings (unless `overwrite`), lies inside the
            data, names others that nobody named here, or is no run and no data are named.
    """
    require_place(data, out)
    file = out / SETTINGS
    if file.exists():
        # Where slices are prepared, they say whether data at another place are others (`Workspace.start`).
        elsewhere = None if (out / "slices" / "store.json").exists() else data
        if (changed := changes(file, elsewhere, settings)) and not overwrite:
            got = f"{out} exists and was made with other settings ({'; '.join(changed[:4])})"
            fix = "choose another -o, or give --overwrite to redo what depends on them"
            raise UserError(got, "the same settings to go on with it", fix)
        data = data or data_of(out, words)
        require_named(out, data, settings, words)
    assert data is not None, "a folder that is no run yet has no data of its own"
    require_apart_from(out, data)
    return data.resolve()


def require_place(data: Path | None, out: Path) -> None:
    """Raise `UserError` where `out` can be no run folder, whatever the settings: a file, something else, without data."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file", "a folder for the output", "choose another -o")
    if (out / SETTINGS).exists():
        return
    if out.exists() and not holds_nothing(out):
        raise UserError(f"{out} exists and is not a coinseg run", "a new folder or an earlier run", "choose another -o")
    if data is None:
        raise UserError(f"{out} is not a coinseg run", "a folder made by coinseg prepare or coinseg run", "start with prepare")
    require_apart_from(out, data)


def require_apart_from(out: Path, data: Path) -> None:
    """Raise `UserError` where an output lies inside the data: their folder, or that of the table that lists them."""
    folder = data.resolve() if data.is_dir() else data.resolve().parent
    if data.exists() and out.resolve().is_relative_to(folder):
        raise UserError(f"{out} lies inside the data folder {folder}", "an output folder elsewhere", "choose another -o")


def require_outside(outputs: Iterable[Path], model: Path) -> None:
    """Raise `UserError` where an output lies inside a run or an exported model, or inside the data of the run `model`."""
    for out in outputs:
        if inside := next((place for place in (out.resolve(), *out.resolve().parents) if is_run(place)), None):
            raise UserError(f"{out} lies inside {inside}, a run or a model", "an output elsewhere", "choose another place")
        with suppress(KeyError):
            require_apart_from(out, Path(str(_stored(model)["data"])))


def is_run(folder: Path) -> bool:
    """Whether coinseg made a folder: a run, the tables of the thesis, or an exported model."""
    return "settings" in _stored(folder) or ((folder / "model.json").is_file() and (folder / "classifier").is_dir())


def _stored(folder: Path) -> dict[str, Any]:
    """What settings.yaml of a folder says; nothing where it is somebody's own."""
    with suppress(UserError, OSError):
        return read_settings(folder / SETTINGS, "data", "settings")
    return {}


@names_that_fit()
def data_of(root: Path, words: Sequence[str] = ()) -> Path:
    """The data that settings.yaml of a run folder names, where they may be read (see above); otherwise `UserError`."""
    stored = read_settings(root / SETTINGS, "data", "settings")
    data = Path(str(stored["data"]))
    require_seen(root, stored, data, "--data", str(data), words)
    return data


def require_named(root: Path, data: Path, settings: Settings, words: Sequence[str] = ()) -> None:
    """Raise `UserError` where settings come from settings.yaml and name what may not be read (see above) outside of the data."""
    stored = read_settings(root / SETTINGS, "data", "settings")
    theirs = stored_settings(stored["settings"])
    for option, value in others_of(settings):
        if (option, value) in others_of(theirs):
            for place in _places(data, value):
                if not place.resolve().is_relative_to(data.resolve()):
                    require_seen(root, stored, place, f"--{option}", value, words)


def require_seen(root: Path, stored: dict[str, Any], place: Path, option: str, name: str, words: Sequence[str]) -> None:
    """Raise `UserError` for a `place` that a run folder names, unless it was made with it here or it is named in `words`."""
    seen, here = stored.get("seen"), place.resolve()
    kept = seen.get(str(here)) if isinstance(seen, dict) and place.exists() else None
    known = isinstance(kept, list) and not {str(one) for one in kept[: KNOWN_BY + 1]}.isdisjoint(origins_of(here))
    named = name in {part for word in words for part in (word, word.partition("=")[2])}
    if place.exists() and not (known or named or here.is_relative_to(root.resolve())):
        got = f"{root / SETTINGS} names {place}, with which this folder was not made here"
        raise UserError(got, "what is read to be named by you", f"if it is to be read, give {option} {name}")


def others_of(settings: Settings) -> list[tuple[str, str]]:
    """The settings that are paths beside the data, and what they say."""
    data, weights = settings.data, settings.classifier.weights
    found = [("data.organ_from", data.organ_from), ("data.masks", data.masks), ("classifier.weights", weights)]
    found.append(("student.reviewed", settings.student.reviewed))
    found += [("data.normal", folder) for folder in data.normal] + [("data.abnormal", folder) for folder in data.abnormal]
    return [(option, value) for option, value in found if value]


def _places(data: Path, value: str) -> list[Path]:
    """Where a setting that is a path may lead: as it is given, or from the data."""
    return [Path(value).expanduser(), data / value]


def origins_of(place: Path) -> list[str]:
    """What somebody elsewhere, who may know the name of a place on this machine, does not know of it: any of these will do.

    They are hashes of when this file system last changed the place and, since files come and go, some of what lies beside a file
    or in a folder, the same as long as it is there.
    """
    folder, names = place if place.is_dir() else place.parent, list[str]()
    with suppress(OSError):  # it may be locked
        names = heapq.nsmallest(KNOWN_BY, os.listdir(folder), key=lambda name: hashlib.sha256(os.fsencode(name)).digest())
    facts = [(each.name, each.lstat()) for each in (place, *(folder / name for name in names)) if os.path.lexists(each)]
    return [key_of([str(place), name, stat.st_ino, stat.st_ctime_ns]) for name, stat in facts]


def changes(file: Path, data: Path | None, settings: Settings) -> list[str]:
    """What differs between a settings.yaml, where there is one, and the data (None: its own) and settings that are asked for."""
    if not file.exists():
        return []
    stored = read_settings(file, "data", "settings")
    changed = differences(stored_settings(stored["settings"]), settings)
    if data is not None and data.resolve() != Path(str(stored["data"])):
        changed = [f"data: {stored['data']} -> {data.resolve()}", *changed]
    return changed


def write_settings(data: Path, root: Path, settings: Settings) -> None:
    """Write settings.yaml of a folder: the settings and the data they belong to."""
    places = [data, *(place for _, value in others_of(settings) for place in _places(data, value))]
    seen = {str(place.resolve()): origins_of(place.resolve()) for place in places if place.exists()}
    values = {"data": str(data), "settings": as_yaml(settings.as_dict()), "seen": seen}
    with sealed(root / SETTINGS) as part:
        part.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8", newline="")


def as_yaml(value: Any) -> Any:
    """Nested settings with lists for tuples, which is what YAML knows."""
    if isinstance(value, dict):
        return {k: as_yaml(v) for k, v in value.items()}
    return [as_yaml(v) for v in value] if isinstance(value, tuple | list) else value
