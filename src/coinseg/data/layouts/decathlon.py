"""The Medical Segmentation Decathlon (MSD), one task such as Task03_Liver; recognised by a dataset.json that lists imagesTr.

    dataset.json               {"labels": {"0": "background", "1": "liver", "2": "cancer"},
                                "training": [{"image": "./imagesTr/liver_0.nii.gz", "label": "./labelsTr/liver_0.nii.gz"}]}
    imagesTr/liver_0.nii.gz    images of several channels (4-D, Task01 and Task05) are refused when they are read
    labelsTr/liver_0.nii.gz    label map; labels.csv and patients.csv: see `label_maps`

Only what `training` lists is read; `data.organ_from`: see `dataset_json.described_cohort`.
"""

from pathlib import Path

from coinseg.config.schema import DataSettings
from coinseg.errors import UserError
from coinseg.types import Cohort

from .dataset_json import describe, described_cohort, lists_its_images
from .label_maps import MapScan
from .shared import composed, few, stem_of, visible


def fits_decathlon(root: Path) -> bool:
    """Return whether dataset.json lists the images; nnU-Net 1 does so too and is asked first."""
    return (root / "imagesTr").is_dir() and lists_its_images(root / "dataset.json")


def list_decathlon(root: Path, settings: DataSettings) -> Cohort:
    """List one case for each entry of `training`."""
    about = describe(root / "dataset.json")
    if about.listed is None:
        got, required = f"{root / 'dataset.json'} has no list training", 'training as a list of {"image": ..., "label": ...}'
        raise UserError(got, required, "correct dataset.json, or set another data.layout")
    listed = {composed(Path(image).name) for image, _ in about.listed}
    left_out = [path.name for path in visible(root / "imagesTr") if composed(path.name) not in listed]
    problems = [f"imagesTr: {few(left_out)} left out, not listed in dataset.json"] if left_out else []
    scans = [MapScan(stem_of(Path(image)), root / image, root / label, root / label) for image, label in about.listed]
    return described_cohort("decathlon", root, settings, about, sorted(scans, key=lambda scan: scan.name), problems)
