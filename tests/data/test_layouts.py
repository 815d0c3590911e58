"""What each layout lists; `test_broken_layouts.py` has what is said of broken ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from coinseg.config.schema import DataSettings
from coinseg.data.layouts.decathlon import fits_decathlon
from coinseg.data.layouts.nnunet import fits_nnunet
from coinseg.data.layouts.registry import LAYOUTS, Layout, read_layout
from coinseg.errors import UserError
from coinseg.types import Case, Cohort
from examples import CASES, EXAMPLES

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SETTINGS = DataSettings()


def put(root: Path, *names: str) -> Path:
    """Tiny images and volumes of these names."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".nii.gz"):
            nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), path)
        else:
            Image.new("L", (4, 4), 9).save(path)
    return root


def table(root: Path, text: str, name: str = "labels.csv") -> Path:
    put(root, "images/a.png", "images/b.png")
    (root / name).write_text(text, encoding="utf-8")
    return root


def scans(root: Path, *ids: str, meta: str | None = "CT Abdomen-pelvis") -> Path:
    for name in ids:
        put(root, f"{name}/ct.nii.gz", f"{name}/segmentations/kidney_left.nii.gz")
    if meta is not None:
        rows = "".join(f"{name};50;{meta}\n" for name in ids)
        (root / "meta.csv").write_text(f"image_id;age;study_type\n{rows}", encoding="utf-8-sig")
    return root


# --- labels in words


@pytest.mark.parametrize(
    ("abnormal", "normal"),
    [("yes", "no"), ("Y", "N"), ("ja", "nein"), ("WAHR", "FALSCH"), ("positive", "negative"), ("Pos", "neg"), ("oui", "non"),
     ("vrai", "faux"), ("True", "False"), ("present", "absent")],
)  # fmt: skip
def test_words_that_can_mean_one_thing_are_labels_and_how_they_are_understood_is_said(
    tmp_path: Path, abnormal: str, normal: str
) -> None:
    cohort = read_layout(table(tmp_path, f"file,label\na.png,{normal}\nb.png,{abnormal}\n"), SETTINGS)
    assert [case.label for case in cohort.cases] == [0, 1]
    said = f"column label ({abnormal.lower()} counts as abnormal, {normal.lower()} counts as normal)"
    assert cohort.label_source == f"image labels from labels.csv, {said}"


def test_what_needs_no_words_is_not_said(tmp_path: Path) -> None:
    cohort = read_layout(table(tmp_path, "file,label\na.png,normal\nb.png,1\n"), SETTINGS)
    assert cohort.label_source == "image labels from labels.csv, column label"


@pytest.mark.parametrize("word", ["malignant", "-1", "2", "unknown", "?", "0.5", "y/n", "healthy"])
def test_words_that_may_mean_another_thing_are_refused(tmp_path: Path, word: str) -> None:
    with pytest.raises(UserError, match=r"row 3 of .*labels\.csv has a label that is not known"):
        read_layout(table(tmp_path, f"file,label\na.png,0\nb.png,{word}\n"), SETTINGS)


def test_labels_of_dicom_and_of_scans_in_words(tmp_path: Path) -> None:
    for layout in ("dicom", "totalsegmentator"):
        root = EXAMPLES[layout].make(tmp_path / layout)
        lines = (root / "labels.csv").read_text().splitlines()
        words = [line[:-1] + {"0": "no", "1": "yes"}[line[-1]] for line in lines[1:]]
        (root / "labels.csv").write_text("\n".join([lines[0], *words]) + "\n", encoding="utf-16")
        assert "(yes counts as abnormal, no counts as normal)" in read_layout(root, EXAMPLES[layout].settings().data).label_source


# --- what every layout shares


def test_one_class_is_refused_with_counts(tmp_path: Path) -> None:
    root = table(tmp_path, "file,label\na.png,1\nb.png,1\n")
    with pytest.raises(UserError, match="0 normal and 2 abnormal"):
        read_layout(root, SETTINGS)
    assert len(read_layout(root, SETTINGS, one_class=True).cases) == 2


@pytest.mark.parametrize(("last", "accepted"), [("s2,0,0", True), ("s2,0,1", False), ("s2,0,", False)])
def test_slice_labels_count_as_labels(tmp_path: Path, last: str, accepted: bool) -> None:
    root = scans(tmp_path, "s1", "s2")
    (root / "labels.csv").write_text(f"image_id,slice,label\ns1,0,1\ns1,1,1\n{last}\n")
    if accepted:
        assert len(read_layout(root, SETTINGS).cases) == 2
    else:
        with pytest.raises(UserError, match=r"0 normal and [23] abnormal"):
            read_layout(root, SETTINGS)
        assert len(read_layout(root, SETTINGS, one_class=True).cases) == 2


