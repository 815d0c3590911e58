"""Slices that a table names by InstanceNumber or SOPInstanceUID, and the table that `inspect --template` writes."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from coinseg.cli import inspect as inspection
from coinseg.cli import main as cli
from coinseg.config.schema import DataSettings, Settings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.readers.dicom import instances_of
from coinseg.data.readers.volume import read_volume
from coinseg.errors import UserError
from conftest import write_images
from examples import CASES, EXAMPLES, LPS, SHAPE, hounsfield, labelled, save, text
from writers import write_series


def numbered(root: Path, head_first: bool = True) -> Path:
    """Two studies of 4 slices whose images are numbered from 1, from the head down as viewers often do; slice 3 is bright."""
    root.mkdir()
    for name in ("p0", "p1"):
        scan = hounsfield(np.zeros(SHAPE, np.uint8))
        scan[3] += 900

        def edit(found: list, name: str = name) -> None:
            for z, ds in enumerate(found):
                ds.InstanceNumber = len(found) - z if head_first else z + 1
                ds.SOPInstanceUID = f"1.2.826.{name[1]}.{z}"

        write_series(root / name, scan.T, LPS, edit=edit, series=f"1.2.3.{name[1]}", PatientID=name)
    return root


def given(root: Path, table: str) -> list[dict[int, int]]:
    text(root / "labels.csv", table)
    return [dict(case.slice_labels) for case in read_layout(root, DataSettings()).cases]


TABLES = [
    ("case,instance_number,label\np0,1,1\np0,2,0\np1,4,0\n", [{3: 1, 2: 0}, {0: 0}]),
    ("case;SOPInstanceUID;label\np0;1.2.826.0.3;1\np1;1.2.826.1.0;0\n", [{3: 1}, {0: 0}]),
    ("case,slice,instance_number,label\np0,3,1.0,1\np0,2,,0\np1,0,,0\n", [{3: 1, 2: 0}, {0: 0}]),
    ("file,instance_number,label\np0,1,1\np0,2,0\np1,4,0\n", [{3: 1, 2: 0}, {0: 0}]),
    ("file,SOPInstanceUID,label,patient\np0,1.2.826.0.3,1,a\np1,1.2.826.1.0,0,b\n", [{3: 1}, {0: 0}]),
]


@pytest.mark.parametrize(("table", "labels"), TABLES)
def test_a_slice_by_the_number_a_viewer_shows(table: str, labels: list[dict[int, int]], tmp_path: Path) -> None:
    root = numbered(tmp_path / "data")
    assert given(root, table) == labels
    assert read_volume(root / "p0").scan.mean((1, 2)).argmax() == 3  # the bright one, whose InstanceNumber is 1


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("case,instance_number,label\np0,9,1\np1,1,0\n", "row 2 of .* names an InstanceNumber that no slice of its series has"),
        ("case,SOPInstanceUID,label\np0,1.2.7,1\np1,1.2.826.1.0,0\n", "names an SOPInstanceUID that no slice of its series has"),
        ("case,slice,instance_number,label\np0,1,1,1\np1,0,4,0\n", "names two slices, 1 and 3; required: one slice"),
        ("case,instance_number,label\np0,1,1\np0,1,0\np1,1,0\n", "row 3 of .* contradicts an earlier row"),
        ("file,slice,instance_number,label\np0,0,1,1\np1,0,4,0\n", "names two slices, 0 and 3"),
    ],
)
def test_what_names_no_slice_is_one_line_without_the_uid(table: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as error:
        given(numbered(tmp_path / "data"), table)
    assert "1.2.7" not in str(error.value)


def test_scans_that_are_no_dicom_have_no_such_numbers(tmp_path: Path) -> None:
    root = EXAMPLES["totalsegmentator"].make(tmp_path / "data")
    text(root / "labels.csv", "image_id,instance_number,label\ns0,1,1\n")
    with pytest.raises(UserError, match="has no slice index; required: a slice index from 0, which is that at the feet"):
        read_layout(root, DataSettings())
    save(tmp_path / "table/a.nii.gz", hounsfield(labelled()))
    text(tmp_path / "table/labels.csv", "file,instance_number,label\na.nii.gz,1,1\n")
    with pytest.raises(UserError, match="names a slice by InstanceNumber and its scan is no DICOM; required: a column slice"):
        read_layout(tmp_path / "table", DataSettings())


def test_numbers_of_slices_across_another_axis_are_refused(tmp_path: Path) -> None:
    coronal = LPS[:, [0, 2, 1, 3]]
    series = write_series(tmp_path / "s", hounsfield(labelled()).T, coronal)
    with pytest.raises(UserError, match="is a stack of coronal slices; required: axial slices"):
        instances_of(series)


# --- both ends, said


def test_inspect_says_which_end_is_slice_0(tmp_path: Path) -> None:
    root = EXAMPLES["nnunet"].make(tmp_path / "data")
    settings = EXAMPLES["nnunet"].settings()
    assert "numbers    slices 0 (feet) to 3 (head), as tables of labels count them" in inspection.lines(
        inspection.inspect(root, settings)
    )
    for path in [*root.glob("imagesTr/*"), *root.glob("labelsTr/*")]:
        image = nib.load(path)
        image.set_sform(None, 0)
        image.set_qform(None, 0)
        nib.save(image, path)
    found = inspection.inspect(root, settings)
    assert found["native"]["feet_first"] is False
    assert "numbers    slices 0 to 3, as tables of labels count them" in inspection.lines(found)
    assert "4 scans do not say where the head is (no sform, no qform): which slice is 0 is a guess" in found["problems"]


# --- a table to fill in


def filled(table: Path, label: int | None = None) -> list[dict[str, str]]:
    """The rows of a template; with a label, the first row of each case gets it in turn with its opposite."""
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    if label is not None:
        for number, name in enumerate(dict.fromkeys(next(iter(row.values())) for row in rows)):
            next(row for row in rows if next(iter(row.values())) == name)["label"] = str((label + number) % 2)
    return rows


@pytest.mark.parametrize("layout", ["totalsegmentator", "nnunet", "kits", "decathlon", "dicom"])
def test_a_template_that_is_filled_in_is_a_table_of_labels(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, table = EXAMPLES[layout].make(tmp_path / "data"), tmp_path / "labels.csv"
    (root / "labels.csv").unlink(missing_ok=True)
    assert cli.main(["inspect", str(root), "--template", str(table)]) == 0
    assert f"{CASES * SHAPE[0]} rows of {CASES} scans" in capsys.readouterr().out
    rows = filled(table, 1)
    assert all(row["label"] == "" for row in filled(table))
    with (root / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    cases = read_layout(root, EXAMPLES[layout].settings(lesion=[]).data).cases
    assert [dict(case.slice_labels) for case in cases] == [{0: 1}, {0: 0}, {0: 1}, {0: 0}]
    before = table.read_bytes()
    assert cli.main(["inspect", str(root), "--template", str(table)]) == 2
    assert "labels.csv exists; required: the name of a new table" in capsys.readouterr().err
    assert table.read_bytes() == before


def test_a_template_of_plain_images_keeps_the_labels_of_their_folders_out(tmp_path: Path) -> None:
    loose = write_images(tmp_path / "data", patients=1) / "normal"
    assert cli.main(["inspect", str(loose), "--template", str(tmp_path / "t.csv")]) == 0
    assert filled(tmp_path / "t.csv") == [{"file": f"i0{i}.png", "patient": f"i0{i}", "label": ""} for i in (0, 2)]


def test_a_template_of_dicom_has_the_numbers_of_viewers(tmp_path: Path) -> None:
    root = numbered(tmp_path / "data")
    assert cli.main(["inspect", str(root), "--template", str(tmp_path / "t.csv")]) == 0
    rows = [row for row in filled(tmp_path / "t.csv") if row["case"] == "p1"]
    assert [(row["slice"], row["instance_number"]) for row in rows] == [(str(z), str(4 - z)) for z in range(4)]
    assert "1.2.826" not in (tmp_path / "t.csv").read_text()  # no UID: SECURITY.md


def test_a_labelled_normal_scan_is_normal_in_every_row(tmp_path: Path) -> None:
    assert Settings().data.label_level == "auto"
    root = EXAMPLES["dicom"].make(tmp_path / "data")
    assert cli.main(["inspect", str(root), "--template", str(tmp_path / "t.csv")]) == 0
    labels = {row["case"]: row["label"] for row in filled(tmp_path / "t.csv")}
    assert labels == {"p0": "0", "p1": "", "p2": "0", "p3": ""}
