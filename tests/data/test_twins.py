"""The same pixels stay on one side of the split; near copies are said; labels that contradict each other are refused."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from coinseg.config.schema import Settings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.slices.arrays import Dataset
from coinseg.data.slices.split import VALIDATION, split_rows
from coinseg.data.slices.store import SliceStore, prepare
from coinseg.data.slices.twins import MIRRORED, joined, look_of, mirrored, near_copies, pixels_of
from coinseg.errors import UserError
from conftest import tiny_settings

SETTINGS = tiny_settings()
BY_SLICE = replace(SETTINGS, data=replace(SETTINGS.data, split_by="slice"))
BY_HASH = replace(SETTINGS, data=replace(SETTINGS.data, split_by="hash", held_out="test"))


def grey(seed: int, shape: tuple[int, int] = (48, 44)) -> np.ndarray:
    """An image of noise, and in every other one a bright square."""
    image = np.random.default_rng(seed).normal(90, 10, shape)
    image[10 : 10 + 12 * (seed % 2), 6 + seed % 5 : 18 + seed % 5] += 100
    return np.clip(image, 0, 255).astype(np.uint8)


def pictures(root: Path, count: int = 12) -> Path:
    for i in range(count):
        path = root / ("abnormal" if i % 2 else "normal") / f"i{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey(i)).save(path)
    return root


def made(root: Path, out: Path, settings: Settings = SETTINGS) -> SliceStore:
    return prepare(read_layout(root, settings.data), settings, out)


def said(store: SliceStore, word: str) -> list[str]:
    return [line for line in store.meta["problems"] if word in line]


@pytest.mark.parametrize("settings", [SETTINGS, BY_SLICE, BY_HASH], ids=lambda settings: settings.data.split_by)
@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_the_same_pixels_are_on_one_side(tmp_path: Path, settings: Settings, suffix: str) -> None:
    root = pictures(tmp_path / "data", 20)
    for path in sorted(root.glob("*/*.png")):
        again = Image.open(path).convert("RGB" if suffix == ".png" else "L")
        again.save(path.with_name(f"{path.stem}_again{suffix}"))
    store = made(root, tmp_path / "store", settings)
    sides = dict(zip(store.index["case"].tolist(), store.index["split"].tolist(), strict=True))
    assert len(sides) == 40
    assert all(sides[name] == sides[f"{name}_again"] for name in sides if not name.endswith("_again"))
    assert {0, 1} <= set(sides.values())
    pair = "abnormal__i01 and abnormal__i01_again"
    assert said(store, "pixels") == [
        f"cases with the pixels of another: 20 (such as {pair}); they are kept on one side of the split"
    ]
    assert not said(store, "nearly")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (SETTINGS, ["abnormal__i07", "normal__i02"]),
        (BY_SLICE, ["abnormal__i11", "normal__i10"]),
        (BY_HASH, ["abnormal__i09", "abnormal__i11", "normal__i00"]),
    ],
    ids=["patient", "slice", "hash"],
)
def test_without_twins_the_split_is_what_it_was_before_they_were_looked_for(
    tmp_path: Path, settings: Settings, expected: list[str]
) -> None:
    store = made(pictures(tmp_path / "data"), tmp_path / "store", settings)
    assert store.index["case"][store.index["split"] == VALIDATION].tolist() == expected
    assert store.meta["problems"] == ["folders name no patients: every file is its own patient"]


@pytest.mark.parametrize("settings", [SETTINGS, BY_SLICE], ids=["patient", "slice"])
def test_contradicting_labels_are_refused_and_both_files_named(tmp_path: Path, settings: Settings) -> None:
    root = pictures(tmp_path / "data")
    shutil.copy(root / "normal" / "i00.png", root / "abnormal" / "x.png")
    with pytest.raises(
        UserError, match=r"abnormal/x\.png and .*normal/i00\.png have the same pixels and contradict each other"
    ) as error:
        made(root, tmp_path / "store", settings)
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "store").exists()


def test_labels_of_a_class_that_contradict_are_refused(tmp_path: Path) -> None:
    root = pictures(tmp_path / "data")
    names = sorted(path.relative_to(root).as_posix() for path in root.glob("*normal/*.png"))
    rows = [f"{name},{int(name[0] == 'a')},{i % 2},{name}" for i, name in enumerate(names)]
    (root / "labels.csv").write_text("\n".join(["file,edema,mass,patient", *rows]) + "\n")
    assert made(root, tmp_path / "store").meta["classes"] == ["edema", "mass"]
    shutil.copy(root / names[0], root / "copy.png")
    for mass, fits in (("0", True), ("", True), ("1", False)):
        (root / "labels.csv").write_text("\n".join(["file,edema,mass,patient", *rows, f"copy.png,1,{mass},q"]) + "\n")
        if fits:
            made(root, tmp_path / f"store{mass}x")
        else:
            with pytest.raises(UserError, match="have the same pixels and contradict each other: class 2 of 2 in one alone"):
                made(root, tmp_path / "refused")


def volume(path: Path, scan: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(scan, np.diag([1, 1, 3, 1])), path)
    return path


def scans(root: Path, rows: list[str], count: int = 8) -> Path:
    """Scans of 4 slices, of which c0 and copy.nii are the same; `rows` are those of the copy."""
    lines = ["file,label,patient,slice"]
    for i in range(count):
        voxels = np.random.default_rng(i).normal(40, 300, (24, 24, 4)).astype(np.int16)
        volume(root / f"c{i}.nii.gz", voxels)
        if i == 0:
            volume(root / "copy.nii", voxels)
        lines += [f"c{i}.nii.gz,{z % 2},p{i},{z}" for z in range(4)]
    (root / "labels.csv").write_text("\n".join(lines + rows) + "\n")
    return root


@pytest.mark.parametrize("settings", [SETTINGS, BY_SLICE], ids=["patient", "slice"])
def test_scans_that_are_the_same_in_another_file(tmp_path: Path, settings: Settings) -> None:
    root = scans(tmp_path / "data", [f"copy.nii,{z % 2},q,{z}" for z in range(4)])
    index = made(root, tmp_path / "store", settings).index
    of = {name: index["split"][index["case"] == name].tolist() for name in ("c0", "copy")}
    assert of["c0"] == of["copy"]
    assert len(of["c0"]) == 4


@pytest.mark.parametrize(("rows", "refused"), [([f"copy.nii,{(z + 1) % 2},q,{z}" for z in range(4)], True),
                                               (["copy.nii,1,q,1", "copy.nii,0,q,2"], False)])  # fmt: skip
def test_slices_of_the_same_scan_may_not_contradict(tmp_path: Path, rows: list[str], refused: bool) -> None:
    root = scans(tmp_path / "data", rows)
    if not refused:
        assert said(made(root, tmp_path / "store"), "pixels")
        return
    with pytest.raises(UserError, match=r"copy\.nii have the same pixels"):
        made(root, tmp_path / "store")


def row(case: str, patient: str, label: int = 0) -> dict[str, Any]:
    return {"case": case, "series": case, "slice": 0, "region": -1, "label": label, "patient": patient}


def test_patients_that_share_pixels_with_one_are_all_on_its_side() -> None:
    rows = [row(f"{name}{i}", name, i % 2) for name in "abcdefgh" for i in range(2)]
    copies = {"c0": "a1", "h1": "c1", "g0": "f0"}
    for seed in range(8):
        sides = dict(zip("aabbccddeeffgghh", split_rows(rows, replace(SETTINGS, seed=seed), copies), strict=True))
        assert sides["a"] == sides["c"] == sides["h"]
        assert sides["f"] == sides["g"]


def test_joined() -> None:
    assert joined(["d", "b", "c", "a", "e"], list("12123")) == ["c", "a", "c", "a", "e"]
    assert joined(["d", "b", "b", "a"], list("1122")) == ["a", "a", "a", "a"]


def test_one_grey_value_is_nobodys_twin(tmp_path: Path) -> None:
    assert pixels_of(np.full((2, 8, 8), 7.0)) is None
    assert pixels_of(np.arange(8.0).reshape(1, 2, 4)) != pixels_of(np.arange(8.0).reshape(1, 4, 2))
    root = pictures(tmp_path / "data")
    for name in ("normal", "abnormal"):
        Image.new("L", (24, 24), 9).save(root / name / "blank.png")
    assert not said(made(root, tmp_path / "store"), "pixels")


def compressed(image: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=90)
    return np.asarray(Image.open(file))


def noisy(image: np.ndarray) -> np.ndarray:
    return np.clip(image + np.random.default_rng(9).normal(0, 1, image.shape), 0, 255).round().astype(np.uint8)


def brighter(image: np.ndarray) -> np.ndarray:
    return (image * 0.9 + 12).astype(np.uint8)


CHANGES = [compressed, noisy, brighter]


@pytest.mark.parametrize("change", CHANGES)
def test_near_copies_of_other_patients_are_said(tmp_path: Path, change: Any) -> None:
    root = pictures(tmp_path / "data")
    Image.fromarray(change(grey(5))).save(root / "abnormal" / "near.png")
    pair = "abnormal__i05 and abnormal__near"
    assert said(made(root, tmp_path / "store"), "nearly") == [
        f"cases that look nearly like one of another patient: 1 (such as {pair}); "
        "name one patient for both where they are copies, or one is trained on and the other held out"
    ]


@pytest.mark.parametrize("turn", [np.fliplr, np.flipud, lambda image: np.rot90(image, 2)], ids=["columns", "rows", "both"])
def test_mirrored_copies_of_other_patients_are_said(tmp_path: Path, turn: Any) -> None:
    root = pictures(tmp_path / "data")
    for name, image in (("near", turn(grey(5))), ("other", compressed(turn(grey(7))))):
        Image.fromarray(image).save(root / "abnormal" / f"{name}.png")
    store = made(root, tmp_path / "store")
    assert said(store, "nearly") == [
        "cases that look nearly like the mirror image of one of another patient: 2 (such as abnormal__i05 and abnormal__near); "
        "name one patient for both where they are copies, or one is trained on and the other held out"
    ]


@pytest.mark.parametrize("shape", [(64, 48), (48, 44), (160, 160)])
def test_the_look_of_a_mirrored_picture_is_that_of_the_picture_mirrored(shape: tuple[int, int]) -> None:
    image = grey(3, shape).astype(float)
    for rows, columns in MIRRORED:
        turned = np.ascontiguousarray(image[:: -1 if rows else 1, :: -1 if columns else 1])
        look, there = look_of(image), look_of(turned)
        assert look is not None
        assert there is not None
        assert float(mirrored(look[None], rows, columns)[0] @ there) > 0.999
        assert abs(float(look @ there)) < 0.9


def test_near_copies_of_one_patient_are_not_said_and_others_are_not_taken_for_them() -> None:
    looks = np.array([look_of(image) for seed in range(40) for image in (grey(seed), noisy(grey(seed)))])
    assert near_copies(looks, np.repeat(np.arange(40), 2)) == []
    assert near_copies(looks, np.arange(80)) == [(2 * i + 1, 2 * i) for i in range(40)]
    assert look_of(np.zeros((24, 24))) is None


@pytest.mark.parametrize("padding", [-2000, -3024, -32768])
def test_scans_are_not_alike_for_what_pads_their_field_of_view(padding: int) -> None:
    rows, columns = np.mgrid[:64, :64]
    outside = np.hypot(rows - 31.5, columns - 31.5) > 31
    scans = [np.where(outside, padding, np.random.default_rng(seed).normal(40, 60, outside.shape)) for seed in range(6)]
    assert near_copies(np.array([look_of(scan.astype(np.int16)) for scan in scans]), np.arange(6)) == []
    again = np.where(outside, padding, scans[0] + 5)
    assert near_copies(np.array([look_of(scan) for scan in (scans[0], again)]), np.arange(2)) == [(1, 0)]


def test_arrays(tmp_path: Path) -> None:
    images = np.stack([grey(seed, (32, 32)) for seed in range(10)]).astype(np.float32) / 255
    labels = np.arange(10) % 2
    twice = Dataset(np.concatenate([images, images]), np.tile(labels, 2), held_out=0.3)
    assert (twice.index["split"][:10] == twice.index["split"][10:]).all()
    assert said(twice, "pixels")[0].startswith("cases with the pixels of another: 10 (such as image000000 and image000010)")
    assert Dataset(images, labels).meta["problems"] == []
    with pytest.raises(UserError, match="image000000 and image000010 have the same pixels and contradict each other"):
        Dataset(np.concatenate([images, images[:1]]), np.append(labels, 1))
