"""dataset.json, with which nnU-Net and the Medical Segmentation Decathlon describe a data set."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coinseg.data.readers.limits import MAX_TABLE
from coinseg.data.readers.volume import VOLUME_SUFFIXES
from coinseg.errors import UserError

from .label_maps import Names
from .shared import is_value, lies_inside


@dataclass(frozen=True)
class Description:
    """What dataset.json says.

    Args:
        names: label values by name, without the background.
        ending: of every image and label map.
        training: cases there should be; None when it does not say.
        listed: image and label map of every case, as named; None without such a list (nnU-Net 2 has none).
    """

    names: Names
    ending: str
    training: int | None
    listed: tuple[tuple[str, str], ...] | None


def describe(path: Path) -> Description:
    """Read dataset.json; `UserError` for anything in it that cannot be used."""
    content = _json(path)
    ending = content.get("file_ending", ".nii.gz")
    if ending not in VOLUME_SUFFIXES:
        raise UserError(f"{path} has file_ending {ending!r}", " or ".join(VOLUME_SUFFIXES), "convert the images to NIfTI")
    labels = content.get("labels")
    if not isinstance(labels, dict) or not labels:
        raise UserError(f"{path} has labels {labels!r}", 'labels such as {"kidney": 1}', "correct dataset.json")
    if all(name.isdecimal() for name in labels):  # The Decathlon and nnU-Net 1 have them the other way round.
        labels = {str(name): value for value, name in labels.items()}
    names = {name: _values(path, name, value) for name, value in labels.items()}
    training = content.get("numTraining")
    return Description(
        {name: values for name, values in names.items() if any(values)},
        ending,
        training if isinstance(training, int) else None,
        _listed(path, content),
    )


def names_of_organs(own: Path | None, about: Description) -> Names:
    """What the label maps of the organs name: the dataset.json of `own` (`data.organ_from`) says it, else the data's."""
    file = own / "dataset.json" if own else None
    return describe(file).names if file and file.is_file() else about.names


def lists_its_images(path: Path) -> bool:
    """Whether a dataset.json lists image and label of every case; also when it cannot be read, so that this is said."""
    try:
        return isinstance(_json(path).get("training"), list)
    except UserError:
        return path.is_file()


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(
            f"{path} is missing", "the dataset.json of nnU-Net or the Decathlon", "add it, or set another data.layout"
        )
    try:
        if path.stat().st_size > MAX_TABLE:
            raise ValueError(f"{path.stat().st_size} bytes, more than {MAX_TABLE}")
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error})", "JSON as nnU-Net knows it", "correct dataset.json") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}", "a JSON object with labels", "correct dataset.json")
    return content


def _values(path: Path, name: str, value: Any) -> tuple[int, ...]:
    """The label values of one structure: a whole number or a list of them (a region)."""
    values = value if isinstance(value, list) and value else [value]
    if not all((type(v) is int and 0 <= v < 2**31) or (isinstance(v, str) and is_value(v)) for v in values):
        raise UserError(
            f"{path} gives the label {name!r} the value {value!r}", "a whole number or a list of them", "correct dataset.json"
        )
    return tuple(int(v) for v in values)


def _listed(path: Path, content: dict[str, Any]) -> tuple[tuple[str, str], ...] | None:
    """The pairs of `training`; None where it is no list."""
    entries = content.get("training")
    if not isinstance(entries, list):
        return None
    found = [(e.get("image"), e.get("label")) if isinstance(e, dict) else (None, None) for e in entries]
    for number, (pair, entry) in enumerate(zip(found, entries, strict=True), start=1):
        if not all(isinstance(name, str) and name for name in pair):
            raise UserError(
                f"entry {number} of training in {path} is {entry!r}"[:200],
                'entries such as {"image": "./imagesTr/x.nii.gz", "label": "./labelsTr/x.nii.gz"}',
                "correct dataset.json",
            )
        if outside := [name for name in pair if not lies_inside(path.parent, str(name))]:
            raise UserError(
                f"entry {number} of training in {path} names {outside[0]}, which lies outside of the data",
                "files below the folder of dataset.json",
                "correct dataset.json",
            )
    return tuple((str(image), str(label)) for image, label in found)
