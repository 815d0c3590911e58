"""Several classes and several channels, as each layout lists them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from coinseg.cli import inspect as inspection
from coinseg.config.parsing import settings_from
from coinseg.config.schema import DataSettings
from coinseg.data.layouts.classes import any_of, counts, with_classes
from coinseg.data.layouts.registry import read_layout
from coinseg.data.phantom.canvas import PhantomSettings
from coinseg.data.phantom.cohort import make_patient, write_cohort
from coinseg.errors import UserError
from coinseg.types import Case, ClassLabels, Cohort, MaskSource
from examples import EXAMPLES

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SETTINGS = DataSettings()


def put(root: Path, *names: str) -> Path:
    """Tiny images and volumes of these names, each with its own pixels."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".nii.gz"):
            nib.save(nib.Nifti1Image(np.full((2, 2, 2), number % 3, np.uint8), np.eye(4)), path)
        else:
            Image.new("L", (4, 4), number % 256).save(path)
    return root


def table(root: Path, text: str, name: str = "labels.csv", images: str = "abcdef") -> Path:
    put(root, *(f"images/{image}.png" for image in images))
    (root / name).write_text(text, encoding="utf-8")
    return root


def asked(*classes: str, **changes: object) -> DataSettings:
    return replace(SETTINGS, classes=classes, **changes)


def labels(cohort: Cohort) -> list[list[int | None]]:
    """Labels of the cases, one list for each class."""
    return [[case.of_class(number).label for case in cohort.cases] for number in range(len(cohort.classes))]


def masks(cohort: Cohort) -> list[list[tuple[str, tuple[int, ...]]]]:
    """Cases and label values of the masks of each class, in words: (mask, values)."""
    return [
        [(str(s.path.name), s.values) for case in cohort.cases for s in case.of_class(number).lesion]
        for number in range(len(cohort.classes))
    ]


# --- what a case with several classes is


@pytest.mark.parametrize(("given", "found"), [((0, 1), 1), ((1, None), 1), ((0, None), None), ((0, 0), 0), ((None, None), None)])
def test_the_label_of_any_class(given: Sequence[int | None], found: int | None) -> None:
    assert any_of(given) == found


def test_a_case_means_any_class() -> None:
    first = ClassLabels(None, {0: 1, 1: 0, 2: 0}, (MaskSource(Path("m"), (1,)),))
    second = ClassLabels(None, {0: 0, 1: 0}, (MaskSource(Path("m"), (2,)), MaskSource(Path("n"), (1,))))
    case = with_classes(Case("a", "a", Path("a"), volume=True), [first, second])
    assert (case.label, case.slice_labels) == (None, {0: 1, 1: 0})  # of slice 2 the second class is not known
    assert case.lesion == (MaskSource(Path("m"), (1, 2)), MaskSource(Path("n"), (1,)))
    assert (case.of_class(1).slice_labels, case.of_class(1).lesion) == (second.slice_labels, second.lesion)


# --- tables


SEVERAL = 'image,group,Scratch,dent\na,p,1,0\nb,p,1,1\nc,q,0,1.0\nd,r,0,\ne,s,0,0\nf,t,"0,0",1\n'


def test_a_column_a_class(tmp_path: Path) -> None:
    cohort = read_layout(table(tmp_path, SEVERAL, "multilabel.csv"), SETTINGS)
    assert cohort.classes == ("Scratch", "dent")
    assert labels(cohort) == [[1, 1, 0, 0, 0, 0], [0, 1, 1, None, 0, 1]]
    assert [case.label for case in cohort.cases] == [1, 1, 1, None, 0, 1]
    assert cohort.label_source == "image labels from multilabel.csv, columns scratch, dent"
    assert any("no column label and 2 of classes: Scratch, dent (data.classes picks some)" in line for line in cohort.problems)
    assert counts(cohort)["dent"] == {"with": 3, "without": 2, "from_lesion_masks": 0, "unknown": 1, "lesion_masks": 0}


def test_one_of_the_columns_is_one_class_as_ever(tmp_path: Path) -> None:
    cohort = read_layout(table(tmp_path, SEVERAL), asked("DENT"))
    assert (cohort.classes, [case.label for case in cohort.cases]) == ((), [0, 1, 1, None, 0, 1])
    assert all(case.classes == () for case in cohort.cases)


def test_a_label_column_is_one_class_unless_classes_are_asked_for(tmp_path: Path) -> None:
    rows = "a,1,1,0\nb,1,1,1\nc,1,0,1\nd,0,0,0\n"
    root = table(tmp_path, f"file,label,x,z\n{rows}")
    assert read_layout(root, SETTINGS).classes == ()
    cohort = read_layout(root, asked("z", "x"))
    assert (cohort.classes, labels(cohort)) == (("z", "x"), [[0, 1, 1, 0], [1, 1, 0, 0]])
    assert "data.classes is given: column label of labels.csv is not read" in cohort.problems


