"""Every layout, broken in every way that is natural: each is answered with one clear line.

A row names a layout of `examples.EXAMPLES`, what is done to its valid example, and what is said: the three parts of a `UserError`
where the data as a whole cannot be used, or one line among the problems where a case is left out or something is worth knowing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from broken_layouts import (
    KNOWN,
    ROWS,
    Break,
    Refused,
    Said,
    as_floats,
    beside,
    cropped,
    cut,
    gone,
    in_channels,
    interpolated,
    moved,
    volume,
)
from coinseg.data.layouts.registry import LAYOUTS, read_layout
from coinseg.data.slices.split import require_labels
from coinseg.data.slices.store import prepare
from coinseg.errors import UserError
from examples import EXAMPLES, hounsfield, labelled, save, text


def answer(root: Path, out: Path, layout: str, data: Mapping[str, object] = {}) -> list[str] | UserError:
    """What a run says of the data before it trains: its problems, or why it cannot start."""
    settings = EXAMPLES[layout].settings(**data)
    try:
        cohort = read_layout(root, settings.data)
        require_labels(cohort, injected=False)
        assert cohort.layout == layout or data.get("layout")
        return list(prepare(cohort, settings, out).meta["problems"])
    except UserError as error:
        return error


def check(said: list[str] | UserError, expected: Refused | Said) -> None:
    if isinstance(expected, Refused):
        assert isinstance(said, UserError), said
        for part in ("got", "required", "do"):
            assert re.search(getattr(expected, part), getattr(said, part)), f"{part}: {getattr(said, part)}"
        assert len(str(said).splitlines()) == 1
        return
    assert not isinstance(said, UserError), said
    known = ("every file is its own patient",)
    lines = [line for line in said if not any(each in line for each in known)]
    assert all(len(line.splitlines()) == 1 for line in lines)
    assert any(re.search(expected.line, line) for line in lines) if expected.line else lines == []


# --- Files: the same in every layout ------------------------------------------------------------------------------

# layout -> a case, its image, its mask
FILES = {
    "totalsegmentator": ("s1", "s1/ct.nii.gz", "s1/segmentations/kidney_left.nii.gz"),
    "nnunet": ("c1", "imagesTr/c1_0000.nii.gz", "labelsTr/c1.nii.gz"),
    "decathlon": ("liver_1", "imagesTr/liver_1.nii.gz", "labelsTr/liver_1.nii.gz"),
    "kits": ("case_00001", "case_00001/imaging.nii.gz", "case_00001/segmentation.nii.gz"),
    "dicom": ("p1", "p1", "masks/p1.nii.gz"),
}
IMAGES = {
    "csv": ("made__abnormal__i01", "made/abnormal/i01.png", "masks/made/abnormal/i01.png"),
    "folders": ("abnormal__i01", "abnormal/i01.png", "masks/i01.png"),
}


def files() -> list[tuple[str, str, Break, Refused | Said]]:
    rows: list[tuple[str, str, Break, Refused | Said]] = []
    for layout, (case, image, mask) in FILES.items():
        rows += [
            (layout, "a mask of another shape", volume(mask, cropped),
             Said(rf"^{case}: mask .* and its scan \(4, 16, 18\); required: the same grid; resample")),
            (layout, "a mask of another place", volume(mask, moved),
             Said(rf"^{case}: mask .* voxels away from its scan \(their affines differ\)")),
            (layout, "a mask in four dimensions", volume(mask, in_channels),
             Said(rf"^{case}: .* has 4 dimensions .* split the series")),
            (layout, "labels between whole numbers", volume(mask, interpolated),
             Said(rf"^{case}: mask .* has values such as [01]\.\d+; required: whole numbers")),
            (layout, "labels as floats", volume(mask, as_floats), Said()),
            (layout, "a mask cut off", cut(mask), Said(rf"^{case}: .* cannot be read \(.*required: an intact NIfTI")),
            (layout, "what macOS leaves", beside(mask), Said()),
        ]  # fmt: skip
        if layout != "dicom":
            rows += [
                (layout, "an image cut off", cut(image), Said(rf"^{case}: .* cannot be read \(.*required: an intact NIfTI")),
                (layout, "an image in four dimensions", volume(image, in_channels),
                 Said(rf"^{case}: .* has 4 dimensions .*; required: one three-dimensional")),
                (layout, "what macOS leaves beside an image", beside(image), Said()),
            ]  # fmt: skip
    for layout, (case, image, mask) in IMAGES.items():
        rows += [
            (layout, "an image cut off", cut(image), Said(rf"^{case}: .* cannot be read \(.*required: an intact grey or colour")),
            (layout, "a mask cut off", cut(mask), Said(rf"^{case}: .* cannot be read \(")),
            (layout, "a mask of another size", lambda root, mask=mask: Image.new("L", (9, 9)).save(root / mask),
             Said(rf"^{case}: mask .* has 9 x 9 pixels")),
            (layout, "no mask", gone(mask), Said(f"^abnormal and without a lesion mask, so not scored: {case}$")),
            (layout, "a mask without an image", lambda root: Image.new("L", (9, 9)).save(root / "masks/other.png"),
             Said("^lesion masks not used, .*: other.png$")),
            (layout, "what macOS leaves", beside(image), Said()),
        ]  # fmt: skip
    return rows + [(layout, "nothing", lambda root: None, Said()) for layout in EXAMPLES]


@pytest.mark.parametrize(("layout", "how", "act", "expected"), [pytest.param(*row, id=f"{row[0]}: {row[1]}") for row in files()])
def test_files(tmp_path: Path, layout: str, how: str, act: Break, expected: Refused | Said) -> None:
    act(EXAMPLES[layout].make(tmp_path / "data"))
    check(answer(tmp_path / "data", tmp_path / "out", layout), expected)


# --- Tables, names and missing files: what each layout knows ------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "how", "act", "data", "expected"), [pytest.param(*row, id=f"{row[0]}: {row[1]}") for row in ROWS]
)
def test_tables_and_names(
    tmp_path: Path, layout: str, how: str, act: Break, data: dict[str, object], expected: Refused | Said
) -> None:
    act(EXAMPLES[layout].make(tmp_path / "data"))
    check(answer(tmp_path / "data", tmp_path / "out", layout, data), expected)


def test_every_layout_has_an_example_and_rows() -> None:
    assert list(EXAMPLES) == list(LAYOUTS)
    assert {row[0] for row in ROWS} == set(LAYOUTS)
    assert len({(layout, how) for layout, how, *_ in [*ROWS, *files()]}) == len(ROWS) + len(files())


def test_scans_of_other_sizes_and_spacings_are_taken(tmp_path: Path) -> None:
    root = EXAMPLES["decathlon"].make(tmp_path / "data")
    labels = np.pad(labelled(), ((0, 1), (0, 5), (0, 2)))
    save(root / "imagesTr/liver_1.nii.gz", hounsfield(labels), np.diag([-1, -0.5, 5, 1]))
    save(root / "labelsTr/liver_1.nii.gz", labels, np.diag([-1, -0.5, 5, 1]))
    check(answer(root, tmp_path / "out", "decathlon"), Said())


def test_a_path_that_is_not_there_and_a_file_that_is_no_table(tmp_path: Path) -> None:
    check(
        answer(tmp_path / "no", tmp_path / "out", "csv"),
        Refused("no does not exist", "a folder or a .csv file", "correct the path"),
    )
    text(tmp_path / "a.txt", "x")
    check(
        answer(tmp_path / "a.txt", tmp_path / "out", "csv"), Refused(r"no layout is recognised .* \(a file\)", KNOWN, "rearrange")
    )
    named = text(tmp_path / "a.csv", "StudyInstanceUID,label\n1.2.3,1\n")
    check(
        answer(named, tmp_path / "out", "csv"),
        Refused("a.csv has the columns studyinstanceuid, label", "a column file", "DICOM studies give the folder"),
    )
    asked = answer(tmp_path / "a.txt", tmp_path / "out", "kits", {"layout": "kits"})
    check(asked, Refused("a.txt is no folder", "a folder for layout kits", "correct the path or data.layout"))
