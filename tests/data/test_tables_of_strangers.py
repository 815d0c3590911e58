"""Tables as people have them: what is not read as they may expect is said, or refused where labels would be wrong."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from coinseg.cli.template import write_template
from coinseg.config.parsing import settings_from
from coinseg.data.layouts.registry import read_layout
from coinseg.errors import UserError
from coinseg.types import Cohort
from examples import EXAMPLES
from writers import PLAIN, mask_of, scan_of, write_series
from writers import photo as picture


def written(root: Path, header: str, *rows: str, name: str = "labels.csv") -> Path:
    """Images i0.png, i1.png, ... in a folder, and a table whose rows begin with their names."""
    for i in range(len(rows)):
        picture(root / f"images/i{i}.png")
    lines = [header, *(f"images/i{i}.png,{row}" for i, row in enumerate(rows))]
    (root / name).write_text("\n".join(lines) + "\n")
    return root


def listed(root: Path, **data: object) -> Cohort:
    return read_layout(root, settings_from({"data": {"size": 16, **data}}).data)


# --- classes


def test_an_uncertain_class_is_refused_as_its_images_would_be_normal(tmp_path: Path) -> None:
    root = written(tmp_path, "Path,Edema,Pneumonia,Fracture", "1.0,,0.0", "0.0,1.0,0.0", "0.0,-1.0,1.0", "0.0,0.0,0.0", "1,1,1")
    with pytest.raises(
        UserError, match=r"row 4 of .*labels.csv has -1 in the column Pneumonia; required: 0, 1, or nothing if not known; .*"
    ):
        listed(root)
    assert listed(root, classes=["Edema", "Fracture"]).classes == ("Edema", "Fracture")
    with pytest.raises(UserError, match="has neither 0 nor 1 in the column Pneumonia"):
        listed(root, classes=["Edema", "Pneumonia"])


@pytest.mark.parametrize("cells", [("True", "False"), ("yes", "no"), ("0.5", "1.0", "0.0"), ("2", "1", "0")])
def test_a_column_that_is_nearly_a_class_is_said(tmp_path: Path, cells: Sequence[str]) -> None:
    rows = [f"{int(i % 2)},{int(i % 3 == 0)},{cells[i % len(cells)]},{i + 40}" for i in range(8)]
    cohort = listed(written(tmp_path, "file,crack,dent,Rust,age", *rows))
    assert cohort.classes == ("crack", "dent")
    what = "are not read as classes, which have 0, 1 or nothing in every row: an image with one of these alone counts as normal"
    assert f"labels.csv: columns Rust {what}" in cohort.problems


def test_the_only_column_of_a_class_is_named_where_there_is_no_label(tmp_path: Path) -> None:
    root = written(tmp_path, "file,crack", *(str(i % 2) for i in range(6)))
    assert "labels.csv: column crack has 0 and 1 (--data.classes crack reads it)" in listed(root).problems
    assert [case.label for case in listed(root, classes=["crack"]).cases] == [0, 1, 0, 1, 0, 1]


def test_rows_that_are_normal_by_no_class_and_not_by_its_own_column_are_said(tmp_path: Path) -> None:
    rows = ["1,0,0", "0,1,0", "0,0,1", "0,1,0", "0,0,1", "1,0,0"]
    assert not any("in normal" in line for line in listed(written(tmp_path, "file,normal,crack,dent", *rows)).problems)
    problems = listed(written(tmp_path, "file,normal,crack,dent", *rows, "0,0,0", "1,1,0", "1,0,1")).problems
    assert "1 rows of labels.csv have 0 in normal and in every class: they count as normal" in problems
    assert "2 rows of labels.csv have 1 in normal and in a class: they count as abnormal" in problems


def test_y_beside_x_is_a_place_and_no_label(tmp_path: Path) -> None:
    for name in ("normal", "abnormal"):
        for i in range(2):
            picture(tmp_path / name / f"{name[0]}{i}.png")
    (tmp_path / "boxes.csv").write_text("file,x,y,w,h\nabnormal/a0.png,12,1,4,5\nabnormal/a1.png,3,0,9,6\n")
    cohort = listed(tmp_path)
    assert (cohort.layout, [case.label for case in cohort.cases]) == ("folders", [1, 1, 0, 0])
    assert "boxes.csv is passed over, it has no column label: the folders are read" in cohort.problems
    problems = listed(tmp_path / "boxes.csv").problems
    assert problems[0].startswith("boxes.csv has no column label (file, x, y, w, h)")
    (tmp_path / "boxes.csv").write_text("file,y\nabnormal/a0.png,1\nnormal/n0.png,0\n")
    assert [case.label for case in listed(tmp_path).cases] == [1, 0]


# --- patients and parts


@pytest.mark.parametrize(
    "name", ["Patient ID", "PatientID", "patientId", "patient-id", "Subject ID", "subject_id", "participant_id", "SubjectID"]
)
def test_patients_by_other_names_of_their_column(tmp_path: Path, name: str) -> None:
    cohort = listed(written(tmp_path, f"file,label,{name}", *(f"{i % 2},p{i // 2}" for i in range(6))))
    assert [case.patient for case in cohort.cases] == ["p0", "p0", "p1", "p1", "p2", "p2"]
    assert not any("has no column patient" in line for line in cohort.problems)


def test_the_patients_of_dicom_stay_hidden_where_a_table_repeats_their_id(tmp_path: Path) -> None:
    for i in range(3):
        write_series(tmp_path / f"s{i}", scan_of(seed=i), PLAIN, PatientID=f"ID-{i}")
    (tmp_path / "labels.csv").write_text("file,label,PatientID\n" + "".join(f"s{i},{i % 2},ID-{i}\n" for i in range(3)))
    patients = {case.patient for case in listed(tmp_path).cases}
    assert len(patients) == 3
    assert all(re.fullmatch(r"patient-[0-9a-f]+", name) for name in patients)


@pytest.mark.parametrize("name", ["pid", "patient_number", "lesion_id", "MRN"])
def test_a_column_that_may_be_one_of_patients_is_named(tmp_path: Path, name: str) -> None:
    cohort = listed(written(tmp_path, f"file,label,{name}", *(f"{i % 2},p{i // 2}" for i in range(6))))
    line = f"labels.csv has no column patient ({name.lower()} is not read as one: name it patient): every file is its own patient"
    assert line in cohort.problems


@pytest.mark.parametrize("name", ["split", "fold", "is_train"])
def test_a_column_of_parts_is_said(tmp_path: Path, name: str) -> None:
    cohort = listed(written(tmp_path, f"file,label,{name}", *(f"{i % 2},{i % 2}" for i in range(6))))
    assert f"column {name} of labels.csv is not read: who is held out is drawn anew (data.split_by)" in cohort.problems


@pytest.mark.parametrize("column", ["patient", "Patient ID"])
@pytest.mark.parametrize("given", ["found", "named", "classes"])
def test_a_table_beside_folders_may_say_whose_the_images_are(tmp_path: Path, column: str, given: str) -> None:
    for i in range(4):
        for name in ("normal", "abnormal"):
            picture(tmp_path / name / f"{name[0]}{i}.png")
    rows = [f"{name}/{name[0]}{i}.png,{i + 40},p{i // 2}" for name in ("normal", "abnormal") for i in range(4)]
    (tmp_path / "meta.csv").write_text("\n".join([f"file,age,{column}", *rows[:-1], "gone.png,1,p9"]) + "\n")
    named = {"normal": ["normal"], "abnormal": ["abnormal"]} if given == "named" else {}
    cohort = listed(tmp_path, **(named if given != "classes" else {"classes": ["normal", "abnormal"]}))
    assert (cohort.layout, len(cohort.cases)) == ("folders", 8)
    assert [case.patient for case in cohort.cases] == ["p0", "p0", "p1", "abnormal__a3", "p0", "p0", "p1", "p1"]
    assert f"patients of 7 of 8 images are from meta.csv, column {column.lower()}" in cohort.problems
    assert not any("passed over" in line or "not read" in line for line in cohort.problems)
    (tmp_path / "meta.csv").write_text("\n".join([f"file,age,{column}", *rows, "normal/n0.png,1,p9"]) + "\n")
    with pytest.raises(UserError, match=r"row 10 of .*meta.csv contradicts an earlier row; required: one patient per file"):
        listed(tmp_path, **named)


def test_folders_that_may_be_patients_are_said(tmp_path: Path) -> None:
    for patient in range(3):
        for i in range(2):
            picture(tmp_path / f"normal/p{patient}/{i}.png")
            picture(tmp_path / f"abnormal/p{patient}/a{i}.png")
    hint = "(where the 3 folders in those of classes are patients, a table with file and patient in the data says so)"
    assert f"folders name no patients: every file is its own patient {hint}" in listed(tmp_path).problems
    rows = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in sorted(tmp_path.glob("*/*/*.png"))]
    (tmp_path / "meta.csv").write_text("\n".join(["file,patient", *rows]) + "\n")
    assert {case.patient for case in listed(tmp_path).cases} == {"p0", "p1", "p2"}


# --- files and masks


@pytest.mark.parametrize(
    "header", ["id,image_path,label", "path,filename,label", "image,file_name,label", "no,Image Index,label"]
)
def test_the_column_that_names_files_is_read(tmp_path: Path, header: str) -> None:
    for i in range(6):
        picture(tmp_path / f"images/i{i}.png")
    first = [f"{i}" for i in range(6)] if not header.startswith("path") else ["images"] * 6
    (tmp_path / "labels.csv").write_text("\n".join([header, *(f"{first[i]},i{i}.png,{i % 2}" for i in range(6))]) + "\n")
    cohort = listed(tmp_path)
    assert [(case.image.name, case.label) for case in cohort.cases] == [(f"i{i}.png", i % 2) for i in range(6)]


def test_images_in_a_folder_in_other_capitals(tmp_path: Path) -> None:
    for i in range(4):
        picture(tmp_path / f"Images/i{i}.png")
        picture(tmp_path / f"Thumbs/t{i}.png")
    (tmp_path / "labels.csv").write_text("file,label\n" + "".join(f"i{i},{i % 2}\n" for i in range(4)))
    assert [case.image.parent.name for case in listed(tmp_path).cases] == ["Images"] * 4


@pytest.mark.parametrize("folder", ["train_images", "Images", "images/a"])
def test_masks_may_lie_in_one_folder_where_no_name_is_twice(tmp_path: Path, folder: str) -> None:
    for i in range(4):
        picture(tmp_path / f"{folder}/i{i}.png")
        mask_of(tmp_path / f"masks/i{i}.png", empty=i % 2 == 0)
    rows = [f"{folder}/i{i}.png,{i % 2}" for i in range(4)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows]) + "\n")
    assert [len(case.lesion) for case in listed(tmp_path).cases] == [0, 1, 0, 1]  # a normal image has its own place alone
    picture(tmp_path / f"{folder}/other/i1.png")
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows, f"{folder}/other/i1.png,1"]) + "\n")
    assert sum(len(case.lesion) for case in listed(tmp_path).cases) == 1


def test_a_mask_that_is_its_image_is_refused(tmp_path: Path) -> None:
    root = written(tmp_path, "file,label,mask", "0,", "1,images/i1.png", "0,", "1,")
    with pytest.raises(UserError, match=r"row 3 of .*labels.csv names its image as its mask; required: a mask, or nothing"):
        listed(root)


def test_the_folder_of_masks_that_is_asked_for_is_read_and_one_that_looks_like_it_is_said(tmp_path: Path) -> None:
    root = written(tmp_path, "file,label", *(str(i % 2) for i in range(6)))
    for i in (1, 3, 5):
        mask_of(root / f"Label/i{i}_label.png")
    cohort = listed(root)
    assert not any(case.lesion for case in cohort.cases)
    what = "holds masks, as its files have few values and names of images: not read (--data.masks reads it)"
    assert f"the folder Label {what}" in cohort.problems
    asked = listed(root, masks="Label")
    assert [len(case.lesion) for case in asked.cases] == [0, 1, 0, 1, 0, 1]
    assert not any("the folder Label" in line for line in asked.problems)
    with pytest.raises(UserError, match=r"truth is no folder; required: a folder relative to the data; correct data.masks"):
        listed(root, masks="truth")


# --- columns of 0 and 1 that have the name of something else


@pytest.mark.parametrize("name", ["case", "subject", "group"])
def test_a_column_of_labels_is_none_of_patients(tmp_path: Path, name: str) -> None:
    cohort = listed(written(tmp_path, f"file,label,{name}", *(f"{i % 2},{i % 2}" for i in range(6))))
    assert len({case.patient for case in cohort.cases}) == 6
    assert f"labels.csv: column {name} has labels and is not taken for patients" in cohort.problems


@pytest.mark.parametrize("name", ["mask", "lesion", "organ"])
def test_a_column_of_labels_names_no_masks(tmp_path: Path, name: str) -> None:
    root = written(tmp_path, f"file,label,{name}", *(f"{i % 2},{('no', 'yes')[i % 2]}" for i in range(6)))
    for i in (1, 3, 5):
        mask_of(root / f"masks/i{i}.png")
    cohort = listed(root)
    assert [len(case.lesion) for case in cohort.cases] == [0, 1, 0, 1, 0, 1]
    assert f"labels.csv: column {name} has labels and names no masks" in cohort.problems
    assert not any("patient (" in line for line in cohort.problems)


def test_a_word_for_an_organ_is_said_to_be_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"row 2 of .* names a file that is missing, for its organ; required: an existing file"):
        listed(written(tmp_path, "file,label,organ", *(f"{i % 2},kidney" for i in range(6))))


def test_a_template_has_the_labels_of_folders(tmp_path: Path) -> None:
    for i in range(2):
        picture(tmp_path / f"data/train/good/{i}.png")
        picture(tmp_path / f"data/test/cut/{i}.png")
        picture(tmp_path / f"data/unsorted/{i}.png")
    write_template(tmp_path / "data", tmp_path / "data/labels.csv")
    rows = (tmp_path / "data/labels.csv").read_text().splitlines()[1:]
    assert [row.rpartition(",")[2] for row in rows] == ["1", "1", "0", "0", "", ""]
    cohort = listed(tmp_path / "data")
    assert (cohort.layout, [case.label for case in cohort.cases]) == ("csv", [1, 1, 0, 0, None, None])


# --- what spreadsheets leave


@pytest.mark.parametrize("start", ["\n", "\r\n \r\n", ",,\n", "# about\n\n"])
def test_empty_lines_above_the_names_of_columns(tmp_path: Path, start: str) -> None:
    root = written(tmp_path, "file,label,patient", *(f"{i % 2},p{i}" for i in range(4)))
    text = (root / "labels.csv").read_text()
    (root / "labels.csv").write_text(start + text, newline="")
    assert [(case.label, case.patient) for case in listed(root).cases] == [(0, "p0"), (1, "p1"), (0, "p2"), (1, "p3")]
    (root / "labels.csv").write_text(start + text.replace(",1,p3", ",2,p3"), newline="")
    with pytest.raises(UserError, match=rf"row {5 + start.count(chr(10))} of .* has a label that is not known"):
        listed(root)


def test_empty_cells_behind_the_last_column(tmp_path: Path) -> None:
    root = written(tmp_path, "file,label", *(f"{i % 2},," for i in range(4)))
    assert [case.label for case in listed(root).cases] == [0, 1, 0, 1]
    (root / "labels.csv").write_text((root / "labels.csv").read_text() + "images/i0.png,1,,x\n")
    with pytest.raises(UserError, match=r"row 6 of .* has 4 cells and the header 2"):
        listed(root)


# --- settings that are not read


def test_settings_that_a_layout_does_not_read_are_said(tmp_path: Path) -> None:
    root = written(tmp_path, "file,label,mask", "0,", "1,m/i1.png", "0,", "1,m/i3.png")
    for i in (1, 3):
        mask_of(root / f"m/i{i}.png")
    cohort = listed(root, masks="m", layout="csv", normal=["images"], abnormal=["images"])
    assert "data.normal, data.abnormal is given and not read in layout csv" in cohort.problems
    assert "data.masks is given and not read: column mask of labels.csv names the masks" in cohort.problems
    example = EXAMPLES["decathlon"]
    data = example.settings().data
    found = read_layout(example.make(tmp_path / "msd"), replace(data, masks="labelsTr")).problems
    assert "data.masks is given and not read in layout decathlon" in found


def test_organ_masks_that_no_image_has_are_said(tmp_path: Path) -> None:
    for name in ("normal", "abnormal"):
        for i in range(2):
            picture(tmp_path / name / f"{name[0]}{i}.png")
            mask_of(tmp_path / f"organ_masks/{name[0]}{i}.png")
    what = "none lies in its folder as an image in the data, such as organ_masks/normal/x.png for normal/x.png"
    assert f"organ masks not used: {what}: a0.png, a1.png, n0.png and 1 more" in listed(tmp_path).problems
    for name in ("normal", "abnormal"):
        for i in range(2):
            path = tmp_path / f"organ_masks/{name}/{name[0]}{i}.png"
            path.parent.mkdir(exist_ok=True)
            (tmp_path / f"organ_masks/{path.name}").rename(path)
    cohort = listed(tmp_path)
    assert all(case.organ for case in cohort.cases)
    assert not any("organ" in line for line in cohort.problems)
