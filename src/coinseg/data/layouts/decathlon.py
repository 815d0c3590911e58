"""The Medical Segmentation Decathlon (MSD): each of its tasks, such as Task03_Liver; one patient per scan.

    data/
      dataset.json               {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver", "2": "cancer"},
                                  "training": [{"image": "./imagesTr/liver_0.nii.gz", "label": "./labelsTr/liver_0.nii.gz"}]}
      imagesTr/liver_0.nii.gz    images of several channels (4-D, Task01 and Task05) are refused when they are read
      labelsTr/liver_0.nii.gz    label map; its structures are named by data.organ and data.lesion, see layout_maps
      imagesTs/                  without labels, not read
      labels.csv                 image_id,slice,label or image_id,label      (optional: image labels; they win over masks)
      patients.csv               case,patient                                (optional: cases of one patient)

What `training` lists is read and nothing else. `data.organ_from` is as for nnU-Net.
"""

from __future__ import annotations

from pathlib import Path

from coinseg.config.schema import DataSettings
from coinseg.errors import UserError
from coinseg.types import Cohort

from .dataset_json import describe, lists_its_images, names_of_organs
from .label_maps import MapScan, Regions, cohort_of, map_elsewhere
from .shared import few, organ_root, stem_of, visible


def fits_decathlon(root: Path) -> bool:
    """Whether `root` lists its images in dataset.json; nnU-Net 1 does so too and is to be asked for first."""
    return (root / "imagesTr").is_dir() and lists_its_images(root / "dataset.json")


def list_decathlon(root: Path, settings: DataSettings) -> Cohort:
    """One case for each entry of `training`."""
    about = describe(root / "dataset.json")
    if about.listed is None:
        raise UserError(
            f"{root / 'dataset.json'} has no list training",
            'training as a list of {"image": ..., "label": ...}',
            "correct dataset.json, or set another data.layout",
        )
    own = organ_root(root, settings)
    regions = Regions.asked_for(settings, about.names, names_of_organs(own, about), "dataset.json")
    scans = []
    for image, label in about.listed:
        lesions = root / label
        scans.append(MapScan(stem_of(Path(image)), root / image, lesions, map_elsewhere(own, lesions)))
    problems, listed = [], {scan.image.name for scan in scans}
    if strangers := [path.name for path in visible(root / "imagesTr") if path.name not in listed]:
        problems.append(f"imagesTr: {few(strangers)} left out, not listed in dataset.json")
    unlabelled = f"no image labels in the data (dataset.json names {few(about.names)})"
    return cohort_of("decathlon", root, sorted(scans, key=lambda scan: scan.name), regions, unlabelled, problems)
