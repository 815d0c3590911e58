"""nnU-Net's raw data (version 2, and 1), the layout of the thesis' hospital data (3.6.2).

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

import re
from collections import defaultdict
from pathlib import Path

from coinseg.config.schema import DataSettings
from coinseg.errors import UserError
from coinseg.types import Cohort

from .dataset_json import Description, describe, names_of_organs
from .label_maps import MapScan, Regions, cohort_of, map_elsewhere
from .shared import few, organ_root, visible

_CHANNEL = re.compile(r"(.+)_(\d{4})")
_FIRST = re.compile(r".+_0000(\.[a-z]\w*)+", re.IGNORECASE)


def fits_nnunet(root: Path) -> bool:
    """Whether `root` describes itself and its images carry their channel; the Decathlon's do not."""
    return (root / "dataset.json").is_file() and any(_FIRST.fullmatch(path.name) for path in visible(root / "imagesTr"))


def list_nnunet(root: Path, settings: DataSettings) -> Cohort:
    """One case for each image of imagesTr with the label maps that its regions need."""
    about = describe(root / "dataset.json")
    channels, problems = _channels(root / "imagesTr", about)
    own = organ_root(root, settings)
    regions = Regions.asked_for(settings, about.names, names_of_organs(own, about), "dataset.json")
    scans = []
    for case in sorted(channels):
        lesions = root / "labelsTr" / f"{case}{about.ending}"
        scans.append(MapScan(case, root / "imagesTr" / f"{case}_0000{about.ending}", lesions, map_elsewhere(own, lesions)))
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
