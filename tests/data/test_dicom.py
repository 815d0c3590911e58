"""nnU-Net and KiTS data: labels made from label maps, small lesions, splits by lesion area, and errors about broken data."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from coinseg.config.schema import DataSettings, Settings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.slices.case import load_case
from coinseg.data.slices.split import LEFT_OUT, TRAINING, VALIDATION, split
from coinseg.data.slices.store import SliceStore, prepare
from coinseg.errors import UserError
from coinseg.types import Cohort

SETTINGS = DataSettings()
LABELS = {"background": 0, "kidney": 1, "malignant": 2, "benign": 3}
LESION = replace(SETTINGS, organ=("kidney+malignant",), lesion=("malignant",))
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""The affine of an array stored as (column, row, slice), as a radiologist sees it."""


def save(path: Path, slices: np.ndarray, affine: np.ndarray = LPS) -> None:
    """Canonical (slices, rows, columns) as a file whose array is (column, row, slice)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(slices.T, affine), path)


def dataset(root: Path, *cases: str, labels: object = LABELS, ending: str = ".nii.gz", **changes: Any) -> Path:
    """A tiny nnU-Net data set: 4 slices of 8 x 8, kidney in all, two malignant voxels in slice 1, one benign in slice 2."""
    labelled = np.zeros((4, 8, 8), np.uint8)
    labelled[:, 2:6, 2:6] = 1
    labelled[1, 3, 3:5], labelled[2, 4, 4] = 2, 3
    for case in cases:
        save(root / "imagesTr" / f"{case}_0000{ending}", np.full((4, 8, 8), 30, np.int16))
        save(root / "labelsTr" / f"{case}{ending}", labelled)
    content = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": len(cases), "file_ending": ending, **changes}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def kits(root: Path, *cases: str, affine: np.ndarray | None = None, name: str = "segmentation.nii.gz") -> Path:
    for case in cases:
        (root / case).mkdir(parents=True)
        scan, labelled = np.zeros((3, 6, 5), np.int16), np.zeros((3, 6, 5), np.uint8)
        scan[0, 1, 2], labelled[0, 1, 2], labelled[2, 3, 4] = 900, 2, 3
        for file, content in (("imaging.nii.gz", scan), (name, labelled)):
            nib.save(nib.Nifti1Image(content, np.eye(4) if affine is None else affine), root / case / file)
    return root


def refused(root: Path, settings: DataSettings = LESION) -> str:
    with pytest.raises(UserError) as caught:
        read_layout(root, settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def said(cohort: Cohort, pattern: str) -> bool:
    return any(re.search(pattern, line) for line in cohort.problems)


# --- nnU-Net: what is listed


def test_nnunet_is_recognised_and_listed(tmp_path: Path) -> None:
    cohort = read_layout(dataset(tmp_path, "b", "a"), LESION)
    assert cohort.layout == "nnunet"
    assert [(case.id, case.patient, case.label, case.volume) for case in cohort.cases] == [
        ("a", "a", None, True),
        ("b", "b", None, True),
    ]
    first = cohort.cases[0]
    assert first.image == tmp_path / "imagesTr/a_0000.nii.gz"
    assert [(source.path, source.values) for source in first.organ] == [(tmp_path / "labelsTr/a.nii.gz", (1, 2))]
    assert [(source.path, source.values) for source in first.lesion] == [(tmp_path / "labelsTr/a.nii.gz", (2,))]
    assert cohort.problems == ()


def test_labels_made_from_masks_are_announced(tmp_path: Path) -> None:
    root = dataset(tmp_path, "a", "b")
    source = read_layout(root, LESION).label_source
    assert source.endswith("made from the lesion masks (malignant): a slice is abnormal with any")
    source = read_layout(root, replace(LESION, min_lesion_px=1000)).label_source
    assert source.endswith("a slice is abnormal above 1000 native lesion pixels, with fewer normal")
    source = read_layout(root, replace(LESION, min_lesion_px=1000, small_lesions="drop")).label_source
    assert source.endswith("with fewer left out of training")


@pytest.mark.parametrize(
    ("organ", "values"),
    [
        (("kidney",), [(1,)]),
        (("1",), [(1,)]),
        (("kidney", "benign"), [(1,), (3,)]),
        (("kidney + malignant+3",), [(1, 2, 3)]),
        (("1+2", "3"), [(1, 2), (3,)]),
    ],
)
def test_regions_by_name_by_value_and_joined(tmp_path: Path, organ: tuple[str, ...], values: list[tuple[int, ...]]) -> None:
    case = read_layout(dataset(tmp_path, "a", "b"), replace(LESION, organ=organ)).cases[0]
    assert [source.values for source in case.organ] == values


def test_several_lesions_are_one(tmp_path: Path) -> None:
    case = read_layout(dataset(tmp_path, "a", "b"), replace(LESION, lesion=("malignant", "3"))).cases[0]
    assert [source.values for source in case.lesion] == [(2, 3)]


def test_region_labels_are_lists(tmp_path: Path) -> None:
    regions = {"background": 0, "kidney": [1, 2, 3], "masses": [2, 3], "tumor": 2, "a+b": 4}
    root = dataset(tmp_path, "a", "b", labels=regions, regions_class_order=[1, 3, 2])
    case = read_layout(root, replace(SETTINGS, organ=("kidney", "a+b"), lesion=("masses",))).cases[0]
    assert [source.values for source in case.organ] == [(1, 2, 3), (4,)]
    assert case.lesion[0].values == (2, 3)


def test_labels_of_the_first_nnunet_are_the_other_way_round(tmp_path: Path) -> None:
    root = dataset(tmp_path, "a", "b", labels={"0": "background", "1": "kidney", "2": "malignant"})
    assert read_layout(root, LESION).cases[0].lesion[0].values == (2,)


def test_plain_nii_and_names_with_dots(tmp_path: Path) -> None:
    cohort = read_layout(dataset(tmp_path, "1.2_x", "b", ending=".nii"), LESION)
    assert [case.id for case in cohort.cases] == ["1.2_x", "b"]
    assert cohort.cases[0].lesion[0].path == tmp_path / "labelsTr/1.2_x.nii"


def test_hidden_files_are_ignored(tmp_path: Path) -> None:
    root = dataset(tmp_path, "a", "b")
    for name in ("imagesTr/._a_0000.nii.gz", "labelsTr/._a.nii.gz"):
        (root / name).write_bytes(b"\0\5\x16\7")
    cohort = read_layout(root, LESION)
    assert [case.id for case in cohort.cases] == ["a", "b"]
    assert cohort.problems == ()


def test_further_channels_are_listed_as_they_are(tmp_path: Path) -> None:
    root = dataset(tmp_path, "a", "b")
    save(root / "imagesTr/a_0001.nii.gz", np.zeros((4, 8, 8), np.int16))
    save(root / "imagesTr/c_0001.nii.gz", np.zeros((4, 8, 8), np.int16))
    cohort = read_layout(root, LESION)
    assert [case.image.name for case in cohort.cases] == ["a_0000.nii.gz", "b_0000.nii.gz"]
    assert [[path.name for path in case.others] for case in cohort.cases] == [["a_0001.nii.gz"], []]
    assert said(cohort, r"c: skipped, no c_0000\.nii\.gz")


def test_images_and_label_maps_that_do_not_meet(tmp_path: Path) -> None:
    root = dataset(tmp_path, "a", "b", "c", numTraining=4)
    (root / "labelsTr/b.nii.gz").unlink()
    (root / "imagesTr/c_0000.nii.gz").unlink()
    save(root / "imagesTr/stray.nii.gz", np.zeros((4, 8, 8), np.int16))
    save(root / "imagesTr/d_0000.nii.gz", np.zeros((4, 8, 8), np.int16))
    (root / "labels.csv").write_text("image_id,slice,label\na,1,1\na,0,0\nd,0,0\nz,0,0\n")
    cohort = read_layout(root, replace(SETTINGS, lesion=("malignant",)))
    assert [case.id for case in cohort.cases] == ["a", "d"]
    assert cohort.problems == (
        "imagesTr: stray.nii.gz left out, not named CASE_0000.nii.gz",
        "labelsTr has label maps of c: there is no such image in imagesTr",
        "dataset.json says numTraining 4 and imagesTr has 3 cases",
        "labels.csv names 1 case (row 5) that the data do not have",
        "labels.csv does not name b: their labels are made from masks",
        "b: skipped, no labelsTr/b.nii.gz to make its labels from",
        "d: no labelsTr/d.nii.gz: its masks cannot be scored",
    )
    assert said(read_layout(root, replace(LESION, split_by="slice")), r"d: skipped, no labelsTr/d\.nii\.gz to find the organ in")


def test_an_incomplete_copy_and_an_ignore_label_are_said(tmp_path: Path) -> None:
    cohort = read_layout(dataset(tmp_path, "a", "b", numTraining=591, labels={**LABELS, "ignore": 4}), LESION)
    assert said(cohort, "numTraining 591 and imagesTr has 2 cases")
    assert said(cohort, "voxels to ignore: they count as voxels without a lesion")


def test_given_labels_and_patients(tmp_path: Path) -> None:
    root = dataset(tmp_path, "a", "b", "c")
    (root / "labels.csv").write_text("case,label\na,1\nb,normal\nc,\n")
    (root / "patients.csv").write_text("case;patient\na;p\nb;p\n")
    cohort = read_layout(root, SETTINGS)
    assert [(case.label, case.patient) for case in cohort.cases] == [(1, "p"), (0, "p"), (None, "c")]
    assert cohort.label_source == "image labels from labels.csv, column label"
    assert said(cohort, "labels.csv does not name c: they have no labels")
    assert said(cohort, "patients.csv does not name c: each is its own patient")


@pytest.mark.parametrize("inside", ["", "labelsTr/"])
def test_organs_from_elsewhere(tmp_path: Path, inside: str) -> None:
    root, own = dataset(tmp_path / "data", "a", "b"), tmp_path / "own"
    for case in ("a", "b"):
        save(own / f"{inside}{case}.nii.gz", np.ones((4, 8, 8), np.uint8))
    wanted = replace(LESION, organ=("kidney",), organ_from=str(own))
    case = read_layout(root, wanted).cases[0]
    assert (case.organ[0].path, case.organ[0].values) == (own / f"{inside}a.nii.gz", (1,))
    assert case.lesion[0].path == root / "labelsTr/a.nii.gz"
    assert read_layout(root, replace(wanted, organ=())).cases[0].organ[0].values == ()
    (own / "dataset.json").write_text(json.dumps({"labels": {"both kidneys": 7}}))
    assert read_layout(root, replace(wanted, organ=("both kidneys",))).cases[0].organ[0].values == (7,)


def test_injected_anomalies_need_no_lesion(tmp_path: Path) -> None:
    cohort = read_layout(dataset(tmp_path, "a", "b"), replace(SETTINGS, organ=("kidney",)), one_class=True)
    assert [case.lesion for case in cohort.cases] == [(), ()]


# --- nnU-Net: what is refused, each in one line


def test_a_lesion_must_be_named_and_the_names_are_told(tmp_path: Path) -> None:
    error = refused(dataset(tmp_path, "a", "b"), SETTINGS)
    assert "data.lesion is empty" in error
    assert "dataset.json names kidney, malignant, benign" in error
    assert "set data.lesion" in error


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"lesion": ("malignent",)}, r"data\.lesion names 'malignent', .*\(the nearest: malignant"),
        ({"organ": ("kidney+malign",)}, r"data\.organ names 'malign', .*the nearest: malignant"),
        ({"organ": ("9",)}, r"data\.organ names '9', .*there are: benign, kidney, malignant"),
        ({"organ": ("background",)}, r"data\.organ names 'background'"),
        ({"organ": ("0",)}, r"data\.organ names '0'"),
        ({"organ": ("",)}, r"data\.organ names ''"),
    ],
)
def test_unknown_labels(tmp_path: Path, changes: dict[str, Any], pattern: str) -> None:
    assert re.search(pattern, refused(dataset(tmp_path, "a", "b"), replace(LESION, **changes)))


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ('{"labels": {"kidney": 1', r"dataset\.json cannot be read as JSON \(.*correct dataset\.json"),
        ("[" * 100_000, r"dataset\.json cannot be read as JSON"),
        ("\xff", r"dataset\.json cannot be read as JSON"),
        ("[1, 2]", r"dataset\.json holds a list; required: a JSON object"),
        ('{"file_ending": ".nii.gz"}', r"dataset\.json has labels None"),
        ('{"labels": [1, 2]}', r"dataset\.json has labels \[1, 2\]"),
        ('{"labels": {"kidney": 1.5}}', r"gives the label 'kidney' the value 1\.5; required: a whole number or a list"),
        ('{"labels": {"kidney": [1, true]}}', r"gives the label 'kidney' the value \[1, True\]"),
        (
            '{"labels": {"kidney": 1}, "file_ending": ".png"}',
            r"file_ending '\.png'; required: \.nii\.gz or \.nii or \.nrrd or \.mha or \.mhd; convert",
        ),
    ],
)
def test_broken_dataset_json(tmp_path: Path, text: str, pattern: str) -> None:
    root = dataset(tmp_path, "a", "b")
    (root / "dataset.json").write_bytes(text.encode("latin-1"))
    assert re.search(pattern, refused(root))


def test_without_dataset_json(tmp_path: Path) -> None:
    root = dataset(tmp_path, "a", "b")
    (root / "dataset.json").unlink()
    assert "no layout is recognised" in refused(root)
    asked = refused(root, replace(LESION, layout="nnunet"))
    assert "dataset.json is missing; required: the dataset.json of nnU-Net or the Decathlon" in asked


def test_images_without_their_channel_are_not_nnunets(tmp_path: Path) -> None:
    root = dataset(tmp_path, "a", "b")
    for path in sorted((root / "imagesTr").iterdir()):
        path.rename(path.with_name(path.name.replace("_0000", "_0017")))
    assert "no layout is recognised" in refused(root)
    asked = refused(root, replace(LESION, layout="nnunet"))
    assert "holds no image named CASE_0000.nii.gz (a_0017.nii.gz, b_0017.nii.gz)" in asked


@pytest.mark.parametrize("ending", [".nii", ".png"])
def test_files_with_another_ending_than_dataset_json_says(tmp_path: Path, ending: str) -> None:
    root = dataset(tmp_path, "a", "b")
    for path in sorted((root / "imagesTr").iterdir()):
        path.rename(path.with_name(path.name.replace(".nii.gz", ending)))
    assert f"holds no image named CASE_0000.nii.gz (a_0000{ending}, b_0000{ending})" in refused(root)


def test_label_maps_all_gone(tmp_path: Path) -> None:
    root = dataset(tmp_path, "a", "b")
    for path in sorted((root / "labelsTr").iterdir()):
        path.unlink()
    error = refused(root, replace(LESION, organ=()))
    assert "no usable case" in error
    assert "first of 2 problems: a: skipped, no labelsTr/a.nii.gz to make its labels from" in error


@pytest.mark.parametrize(
    ("table", "text", "pattern"),
    [
        ("labels.csv", "name,label\na,1\n", r"labels\.csv has the columns name, label; required: a column image_id or case"),
        ("labels.csv", "case,outcome\na,1\n", r"required: a column label"),
        ("labels.csv", "case,label\na,1\na,0\n", r"row 3 of .*labels\.csv contradicts"),
        ("labels.csv", "case,label\na,maybe\n", r"row 2 of .*a label that is not known"),
        ("labels.csv", "case,slice,label\na,x,1\n", r"row 2 of .*no slice index"),
        ("patients.csv", "case,patient\na,\n", r"row 2 of .*patients\.csv has no patient"),
        ("patients.csv", "case,patient\na,p\na,q\n", r"row 3 of .*patients\.csv contradicts"),
        ("patients.csv", "case,name\na,p\n", r"required: a column patient"),
    ],
)
def test_broken_tables(tmp_path: Path, table: str, text: str, pattern: str) -> None:
    root = dataset(tmp_path, "a", "b")
    (root / table).write_text(text)
    assert re.search(pattern, refused(root))


# --- KiTS


@pytest.mark.parametrize("inside", ["", "data", "dataset"])
@pytest.mark.parametrize("name", ["segmentation.nii.gz", "aggregated_MAJ_seg.nii.gz"])
def test_kits(tmp_path: Path, inside: str, name: str) -> None:
    base = kits(tmp_path / inside, "case_00000", "case_00001", name=name)
    cohort = read_layout(tmp_path, replace(SETTINGS, organ=("kidney+tumour+cyst",)))
    assert cohort.layout == "kits"
    case = cohort.cases[0]
    assert (case.id, case.patient, case.image) == ("case_00000", "case_00000", base / "case_00000/imaging.nii.gz")
    assert [(source.path.name, source.values) for source in case.organ] == [(name, (1, 2, 3))]
    assert [(source.path.name, source.values) for source in case.lesion] == [(name, (2,))]
    assert said(cohort, r"data\.lesion is empty: tumor \(label 2\) is taken")
    assert "the lesion is tumor (label 2)" in cohort.label_source
    assert "made from the lesion masks" in cohort.label_source


def test_kits_lesion_by_name_or_value(tmp_path: Path) -> None:
    root = kits(tmp_path, "case_00000", "case_00001")
    for lesion, values in ((("tumor", "cyst"), (2, 3)), (("3",), (3,)), (("tumour",), (2,))):
        cohort = read_layout(root, replace(SETTINGS, lesion=lesion))
        assert cohort.cases[0].lesion[0].values == values
        assert cohort.problems == ()
    assert "KiTS does not have; required: a label by its name or value (the nearest: tumor" in refused(
        root, replace(SETTINGS, lesion=("tumr",))
    )


def test_kits_incomplete(tmp_path: Path) -> None:
    root = kits(tmp_path / "data", "case_00000", "case_00001", "case_00002", "case_00003")
    (root / "case_00001/imaging.nii.gz").unlink()
    (root / "case_00002/segmentation.nii.gz").unlink()
    (root / "case_00003/segmentation.nii.gz").rename(root / "case_00003/._segmentation.nii.gz")
    (root / "case_9").mkdir()
    cohort = read_layout(tmp_path, replace(SETTINGS, split_by="slice"))
    assert [case.id for case in cohort.cases] == ["case_00000"]
    assert said(cohort, r"case_00001: skipped, no imaging\.nii\.gz")
    assert said(cohort, r"case_00002: skipped, no case_00002/segmentation\.nii\.gz to make its labels from")
    assert said(cohort, "case_00003: skipped")
    (tmp_path / "else/x").mkdir(parents=True)
    assert "holds no case_00000 (x)" in refused(tmp_path / "else", replace(SETTINGS, layout="kits"))


def test_kits_organs_from_another_tree(tmp_path: Path) -> None:
    root, own = kits(tmp_path / "data", "case_00000", "case_00001", "case_00002"), tmp_path / "own"
    kits(own / "data", "case_00000", "case_00001")
    cohort = read_layout(root, replace(SETTINGS, organ=("kidney",), organ_from=str(own)))
    assert [case.organ[0].path.is_relative_to(own) for case in cohort.cases] == [True, True]
    assert said(cohort, r"case_00002: skipped, no case_00002/segmentation\.nii\.gz to find the organ in")


@pytest.mark.parametrize("left", [1, -1])
def test_kits_stores_slices_first_and_the_affine_says_so(tmp_path: Path, left: int) -> None:
    """Axes of the file: to the feet, to the back, then to the patient's left (or right)."""
    affine = np.array([[0, 0, -left * 0.8, 0], [0, -0.8, 0, 0], [-5, 0, 0, 0], [0, 0, 0, 1]], float)
    case = read_layout(kits(tmp_path, "case_00000", "case_00001", affine=affine), SETTINGS).cases[0]
    loaded = load_case(case)
    # (0, 1, 2) of (3, 6, 5): the top slice, row 1 from the front, column 2 (the middle) from either side.
    assert loaded.scan.shape == (3, 6, 5)
    assert np.argwhere(loaded.scan == 900).tolist() == [[2, 1, 2]]
    assert loaded.lesion is not None
    assert np.argwhere(loaded.lesion).tolist() == [[2, 1, 2]]
    cyst = load_case(replace(case, lesion=(replace(case.lesion[0], values=(3,)),))).lesion
    assert np.argwhere(cyst).tolist() == [[0, 3, 4 if left == 1 else 0]]


