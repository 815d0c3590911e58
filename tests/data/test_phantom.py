"""The procedural cohort: believable numbers, anatomy on its right side, and files that follow TotalSegmentator."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from coinseg.config.schema import DataSettings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.phantom.canvas import FOV_MM, LESIONS, ORGANS, TUMOUR_PIXELS, PhantomSettings
from coinseg.data.phantom.cohort import PhantomPatient, make_patient, write_cohort
from coinseg.errors import UserError

SMALL = PhantomSettings(patients=4, slices=12, size=96, seed=3)
MASSES = replace(SMALL, patients=8, slices=8, lesions="masses")


@pytest.fixture(scope="module")
def patients() -> list[PhantomPatient]:
    return [make_patient(SMALL, index) for index in range(4)]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantom") / "cohort"
    write_cohort(out, MASSES, processes=1)
    return out


def _read(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_patient_follows_from_seed_and_index_only(patients: list[PhantomPatient]) -> None:
    again = make_patient(replace(SMALL, patients=99), 1)
    np.testing.assert_array_equal(again.scan, patients[1].scan)
    assert all(np.array_equal(again.masks[name], mask) for name, mask in patients[1].masks.items())
    assert not np.array_equal(make_patient(replace(SMALL, seed=4), 1).scan, again.scan)


def test_patients_differ_in_build_and_anatomy(patients: list[PhantomPatient]) -> None:
    bodies = [int((p.scan > -300).sum()) for p in patients]
    livers = [int(p.masks["liver"].sum()) for p in patients]
    assert len(set(bodies)) == len(set(livers)) == 4
    assert max(bodies) > 1.03 * min(bodies)


def test_units_and_grid(patients: list[PhantomPatient]) -> None:
    for p in patients:
        assert p.scan.dtype == np.int16
        assert p.scan.shape == (12, 96, 96)
        assert p.spacing[1] == p.spacing[2] == pytest.approx(FOV_MM / 96)
        assert set(p.masks) == set(ORGANS)
        assert all(mask.dtype == bool and mask.shape == p.scan.shape for mask in p.masks.values())
        assert np.median(p.scan[:, :6]) == pytest.approx(-1000, abs=15)
        assert p.scan.max() > 400
        assert 45 < np.median(p.scan[p.masks["liver"]]) < 140
        assert 35 < np.median(p.scan[p.masks["spleen"]]) < 160
        assert 30 < np.median(p.scan[p.masks["aorta"]]) < 310
        for name in ("kidney_left", "kidney_right"):
            assert 25 < np.median(p.scan[p.masks[name]]) < 225


def test_organs_lie_inside_the_body_on_their_own_side(patients: list[PhantomPatient]) -> None:
    columns = np.arange(96)
    for p in patients:
        side = {name: (mask.sum((0, 1)) * columns).sum() / mask.sum() for name, mask in p.masks.items()}
        assert side["kidney_right"] < 40 < 56 < side["kidney_left"]
        assert side["liver"] < 48 < side["spleen"]
        spine = np.argwhere(p.scan > 350)[:, 1]
        assert np.median(spine) > 50  # the back is at the bottom of the picture
        assert sum(mask.astype(int) for mask in p.masks.values()).max() == 1  # disjoint, kidneys and liver included
        # An edge pixel may be half gas; hardly any is.
        assert all((p.scan[mask] > -300).mean() > 0.99 for mask in p.masks.values())


def test_scan_spans_the_kidneys_and_more(patients: list[PhantomPatient]) -> None:
    for p in patients:
        kidneys = (p.masks["kidney_left"] | p.masks["kidney_right"]).any((1, 2))
        assert not kidneys[0]
        assert not kidneys[-1]
        assert 6 <= kidneys.sum() <= 11


def test_consecutive_slices_are_consistent() -> None:
    p = make_patient(PhantomSettings(slices=40, size=96), 0)
    for name in ("kidney_left", "kidney_right", "liver"):
        mask = p.masks[name]
        there = np.flatnonzero(mask.sum((1, 2)) > 40)
        assert np.array_equal(there, np.arange(there[0], there[-1] + 1))
        below, above = mask[there[:-1]], mask[there[1:]]
        dice = 2 * (below & above).sum((1, 2)) / (below.sum((1, 2)) + above.sum((1, 2)))
        assert np.median(dice) > 0.8
        assert dice.min() > 0.35


def test_layout_is_totalsegmentators(cohort: Path) -> None:
    raw = (cohort / "meta.csv").read_bytes()
    assert raw.startswith(b"\xef\xbb\xbfimage_id;age;gender;institute;study_type;split;")
    rows = list(csv.DictReader(raw.decode("utf-8-sig").splitlines(), delimiter=";"))
    assert [row["image_id"] for row in rows] == [f"s{i:04d}" for i in range(1, 9)]
    assert {row["study_type"] for row in rows} == {"ct abdomen-pelvis"}
    ct = nib.load(cohort / "s0001" / "ct.nii.gz")
    assert nib.aff2axcodes(ct.affine) == ("R", "A", "S")
    assert ct.get_data_dtype() == np.int16
    mine = make_patient(MASSES, 0)
    np.testing.assert_allclose(ct.header.get_zooms(), mine.spacing[::-1], rtol=1e-5)
    np.testing.assert_array_equal(np.asarray(ct.dataobj).T[:, ::-1, ::-1], mine.scan)
    assert {f.name for f in (cohort / "s0001" / "segmentations").iterdir()} == {f"{name}.nii.gz" for name in ORGANS + LESIONS}
    right = nib.load(cohort / "s0001" / "segmentations" / "kidney_right.nii.gz")
    assert right.get_data_dtype() == np.uint8
    middle = np.argwhere(np.asarray(right.dataobj)).mean(0)
    assert (right.affine @ [*middle, 1])[0] > 20  # mm to the patient's right
    np.testing.assert_allclose(right.affine, ct.affine)


def test_labels_agree_with_tumours_and_cysts_are_normal(cohort: Path) -> None:
    rows = list(csv.DictReader((cohort / "labels.csv").read_text().splitlines()))
    assert len(rows) == 8 * 8
    labels = {(row["image_id"], int(row["slice"])): int(row["label"]) for row in rows}
    cyst_only = 0
    for index in range(1, 9):
        name = f"s{index:04d}"
        tumour, cyst = (_read(cohort / name / "segmentations" / f"{n}.nii.gz").sum((0, 1)) for n in LESIONS)
        for z in range(8):
            assert labels[name, z] == int(tumour[z] >= TUMOUR_PIXELS)
            cyst_only += int(cyst[z] > 0 and tumour[z] == 0 and labels[name, z] == 0)
    assert 0 < sum(labels.values()) < 32
    assert cyst_only > 0


def test_lesions_have_their_density_and_touch_a_kidney() -> None:
    seen = dict.fromkeys(LESIONS, 0)
    for index in range(6):
        p = make_patient(replace(MASSES, slices=16), index)
        kidney = p.masks["kidney_left"] | p.masks["kidney_right"]
        for name, low, high in (("kidney_tumor", 10, 115), ("kidney_cyst", -15, 60)):
            if p.masks[name].sum() > 40:
                seen[name] += 1
                assert low < np.median(p.scan[p.masks[name]]) < high
                assert (kidney & p.masks[name]).any()
        assert not (p.masks["kidney_tumor"] & p.masks["kidney_cyst"]).any()
    assert min(seen.values()) > 0


def test_resume_keeps_finished_patients_and_makes_the_missing(tmp_path: Path) -> None:
    settings = replace(SMALL, patients=3, slices=8)
    write_cohort(tmp_path / "a", settings, processes=1)
    first, second = (tmp_path / "a" / name / "ct.nii.gz" for name in ("s0001", "s0002"))
    whole, stamp = second.read_bytes(), first.stat().st_mtime_ns
    second.unlink()
    (second.parent / "segmentations").rename(tmp_path / "elsewhere")
    second.parent.rmdir()
    (tmp_path / "a" / "meta.csv").unlink()
    seen: list[tuple[int, int]] = []
    write_cohort(tmp_path / "a", settings, processes=1, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 3)]
    assert first.stat().st_mtime_ns == stamp
    assert second.read_bytes() == whole
    assert (tmp_path / "a" / "meta.csv").exists()
    assert not (tmp_path / "a" / "labels.csv").exists()


def test_a_cohort_that_is_not_finished_is_refused_as_data(tmp_path: Path) -> None:
    """A run beside `coinseg phantom` would learn from the patients that are there so far, and say nothing."""
    write_cohort(tmp_path, SMALL, processes=1)
    assert len(read_layout(tmp_path, DataSettings(), one_class=True).cases) == SMALL.patients
    (tmp_path / "meta.csv").unlink()
    with pytest.raises(UserError, match="a phantom cohort that is not finished"):
        read_layout(tmp_path, DataSettings(), one_class=True)
    write_cohort(tmp_path, SMALL, processes=1)
    assert len(read_layout(tmp_path, DataSettings(), one_class=True).cases) == SMALL.patients


def test_processes_write_the_same_files(tmp_path: Path) -> None:
    settings = replace(SMALL, patients=2, slices=4)
    for name, processes in (("one", 1), ("two", 2)):
        write_cohort(tmp_path / name, settings, processes)
    files = sorted(f.relative_to(tmp_path / "one") for f in (tmp_path / "one").rglob("*") if f.is_file())
    assert len(files) == 2 * 6 + 2
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)


def test_foreign_folders_and_other_settings_are_refused(cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds a phantom cohort made with .*'seed': 3.*required: the same settings"):
        write_cohort(cohort, replace(MASSES, seed=9), processes=1)
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match=r"is not empty and has no phantom\.json"):
        write_cohort(tmp_path, SMALL, processes=1)
    with pytest.raises(UserError, match=r"required: patients >= 1"):
        write_cohort(tmp_path / "new", replace(SMALL, patients=0), processes=1)
    assert not (tmp_path / "new").exists()
