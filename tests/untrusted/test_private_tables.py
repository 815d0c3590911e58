"""Names of patients in the cells of tables: no line, no report and no manifest repeats one, whatever is wrong with the table."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from coinseg.cli import main as cli
from coinseg.data.layouts.dicom_studies import KEYS
from conftest import write_images
from examples import EXAMPLES, LPS, hounsfield, labelled, text
from writers import write_series

NAME = "SENTINEL GRETA 4711081547"
WORD = re.compile("sentinel|greta|4711081547", re.IGNORECASE)
FILES = ["normal/i00.png", "abnormal/i01.png", "normal/i02.png", "abnormal/i03.png"]
Make = Callable[[Path], list[str]]


def rows(*changed: str, header: str = "file,label,patient,slice,note") -> str:
    whole = [f"{file},{int('abnormal' in file)},p{i},{i},{NAME}" for i, file in enumerate(FILES)]
    return "\n".join([header, *whole, *changed]) + "\n"


def images(table: str) -> Make:
    def make(root: Path) -> list[str]:
        write_images(root / "data", patients=2, each=2)
        text(root / "data" / "labels.csv", table)
        return []

    return make


CSV: dict[str, Make] = {
    "a file that is missing": images(rows(f"{NAME}.png,1,p,9,")),
    "an id that is missing": images(rows(f"{NAME},1,p,9,", header="id,label,patient,slice,note")),
    "a file that leads out": images(rows(f"../{NAME}.png,1,p,9,")),
    "a file that is no image": images(rows("labels.csv,1,p,9,")),
    "a label that is none": images(rows(f"{FILES[0]},{NAME},p,9,")),
    "a mask that is missing": images(rows(f"{FILES[0]},1,p,{NAME}.png,", header="file,label,patient,mask,note")),
    "a row too long": images(rows(f"{FILES[0]},1,p,9,,{NAME}")),
    "one patient": images(re.sub("p[0-3]", NAME, rows())),
    "slices that are no numbers": images(re.sub(r",(\d),(?=S)", f",{NAME},", rows())),
    "no line of names": images(f"{NAME}.png,1\n{FILES[0]},0\n"),
    "no line of names, of ids": images(f"{NAME},1\nb,0\n"),
    "a column of labels by another name": images(rows(header="file,outcome,patient,slice,note")),
}


def label_maps(layout: str, name: str, content: str) -> Make:
    def make(root: Path) -> list[str]:
        text(EXAMPLES[layout].make(root / "data") / name, content)
        return EXAMPLES[layout].words()

    return make


LABELS, PATIENTS = f"case,label\n{NAME},1\nc0,0\n", f"case,patient\n{NAME},{NAME}\nc0,{NAME}\n"
MAPS: dict[str, Make] = {
    "a case there is none of": label_maps("nnunet", "labels.csv", LABELS),
    "a patient of a case there is none of": label_maps("nnunet", "patients.csv", PATIENTS),
    "two patients of one case": label_maps("nnunet", "patients.csv", f"{PATIENTS}c0,other\n"),
    "two labels of one case": label_maps("nnunet", "labels.csv", f"{LABELS}{NAME},0\n"),
    "a slice that is none": label_maps("nnunet", "labels.csv", f"case,slice,label\nc0,{NAME},1\n"),
    "a scan of TotalSegmentator": label_maps("totalsegmentator", "labels.csv", f"image_id,slice,label\n{NAME},0,1\n"),
}


@pytest.mark.parametrize("name", CSV | MAPS)
def test_no_cell_of_a_table_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str) -> None:
    words = (CSV | MAPS)[name](tmp_path)
    cli.main(["inspect", str(tmp_path / "data"), *words])
    cli.main(["inspect", str(tmp_path / "data"), "--json", *words])
    said = capfd.readouterr()
    assert said.out + said.err
    assert WORD.findall(said.out + said.err) == []


@pytest.mark.parametrize("column", [key for key in KEYS if not key.startswith(("series_", "study_i", "accession_"))])
def test_an_identifier_too_many_is_only_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str], column: str) -> None:
    """A table of PatientIDs, whatever its column is called, with a row that no scan has."""
    for i in range(2):
        scan = hounsfield(labelled(i == 1), i).T
        write_series(tmp_path / "data" / f"p{i}", scan, LPS, series=f"1.2.{i}", PatientID=f"{NAME}-{i}")
    table = "".join(f"{NAME}-{i},{i}\n" for i in range(2)) + f"{NAME}-9,1\n{NAME}-8,0\n"
    text(tmp_path / "data" / "labels.csv", f"{column},label\n{table}")
    cli.main(["inspect", str(tmp_path / "data")])
    said = capfd.readouterr()
    assert "labels.csv names 2 cases (rows 4, 5) that the data do not have" in said.out
    assert WORD.findall(said.out + said.err) == []


def test_scans_that_a_table_does_not_name_are_the_users_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What lies on the disk by a name of its own is said by it, or nobody would find it."""
    words = MAPS["a case there is none of"](tmp_path)
    cli.main(["inspect", str(tmp_path / "data"), *words])
    assert "labels.csv does not name " in capfd.readouterr().out
