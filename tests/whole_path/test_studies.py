"""A folder of DICOM studies and a table with one label for each: what a stranger brings, under any names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coinseg.cli import main as cli
from coinseg.config.schema import DataSettings
from coinseg.data.layouts.registry import read_layout
from coinseg.errors import UserError
from conftest import TINY
from examples import CASES, dicom, hounsfield, labelled, text
from writers import write_series

LABELS = [0, 1, 0, 1]
SECRETS = ("998877", "1.2.826", "SECRETNAME", "ANNA", "A-4711")


def studies(root: Path, column: str, keys: list[str], name: str = "labels.csv", value: str = "label") -> Path:
    """`examples.dicom` with another table."""
    dicom(root)
    (root / "labels.csv").unlink()
    rows = "".join(f"{key};{label}\r\n" for key, label in zip(keys, LABELS, strict=True))
    text(root / name, f"{column};{value}\r\n{rows}", "utf-8-sig")
    return root


def labels(root: Path) -> list[tuple[str, int | None]]:
    return [(case.id, case.label) for case in read_layout(root, DataSettings()).cases]


EXPECTED = [(f"p{i}", LABELS[i]) for i in range(CASES)]
STUDIES, PATIENTS = [f"1.2.826.0.1.{i}" for i in range(CASES)], [f"ID-{i}998877" for i in range(CASES)]


@pytest.mark.parametrize(
    ("column", "keys", "name", "value"),
    [
        ("case", [f"p{i}" for i in range(CASES)], "labels.csv", "label"),
        ("Study", [f"p{i}" for i in range(CASES)], "radiology export.csv", "Abnormal"),
        ("StudyInstanceUID", STUDIES, "labels.csv", "label"),
        ("study", STUDIES, "x.csv", "label"),
        ("id", STUDIES, "labels.csv", "label"),
        ("SeriesInstanceUID", [f"1.2.3.{i}" for i in range(CASES)], "x.csv", "label"),
        ("PatientID", PATIENTS, "x.csv", "label"),
        ("patient_id", PATIENTS, "x.csv", "target"),
    ],
)
def test_a_study_is_found_by_what_the_table_calls_it(tmp_path: Path, column: str, keys: list[str], name: str, value: str) -> None:
    root = studies(tmp_path / "data", column, keys, name, value)
    cohort = read_layout(root, DataSettings())
    assert labels(root) == EXPECTED
    assert cohort.label_source == f"image labels from {name}, by {column.lower()}"
    assert all(case.patient.startswith("patient-") for case in cohort.cases)
    assert not any(secret in f"{cohort.cases}{cohort.problems}{cohort.label_source}" for secret in SECRETS)


def test_accession_numbers_and_one_label_for_two_series_of_a_study(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for i in range(CASES):
        scan, number = hounsfield(labelled()).T, f"A-4711{i // 2}"
        write_series(root / f"s{i}", scan, series=f"1.2.{i}", AccessionNumber=number, PatientID=f"p{i // 2}")
    text(root / "x.csv", "accession_number,label\nA-47110,1\nA-47111,0\n")
    assert labels(root) == [("s0", 1), ("s1", 1), ("s2", 0), ("s3", 0)]


def test_the_table_beside_the_folder_and_the_studies_in_the_only_folder(tmp_path: Path) -> None:
    root = studies(tmp_path / "all/studies", "StudyInstanceUID", STUDIES).parent
    (root / "studies/labels.csv").rename(root / "labels.csv")
    assert labels(root) == EXPECTED
    assert labels(root / "studies") == EXPECTED
    assert read_layout(root / "studies", DataSettings()).label_source.endswith("labels.csv beside the data, by studyinstanceuid")
    text(root / "labels.csv", "case,label\nsomething,7\nelse,0\n")  # A table of something else is none.
    assert read_layout(root / "studies", DataSettings()).label_source.startswith("no table with a column of cases")


def test_a_case_is_a_folder_in_a_folder(tmp_path: Path) -> None:
    root = dicom(tmp_path / "data")
    (root / "both").mkdir()
    for name in ("p0", "p1"):
        (root / name).rename(root / "both" / name)
    text(root / "labels.csv", "case,label\nboth/p0,0\nboth/p1,1\np2,0\np3,1\n")
    assert labels(root) == [("both__p0", 0), ("both__p1", 1), ("p2", 0), ("p3", 1)]


def test_two_labels_of_one_study_are_refused_and_unknown_ones_counted(tmp_path: Path) -> None:
    root = studies(tmp_path / "data", "study", [STUDIES[0], STUDIES[1], PATIENTS[1], STUDIES[3]])
    with pytest.raises(UserError, match=r"labels\.csv says two things of p1; required: one label and patient per case"):
        read_layout(root, DataSettings())
    text(root / "labels.csv", f"PatientID,label\n{PATIENTS[0]},0\n{PATIENTS[1]},1\nID-5998877,0\nID-6998877,1\n")
    problems = read_layout(root, DataSettings()).problems
    assert "labels.csv names 2 cases (rows 4, 5) that the data do not have" in problems
    assert "labels.csv does not name p2, p3: they have no labels" in problems
    text(root / "labels.csv", f"case,label\n{PATIENTS[0]},0\n{PATIENTS[1]},1\n1.2.826.0.1.99998877,0\n")
    assert not any(secret in line for line in read_layout(root, DataSettings()).problems for secret in ("998877", "ID-1"))


OPTIONS = [*TINY, "--classifier.steps", "4", "--coin.steps", "2"]


def test_from_studies_and_a_table_to_masks_and_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = studies(tmp_path / "data", "StudyInstanceUID", STUDIES, "diagnoses.csv"), tmp_path / "out"
    assert cli.main(["inspect", str(data), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["layout"], found["cases"], found["patients"], found["intensity"]) == ("dicom", 4, 4, "hu")
    assert (found["labels"]["normal"], found["labels"]["abnormal"]) == (2, 2)
    command = ["run", str(data), "-o", str(out), *OPTIONS]
    assert cli.main([*command, "--dry-run"]) == 0
    assert "layout dicom, 4 cases of 4 patients" in capsys.readouterr().out
    assert cli.main(command) == 0
    assert {"p1.nii.gz", "p3.nii.gz", "index.csv"} <= {path.name for path in (out / "masks").iterdir()}
    assert (out / "report.html").is_file()
    said = capsys.readouterr()
    written = [
        path.read_text("utf-8", "replace")
        for path in out.rglob("*")
        if path.suffix in (".json", ".csv", ".html", ".yaml", ".jsonl")
    ]
    assert not any(secret in everything for everything in [said.out, said.err, *written] for secret in SECRETS)
