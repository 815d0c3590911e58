"""dataset.json, with which nnU-Net and the Medical Segmentation Decathlon describe a data set, and the cohort it describes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coinseg.config.schema import DataSettings
from coinseg.data.readers.limits import MAX_TABLE
from coinseg.data.readers.volume import VOLUME_SUFFIXES
from coinseg.errors import UserError
from coinseg.types import Cohort

from .classes import ScanClasses
from .label_maps import MapScan, Names, Regions, cohort_of, require_apart
from .shared import few, is_possible, is_value, lies_inside, organ_root


@dataclass(frozen=True)
class Description:
    """The content of dataset.json; what is not given is None."""

    names: Names  # label values by name, without the background
    ending: str  # suffix of every image and label map
    training: int | None  # number of cases
    listed: tuple[tuple[str, str], ...] | None  # image and label map of every case; nnU-Net 2 has no such list
    channels: Mapping[int, str]  # names by number


def describe(path: Path) -> Description:
    """Read dataset.json; `UserError` for anything in it that cannot be used."""
    content = _json(path)
    ending = content.get("file_ending", ".nii.gz")
    if ending not in VOLUME_SUFFIXES:
        raise UserError(f"{path} has file_ending {ending!r}", " or ".join(VOLUME_SUFFIXES), "convert the images to NIfTI")
    training = content.get("numTraining")
    count = training if isinstance(training, int) else None
    names, listed = _names(path, content.get("labels")), _listed(path, content)
    channels = content.get("channel_names", content.get("modality"))  # of version 2, and of version 1
    known = channels.items() if isinstance(channels, dict) else ()
    return Description(names, ending, count, listed, {int(n): str(name) for n, name in known if is_value(n)})


def values_by_class(root: Path, asked: Sequence[str]) -> Names:
    """Return what values in masks mean: by classes.json or the labels of dataset.json, and the values among those `asked` for.

    `UserError` where two of those asked for mean the same.
    """
    names: dict[str, tuple[int, ...]] = {}
    for path in (root / "dataset.json", root / "classes.json"):
        if path.is_file():
            content = _json(path)
            names |= _names(path, content.get("labels", content if path.name == "classes.json" else None))
    names |= {name: (int(name),) for name in asked if is_value(name) and name not in names and int(name)}
    require_apart({name: values for name, values in names.items() if name.casefold() in map(str.casefold, asked)})
    return names


def _names(path: Path, labels: Any) -> dict[str, tuple[int, ...]]:
    """Return the label values by name without the background, of labels that are written either way round."""
    if not isinstance(labels, dict) or not labels:
        raise _wrong(f"{path} has labels {labels!r}"[:200], 'labels such as {"kidney": 1}', path.name)
    if all(name.isdecimal() for name in labels):  # The Decathlon and nnU-Net 1 have them the other way round.
        labels = {str(name): value for value, name in labels.items()}
    names = {name: _values(path, name, value) for name, value in labels.items()}
    return {name: values for name, values in names.items() if any(values)}


def described_cohort(
    layout: str, root: Path, settings: DataSettings, about: Description, scans: list[MapScan], problems: list[str],
    sequences: tuple[str, ...] = (),
) -> Cohort:  # fmt: skip
    """Return the cohort of the data at `root` with a dataset.json.

    Args:
        layout: name of the layout.
        root: the data.
        settings: organ, lesion, classes and organ_from (label maps of organs, in it or its labelsTr, with or without a
            dataset.json).
        about: the dataset.json of the data.
        scans: sorted, with the organs in the map of the lesions.
        problems: what is wrong with the files.
        sequences: names of the channels, where there are several.
    """
    organs = organ_root(root, settings)
    organ_json = organs / "dataset.json" if organs else None
    organ_names = describe(organ_json).names if organ_json and organ_json.is_file() else about.names
    classes = ScanClasses.of(root / "labels.csv", settings)
    regions = Regions.asked_for(settings, about.names, organ_names, "dataset.json", classes)
    if organs and (organs / "labelsTr").is_dir():
        organs = organs / "labelsTr"
    maps = [replace(scan, organs=organs / scan.lesions.name if organs else scan.organs) for scan in scans]
    unlabelled = f"no image labels in the data (dataset.json names {few(about.names)})"
    return cohort_of(layout, root, maps, regions, unlabelled, problems, classes, sequences)


def lists_its_images(path: Path) -> bool:
    """Return whether a dataset.json lists image and label of every case; also when it is unreadable, so that an error says so."""
    try:
        return isinstance(_json(path).get("training"), list)
    except UserError:
        return path.is_file()


def _wrong(got: str, required: str, name: str = "dataset.json") -> UserError:
    return UserError(got, required, f"correct {name}")


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        required = "the dataset.json of nnU-Net or the Decathlon"
        raise UserError(f"{path} is missing", required, "add it, or set another data.layout")
    try:
        if path.stat().st_size > MAX_TABLE:
            raise ValueError(f"{path.stat().st_size} bytes, more than {MAX_TABLE}")
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise _wrong(f"{path} cannot be read as JSON ({error})", "JSON as nnU-Net knows it", path.name) from error
    if not isinstance(content, dict):
        raise _wrong(f"{path} holds a {type(content).__name__}", "a JSON object with labels", path.name)
    return content


def _values(path: Path, name: str, value: Any) -> tuple[int, ...]:
    values = value if isinstance(value, list) and value else [value]
    if not all((type(v) is int and 0 <= v < 2**31) or (isinstance(v, str) and is_value(v)) for v in values):
        raise _wrong(f"{path} gives the label {name!r} the value {value!r}", "a whole number or a list of them", path.name)
    return tuple(int(v) for v in values)


def _listed(path: Path, content: dict[str, Any]) -> tuple[tuple[str, str], ...] | None:
    """Return the pairs of `training`; None where it is no list."""
    entries = content.get("training")
    if not isinstance(entries, list):
        return None
    pairs = []
    for number, entry in enumerate(entries, start=1):
        image, label = (entry.get("image"), entry.get("label")) if isinstance(entry, dict) else (None, None)
        if not (isinstance(image, str) and image and isinstance(label, str) and label):
            required = 'entries such as {"image": "./imagesTr/x.nii.gz", "label": "./labelsTr/x.nii.gz"}'
            raise _wrong(f"entry {number} of training in {path} is {entry!r}"[:200], required)
        image, label = (name.replace("\\", "/") for name in (image, label))  # as Windows writes them
        if outside := [name for name in (image, label) if not lies_inside(path.parent, name)]:
            why = "lies outside of the data" if is_possible(path.parent, outside[0]) else "is a longer name than a disk can hold"
            got = f"entry {number} of training in {path} names {outside[0]}, which {why}"
            raise _wrong(got, "files below the folder of dataset.json")
        pairs.append((image, label))
    return tuple(pairs)