# --- from label maps to labelled slices


@pytest.mark.parametrize(
    ("organ", "kept"),
    [
        (("kidney",), [0, 3]),
        (("kidney+malignant",), [0, 1, 3]),
        (("kidney+malignant+benign",), [0, 1, 2, 3]),
        (("kidney", "benign"), [0, 2, 3]),
    ],
)
def test_the_slice_filter_counts_the_region_asked_for(tmp_path: Path, organ: tuple[str, ...], kept: list[int]) -> None:
    settings = replace(LESION, organ=organ, min_organ_px=16)
    loaded = load_case(read_layout(dataset(tmp_path, "a", "b"), settings).cases[0])
    assert [cut.index for cut in loaded.cuts(settings)] == kept


def tiny(**changes: Any) -> Settings:
    data = DataSettings(size=16, organ=("kidney+malignant",), lesion=("malignant",), min_organ_px=100, validation=0.25)
    return replace(Settings(), data=replace(data, **changes))


HEIGHTS = {z: z - 4 for z in range(5, 12)}
"""Rows of the lesion in each slice of an abnormal patient; it is 10 columns wide."""


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 patients, 20 slices of 40 x 40: kidney (400 pixels) in slices 3 to 16; patients 4 to 7 have a bright lesion of 10 to
    70 pixels in slices 5 to 11, all but one row of it inside the kidney; patient 3 has a benign one."""
    root, rng = tmp_path_factory.mktemp("hospital"), np.random.default_rng(0)
    for i in range(8):
        labelled = np.zeros((20, 40, 40), np.uint8)
        labelled[3:17, 10:30, 10:30] = 1
        labelled[17, 10:15, 10:29] = 1  # 95 pixels: too few
        for z, rows in HEIGHTS.items() if i >= 4 else []:
            labelled[z, 9 : 9 + rows, 12:22] = 2
        if i == 3:
            labelled[8, 12:20, 12:20] = 3
        scan = rng.normal(40, 10, labelled.shape) + 150 * (labelled == 2)
        scan[:, 0, 0] = -1000  # air, as around every patient
        save(root / f"imagesTr/tuh_{i:03d}_0000.nii.gz", scan.astype(np.int16))
        save(root / f"labelsTr/tuh_{i:03d}.nii.gz", labelled)
    (root / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "CT"}, "labels": LABELS, "numTraining": 8, "file_ending": ".nii.gz"})
    )
    return root


def prepared(root: Path, out: Path, settings: Settings) -> SliceStore:
    return prepare(read_layout(root, settings.data), settings, out)


def rows_of(index: Mapping[str, np.ndarray], *names: str) -> list[tuple[Any, ...]]:
    return list(zip(*(index[name].tolist() for name in names), strict=True))


@pytest.mark.parametrize("small", ["normal", "drop"])
def test_a_small_hospital_row_by_row(hospital: Path, tmp_path: Path, small: str) -> None:
    store = prepared(hospital, tmp_path / "slices", tiny(min_lesion_px=30, small_lesions=small))
    index = store.index
    held = {case for case, side in rows_of(index, "case", "split") if side == VALIDATION}
    assert len(held) == 2
    assert len(held & {"tuh_004", "tuh_005", "tuh_006", "tuh_007"}) == 1
    expected = []
    for i in range(8):
        case = f"tuh_{i:03d}"
        # Slices 3 to 16 hold 400 kidney pixels; where the lesion is, the kidney is around it and its union with it larger.
        for z in range(3, 17):
            pixels = {5: 10, 6: 20, 7: 30, 8: 40, 9: 50, 10: 60, 11: 70}.get(z, 0) if i >= 4 else 0
            label, side = int(pixels > 30), VALIDATION if case in held else TRAINING
            if small == "drop" and 0 < pixels <= 30:
                label, side = 1, VALIDATION if case in held else LEFT_OUT
            expected.append((case, z, label, pixels, 1, side))
    assert rows_of(index, "case", "slice", "label", "lesion_px", "truth", "split") == expected
    assert store.meta["problems"] == []
    assert "made from the lesion masks (malignant)" in store.meta["label_source"]
    assert store.truth().shape == (8 * 14, 16, 16)
    assert store.images.shape == (8 * 14, 1, 16, 16)
    # The organ of a slice is the kidney with its tumour: nothing of the lesion is outside.
    row = rows_of(index, "case", "slice").index(("tuh_004", 11))
    assert not (store.truth()[row].astype(bool) & ~store.organs[row].astype(bool)).any()
    assert store.truth()[row].any()


def test_every_lesion_counts_by_default(hospital: Path, tmp_path: Path) -> None:
    index = prepared(hospital, tmp_path / "slices", tiny()).index
    assert np.array_equal(index["label"] == 1, index["lesion_px"] > 0)
    assert (index["label"] == 1).sum() == 4 * 7
    assert set(index["split"].tolist()) == {TRAINING, VALIDATION}


@pytest.mark.parametrize("small", ["normal", "drop"])
def test_given_labels_win_over_masks_of_any_size(hospital: Path, tmp_path: Path, small: str) -> None:
    root = linked(hospital, tmp_path / "data")
    (root / "labels.csv").write_text("image_id,slice,label\ntuh_004,5,1\ntuh_004,11,0\ntuh_000,4,1\n")
    index = prepared(root, tmp_path / "slices", tiny(min_lesion_px=30, small_lesions=small, split_by="slice")).index
    found = {
        (case, z): (label, pixels, side)
        for case, z, label, pixels, side in rows_of(index, "case", "slice", "label", "lesion_px", "split")
    }
    assert found["tuh_004", 5] == (1, 10, TRAINING)  # not small: somebody said that it is abnormal
    assert found["tuh_004", 11] == (0, 70, TRAINING)
    assert found["tuh_000", 4] == (1, 0, TRAINING)
    assert found["tuh_004", 6] == ((0, 20, TRAINING) if small == "normal" else (1, 20, LEFT_OUT))


def linked(hospital: Path, root: Path) -> Path:
    """Another data set of the same files."""
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
        for path in sorted((hospital / folder).iterdir()):
            (root / folder / path.name).symlink_to(path)
    (root / "dataset.json").write_bytes((hospital / "dataset.json").read_bytes())
    return root


def test_lesion_pixels_are_unknown_without_a_mask(hospital: Path, tmp_path: Path) -> None:
    root = linked(hospital, tmp_path / "data")
    (root / "labels.csv").write_text("image_id,label\n" + "".join(f"tuh_{i:03d},{int(i >= 4)}\n" for i in range(8)))
    index = prepared(root, tmp_path / "slices", tiny(lesion=())).index
    assert set(index["lesion_px"].tolist()) == {-1}
    assert np.array_equal(index["truth"] == 1, index["label"] == 0)


def test_a_changed_table_of_patients_or_labels_makes_the_store_stale(hospital: Path, tmp_path: Path) -> None:
    root, out = linked(hospital, tmp_path / "data"), tmp_path / "slices"
    keys = [prepared(root, out, tiny()).meta["key"]]
    (root / "patients.csv").write_text("case,patient\ntuh_000,p\ntuh_007,p\n")
    store = prepared(root, out, tiny())
    keys.append(store.meta["key"])
    assert len(set(store.index["split"][store.index["patient"] == "p"].tolist())) == 1
    described = json.loads((root / "dataset.json").read_text())
    described["labels"] |= {"malignant": 3, "benign": 2}
    (root / "dataset.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match="all 112 usable slices are normal, 1 of them with a lesion of at most 64 pixels"):
        prepared(root, out, tiny(min_lesion_px=64))
    keys.append(prepared(root, out, tiny(split_by="slice")).meta["key"])
    assert len(set(keys)) == 3


@pytest.mark.parametrize("small", ["normal", "drop"])
def test_a_limit_above_every_lesion_is_said(hospital: Path, tmp_path: Path, small: str) -> None:
    with pytest.raises(UserError) as caught:
        prepared(hospital, tmp_path / "slices", tiny(min_lesion_px=70, small_lesions=small))
    wanted = "28 of them with a lesion of at most 70 pixels" if small == "normal" else "21 with small lesions are left out of it"
    assert wanted in str(caught.value)
    assert "lower data.min_lesion_px" in str(caught.value)


def test_float_label_maps(hospital: Path, tmp_path: Path) -> None:
    root = linked(hospital, tmp_path / "data")
    for path in sorted((root / "labelsTr").iterdir()):
        image = nib.load(path)
        labelled = np.asarray(image.dataobj).astype(np.float64)
        path.unlink()
        nib.save(nib.Nifti1Image(labelled, image.affine), path)
    one, other = (prepared(data, tmp_path / name, tiny()) for data, name in ((hospital, "one"), (root, "other")))
    assert rows_of(one.index, *one.index) == rows_of(other.index, *other.index)
    assert one.meta["fingerprint"] == other.meta["fingerprint"]


def test_broken_files_are_reported_and_left_out(hospital: Path, tmp_path: Path) -> None:
    root = linked(hospital, tmp_path / "data")
    whole = (root / "labelsTr/tuh_006.nii.gz").read_bytes()
    for name in ("imagesTr/tuh_000_0000", "labelsTr/tuh_001", "labelsTr/tuh_006", "labelsTr/tuh_002"):
        (root / f"{name}.nii.gz").unlink()
    save(root / "labelsTr/tuh_001.nii.gz", np.zeros((20, 40, 39), np.uint8))
    save(root / "labelsTr/tuh_002.nii.gz", np.zeros((20, 40, 40), np.uint8), np.diag([-1.0, -1.0, 2.0, 1.0]))
    (root / "labelsTr/tuh_006.nii.gz").write_bytes(whole[: len(whole) // 2])
    (root / "imagesTr/tuh_000_0000.nii.gz").write_bytes(gzip.compress(b"no volume"))
    store = prepared(root, tmp_path / "slices", tiny(split_by="slice"))
    assert set(store.index["case"].tolist()) == {f"tuh_{i:03d}" for i in (3, 4, 5, 7)}
    problems = {line.partition(":")[0]: line for line in store.meta["problems"]}
    assert "imagesTr/tuh_000_0000.nii.gz cannot be read" in problems["tuh_000"]
    assert "has (20, 40, 39) (slices, rows, columns) and its scan (20, 40, 40)" in problems["tuh_001"]
    assert "their affines differ" in problems["tuh_002"]
    assert "labelsTr/tuh_006.nii.gz cannot be read" in problems["tuh_006"]
    assert len(problems) == 4
    assert not any("\n" in line for line in problems.values())


# --- the split


def test_split_by_lesion_area_keeps_both_sides_alike() -> None:
    rng = np.random.default_rng(1)
    totals = {f"p{i:03d}": float(total) for i, total in enumerate(rng.permutation(np.r_[np.zeros(50), np.arange(1, 51) ** 3]))}
    patients = [name for name in totals for _ in range(4)]
    area = np.array([totals[name] / 4 for name in patients])
    labels = np.zeros(len(patients), np.int64)  # the labels do not say which patients are which
    sides = split(patients, labels, 0.2, 3, area)
    assert sides == split(patients, labels, 0.2, 3, area)
    assert sides.keys() == totals.keys()
    held = np.sort([totals[name] for name, side in sides.items() if side == VALIDATION])
    rest = np.sort([totals[name] for name, side in sides.items() if side == TRAINING])
    assert (len(held), len(rest)) == (20, 80)
    assert (held == 0).sum() == 10
    # Every run of five patients gives one: the sorted totals of both sides interleave.
    ordered = np.sort(list(totals.values()))
    for k, total in enumerate(held):
        assert ordered[5 * k] <= total <= ordered[5 * k + 4]


def test_split_by_total_area_and_not_by_share() -> None:
    # a has one large lesion in 10 slices, b a tiny one in each of 2: by share b comes last, by area a does.
    patients = ["a"] * 10 + ["b"] * 2 + ["c"] * 2 + ["d"] * 2
    area = np.array([500] + [0] * 9 + [3, 3] + [0, 0] + [200, 0])
    labels = (area > 0).astype(np.int64)

    def pairs(lesion_px: np.ndarray | None) -> set[frozenset[str]]:
        """Patients held out for many seeds: one of the lower two, one of the upper two."""
        drawn = (split(patients, labels, 0.5, seed, lesion_px) for seed in range(60))
        return {frozenset(name for name, side in sides.items() if side == VALIDATION) for sides in drawn}

    assert pairs(area) == {frozenset(pair) for pair in ("ca", "cd", "ba", "bd")}
    assert pairs(None) == {frozenset(pair) for pair in ("cd", "cb", "ad", "ab")}


def test_a_store_split_by_lesion_area(hospital: Path, tmp_path: Path) -> None:
    store = prepared(hospital, tmp_path / "slices", tiny(stratify="lesion_area"))
    sides = {case: set(store.index["split"][store.index["case"] == case].tolist()) for case in store.index["case"]}
    assert all(len(found) == 1 for found in sides.values())
    held = sorted(case for case, found in sides.items() if found == {VALIDATION})
    assert len(held) == 2
    assert held[0] <= "tuh_003" < held[1]


def test_lesion_area_needs_masks(hospital: Path, tmp_path: Path) -> None:
    root = linked(hospital, tmp_path / "data")
    (root / "labels.csv").write_text("image_id,label\n" + "".join(f"tuh_{i:03d},{int(i >= 4)}\n" for i in range(8)))
    wanted = "data.stratify is lesion_area and no case has a lesion mask; required: lesion masks to split by; set data.lesion"
    with pytest.raises(UserError, match=wanted):
        prepared(root, tmp_path / "slices", tiny(stratify="lesion_area", lesion=()))
    # Patients labelled normal need none; one labelled abnormal does.
    tree = tiny(stratify="lesion_area", organ=())
    (root / "labelsTr/tuh_000.nii.gz").unlink()
    assert (prepared(root, tmp_path / "slices", tree).index["lesion_px"] == -1).sum() == 20
    (root / "labelsTr/tuh_005.nii.gz").unlink()
    with pytest.raises(UserError, match="lesion_area and slice 0 of tuh_005 has no lesion mask"):
        prepared(root, tmp_path / "slices", tree)
