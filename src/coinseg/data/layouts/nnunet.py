"""nnU-Net's raw data (version 2 and 1), the layout of the thesis' hospital data (3.6.2); recognised by x_0000.nii.gz.

dataset.json               {"labels": {"background": 0, "kidney": 1, "malignant": [2, 3]}, "numTraining": 591,
                            "file_ending": ".nii.gz"}; `data.organ_from`: see `dataset_json.described_cohort`
imagesTr/CASE_0000.nii.gz  channel 0, CASE_0001 a further one on the same grid; channel_names of dataset.json names them
labelsTr/CASE.nii.gz       label map; labels.csv and patients.csv: see `label_maps`
"""

import re
from collections import defaultdict
from pathlib import Path

from coinseg.config.schema import DataSettings
from coinseg.errors import UserError
from coinseg.types import Cohort

from .dataset_json import Description, describe, described_cohort
from .label_maps import MapScan
from .sequence_names import numbered
from .shared import composed, few, visible

_CHANNEL = re.compile(r"(.+)_(\d{4})")
_FIRST = re.compile(r".+_0000(\.[a-z]\w*)+", re.IGNORECASE)


def fits_nnunet(root: Path) -> bool:
    """Return whether there is a dataset.json and images are named with their channel; the Decathlon's are not."""
    return (root / "dataset.json").is_file() and any(_FIRST.fullmatch(path.name) for path in visible(root / "imagesTr"))


def list_nnunet(root: Path, settings: DataSettings) -> Cohort:
    """List one case for each image of imagesTr."""
    about = describe(root / "dataset.json")
    channels, problems = _channels(root / "imagesTr", about)
    maps = {path.name.removesuffix(about.ending) for path in visible(root / "labelsTr") if path.name.endswith(about.ending)}
    if alone := sorted(set(map(composed, maps)) - set(channels)):
        problems.append(f"labelsTr has label maps of {few(alone)}: there is no such image in imagesTr")
    if about.training not in (None, len(channels)):
        problems.append(f"dataset.json says numTraining {about.training} and imagesTr has {len(channels)} cases")
    if "ignore" in about.names and (settings.lesion or settings.classes):
        problems.append("labelsTr may mark voxels to ignore: they count as voxels without a lesion")
    images, labels = root / "imagesTr", root / "labelsTr"
    first, *further = sorted({0, *(number for numbers in channels.values() for number in numbers)})
    scans = []
    for case, numbers in sorted(channels.items()):
        image, *others = [images / f"{case}_{number:04}{about.ending}" for number in (first, *further) if number in {0, *numbers}]
        scans.append(MapScan(case, image, label := labels / f"{case}{about.ending}", label, tuple(others)))
    # The names say how nnU-Net normalises, so two channels may have one.
    sequences = numbered(about.channels.get(number, f"channel {number}") for number in (first, *further)) if further else ()
    return described_cohort("nnunet", root, settings, about, scans, problems, sequences)


def _channels(folder: Path, about: Description) -> tuple[dict[str, list[int]], list[str]]:
    """Return channel numbers by case, and the problems of the files in imagesTr."""
    channels: dict[str, list[int]] = defaultdict(list)
    others = []
    for path in visible(folder):
        name = composed(path.name.removesuffix(about.ending))
        if path.name.endswith(about.ending) and (match := _CHANNEL.fullmatch(name)):
            channels[match[1]].append(int(match[2]))
        else:
            others.append(path.name)
    if not any(0 in numbers for numbers in channels.values()):
        got = f"{folder} holds no image named CASE_0000{about.ending} ({few(path.name for path in visible(folder))})"
        required = f"images with their channel and the file_ending of dataset.json ({about.ending})"
        raise UserError(got, required, "rename the images or correct dataset.json")
    problems = [f"imagesTr: {few(others)} left out, not named CASE_0000{about.ending}"] if others else []
    return channels, problems