def test_lesion_masks_may_give_the_other_class(tmp_path: Path) -> None:
    root = put(table(tmp_path, "file,label\na.png,1\nb.png,\n"), "masks/b.png")
    assert [case.label for case in read_layout(root, SETTINGS).cases] == [1, None]


def test_two_patients_are_needed_to_split_by_them(tmp_path: Path) -> None:
    root = table(tmp_path, "file,label,patient\na.png,0,p\nb.png,1,p\n")
    with pytest.raises(UserError, match=r"data\.split_by slice"):
        read_layout(root, SETTINGS)
    assert {case.patient for case in read_layout(root, replace(SETTINGS, split_by="slice")).cases} == {"p"}


# --- TotalSegmentator


def test_totalsegmentator(tmp_path: Path) -> None:
    root = scans(tmp_path, "s2", "s1", "s3")
    (root / "s3/segmentations/kidney_left.nii.gz").unlink()
    (root / "labels.csv").write_text("image_id,slice,label\ns1,0,0\ns1,2,1\n")
    cohort = read_layout(root, replace(SETTINGS, organ=("kidney_left",)))
    assert cohort.layout == "totalsegmentator"
    assert [case.id for case in cohort.cases] == ["s1", "s2"]
    assert any("s3" in line and "kidney_left" in line for line in cohort.problems)
    first, second = cohort.cases
    assert dict(first.slice_labels) == {0: 0, 2: 1}
    assert not second.slice_labels
    assert first.label is None
    assert first.patient == "s1"
    assert first.volume
    assert first.image == root / "s1/ct.nii.gz"
    assert first.organ[0].path == root / "s1/segmentations/kidney_left.nii.gz"
    assert "labels.csv" in cohort.label_source


def test_totalsegmentator_without_meta_keeps_all_and_says_so(tmp_path: Path) -> None:
    cohort = read_layout(scans(tmp_path, "s1", "s2", meta=None), SETTINGS)
    assert len(cohort.cases) == 2
    assert any("meta.csv" in line for line in cohort.problems)


def test_totalsegmentator_study_type(tmp_path: Path) -> None:
    root = scans(tmp_path, "s1", "s2", meta="ct head")
    with pytest.raises(UserError):
        read_layout(root, SETTINGS)
    assert len(read_layout(root, replace(SETTINGS, study_type="HEAD")).cases) == 2
    assert len(read_layout(root, replace(SETTINGS, study_type="")).cases) == 2


@pytest.mark.parametrize("inside", ["", "segmentations/"])
def test_totalsegmentator_organs_from_elsewhere(tmp_path: Path, inside: str) -> None:
    root = scans(tmp_path / "data", "s1", "s2")
    put(tmp_path / "own", *(f"{name}/{inside}kidney.nii.gz" for name in ("s1", "s2")))
    cohort = read_layout(root, replace(SETTINGS, organ=("kidney",), organ_from=str(tmp_path / "own")))
    assert [case.organ[0].path.is_relative_to(tmp_path / "own") for case in cohort.cases] == [True, True]


def test_totalsegmentator_labels_of_whole_scans(tmp_path: Path) -> None:
    root = scans(tmp_path, "s1", "s2")
    (root / "labels.csv").write_text("image_id,label\ns1,1\ns2,0\n")
    assert [(case.label, dict(case.slice_labels)) for case in read_layout(root, SETTINGS).cases] == [(1, {}), (0, {})]


def test_labels_that_lesion_masks_will_give_are_announced(tmp_path: Path) -> None:
    root = scans(tmp_path, "s1", "s2")
    source = read_layout(root, replace(SETTINGS, lesion=("kidney_left",))).label_source
    assert source == (
        "no image labels in the data; where none is given, made from the lesion masks (kidney_left): a slice is abnormal with any"
    )


# --- the Decathlon


def test_decathlon(tmp_path: Path) -> None:
    root = EXAMPLES["decathlon"].make(tmp_path)
    cohort = read_layout(root, EXAMPLES["decathlon"].settings().data)
    assert cohort.layout == "decathlon"
    assert [case.id for case in cohort.cases] == [f"liver_{i}" for i in range(CASES)]
    first = cohort.cases[0]
    assert (first.patient, first.label, first.image) == ("liver_0", None, root / "imagesTr/liver_0.nii.gz")
    assert [(source.path, source.values) for source in first.organ] == [(root / "labelsTr/liver_0.nii.gz", (1, 2))]
    assert [(source.path, source.values) for source in first.lesion] == [(root / "labelsTr/liver_0.nii.gz", (2,))]
    assert cohort.problems == ()