def test_columns_that_are_no_class(tmp_path: Path) -> None:
    rows = "a,1,0,0,0,1,0,1\nb,0,1,0,0,0,0,1\nc,0,1,1,0,0,1,1\nd,1,0,1,0,1,1,0\n"
    cohort = read_layout(table(tmp_path, f"isic_id,normal,MEL,NV,UNK,fold,BCC,sex\n{rows}"), SETTINGS)
    assert cohort.classes == ("MEL", "NV", "BCC")
    cohort = read_layout(table(tmp_path, f"isic_id,normal,MEL,NV,rare,fold,BCC,sex\n{rows}"), SETTINGS)
    assert "labels.csv: no row has the class rare: left out" in cohort.problems


@pytest.mark.parametrize(
    "name", ["is_normal", "Healthy control", "no_lesion", "control", "label_id", "patient_group", "contrast"]
)
def test_a_column_that_says_normal_in_other_words_is_no_class(tmp_path: Path, name: str) -> None:
    root = table(tmp_path, f"file,{name},MEL,NV\na,1,0,0\nb,0,1,0\nc,0,1,1\nd,1,0,1\n")
    assert read_layout(root, SETTINGS).classes == ("MEL", "NV")
    assert read_layout(root, asked(name, "NV")).classes == (name, "NV")


def test_masks_of_each_class_by_column_and_by_folder(tmp_path: Path) -> None:
    root = put(tmp_path, "masks_dent/b.png", "masks_dent/c_mask.png", "m/one.png", "m/two.png")
    text = "file,scratch,dent,mask_scratch\na,1,0,m/one.png\nb,1,1,m/two.png\nc,0,1,\nd,0,0,\n"
    cohort = read_layout(table(root, text), SETTINGS)
    assert masks(cohort) == [[("one.png", ()), ("two.png", ())], [("b.png", ()), ("c_mask.png", ())]]
    assert [len(case.lesion) for case in cohort.cases] == [1, 2, 1, 0]
    (tmp_path / "masks_dent/b.png").rename(tmp_path / "masks_dent/z.png")
    said = read_layout(root, SETTINGS).problems
    assert "class dent: lesion masks not used, no abnormal image has their name: z.png" in said
    assert "class dent: abnormal and without a lesion mask, so not scored: b" in said


def test_classes_by_masks_alone(tmp_path: Path) -> None:
    text = "file,mask_scratch,mask_dent\na,m/one.png,\nb,m/two.png,m/one.png\nc,,m/two.png\n"
    cohort = read_layout(table(put(tmp_path, "m/one.png", "m/two.png"), text), asked("scratch", "dent"))
    assert labels(cohort) == [[None] * 3, [None] * 3]
    assert "made from the lesion masks" in cohort.label_source


def test_the_mask_of_an_image_with_one_class_is_that_of_the_class(tmp_path: Path) -> None:
    root = table(put(tmp_path, *(f"masks/{name}.png" for name in "abc")), SEVERAL)
    cohort = read_layout(root, SETTINGS)
    assert masks(cohort) == [[("a.png", ())], [("c.png", ())]]
    assert any(line.startswith("masks of 1 images (b) are not used: nobody says which class") for line in cohort.problems)
    (tmp_path / "classes.json").write_text('{"background": 0, "scratch": 1, "dent": [2, 3]}')
    by_value = read_layout(root, asked("Scratch", "dent"))
    assert masks(by_value)[0] == [("a.png", (1,)), ("b.png", (1,)), ("c.png", (1,))]
    assert masks(by_value)[1] == [("a.png", (2, 3)), ("b.png", (2, 3)), ("c.png", (2, 3))]


def test_label_maps_of_a_table(tmp_path: Path) -> None:
    root = table(put(tmp_path, *(f"masks/{name}.png" for name in "abcd")), "file\na\nb\nc\nd\n", images="abcd")
    cohort = read_layout(root, asked("1", "2"))
    assert cohort.classes == ("1", "2")
    assert {case.label for case in cohort.cases} == {None}
    assert masks(cohort)[1] == [(f"{name}.png", (2,)) for name in "abcd"]
    assert cohort.cases[0].lesion == (MaskSource(root / "masks/a.png", (1, 2)),)


