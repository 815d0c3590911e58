"""Masks that nothing but their pixels tells are never images to learn from, wherever a data set has them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from coinseg.cli.inspect import inspect
from coinseg.config.parsing import settings_from
from coinseg.data.layouts.masks_by_look import masks_by_look
from coinseg.data.layouts.registry import read_layout
from coinseg.data.layouts.unlabelled import scans_in
from coinseg.types import Cohort
from writers import make_scan, photo, write_nifti
from writers import mask_of as mask


def listed(root: Path, **data: object) -> Cohort:
    return read_layout(root, settings_from({"data": {"size": 16, **data}}).data)


def names(cohort: Cohort) -> list[tuple[str, Sequence[str]]]:
    """Ids of the cases and the names of their masks."""
    return [(case.id, [source.path.name for source in case.lesion]) for case in cohort.cases]


INSIDE = {
    "DAGM": ("{}.png", "Label/{}_label.png"),
    "a folder more": ("{}.png", "labels/{}.png"),
    "images and labels": ("images/{}.png", "labels/{}.png"),
    "two folders": ("imgs/{}.png", "annot/{}.png"),
    "IDRiD": ("{}.png", "Haemorrhages/{}_HE.png"),
    "a folder for each image": ("{}/image.png", "{}/mask.png"),
    "a folder for each image, label": ("{}/photo.png", "{}/label.png"),
    "a folder for each image, in two folders": ("{}/raw/x.png", "{}/labels/x.png"),
}


@pytest.mark.parametrize("how", INSIDE)
def test_masks_in_the_folder_of_a_class_are_no_images(tmp_path: Path, how: str) -> None:
    image, truth = INSIDE[how]
    for i in range(20):
        photo(tmp_path / "normal" / image.format(i))
        photo(tmp_path / "abnormal" / image.format(i))
        mask(tmp_path / "abnormal" / truth.format(i))
    cohort = listed(tmp_path)
    assert [case.label for case in cohort.cases] == [1] * 20 + [0] * 20
    assert all(len(case.lesion) == bool(case.label) for case in cohort.cases)
    assert {case.lesion[0].path for case in cohort.cases if case.label} == {*tmp_path.glob(f"abnormal/{truth.format('*')}")}
    assert len(scans_in(tmp_path, settings_from({}).data).cases) == 40  # to `segment` they are no images either


def test_volumes_in_folders_of_their_own(tmp_path: Path) -> None:
    truth = np.zeros((12, 10, 4), np.uint8)
    truth[3:6, 3:6, 1:3] = 1
    for i in range(3):
        for name in ("normal", "abnormal"):
            (tmp_path / name / str(i)).mkdir(parents=True)
            make_scan(tmp_path / name / str(i) / "ct.nii.gz")
        write_nifti(tmp_path / f"abnormal/{i}/seg.nii.gz", truth)
    assert names(listed(tmp_path)) == [(f"abnormal__{i}__ct", ["seg.nii.gz"]) for i in range(3)] + [
        (f"normal__{i}__ct", []) for i in range(3)
    ]


def test_of_several_images_in_a_folder_nobody_knows_whose_the_mask_is(tmp_path: Path) -> None:
    for i in range(3):
        photo(tmp_path / f"normal/{i}/a.png")
        for name in "ab":
            photo(tmp_path / f"abnormal/{i}/{name}.png")
        mask(tmp_path / f"abnormal/{i}/mask.png")
    cohort = listed(tmp_path)
    assert [case.image.name for case in cohort.cases if case.label] == ["a.png", "b.png"] * 3
    assert "masks without their image are left out: mask.png, mask.png, mask.png" in cohort.problems


@pytest.mark.parametrize("folder", ["Label", "crack_masks", "segmentation", "annotations", "SegmentationClass", "images/truth"])
@pytest.mark.parametrize("classes", [("crack", "dent"), ("abnormal",)], ids=str)
def test_a_folder_of_masks_is_no_class(tmp_path: Path, folder: str, classes: Sequence[str]) -> None:
    for i in range(3):
        photo(tmp_path / f"normal/n{i}.png")
        for name in classes:
            photo(tmp_path / f"{name}/{name}{i}.png")
            mask(tmp_path / folder / f"{name}{i}.png")
    cohort = listed(tmp_path)
    assert [case.image.parent.name for case in cohort.cases if case.label] == [name for name in classes for _ in range(3)]
    assert [name for _, paths in names(cohort) for name in paths] == [f"{name}{i}.png" for name in classes for i in range(3)]
    assert f"the masks are taken from {folder}: its files have few values and names of images" in cohort.problems


def test_of_several_folders_of_masks_none_is_read_and_that_is_said(tmp_path: Path) -> None:
    for i in range(3):
        photo(tmp_path / f"normal/{i}.png")
        for name in ("crack", "dent"):
            photo(tmp_path / f"{name}/{i}.png")
            mask(tmp_path / f"{name}_truth/{i}.png")
    cohort = listed(tmp_path)
    assert {case.image.parent.name for case in cohort.cases} == {"normal", "crack", "dent"}
    line = "the folders crack_truth, dent_truth hold masks, as their files have few values and names of images: none is read"
    assert any(problem.startswith(line) for problem in cohort.problems)


def test_a_folder_of_masks_of_an_organ_is_not_read_as_lesions(tmp_path: Path) -> None:
    for i in range(3):
        for name in ("normal", "abnormal"):
            photo(tmp_path / f"{name}/{name[0]}{i}.png")
            mask(tmp_path / f"lung_masks/{name[0]}{i}.png")
    what = "holds masks of normal images too, which are not empty: not read, as of an organ (--data.masks: as of lesions)"
    assert f"the folder lung_masks {what}" in listed(tmp_path).problems
    assert not any(paths for _, paths in names(listed(tmp_path)))
    assert sum(len(paths) for _, paths in names(listed(tmp_path, masks="lung_masks"))) == 3
    for i in range(3):
        mask(tmp_path / f"lung_masks/n{i}.png", empty=True)
    assert [name for _, paths in names(listed(tmp_path)) for name in paths] == ["a0.png", "a1.png", "a2.png"]


def test_predictions_of_a_program_are_no_masks(tmp_path: Path) -> None:
    for i in range(3):
        photo(tmp_path / f"normal/{i}.png")
        photo(tmp_path / f"abnormal/a{i}.png")
        mask(tmp_path / f"predictions/a{i}.png")
    assert not any(paths for _, paths in names(listed(tmp_path)))


@pytest.mark.parametrize("name", ["Masks", "Ground_Truth", "GT"])
def test_folders_are_known_in_any_capitals(tmp_path: Path, name: str) -> None:
    for i in range(3):
        photo(tmp_path / f"Images/Normal/{i}.png")
        photo(tmp_path / f"Images/Abnormal/a{i}.png")
        mask(tmp_path / name / f"a{i}.png")
    assert [case.label for case in listed(tmp_path).cases] == [1, 1, 1, 0, 0, 0]
    assert [name for _, paths in names(listed(tmp_path)) for name in paths] == ["a0.png", "a1.png", "a2.png"]


def test_the_same_names_in_folders_of_patients_are_images(tmp_path: Path) -> None:
    for patient in range(3):
        for i in range(2):
            photo(tmp_path / f"normal/p{patient}/{i}.png")
            photo(tmp_path / f"abnormal/p{patient}/{i}.png")
    assert len(listed(tmp_path).cases) == 12


def test_many_folders_are_not_read_to_find_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr("coinseg.data.layouts.masks_by_look.has_few_values", read.append)
    images = {Path(f"p{patient}/{i}.png"): f"p{patient}/{i}" for patient in range(3000) for i in range(2)}
    assert masks_by_look(images | {Path(f"{i}.png"): str(i) for i in range(2)}) == {}
    assert not read


def test_photographs_by_the_names_of_masks_are_said(tmp_path: Path) -> None:
    for i in range(3):
        photo(tmp_path / f"normal/n{i}.png")
        photo(tmp_path / f"abnormal/a{i}.png")
        photo(tmp_path / f"abnormal/a{i}_label.png")
    line = "3 lesion masks look like pictures, with hardly any ground (abnormal__a0, abnormal__a1, abnormal__a2): are they masks?"
    assert line in inspect(tmp_path, settings_from({"data": {"size": 16}}))["problems"]