def test_decathlon_tables_win_over_masks(tmp_path: Path) -> None:
    root = EXAMPLES["decathlon"].make(tmp_path)
    (root / "labels.csv").write_text("case,label\nliver_0,1\nliver_1,0\n")
    (root / "patients.csv").write_text("case,patient\nliver_0,p\nliver_1,p\n")
    cases = read_layout(root, SETTINGS).cases
    assert [(case.label, case.patient) for case in cases] == [(1, "p"), (0, "p"), (None, "liver_2"), (None, "liver_3")]


def test_decathlon_organs_from_elsewhere(tmp_path: Path) -> None:
    root = EXAMPLES["decathlon"].make(tmp_path / "data")
    put(tmp_path / "own", *(f"liver_{i}.nii.gz" for i in range(CASES)))
    settings = EXAMPLES["decathlon"].settings(organ=["liver"], organ_from=str(tmp_path / "own")).data
    assert [case.organ[0].path.parent for case in read_layout(root, settings).cases] == [tmp_path / "own"] * CASES


def test_nnunet_and_decathlon_are_not_taken_for_each_other(tmp_path: Path) -> None:
    for name in ("nnunet", "decathlon"):
        root = EXAMPLES[name].make(tmp_path / name)
        assert (fits_nnunet(root), fits_decathlon(root)) == (name == "nnunet", name == "decathlon")
        other = "decathlon" if name == "nnunet" else "nnunet"
        with pytest.raises(UserError, match="has no list training" if other == "decathlon" else "no image named CASE_0000"):
            read_layout(root, EXAMPLES[name].settings(layout=other).data)


# --- KiTS


def test_kits21_as_cloned(tmp_path: Path) -> None:
    """Three ways to join the raters, and the instances they drew, beside the map that is read."""
    root = EXAMPLES["kits"].make(tmp_path / "kits21/data").parents[1]
    for folder in (root / "kits21/data").iterdir():
        (folder / "segmentation.nii.gz").rename(folder / "aggregated_MAJ_seg.nii.gz")
        put(
            folder, "aggregated_OR_seg.nii.gz", "aggregated_AND_seg.nii.gz", "segmentations/kidney_instance-1_annotation-1.nii.gz"
        )
    cohort = read_layout(root, EXAMPLES["kits"].settings().data)
    assert (cohort.layout, len(cohort.cases), cohort.problems) == ("kits", CASES, ())
    assert {case.lesion[0].path.name for case in cohort.cases} == {"aggregated_MAJ_seg.nii.gz"}


# --- CSV


def test_csv_columns_by_name(tmp_path: Path) -> None:
    root = table(tmp_path, "\ufeffFile;Label;patient_id\nb.png;1.0;q\nimages/a.png;normal;p\n")
    cohort = read_layout(root, SETTINGS)
    assert [(case.label, case.patient) for case in cohort.cases] == [(0, "p"), (1, "q")]
    assert cohort.layout == "csv"
    assert "labels.csv" in cohort.label_source
    assert "label" in cohort.label_source
    assert read_layout(root / "labels.csv", SETTINGS).cases == cohort.cases


def test_csv_without_patients_says_so(tmp_path: Path) -> None:
    cohort = read_layout(table(tmp_path, "file,label\na.png,0\nb.png,1\n"), SETTINGS)
    assert len({case.patient for case in cohort.cases}) == 2
    assert any("patient" in line for line in cohort.problems)


def test_csv_ids_resolve_by_adding_a_suffix(tmp_path: Path) -> None:
    cohort = read_layout(table(tmp_path, "id,abnormal\na,0\nb,1\n"), SETTINGS)
    assert [case.image.name for case in cohort.cases] == ["a.png", "b.png"]


def test_csv_finds_masks_beside_it(tmp_path: Path) -> None:
    root = put(table(tmp_path, "file,label\na.png,0\nb.png,1\n"), "masks/b.tif", "organs/a.png", "organs/b.png")
    normal, abnormal = read_layout(root, SETTINGS).cases
    assert not normal.lesion
    assert abnormal.lesion[0].path.name == "b.tif"
    assert normal.organ[0].path.parent.name == "organs"