def test_slices_of_volumes_have_classes(tmp_path: Path) -> None:
    rows = "v.nii.gz,p,0,1,0\nv.nii.gz,p,1,0,0\nv.nii.gz,p,2,,1\nw.nii.gz,q,0,1,1\nx.nii.gz,r,,0,0\n"
    put(tmp_path, "v.nii.gz", "w.nii.gz", "x.nii.gz")
    cohort = read_layout(table(tmp_path, f"file,patient,slice,mass,cyst\n{rows}"), SETTINGS)
    first = cohort.cases[0]
    assert [dict(one.slice_labels) for one in first.classes] == [{0: 1, 1: 0}, {0: 0, 1: 0, 2: 1}]
    assert (first.label, dict(first.slice_labels)) == (None, {0: 1, 1: 0, 2: 1})
    assert (cohort.cases[2].label, cohort.cases[2].classes[0].label) == (0, 0)
    with pytest.raises(UserError, match=r"contradict each other about .*v\.nii\.gz; required: one label per slice"):
        read_layout(table(tmp_path, f"file,patient,slice,mass,cyst\nv.nii.gz,p,0,1,1\n{rows}"), SETTINGS)


def test_a_group_is_a_patient_where_there_are_many(tmp_path: Path) -> None:
    rows = [f"{name},g{i // 2},{i % 2},{i % 3 // 2}" for i, name in enumerate("abcdefghijklmnopqrst")]
    root = table(tmp_path, "file,group,x,z\n" + "\n".join(rows), images="abcdefghijklmnopqrst")
    assert {case.patient for case in read_layout(root, SETTINGS).cases} == {f"g{i}" for i in range(10)}
    cohort = read_layout(table(tmp_path, "file,group,label\na,train,0\nb,test,1\n"), SETTINGS)
    assert [case.patient for case in cohort.cases] == ["a", "b"]
    assert "labels.csv: column group has fewer than 10 values and is not taken for patients" in cohort.problems


def test_channels_of_a_table(tmp_path: Path) -> None:
    put(tmp_path, *(f"{name}_{kind}.nii.gz" for name in "ab" for kind in ("f", "t", "u", "v")))
    text = "file,label,file_2,file_10,File_T1ce\na_f,0,a_t,a_u,a_v\nb_f,1,,b_u,b_v\n"
    cohort = read_layout(table(tmp_path, text), SETTINGS)
    assert cohort.sequences == ("file", "file_2", "file_10", "File_T1ce")
    assert [[path.name[2] for path in case.others] for case in cohort.cases] == [["t", "u", "v"], ["u", "v"]]
    assert not any("a_t" in line for line in cohort.problems)  # read, so not said to be left over
    with pytest.raises(UserError, match=r"row 2 of .* names a file that is missing"):
        read_layout(table(tmp_path, "file,label,file_2\na_f,0,gone\nb_f,1,\n"), SETTINGS)
    assert read_layout(table(tmp_path, "file,label,file_size\na_f,0,12\nb_f,1,13\n"), SETTINGS).sequences == ()


def test_two_classes_of_one_value_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "images", "images/a.png", "images/b.png", "masks/a.png", "masks/b.png")
    (tmp_path / "images/classes.json").write_text('{"scratch": 1, "dent": 1, "rust": [1, 2]}')
    for one, other in (("scratch", "dent"), ("Scratch", "DENT"), ("scratch", "1"), ("1", "01")):
        with pytest.raises(UserError, match=rf"(?i)the classes '{one}' and '{other}' are the same label values \(1\)"):
            read_layout(tmp_path / "images", asked(one, other))
    assert read_layout(tmp_path / "images", asked("scratch", "rust")).classes == ("scratch", "rust")
    root = EXAMPLES["nnunet"].make(tmp_path / "nnunet")
    described = json.loads((root / "dataset.json").read_text())
    labels = described["labels"]
    (root / "dataset.json").write_text(json.dumps(described | {"labels": labels | {"again": labels["malignant"]}}))
    with pytest.raises(UserError, match="the classes 'malignant' and 'again' are the same label values"):
        read_layout(root, asked("malignant", "again"))


def test_channels_that_are_exchanged_in_some_rows_are_said(tmp_path: Path) -> None:
    put(tmp_path, *(f"{name}_{kind}.png" for name in "abcd" for kind in ("flair", "T2")))
    header, rows = "file,file_2,label\n", "a_flair,a_T2,0\nb_T2,b_flair,1\nc_flair,c_T2,0\nd_flair,d_T2,1\n"
    said = "1 rows have their channels in other columns than most, by the names of the files: rows 3"
    assert said in read_layout(table(tmp_path, header + rows), SETTINGS).problems
    right = read_layout(table(tmp_path, header + rows.replace("b_T2,b_flair", "b_flair,b_T2")), SETTINGS)
    assert not any("channels" in line for line in right.problems)
    with pytest.raises(UserError, match=r"row 3 of .* names one file for two channels; required: a file for each"):
        read_layout(table(tmp_path, header + rows.replace("b_T2,b_flair", "b_T2,b_T2")), SETTINGS)


