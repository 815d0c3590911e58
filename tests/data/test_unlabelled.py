"""What is to be segmented in a folder: every case of every layout with its organs, and no mask."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coinseg.config.schema import DataSettings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.layouts.unlabelled import scans_in
from coinseg.errors import UserError
from coinseg.types import MaskSource
from conftest import write_images
from examples import CASES, EXAMPLES, hounsfield, kits, labelled, nnunet, save, text, totalsegmentator
from writers import make_scan


def names(root: Path, data: DataSettings, organs: str = "none", organ_from: Path | None = None) -> list[str]:
    return [case.image.relative_to(root).as_posix() for case in scans_in(root, data, organs, organ_from).cases]


@pytest.mark.parametrize("layout", EXAMPLES)
def test_the_cases_of_every_layout_are_those_of_a_run_with_their_organs_and_without_labels(layout: str, tmp_path: Path) -> None:
    root, data = EXAMPLES[layout].make(tmp_path / "data"), EXAMPLES[layout].settings().data
    cohort = read_layout(root, data)
    trained_on = {case.image: case.organ for case in cohort.cases}
    found = scans_in(root, data, "required" if data.organ else "none", channels=cohort.sequences)
    assert {case.image: case.organ for case in found.cases} == trained_on
    assert [case.image for case in found.cases] == sorted(trained_on)
    assert all(case.label is None and not case.slice_labels and not case.lesion for case in found.cases)
    left = {
        "decathlon": "1 images or volumes are not segmented, the layout decathlon has no case of them: imagesTs/liver_9.nii.gz"
    }
    left["sequences"] = "4 images or volumes are not segmented, the layout sequences has no case of them: p0/p0_seg.nii.gz, "
    assert [line.startswith(left.get(layout, "none")) for line in found.left] == [True] * (layout in left)
    assert not any(case.organ for case in scans_in(root, data, channels=cohort.sequences).cases)


@pytest.mark.parametrize("layout", ["totalsegmentator", "nnunet", "kits"])
def test_new_scans_have_neither_lesion_masks_nor_labels(layout: str, tmp_path: Path) -> None:
    root, data = EXAMPLES[layout].make(tmp_path / "data"), EXAMPLES[layout].settings().data
    for pattern in ("labels.csv", "*/segmentations/tumor.nii.gz", "*/segmentation.nii.gz", "labelsTr/*"):
        for path in root.glob(pattern):
            path.unlink()
    text(root / "meta.csv", "image_id;study_type\ns0;ct thorax\n")  # no case is left out for the kind of its study
    assert len(names(root, replace(data, organ=()))) == CASES


def test_a_case_without_its_organ_is_there_without_it(tmp_path: Path) -> None:
    data = EXAMPLES["totalsegmentator"].settings().data
    root = totalsegmentator(tmp_path / "data")
    (root / "s1/segmentations/kidney_left.nii.gz").unlink()
    assert [bool(case.organ) for case in scans_in(root, data, "required").cases] == [True, False, True, True]
    for path in root.glob("s*/segmentations/kidney_left.nii.gz"):
        path.unlink()
    with pytest.raises(UserError, match=r"data.organ names 'kidney_left', which no scan has a mask of"):
        scans_in(root, data, "required")
    assert [case.organ for case in scans_in(root, data, "wanted").cases] == [()] * CASES


def test_label_maps_that_are_missing_cost_their_case_the_organ(tmp_path: Path) -> None:
    for make, mask in ((nnunet, "labelsTr/c1.nii.gz"), (kits, "case_00001/segmentation.nii.gz")):
        root, data = make(tmp_path / make.__name__), EXAMPLES[make.__name__].settings().data
        (root / mask).unlink()
        assert [bool(case.organ) for case in scans_in(root, data, "required").cases] == [True, False, True, True]


@pytest.mark.parametrize("below", ["", "segmentations"])
def test_organs_of_plain_files_by_their_names(tmp_path: Path, below: str) -> None:
    """A folder of scans, and what TotalSegmentator makes of each, in folders of their names or beside them."""
    data = DataSettings(organ=("kidney_left", "kidney_right"), roi="organ")
    for name in ("a", "sub/b", "c"):
        save(tmp_path / "scans" / f"{name}.nii.gz", hounsfield(labelled()))
        for organ in data.organ[: 1 if name == "c" else 2]:
            save(tmp_path / "organs" / name / below / f"{organ}.nii.gz", labelled(), np.eye(4))
    found = scans_in(tmp_path / "scans", data, "required", tmp_path / "organs").cases
    first, second = (tmp_path / "organs/a" / below / f"{organ}.nii.gz" for organ in data.organ)
    assert found[0].organ == (MaskSource(first), MaskSource(second))
    assert [len(case.organ) for case in found] == [2, 0, 2]
    shutil.copytree(tmp_path / "organs/a" / below, tmp_path / "scans/segmentations")
    assert names(tmp_path / "scans", data) == ["a.nii.gz", "c.nii.gz", "sub/b.nii.gz"]
    assert [len(case.organ) for case in scans_in(tmp_path / "scans", data, "required").cases] == [2, 2, 0]


def test_masks_of_plain_files_are_no_scans(tmp_path: Path) -> None:
    root = write_images(tmp_path / "data", patients=1)
    shutil.copytree(root / "abnormal", root / "organ_masks/abnormal")
    for path in (root / "normal").iterdir():
        shutil.copy(path, path.with_name(f"{path.stem}_mask.png"))
    found = scans_in(root, DataSettings(), "wanted")
    assert [case.image.relative_to(root).as_posix() for case in found.cases] == [
        "abnormal/i01.png", "abnormal/i03.png", "normal/i00.png", "normal/i02.png",
    ]  # fmt: skip
    assert [bool(case.organ) for case in found.cases] == [True, True, False, False]
    assert found.left == ("2 images or volumes are not segmented, they are taken for masks: "
                          "normal/i00_mask.png, normal/i02_mask.png",)  # fmt: skip


def test_a_table_is_a_list_of_scans(tmp_path: Path) -> None:
    root = EXAMPLES["csv"].make(tmp_path / "data")
    table = root / "new.csv"
    table.write_text("file\n" + "\n".join(path.relative_to(root).as_posix() for path in sorted(root.glob("made/normal/*"))[:2]))
    found = scans_in(table, DataSettings())
    assert [case.image.name for case in found.cases] == ["i00.png", "i02.png"]
    with pytest.raises(UserError, match="is no table"):
        scans_in(root / "made/normal/i00.png", DataSettings())


def test_a_folder_that_a_run_names_is_read_only_below_the_new_data(tmp_path: Path) -> None:
    elsewhere, root = tmp_path / "organs", tmp_path / "data"
    for place in (elsewhere, root / "other"):
        save(place / "a.nii.gz", labelled())
    save(root / "images/a.nii.gz", hounsfield(labelled()))
    for name, organs in ((str(elsewhere), 0), ("../organs", 0), ("other", 1)):
        found = scans_in(root, DataSettings(organ_from=name, organ=("1",)), "wanted").cases
        assert sum(bool(case.organ) for case in found) == organs, name


def test_only_the_sequences_of_the_training_are_needed(tmp_path: Path) -> None:
    for case, names in {"a": ("flair", "t2"), "b": ("flair", "t1", "t2"), "c": ("t1", "t2", "flair")}.items():
        for name in names:
            make_scan(tmp_path / case / f"{case}_{name}.nii.gz")
    found = scans_in(tmp_path, DataSettings(), channels=("t2", "flair")).cases
    assert [[path.name for path in (case.image, *case.others)] for case in found] == [
        [f"{case}_t2.nii.gz", f"{case}_flair.nii.gz"] for case in "abc"
    ]
    (tmp_path / "b" / "b_t2.nii.gz").unlink()
    with pytest.raises(UserError, match=r"1 of 3 cases lack images that the run was trained on: b \(t2\); required: t2, flair"):
        scans_in(tmp_path, DataSettings(), channels=("t2", "flair"))


def test_channels_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """nnU-Net normalises by the name of a channel, so two may have one."""
    root = tmp_path / "data"
    for case in "abcd":
        for channel in (0, 1, 2):
            save(root / "imagesTr" / f"{case}_000{channel}.nii.gz", hounsfield(np.zeros((2, 3, 4), int)))
    text(root / "labels.csv", "image_id,label\na,0\nb,1\nc,0\nd,1\n")
    names = {"channel_names": {"0": "CT", "1": "PET", "2": "CT"}, "labels": {"background": 0, "lesion": 1}, "numTraining": 4}
    (root / "dataset.json").write_text(json.dumps(names))
    trained = read_layout(root, DataSettings())
    assert trained.sequences == ("CT", "PET", "CT #2")
    found = {case.id: case for case in scans_in(root, DataSettings(), channels=trained.sequences).cases}
    assert {case.id: (case.image, case.others) for case in trained.cases} == {n: (c.image, c.others) for n, c in found.items()}
    assert [path.name for path in (found["a"].image, *found["a"].others)] == [f"a_000{channel}.nii.gz" for channel in (0, 1, 2)]
    said = r"the run has two channels of one name \(CT, PET, CT\): which image .* is not known; required: .*; train it again"
    with pytest.raises(UserError, match=said):  # as such runs had them once
        scans_in(root, DataSettings(), channels=("CT", "PET", "CT"))


def test_sequences_for_a_run_on_one_of_them_are_said_to_be_segmented_each_by_itself(tmp_path: Path) -> None:
    for scan in "ab":
        for name in ("flair", "t2"):
            save(tmp_path / "data" / scan / f"{scan}_{name}.nii.gz", hounsfield(np.zeros((2, 3, 4), int)))
    found = scans_in(tmp_path / "data", DataSettings())
    assert [case.image.name for case in found.cases] == ["a_flair.nii.gz", "a_t2.nii.gz", "b_flair.nii.gz", "b_t2.nii.gz"]
    assert [line for line in found.left if line.startswith("images of one scan (flair, t2) are segmented each by itself")]
    assert len(scans_in(tmp_path / "data", DataSettings(), channels=("flair", "t2")).left) == 0
    for path in (tmp_path / "data").rglob("*_t2.nii.gz"):
        path.unlink()
    assert scans_in(tmp_path / "data", DataSettings()).left == ()