def test_csv_label_values_of_plain_images(tmp_path: Path) -> None:
    root = put(table(tmp_path, "file,label\na.png,0\nb.png,1\n"), "masks/b.png", "organs/a.png", "organs/b.png")
    _, abnormal = read_layout(root, replace(SETTINGS, organ=("1", "2"), lesion=("3", "4"))).cases
    assert [source.values for source in abnormal.organ] == [(1,), (2,)]
    assert [source.values for source in abnormal.lesion] == [(3, 4)]
    with pytest.raises(UserError, match=r"data\.organ is kidney"):
        read_layout(root, replace(SETTINGS, organ=("kidney",)))


def test_csv_without_labels(tmp_path: Path) -> None:
    cohort = read_layout(table(tmp_path, "file\na.png\nb.png\n"), SETTINGS)
    assert [case.label for case in cohort.cases] == [None, None]


def test_csv_volumes_with_organ_values(tmp_path: Path) -> None:
    put(tmp_path, "a.nii.gz", "a_seg.nii.gz", "b.nii.gz", "b_seg.nii.gz")
    (tmp_path / "x.csv").write_text("file,organ\na.nii.gz,a_seg.nii.gz\nb.nii.gz,b_seg.nii.gz\n")
    cohort = read_layout(tmp_path / "x.csv", replace(SETTINGS, organ=("1", "2")))
    assert all(case.volume for case in cohort.cases)
    assert [source.values for source in cohort.cases[0].organ] == [(1,), (2,)]
    assert read_layout(tmp_path / "x.csv", SETTINGS).cases[0].organ[0].values == ()


# --- folders


def test_folders_by_name(tmp_path: Path) -> None:
    put(tmp_path, "Normal/x.png", "abnormal/x.png", "abnormal/._x.png", "masks/x.png")
    cohort = read_layout(tmp_path, SETTINGS)
    assert cohort.layout == "folders"
    assert len({case.id for case in cohort.cases}) == 2
    # The mask belongs to the abnormal x, though the normal x has the same name.
    assert {case.label: len(case.lesion) for case in cohort.cases} == {0: 0, 1: 1}
    assert all("/" not in case.id and case.patient == case.id for case in cohort.cases)


@pytest.mark.parametrize("mask", ["masks/Break/x.png", "masks/Break/x_mask.png", "masks/x.png"])
def test_folders_named_in_the_settings(tmp_path: Path, mask: str) -> None:
    put(tmp_path, "images/Free/y.jpg", "images/Break/x.jpg", mask)
    wanted = replace(SETTINGS, normal=("images/Free",), abnormal=("images/Break",), masks="masks")
    by_label = {case.label: case for case in read_layout(tmp_path, wanted).cases}
    assert by_label[1].lesion[0].path == tmp_path / mask
    assert not by_label[0].lesion


def test_folders_of_volumes(tmp_path: Path) -> None:
    cohort = read_layout(put(tmp_path, "good/x.nii.gz", "bad/y.nii.gz"), SETTINGS)
    assert all(case.volume for case in cohort.cases)
    assert {case.label for case in cohort.cases} == {0, 1}


# --- real data


@pytest.mark.parametrize(
    ("name", "settings", "labels"),
    [
        ("lgg-flair-2d", SETTINGS, {0, 1}),
        ("msd-liver-ct-2d", SETTINGS, {None}),
        (
            "magnetic-tile",
            replace(SETTINGS, normal=("images/Free",), abnormal=("images/Break", "images/Crack"), masks="masks"),
            {0, 1},
        ),
    ],
)
def test_real_data(name: str, settings: DataSettings, labels: set[int | None]) -> None:
    root = DATA / name
    if not root.is_dir():
        pytest.skip("the shared example data is not on this machine")
    cases = read_layout(root, settings).cases
    assert set(Counter(case.label for case in cases)) == labels
    assert all(case.lesion for case in cases if case.label == 1)
    assert all(case.organ for case in cases) == (name == "msd-liver-ct-2d")


def test_real_scan_by_hand_written_csv(tmp_path: Path) -> None:
    root = DATA / "3dircadb1-ct-kidney"
    if not root.is_dir():
        pytest.skip("the shared example data is not on this machine")
    (tmp_path / "scans").symlink_to(root)
    (tmp_path / "x.csv").write_text("file,organ\nscans/ircad01_ct.nii.gz,scans/ircad01_seg.nii.gz\n")
    (case,) = read_layout(tmp_path / "x.csv", replace(SETTINGS, organ=("1", "2"), split_by="slice")).cases
    assert case.volume
    assert case.label is None
    assert [source.values for source in case.organ] == [(1,), (2,)]