def test_pairs_of_months_are_not_exchanged_channels(tmp_path: Path) -> None:
    months = ("jan", "feb", "mar", "apr")
    put(tmp_path, *(f"{name}_{month}.png" for name in "abcd" for month in months))
    pairs = [f"{name}_{one},{name}_{two},{i % 2}" for name in "abcd" for i, (one, two) in enumerate(pairwise(months))]
    found = read_layout(table(tmp_path, "file,file_2,label\n" + "\n".join(pairs) + "\n"), SETTINGS)
    assert not any("channels" in line for line in found.problems)


def test_neu_steel() -> None:
    if not (root := DATA / "neu-steel").is_dir():
        pytest.skip("the shared example data is not on this machine")
    cohort = read_layout(root, SETTINGS)
    assert cohort.classes == ("inclusion", "patches", "scratches")
    found = counts(cohort)
    assert {name: (of["with"], of["without"], of["lesion_masks"]) for name, of in found.items()} == {
        "inclusion": (317, 487, 317),
        "patches": (311, 493, 311),
        "scratches": (328, 476, 328),
    }
    assert len({case.patient for case in cohort.cases}) == 804


# --- label maps and masks by name


def described(root: Path, **more: object) -> Path:
    put(root, *(f"{folder}/{case}{end}.nii.gz" for case in "ab" for folder, end in (("imagesTr", "_0000"), ("labelsTr", ""))))
    about = {"labels": {"background": 0, "kidney": 1, "tumor": [2, 3], "cyst": 4}, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(about | more))
    return root


def test_labels_of_nnunet_are_classes(tmp_path: Path) -> None:
    root = described(tmp_path)
    cohort = read_layout(root, asked("tumor", "cyst", organ=("kidney",)))
    assert (cohort.layout, cohort.classes) == ("nnunet", ("tumor", "cyst"))
    assert masks(cohort)[1] == [("a.nii.gz", (4,)), ("b.nii.gz", (4,))]
    assert cohort.cases[0].lesion == (MaskSource(root / "labelsTr/a.nii.gz", (2, 3, 4)),)
    assert "where none is given, made from the lesion masks" in cohort.label_source
    with pytest.raises(UserError, match=r"data.classes names 'cist', which dataset.json does not have; .*the nearest: cyst"):
        read_layout(root, asked("cist", "tumor"))
    (root / "labels.csv").write_text("case,label\na,0\nb,1\n")
    cohort = read_layout(root, asked("tumor", "cyst"))
    assert "data.classes is given: column label of labels.csv is not read" in cohort.problems
    assert labels(cohort) == [[None, None], [None, None]]


def test_a_table_beside_scans_has_a_column_a_class(tmp_path: Path) -> None:
    root = described(tmp_path)
    (root / "labels.csv").write_text("case,slice,Tumor,stone\na,0,1,0\na,1,0,1\nb,0,1,1\nb,1,0,0\n")
    cohort = read_layout(root, asked("tumor", "stone"))
    assert [dict(one.slice_labels) for one in cohort.cases[0].classes] == [{0: 1, 1: 0}, {0: 0, 1: 1}]
    assert [dict(case.slice_labels) for case in cohort.cases] == [{0: 1, 1: 1}, {0: 1, 1: 0}]
    assert masks(cohort) == [[("a.nii.gz", (2, 3)), ("b.nii.gz", (2, 3))], []]
    assert cohort.label_source.startswith("image labels from labels.csv, columns tumor, stone; where none is given, made from")


def test_kits_and_the_decathlon_have_classes(tmp_path: Path) -> None:
    cohort = read_layout(EXAMPLES["kits"].make(tmp_path / "kits"), asked("tumor", "cyst"))
    assert (cohort.classes, masks(cohort)[1][0]) == (("tumor", "cyst"), ("segmentation.nii.gz", (3,)))
    assert not any("data.lesion" in line for line in cohort.problems)
    cohort = read_layout(EXAMPLES["decathlon"].make(tmp_path / "msd"), asked("liver", "cancer"))
    assert masks(cohort)[1][0] == ("liver_0.nii.gz", (2,))


def test_masks_by_name_are_classes(tmp_path: Path) -> None:
    parts = ("ct", "segmentations/mass", "segmentations/cyst")
    root = put(tmp_path, *(f"s{i}/{part}.nii.gz" for i in range(3) for part in parts))
    (root / "s2/segmentations/cyst.nii.gz").unlink()
    cohort = read_layout(root, asked("mass", "cyst"))
    assert (cohort.layout, cohort.classes) == ("totalsegmentator", ("mass", "cyst"))
    assert [len(one) for one in masks(cohort)] == [3, 2]
    with pytest.raises(UserError, match=r"data.classes names 'cists', which no scan has a mask of; .*the nearest: cyst"):
        read_layout(root, asked("mass", "cists"))
    (root / "labels.csv").write_text("image_id,slice,mass,cyst\ns0,0,1,0\ns0,1,0,0\ns1,0,0,1\ns2,0,1,1\n")
    found = read_layout(root, SETTINGS)
    assert (found.classes, [len(one) for one in masks(found)]) == (("mass", "cyst"), [3, 2])
    assert dict(found.cases[2].classes[1].slice_labels) == {0: 1}


