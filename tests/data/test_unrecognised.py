"""Data in no known layout: the error line proposes what a person would do next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from coinseg.config.schema import DataSettings
from coinseg.data.layouts.registry import read_layout
from coinseg.errors import UserError

SETTINGS = DataSettings()


def put(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def said(root: Path) -> str:
    with pytest.raises(UserError) as error:
        read_layout(root, SETTINGS)
    return str(error.value).replace(f"{root.as_posix()}/", "")


@pytest.mark.parametrize(
    ("normal", "abnormal"),
    [
        (["Apple___healthy", "Corn___healthy"], ["Apple___scab", "Corn___rust"]),
        (["Testing/notumor", "Training/notumor"], ["Testing/glioma", "Training/glioma"]),
        (["Uninfected"], ["Parasitized"]),
        (["train/ok_front"], ["train/def_front"]),
        (["no"], ["yes"]),
        (["No_DR"], ["Mild", "Severe"]),
        (["test/benign", "train/benign"], ["test/malignant", "train/malignant"]),
    ],
    ids=str,
)
def test_folders_whose_names_say_it_are_proposed(tmp_path: Path, normal: Sequence[str], abnormal: Sequence[str]) -> None:
    root = put(tmp_path, *(f"{name}/{i}.png" for name in (*normal, *abnormal) for i in range(2)))
    command = f"such as --data.normal {' '.join(normal)} --data.abnormal {' '.join(abnormal)}"
    assert said(root).endswith(f"rearrange the data or set data.normal and data.abnormal, {command}")
    cohort = read_layout(root, DataSettings(normal=tuple(normal), abnormal=tuple(abnormal)))
    assert [case.label for case in cohort.cases].count(0) == 2 * len(normal)


@pytest.mark.parametrize("name", ["nodule", "abnormal_a", "not_normal", "normality"])
def test_words_that_do_not_say_it_are_not(tmp_path: Path, name: str) -> None:
    assert said(put(tmp_path, f"{name}/a.png", "x/b.png")).endswith("set data.normal and data.abnormal")


def test_a_folder_in_a_known_layout_is_named(tmp_path: Path) -> None:
    root = put(tmp_path, "set one/normal/a.png", "set one/abnormal/b.png")
    assert "; give set one, or rearrange the data" in said(root)
    put(root, "bottle/train/good/a.png", "bottle/test/cut/b.png")
    assert "; give one of bottle, set one, or rearrange the data" in said(root)


def test_several_tables_of_files_are_named(tmp_path: Path) -> None:
    root = put(tmp_path, "a.png")
    for name in ("test", "train"):
        (root / f"{name}.csv").write_text("file,label\na.png,1\n")
    assert said(root).endswith("; name one of test.csv, train.csv labels.csv, or give its path")


@pytest.mark.parametrize(
    "names", [("images/a.png", "masks/a.png"), ("a.png", "a_GT.png"), ("p1/a.tif", "p1/a_mask.tif")], ids=str
)
def test_images_with_masks_and_no_folders_of_classes(tmp_path: Path, names: Sequence[str]) -> None:
    line = "where masks say which images are abnormal, --data.classes 255 reads them (or what their lesions have)"
    assert said(put(tmp_path, *names)).endswith(line)


def test_a_table_that_names_files_from_above_is_told_where_to_lie(tmp_path: Path) -> None:
    root = put(tmp_path, "set/train/a.png", "set/train/b.png")
    (root / "set/train.csv").write_text("Path,label\nset/train/a.png,0\nset/train/b.png,1\n")
    assert said(root / "set").endswith(f"required: an existing file; move the table to {root}, from where it names files")
    (root / "set/train.csv").rename(root / "train.csv")
    assert [case.label for case in read_layout(root, SETTINGS).cases] == [0, 1]


@pytest.mark.parametrize("name", ["anomaly", "Anomaly", "ng", "infected"])
def test_one_folder_beside_a_normal_one_is_abnormal_where_its_name_says_so(tmp_path: Path, name: str) -> None:
    cohort = read_layout(put(tmp_path, "Normal/a.png", f"{name}/b.png"), SETTINGS)
    assert [(case.image.parent.name, case.label) for case in cohort.cases if case.label] == [(name, 1)]
    assert not any("read as one class" in line or "not read" in line for line in cohort.problems)


def test_folders_of_one_class_are_told_the_settings(tmp_path: Path) -> None:
    line = said(put(tmp_path, "benign/a.png", "malignant/b.png"))
    assert "0 normal and 2 abnormal labels are given" in line
    assert "add the other class, set data.normal and data.abnormal, or inject" in line


@pytest.mark.parametrize("name", ["labels.xlsx", "labels.tsv"])
def test_a_table_of_another_program_is_to_be_saved_as_csv(tmp_path: Path, name: str) -> None:
    root = put(tmp_path, "images/a.png", name)
    assert said(root).endswith(f"; save {name} as a .csv with a column file and a column label, or rearrange the data")