def test_a_table_says_which_images_are_slices_of_one_scan(tmp_path: Path) -> None:
    put(tmp_path, *(f"images/{name}.png" for name in "abcdef"), "images/v.nii.gz")
    rows = "a.png,0,p,7,\nb.png,1,p,8.0,\nc.png,0,q,3,\nd.png,1,q,3,\ne.png,1,r,,\nf.png,0,s,axial,\nv.nii.gz,0,t,,\n"
    cohort = read_layout(table(tmp_path, f"file,label,patient,slice,mask\n{rows}"), SETTINGS)
    # Two images of q have one number: which is beside which is not known. A volume has its own slices.
    assert [(case.id[:1], case.series, case.place) for case in cohort.cases if case.series] == [("a", "p", 7), ("b", "p", 8)]
    assert any("4 images of labels.csv are taken by themselves" in problem for problem in cohort.problems)
    without = read_layout(table(tmp_path, "file,label,slice\na.png,0,7\nb.png,1,8\n"), SETTINGS)
    assert {case.series for case in without.cases} == {None}  # whose slices they are nobody says
    assert not any("by themselves" in problem for problem in without.problems)


@pytest.mark.parametrize(
    ("numbers", "places"), [((5, 10, 20, 0), (1, 2, 4, 0)), ((5, 10, 20, 1), (5, 10, 20, 1)), ((7, 7.0, 9, 9), None)]
)
def test_slices_that_are_numbered_in_steps_are_neighbours_a_step_apart(
    tmp_path: Path, numbers: tuple[float, ...], places: tuple[int, ...] | None
) -> None:
    put(tmp_path, *(f"images/{name}.png" for name in "abcd"))
    rows = [f"{name}.png,{i % 2},{'ppqp'[i]},{number}" for i, (name, number) in enumerate(zip("abcd", numbers, strict=True))]
    cohort = read_layout(table(tmp_path, "file,label,patient,slice\n" + "\n".join(rows)), SETTINGS)
    own = [case.place for case in cohort.cases]
    gaps = None if places is None else [places[3] - places[0], places[1] - places[0]]
    if gaps:
        assert [own[3] - own[0], own[1] - own[0]] == gaps
    else:
        assert {case.series for case in cohort.cases} == {None, "q"}  # 7 and 7.0 are one number


def test_a_table_labels_slices_of_volumes(tmp_path: Path) -> None:
    put(tmp_path, "images/v.nii.gz", "images/w.nii.gz", "images/x.nii.gz")
    rows = "v.nii.gz,0,p,4\nv.nii.gz,1,p,5\nv.nii.gz,,p,6\nw.nii.gz,0,q,\nx.nii.gz,,r,1\n"
    cohort = read_layout(table(tmp_path, f"file,label,patient,slice\n{rows}"), SETTINGS)
    assert [(c.id[0], c.label, c.slice_labels) for c in cohort.cases] == [
        ("v", None, {4: 0, 5: 1}),
        ("w", 0, {}),
        ("x", None, {}),
    ]
    for wrong, message in (
        ("v.nii.gz,0,p,4\nv.nii.gz,1,p,4\n", r"contradict each other about .*v\.nii\.gz; required: one label per slice"),
        ("v.nii.gz,0,p,4\nv.nii.gz,1,q,5\n", r"with different patients or masks; required: the same in every row"),
        ("v.nii.gz,0,p,head\nw.nii.gz,1,q,1\n", r"row 2 of .* labels no slice of its volume; required: a whole number, from 0"),
    ):
        with pytest.raises(UserError, match=message):
            read_layout(table(tmp_path, f"file,label,patient,slice\n{wrong}"), SETTINGS)


# --- A new layout


def test_a_layout_is_one_file_and_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def list_toy(root: Path, settings: DataSettings) -> Cohort:
        cases = [Case(p.stem, p.stem, p, volume=False, label=int(p.stem[-1]) % 2) for p in root.glob("toy-*.png")]
        return Cohort("toy", tuple(cases), "image labels from names")

    monkeypatch.setitem(LAYOUTS, "toy", Layout(lambda root: any(root.glob("toy-*.png")), list_toy, "toy-1.png"))
    cohort = read_layout(put(tmp_path / "toy", "toy-2.png", "toy-1.png"), SETTINGS)
    assert (cohort.layout, [case.label for case in cohort.cases]) == ("toy", [1, 0])
    with pytest.raises(UserError, match=r"or toy \(toy-1.png\)"):
        read_layout(put(tmp_path / "other", "a.png"), SETTINGS)