def test_a_layout_of_one_class_refuses_others(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.classes is given and layout dicom has one class"):
        read_layout(EXAMPLES["dicom"].make(tmp_path), asked("a", "b"))


# --- sequences


def test_channels_of_nnunet(tmp_path: Path) -> None:
    root = put(described(tmp_path, channel_names={"0": "FLAIR", "2": "T2"}), "imagesTr/a_0002.nii.gz", "imagesTr/b_0001.nii.gz")
    put(root, "imagesTr/b_0002.nii.gz")
    cohort = read_layout(root, asked("tumor", "cyst"))
    assert cohort.sequences == ("FLAIR", "channel 1", "T2")
    assert [[path.name for path in case.others] for case in cohort.cases] == [
        ["a_0002.nii.gz"], ["b_0001.nii.gz", "b_0002.nii.gz"],
    ]  # fmt: skip
    with pytest.raises(
        UserError, match="1 of 2 cases have not all of the images FLAIR, channel 1, T2: a; required: the same chan"
    ):
        inspection.inspect(root, settings_from({"data": {"classes": ["tumor", "cyst"]}}))


def test_brats(tmp_path: Path) -> None:
    visits = ("BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "BraTS-GLI-00002-000")
    root = put(tmp_path, *(f"{name}/{name}-{end}.nii.gz" for name in visits for end in ("t1c", "t1n", "t2f", "t2w", "seg")))
    cohort = read_layout(root, SETTINGS)
    assert (cohort.layout, cohort.sequences) == ("sequences", ("t2f", "t1n", "t1c", "t2w"))
    assert [case.id for case in cohort.cases] == list(visits)
    assert [case.patient for case in cohort.cases] == ["BraTS-GLI-00001", "BraTS-GLI-00001", "BraTS-GLI-00002"]
    first = cohort.cases[0]
    assert [path.name[len(visits[0]) + 1 :] for path in (first.image, *first.others)] == [
        "t2f.nii.gz", "t1n.nii.gz", "t1c.nii.gz", "t2w.nii.gz",
    ]  # fmt: skip
    assert first.lesion == (MaskSource(root / f"{visits[0]}/{visits[0]}-seg.nii.gz"),)
    several = read_layout(root, asked("ed", "et", "7"))
    assert [source.values for one in several.cases[0].classes for source in one.lesion] == [(2,), (3, 4), (7,)]
    (root / f"{visits[1]}/{visits[1]}-t2f.nii.gz").unlink()
    assert f"{visits[1]}: skipped, no {visits[1]}_t2f.nii.gz" in read_layout(root, SETTINGS).problems


def test_sequences_that_lie_together(tmp_path: Path) -> None:
    names = [f"p{i}_{end}" for i in range(3) for end in ("T2", "FLAIR", "lesions")]
    cohort = read_layout(put(tmp_path, *(f"{name}.nii.gz" for name in names), "atlas.nii.gz"), SETTINGS)
    assert [(case.id, case.image.name, case.lesion[0].path.name) for case in cohort.cases] == [
        (f"p{i}", f"p{i}_FLAIR.nii.gz", f"p{i}_lesions.nii.gz") for i in range(3)
    ]
    assert any(line.startswith("volumes not read, they are named as no sequence and no mask: atlas") for line in cohort.problems)
    (tmp_path / "labels.csv").write_text("case,label\np0,1\np1,0\np2,1\n")
    assert [case.label for case in read_layout(tmp_path, SETTINGS).cases] == [1, 0, 1]


def test_ms3d() -> None:
    if not (root := DATA / "ms3d").is_dir():
        pytest.skip("the shared example data is not on this machine")
    found = inspection.inspect(root, settings_from({}))
    assert (found["layout"], found["cases"], found["channels"]) == ("sequences", 3, ["flair", "t2"])


# --- folders


def test_a_folder_a_class(tmp_path: Path) -> None:
    root = put(
        tmp_path, "images/Free/a.png", "images/Crack/b.png", "images/Crack/c.png", "images/dent/d.png", "images/dent/e.png"
    )
    put(root, "images/fray/z.png", "masks/Crack/b.png", "masks_dent/d.png")
    (root / "images/dent/c.png").write_bytes((root / "images/Crack/c.png").read_bytes())
    cohort = read_layout(root, asked("Crack", "dent"))
    assert [case.id for case in cohort.cases] == ["Crack__b", "Crack__c", "Free__a", "dent__d", "dent__e"]
    assert labels(cohort) == [[1, 1, 0, 0, 0], [0, 1, 0, 1, 1]]
    assert masks(cohort) == [[("b.png", ())], [("d.png", ())]]
    assert cohort.label_source == "image labels from folders: normal Free, classes Crack, dent"
    assert any(line.startswith("folders not read: fray (1)") for line in cohort.problems)
    with pytest.raises(UserError, match=r"data.classes names 'dint', which .* \(folders\) does not have; .*nearest: dent"):
        read_layout(root, asked("Crack", "dint"))
    assert read_layout(root, asked("images/Crack", "images/dent")).classes == ("Crack", "dent")
    with pytest.raises(UserError, match=r"data\.classes and data\.abnormal are both given"):
        read_layout(root, asked("Crack", "dent", abnormal=("images/fray",)))


def test_folders_of_classes_need_no_normal_one_and_other_files_of_one_name_are_other_images(tmp_path: Path) -> None:
    names = [f"{folder}/{name}.png" for folder in ("scratch", "dent") for name in ("a", "b", "c")]
    cohort = read_layout(put(tmp_path, *names), asked("scratch", "dent"))
    assert (len(cohort.cases), {case.label for case in cohort.cases}) == (6, {1})
    assert labels(cohort) == [[0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0]]


def test_one_mask_of_an_image_in_two_classes_is_of_nobody(tmp_path: Path) -> None:
    root = put(tmp_path, "normal/n.png", "x/a.png", "x/b.png", "z/c.png", "masks/a.png", "masks/b.png")
    (root / "z/a.png").write_bytes((root / "x/a.png").read_bytes())
    cohort = read_layout(root, asked("x", "z"))
    assert masks(cohort) == [[("b.png", ())], []]
    assert any(line.startswith("masks of 1 images in several classes are not used") for line in cohort.problems)


def test_label_maps_of_plain_images(tmp_path: Path) -> None:
    root = put(tmp_path, *(f"{folder}/{name}.png" for folder in ("images", "masks") for name in "abc"))
    cohort = read_layout(root, asked("1", "2"))
    assert (cohort.layout, cohort.classes, {case.label for case in cohort.cases}) == ("folders", ("1", "2"), {None})
    assert masks(cohort)[1] == [("a.png", (2,)), ("b.png", (2,)), ("c.png", (2,))]
    (root / "classes.json").write_text('{"1": "scratch", "7": "dent"}')
    assert masks(read_layout(root, asked("scratch", "dent")))[1][0] == ("a.png", (7,))
    with pytest.raises(UserError, match=r"'dint', which .* \(folders, classes.json\) does not have; .*nearest: dent"):
        read_layout(root, asked("scratch", "dint"))
    (root / "classes.json").write_text("[]")
    with pytest.raises(UserError, match=r"classes.json holds a list; .*correct classes.json"):
        read_layout(root, asked("scratch", "dent"))


def test_normal_images_have_no_class_of_a_label_map(tmp_path: Path) -> None:
    cohort = read_layout(put(tmp_path, "normal/n.png", "abnormal/a.png", "abnormal/b.png", "masks/a.png"), asked("1", "2"))
    assert labels(cohort) == [[None, None, 0], [None, None, 0]]


MVTEC = ("train/good/000", "test/good/000", "test/crack/000", "test/crack/001", "test/cut/000")


def test_mvtec(tmp_path: Path) -> None:
    truth = ("ground_truth/crack/000_mask", "ground_truth/crack/001_mask", "ground_truth/cut/000_mask")
    root = put(tmp_path, *(f"{name}.png" for name in (*MVTEC, *truth)))
    cohort = read_layout(root, SETTINGS)
    assert [(case.id, case.label) for case in cohort.cases] == [
        ("test__crack__000", 1), ("test__crack__001", 1), ("test__cut__000", 1), ("test__good__000", 0), ("train__good__000", 0),
    ]  # fmt: skip
    assert [case.lesion[0].path.parent.name for case in cohort.cases if case.label] == ["crack", "crack", "cut"]
    assert "the folders crack, cut are read as one class, abnormal (--data.classes crack cut: a class each)" in cohort.problems
    assert any(line.startswith("the parts test, train are read together") for line in cohort.problems)
    put(root, "test/cut/001.png", "test/cut/.x.png")
    several = read_layout(root, asked("crack", "cut"))
    assert labels(several) == [[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0]]
    assert [len(one) for one in masks(several)] == [2, 1]


def test_loco(tmp_path: Path) -> None:
    truth = ("ground_truth/logical/000/000", "ground_truth/logical/000/001", "ground_truth/structural/000/000")
    images = ("train/good/000", "validation/good/000", "test/good/000", "test/logical/000", "test/structural/000")
    cohort = read_layout(put(tmp_path, *(f"{name}.png" for name in (*images, *truth))), SETTINGS)
    assert [(case.label, len(case.lesion)) for case in cohort.cases] == [(0, 0), (1, 2), (1, 1), (0, 0), (0, 0)]


def test_busi(tmp_path: Path) -> None:
    names = ["benign (1)", "benign (2)", "malignant (1)", "malignant (2)", "normal (1)"]
    files = [f"{name.split()[0]}/{name}{end}.png" for name in names for end in ("", "_mask")]
    cohort = read_layout(put(tmp_path, *files, "benign/benign (2)_mask_1.png"), SETTINGS)
    assert [(case.label, len(case.lesion)) for case in cohort.cases] == [(1, 1), (1, 2), (1, 1), (1, 1), (0, 1)]
    assert cohort.classes == ()
    several = read_layout(tmp_path, asked("benign", "malignant"))
    assert labels(several) == [[1, 1, 0, 0, 0], [0, 0, 1, 1, 0]]
    assert [len(case.of_class(1).lesion) for case in several.cases] == [0, 0, 1, 1, 1]  # that of the normal image is empty


def test_chest_x_rays(tmp_path: Path) -> None:
    names = [f"{part}/{name}/{i}.png" for part in ("train", "val", "test") for name in ("NORMAL", "PNEUMONIA") for i in range(2)]
    cohort = read_layout(put(tmp_path, *names), SETTINGS)
    assert (cohort.layout, [case.label for case in cohort.cases].count(1), len(cohort.cases)) == ("folders", 6, 12)
    assert cohort.problems[0].startswith("the parts test, train, val are read together: who is held out is drawn anew")


def test_other_folders_are_abnormal_where_two_or_more_lie_beside_a_normal_one(tmp_path: Path) -> None:
    root = put(tmp_path, "normal/a.png", "crack/b.png", "dent/c.png", "unlabelled/d.png", "masks/b.png")
    cohort = read_layout(root, SETTINGS)
    assert [(case.id, case.label) for case in cohort.cases] == [("crack__b", 1), ("dent__c", 1), ("normal__a", 0)]
    assert "the folders crack, dent are read as one class, abnormal (--data.classes crack dent: a class each)" in cohort.problems
    assert any(line.startswith("folders not read: unlabelled (1)") for line in cohort.problems)


@pytest.mark.parametrize("names", [("0", "1", "2", "3"), ("grade1", "grade2", "grade3")])
def test_grades_need_a_word(tmp_path: Path, names: tuple[str, ...]) -> None:
    root = put(tmp_path, *(f"{name}/{i}.png" for name in names for i in range(2)), "normal/x.png")
    with pytest.raises(
        UserError, match=rf"graded folders \({', '.join(names)}\); required: to know which grades are normal; set them"
    ):
        read_layout(root, SETTINGS)
    cohort = read_layout(root, replace(SETTINGS, normal=names[:1], abnormal=names[1:]))
    assert [case.label for case in cohort.cases].count(0) == 2


def test_volumes_of_several_sequences_in_folders_are_one_case(tmp_path: Path) -> None:
    names = [f"{folder}/{name}_{end}.nii.gz" for folder, name in (("normal", "a"), ("abnormal", "b")) for end in ("t2", "flair")]
    root = put(tmp_path, *names, "abnormal/b_seg.nii.gz")
    cohort = read_layout(root, SETTINGS)
    assert cohort.sequences == ("flair", "t2")
    assert [(case.id, case.label, case.image.name) for case in cohort.cases] == [
        ("abnormal__b", 1, "b_flair.nii.gz"), ("normal__a", 0, "a_flair.nii.gz"),
    ]  # fmt: skip
    assert [[path.name for path in case.others] for case in cohort.cases] == [["b_t2.nii.gz"], ["a_t2.nii.gz"]]
    assert cohort.cases[0].lesion[0].path.name == "b_seg.nii.gz"
    put(root, "normal/c.nii.gz")
    cohort = read_layout(root, SETTINGS)
    assert (cohort.sequences, len(cohort.cases)) == ((), 5)
    assert any("may be sequences of one scan, but not every scan has the same ones" in line for line in cohort.problems)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("image,age\nnormal/a,50\nabnormal/b,60\n", "it has no column label"),
        ("file,label\nq,0\nr,1\n", "no file that its first rows name is there"),
    ],
)
def test_a_stray_table_is_passed_over(tmp_path: Path, text: str, why: str) -> None:
    root = put(tmp_path, "normal/a.png", "abnormal/b.png")
    (root / "about.csv").write_text(text)
    cohort = read_layout(root, SETTINGS)
    assert (cohort.layout, cohort.problems[0]) == ("folders", f"about.csv is passed over, {why}: the folders are read")
    (root / "about.csv").write_text("file,label,patient\nnormal/a.png,0,p\nabnormal/b.png,1,q\n")
    assert read_layout(root, SETTINGS).layout == "csv"
    put(root, "abnormal/c.png", "normal/d.png")
    assert read_layout(root, asked("normal", "abnormal")).layout == "folders"


