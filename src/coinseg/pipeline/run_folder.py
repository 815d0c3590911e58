"""Whose a run folder is: settings.yaml says which data and settings it was made with, and other ones are refused.

Data that only lie elsewhere are the same data; the prepared slices tell (`data.slices.prepare`).
"""

from pathlib import Path
from typing import Any

import yaml

from coinseg.config.parsing import differences, stored_settings
from coinseg.config.schema import Settings
from coinseg.errors import UserError
from coinseg.runtime.files import holds_nothing
from coinseg.runtime.records import read_settings, sealed


def resolve(data: Path | None, out: Path, settings: Settings, overwrite: bool) -> Path:
    """The data of a run folder.

    Raises:
        UserError: `out` holds something else, was made with other data or settings (unless `overwrite`), lies inside the
            data, or is no run and no data are named.
    """
    file = out / "settings.yaml"
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file", "a folder for the output", "choose another -o")
    if file.exists():
        # Where slices are prepared, they say whether data at another place are others (`Workspace.start`).
        elsewhere = None if (out / "slices" / "store.json").exists() else data
        if (changed := changes(file, elsewhere, settings)) and not overwrite:
            got = f"{out} exists and was made with other settings ({'; '.join(changed[:4])})"
            fix = "choose another -o, or give --overwrite to redo what depends on them"
            raise UserError(got, "the same settings to go on with it", fix)
        data = data or Path(str(read_settings(file, "data")["data"]))
    elif out.exists() and not holds_nothing(out):
        raise UserError(f"{out} exists and is not a coinseg run", "a new folder or an earlier run", "choose another -o")
    if data is None:
        raise UserError(f"{out} is not a coinseg run", "a folder made by coinseg prepare or coinseg run", "start with prepare")
    data = data.resolve()
    if data.is_dir() and data in (out.resolve(), *out.resolve().parents):
        raise UserError(f"{out} lies inside the data folder {data}", "an output folder elsewhere", "choose another -o")
    return data


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
    values = {"data": str(data), "settings": as_yaml(settings.as_dict())}
    with sealed(root / "settings.yaml") as part:
        part.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8", newline="")


def as_yaml(value: Any) -> Any:
    """Nested settings with lists for tuples, which is what YAML knows."""
    if isinstance(value, dict):
        return {k: as_yaml(v) for k, v in value.items()}
    return [as_yaml(v) for v in value] if isinstance(value, tuple | list) else value
