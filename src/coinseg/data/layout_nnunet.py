"""nnU-Net's raw data (version 2), the layout of the thesis' hospital data (3.6.2).

    data/
      dataset.json               {"channel_names": {"0": "CT"}, "labels": {"background": 0, "kidney": 1, "malignant": 2},
                                  "numTraining": 591, "file_ending": ".nii.gz"}; a label may be a list of values
      imagesTr/CASE_0000.nii.gz  channel 0; further channels are not read
      labelsTr/CASE.nii.gz       label map; its structures are named by data.organ and data.lesion, see layout_maps
      labels.csv                 image_id,slice,label or image_id,label      (optional: image labels; they win over masks)
      patients.csv               case,patient                                (optional: cases of one patient)

`data.organ_from` is a folder of other label maps for the organs: CASE.nii.gz, or labelsTr/CASE.nii.gz; a dataset.json in
it names their structures.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import DataSettings
from ..errors import UserError
from ..types import Cohort
from .layout_maps import MapScan, Names, Regions, cohort_of
from .layout_shared import few, organ_root, visible
from .volume import VOLUME_SUFFIXES

_CHANNEL = re.compile(r"(.+)_(\d{4})")
_FIRST = re.compile(r".+_0000(\.[a-z]\w*)+", re.IGNORECASE)


@dataclass(frozen=True)
class Description:
    """What dataset.json says.

    Args:
        names: label values by name, without the background.
        ending: of every image and label map.
        training: cases there should be; None when it does not say.
    """

    names: Names
    ending: str
    training: int | None


def fits_nnunet(root: Path) -> bool:
    """Whether `root` describes itself and its images carry their channel; the Decathlon's do not."""
    return (root / "dataset.json").is_file() and any(_FIRST.fullmatch(path.name) for path in visible(root / "imagesTr"))


def list_nnunet(root: Path, settings: DataSettings) -> Cohort:
    """One case for each image of imagesTr with the label maps that its regions need."""
    about = describe(root / "dataset.json")
    channels, problems = _channels(root / "imagesTr", about)
    own = organ_root(root, settings)
    organ_names = describe(own / "dataset.json").names if own and (own / "dataset.json").is_file() else about.names
    regions = Regions.asked_for(settings, about.names, organ_names, "dataset.json")
    scans = []
    for case in sorted(channels):
        name = case + about.ending
        organs = root / "labelsTr" / name if own is None else own / name
        if own is not None and (own / "labelsTr").is_dir():
            organs = own / "labelsTr" / name
        scans.append(MapScan(case, root / "imagesTr" / f"{case}_0000{about.ending}", root / "labelsTr" / name, organs))
    maps = {path.name.removesuffix(about.ending) for path in visible(root / "labelsTr") if path.name.endswith(about.ending)}
    if alone := sorted(maps - set(channels)):
        problems.append(f"labelsTr has label maps of {few(alone)}: there is no such image in imagesTr")
    if about.training not in (None, len(scans)):
        problems.append(f"dataset.json says numTraining {about.training} and imagesTr has {len(scans)} cases")
    if "ignore" in about.names and regions.lesion:
        problems.append("labelsTr may mark voxels to ignore: they count as voxels without a lesion")
    unlabelled = f"no image labels in the data (dataset.json names {few(about.names)})"
    return cohort_of("nnunet", root, scans, regions, unlabelled, problems)


def _channels(folder: Path, about: Description) -> tuple[dict[str, list[int]], list[str]]:
    """Channel numbers by case, and what is worth saying about the files of imagesTr."""
    channels: dict[str, list[int]] = defaultdict(list)
    others = []
    for path in visible(folder):
        found = _CHANNEL.fullmatch(path.name.removesuffix(about.ending)) if path.name.endswith(about.ending) else None
        if found:
            channels[found[1]].append(int(found[2]))
        else:
            others.append(path.name)
    if not any(0 in numbers for numbers in channels.values()):
        raise UserError(
            f"{folder} holds no image named CASE_0000{about.ending} ({few(path.name for path in visible(folder))})",
            f"images with their channel and the file_ending of dataset.json ({about.ending})",
            "rename the images or correct dataset.json",
        )
    problems = [f"imagesTr: {few(others)} left out, not named CASE_0000{about.ending}"] if others else []
    several = sorted(case for case, numbers in channels.items() if len(numbers) > 1)
    if several:
        problems.append(f"imagesTr has more than one channel of {few(several)}: only channel 0 is read")
    return channels, problems


def describe(path: Path) -> Description:
    """Read dataset.json; `UserError` for anything in it that cannot be used."""
    content = _json(path)
    ending = content.get("file_ending", ".nii.gz")
    if ending not in VOLUME_SUFFIXES:
        raise UserError(f"{path} has file_ending {ending!r}", " or ".join(VOLUME_SUFFIXES), "convert the images to NIfTI")
    labels = content.get("labels")
    if not isinstance(labels, dict) or not labels:
        raise UserError(f"{path} has labels {labels!r}", 'labels such as {"kidney": 1}', "correct dataset.json")
    if all(name.isdecimal() for name in labels):  # nnU-Net 1 has them the other way round
        labels = {str(name): value for value, name in labels.items()}
    names = {name: _values(path, name, value) for name, value in labels.items()}
    training = content.get("numTraining")
    return Description(
        {name: values for name, values in names.items() if any(values)},
        ending,
        training if isinstance(training, int) else None,
    )


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path} is missing", "the dataset.json of nnU-Net's raw data", "add it, or set another data.layout")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error})", "JSON as nnU-Net knows it", "correct dataset.json") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}", "a JSON object with labels", "correct dataset.json")
    return content


def _values(path: Path, name: str, value: Any) -> tuple[int, ...]:
    """The label values of one structure: a whole number or a list of them (a region)."""
    values = value if isinstance(value, list) and value else [value]
    if not all(type(v) is int or (isinstance(v, str) and v.isdecimal()) for v in values):
        raise UserError(
            f"{path} gives the label {name!r} the value {value!r}", "a whole number or a list of them", "correct dataset.json"
        )
    return tuple(int(v) for v in values)