# --- the phantom


def test_the_phantom_of_two_classes_has_the_scans_of_that_of_one(tmp_path: Path) -> None:
    settings = PhantomSettings(patients=2, slices=6, size=64, lesions="classes", seed=6)
    write_cohort(tmp_path, settings, processes=1)
    one, other = (make_patient(replace(settings, lesions=kind), 0) for kind in ("masses", "classes"))
    assert np.array_equal(one.scan, other.scan)
    header, *rows = (tmp_path / "labels.csv").read_text().splitlines()
    assert header == "image_id,slice,kidney_tumor,kidney_cyst"
    cysts = [mask.sum() >= 12 for mask in other.masks["kidney_cyst"]]
    assert [bool(int(row.rpartition(",")[2])) for row in rows[:6]] == cysts
    assert sum(cysts) == 1
    with pytest.raises(UserError, match=r"class kidney_tumor of .* is in images of one patient only"):
        read_layout(tmp_path, SETTINGS)


# --- what is refused


@pytest.mark.parametrize(
    ("rows", "settings", "said"),
    [
        ("x,z\na,1,0\nb,0,1\nc,0,1\n", SETTINGS, r"class x of .* is in one image only; required: two or more"),
        ("x,z\na,1,0\nb,1,1\nc,1,1\n", SETTINGS, r"class x of .* is in every image that has a label of it; required: images wi"),
        ("patient,x,z\na,p,1,0\nb,p,1,1\nc,q,0,1\n", SETTINGS, r"class x of .* is in images of one patient only"),
        ("x,z\na,1,0\nb,1,1\nc,0,1\n", asked("x", "zz"), r"names 'zz', which labels.csv does not have; .* \(the nearest: z\)"),
        ("x,z\na,1,0\nb,1,1\nc,0,1\n", asked("x", "X"), "data.classes names 'X' twice"),
        ("x,z\na,1,0\nb,1,7\nc,0,1\n", asked("x", "z"), r"row 3 of .* has neither 0 nor 1 in the column z; required: 0, 1 or"),
        ("../x,z\na,1,0\nb,1,1\nc,0,1\n", SETTINGS, r"has the classes '../x', 'z'; required: letters, digits"),
        ("x z,x_z\na,1,0\nb,1,1\nc,0,1\n", SETTINGS, r"has the classes 'x z', 'x_z'; required: .* no two alike"),
        ("x,z\na,1,0\nb,1,1\nc,0,1\n", asked("x", lesion=("1",)), "data.classes and data.lesion are both given"),
    ],
)
def test_classes_that_cannot_be_used(tmp_path: Path, rows: str, settings: DataSettings, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        read_layout(table(tmp_path, f"file,{rows}"), settings)
    assert "\n" not in str(caught.value)


def test_forty_classes_are_too_many(tmp_path: Path) -> None:
    rows = "\n".join(",".join([name, *(str((i + n) % 3 // 2) for n in range(40))]) for i, name in enumerate("abcdef"))
    root = table(tmp_path, f"file,{','.join(f'c{n}' for n in range(40))}\n{rows}")
    with pytest.raises(UserError, match=r"has 40 classes .*; required: at most 32: f has an output for each, .* data.classes"):
        read_layout(root, SETTINGS)
    assert len(read_layout(root, asked("c1", "c3")).classes) == 2


def test_injected_anomalies_are_one_class(tmp_path: Path) -> None:
    cohort = read_layout(table(tmp_path, SEVERAL), SETTINGS, one_class=True)
    assert (cohort.classes, cohort.cases[0].classes, cohort.cases[0].label) == ((), (), 1)


# --- what inspect says


def test_inspect_says_classes_and_channels(tmp_path: Path) -> None:
    found = inspection.inspect(table(tmp_path, SEVERAL), settings_from({"data": {"size": 16}}))
    assert found["channels"] == ["grey"]
    assert found["classes"]["Scratch"]["with"] == 2
    said = inspection.lines(found)
    assert "class      dent: 3 with, 2 without, 1 unknown; masks in 0" in said
    assert "channels   grey" in said


def test_colour_with_alpha_in_cmyk_and_grey_are_one_cohort(tmp_path: Path) -> None:
    for name, mode, end in (("a", "RGBA", "png"), ("b", "CMYK", "jpg"), ("c", "RGB", "png"), ("d", "L", "png")):
        pixels = np.random.default_rng(len(name)).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels).convert(mode).save(tmp_path / f"images/{name}.{end}")
    (tmp_path / "labels.csv").write_text("file,x,z\na,1,0\nb,0,1\nc,1,1\nd,0,0\n")
    found = inspection.inspect(tmp_path, settings_from({}))
    assert (found["channels"], found["classes"]["z"]["with"]) == (["red", "green", "blue"], 2)
