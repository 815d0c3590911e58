"""Masks of a whole data set: which belong to which image, what is said of odd ones, and that none costs a labelled image."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from coinseg.cli import main as cli
from coinseg.cli.inspect import inspect
from coinseg.config.parsing import settings_from
from coinseg.config.schema import Settings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.slices.case import load_case
from coinseg.data.slices.store import SliceStore, prepare
from coinseg.errors import UserError
from conftest import write_images
from examples import EXAMPLES, labelled, save
from writers import make_run, make_scan

SHAPE = (24, 20)


def picture(path: Path, *marked: tuple[int, int], side: int = 4, level: int = 255) -> Path:
    """An image or a mask with squares at these places."""
    pixels = np.zeros(SHAPE, np.uint8)
    for row, column in marked:
        pixels[row : row + side, column : column + side] = level
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def settings(**data: object) -> Settings:
    return settings_from({"data": {"size": 16, **data}})


def truth(root: Path, **data: object) -> dict[str, int]:
    """Lesion pixels of the images that have a lesion mask."""
    cases = read_layout(root, settings(**data).data).cases
    return {case.id: int(lesion.sum()) for case in cases if (lesion := load_case(case).lesion) is not None}


def problems(root: Path, out: Path, **data: object) -> list[str]:
    """What preparing says; `inspect` says the same."""
    wanted = settings(**data)
    store = prepare(read_layout(root, wanted.data), wanted, out)
    assert set(store.meta["problems"]) == set(inspect(root, wanted)["problems"])
    return list(store.meta["problems"])


# --- several masks of one image

PLACES: dict[str, Sequence[str]] = {
    "BUSI": ("bad/b{}.png", "bad/b{}_mask.png", "bad/b{}_mask_1.png"),
    "BUSI, without the first": ("bad/b{}.png", "bad/b{}_mask_1.png", "bad/b{}_mask_2.png"),
    "numbers without a line": ("bad/b{}.png", "bad/b{}_mask1.png", "bad/b{}_Mask2.png"),
    "beside, by another name": ("bad/b{}.png", "bad/b{}_GT.png", "bad/b{}_GT_1.png"),
    "in a folder of masks": ("bad/b{}.png", "masks/b{}_mask.png", "masks/b{}_mask_1.png"),
    "in a folder of masks, by class": ("bad/b{}.png", "masks/bad/b{}_mask_0.png", "masks/bad/b{}_mask_1.png"),
    "LOCO": ("bad/b{}.png", "ground_truth/bad/b{}/000.png", "ground_truth/bad/b{}/001.png"),
    "a folder for each image": ("bad/b{}.png", "masks/b{}/one.png", "masks/b{}/two.png"),
    "letters": ("bad/b{}.png", "masks/b{}_mask_a.png", "masks/b{}_mask_b.png"),
    "a folder of masks in that of the class": ("bad/b{}.png", "bad/masks/b{}_mask.png", "bad/masks/b{}_mask_1.png"),
    "images and masks in the class": ("bad/images/b{}.png", "bad/masks/b{}_mask.png", "bad/masks/b{}_mask_1.png"),
}


@pytest.mark.parametrize("how", PLACES)
def test_several_masks_of_one_image_are_joined_and_none_is_an_image(tmp_path: Path, how: str) -> None:
    image, first, second = PLACES[how]
    for i in range(3):
        picture(tmp_path / f"good/g{i}.png")
        picture(tmp_path / image.format(i), (2, 2), (12, 12))
        picture(tmp_path / first.format(i), (2, 2))
        picture(tmp_path / second.format(i), (12, 12))
    cohort = read_layout(tmp_path, settings().data)
    assert sorted(case.label or 0 for case in cohort.cases) == [0, 0, 0, 1, 1, 1]
    assert list(truth(tmp_path).values()) == [32] * 3
    assert not any("mask" in problem for problem in cohort.problems)


@pytest.mark.parametrize("names", [("b{}.png", "b{}_1.png"), ("b{}_0.png", "b{}_1.png"), ("b{}-1.png", "b{} (2).png")], ids=str)
@pytest.mark.parametrize("table", [False, True])
def test_masks_with_a_number_are_joined_unless_an_image_has_that_name(tmp_path: Path, names: Sequence[str], table: bool) -> None:
    for i in (4, 5, 6):
        picture(tmp_path / f"good/g{i}.png")
        picture(tmp_path / f"bad/b{i}.png", (2, 2), (12, 12))
        for name, place in zip(names, ((2, 2), (12, 12)), strict=True):
            picture(tmp_path / "masks" / ("bad" if table else ".") / name.format(i), place)
    if table:
        rows = [f"{path.relative_to(tmp_path)},{int(path.parent.name == 'bad')}" for path in sorted(tmp_path.glob("[gb]*/*.png"))]
        (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows]) + "\n")
    assert list(truth(tmp_path).values()) == [32] * 3
    said = "".join(read_layout(tmp_path, settings().data).problems)
    assert "lesion masks joined with those of their image, by the number in their name: " in said
    assert names[1].format(4) in said
    for name in names:  # an image of that name, of either class, has that mask
        picture(tmp_path / "good" / name.format(5))
    if table:
        rows += [f"good/{name.format(5)},0" for name in names]
        (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows]) + "\n")
    assert truth(tmp_path).get("bad__b5", 0) == (16 if names[0] == "b{}.png" else 0)


@pytest.mark.parametrize(
    "name", ["{}_lesion.png", "{}.roi.png", "{} (annot).jpg", "{}_manual1.png", "mask_{}.jpg", "{}_part_2.png"]
)
def test_a_word_that_nobody_knows_and_few_values_make_a_mask(tmp_path: Path, name: str) -> None:
    write_images(tmp_path, patients=3, each=2, masks=False)
    images = sorted((tmp_path / "abnormal").iterdir())
    for path in images:
        mask = np.zeros(Image.open(path).size[::-1], np.uint8)
        mask[8:16, 8:16] = 255
        Image.fromarray(mask).save(path.with_name(name.format(path.stem)))
    cohort = read_layout(tmp_path, settings().data)
    assert [case.image for case in cohort.cases if case.label] == images
    assert f"{len(images)} files beside images are taken for their masks, as they have few values" in "".join(cohort.problems)
    assert set(truth(tmp_path).values()) == {64}


def test_several_masks_of_such_names_are_joined_and_belong_to_the_nearest_image(tmp_path: Path) -> None:
    write_images(tmp_path, patients=2, each=2, masks=False)
    for path in sorted((tmp_path / "abnormal").iterdir()):
        shutil.copy(path, path.with_name(f"{path.stem}_1.png"))  # another view, of its own
        for number, place in enumerate((0, 10, 20)):
            mask = np.zeros(Image.open(path).size[::-1], np.uint8)
            mask[place : place + 4, place : place + 4] = 255
            Image.fromarray(mask).save(path.with_name(path.stem + ("_lesion.png", "_lesion_2.png", "_1_lesion.png")[number]))
    found = truth(tmp_path)
    assert {pixels for name, pixels in found.items() if not name.endswith("_1")} == {32}
    assert {pixels for name, pixels in found.items() if name.endswith("_1")} == {16}
    assert len(read_layout(tmp_path, settings().data).cases) == 6


def test_images_that_belong_together_by_name_are_images(tmp_path: Path) -> None:
    for place in ("normal", "abnormal"):
        for i, name in enumerate(("x.png", "x_lesion.png", "x_2.png", "flat.png", "flat_1.png")):
            pixels = np.random.default_rng(i).integers(0, 255, (20, 20)).astype(np.uint8) // (1 if "x" in name else 100)
            (tmp_path / place).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / place / name)
    assert len(read_layout(tmp_path, settings().data).cases) == 10


def test_masks_of_mvtec_belong_to_the_image_of_their_defect(tmp_path: Path) -> None:
    for defect, lesions in (("crack", 1), ("hole", 2)):
        for i in range(2):
            picture(tmp_path / f"test/{defect}/{i:03}.png", (2, 2))
            picture(tmp_path / f"ground_truth/{defect}/{i:03}_mask.png", *[(2, 2), (12, 12)][:lesions])
            picture(tmp_path / f"test/good/{i:03}.png")
    found = truth(tmp_path, normal=["test/good"], abnormal=["test/crack", "test/hole"])
    assert found == {"test__crack__000": 16, "test__crack__001": 16, "test__hole__000": 32, "test__hole__001": 32}


def test_tables_and_masks_in_folders(tmp_path: Path) -> None:
    for name in "abcd":
        picture(tmp_path / f"{name}.png", (2, 2))
    picture(tmp_path / "masks/b_mask.png", (2, 2)), picture(tmp_path / "masks/b_mask_1.png", (9, 9))
    picture(tmp_path / "masks/d/0.png", (2, 2)), picture(tmp_path / "masks/d/1.png", (9, 9))
    (tmp_path / "labels.csv").write_text("file,label\na.png,0\nb.png,1\nc.png,0\nd.png,1\n")
    assert truth(tmp_path) == {"b": 32, "d": 32}


def test_a_mask_whose_image_is_gone_is_left_out_and_said_and_a_name_alone_makes_no_mask(tmp_path: Path) -> None:
    for i in range(3):
        (
            picture(tmp_path / f"good/g{i}.png"),
            picture(tmp_path / f"bad/b{i}.png"),
            picture(tmp_path / f"bad/b{i}_mask.png", (2, 2)),
        )
    (tmp_path / "bad/b1.png").unlink()
    cohort = read_layout(tmp_path, settings().data)
    assert len(cohort.cases) == 5
    assert "masks without their image are left out: b1_mask.png" in cohort.problems
    faces = tmp_path / "faces"
    for name in ("good/a", "good/b", "bad/c_mask", "bad/d"):
        picture(faces / f"{name}.png")
    assert len(read_layout(faces, settings().data).cases) == 4


# --- masks that cannot be used


def test_a_mask_that_cannot_be_used_costs_no_label(tmp_path: Path) -> None:
    root = write_images(tmp_path / "data", patients=2)
    Image.new("L", (9, 9)).save(root / "masks/i01.png")
    (root / "masks/i03.png").write_bytes(b"no picture")
    said = problems(root, tmp_path / "store")
    for case, why in (("i01", "has 9 x 9 pixels"), ("i03", "cannot be read")):
        assert any(
            re.search(f"^abnormal__{case}: .*{why}.*; its label is used, its mask is not: it is not scored$", line)
            for line in said
        )
    index = SliceStore(tmp_path / "store").index
    rows = {name: i for i, name in enumerate(index["case"].tolist())}
    assert len(rows) == 8
    assert [int(index[c][rows["abnormal__i01"]]) for c in ("label", "truth", "lesion_px")] == [1, 0, -1]
    assert [int(index[c][rows["abnormal__i05"]]) for c in ("label", "truth", "lesion_px")] == [1, 1, 100]


def test_of_several_masks_one_that_cannot_be_used_leaves_no_half_truth(tmp_path: Path) -> None:
    for i in range(3):
        picture(tmp_path / f"good/g{i}.png"), picture(tmp_path / f"bad/b{i}.png", (2, 2))
        picture(tmp_path / f"bad/b{i}_mask.png", (2, 2)), picture(tmp_path / f"bad/b{i}_mask_1.png", (9, 9))
    (tmp_path / "bad/b1_mask_1.png").write_bytes(b"")
    assert truth(tmp_path) == {"bad__b0": 32, "bad__b2": 32}


def test_where_labels_come_from_masks_a_broken_one_costs_its_scan(tmp_path: Path) -> None:
    root = EXAMPLES["kits"].make(tmp_path / "data")
    (root / "case_00001/segmentation.nii.gz").write_bytes(b"no map")
    store = prepare(read_layout(root, EXAMPLES["kits"].settings().data), EXAMPLES["kits"].settings(), tmp_path / "store")
    assert "case_00001" not in store.index["case"].tolist()
    (line,) = [problem for problem in store.meta["problems"] if problem.startswith("case_00001")]
    assert "its label is used" not in line


def test_a_mask_that_is_gone_since_is_an_error(tmp_path: Path) -> None:
    root = write_images(tmp_path / "data", patients=2)
    cohort = read_layout(root, settings().data)
    (root / "masks/i01.png").unlink()
    with pytest.raises(UserError, match="gone since the command began"):
        prepare(cohort, settings(), tmp_path / "store")


# --- label values


def written(root: Path, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """`write_images` with other masks."""
    write_images(root, patients=2)
    for path in (root / "masks").iterdir():
        Image.fromarray(change(np.asarray(Image.open(path)))).save(path)
    return root


def test_a_label_value_nobody_has_is_an_error_that_names_those_there_are(tmp_path: Path) -> None:
    whole = [
        (written(tmp_path / "a", lambda mask: mask), ["1"], "0, 255"),
        (written(tmp_path / "b", lambda mask: mask > 0), ["255"], "0, 1"),
        (written(tmp_path / "c", lambda mask: mask // 255 * 2), ["1", "3"], "0, 2"),
    ]
    for root, values, there in whole:
        message = rf"no lesion mask has the value {', '.join(values)} of data.lesion \(there are: {there}\); required"
        with pytest.raises(UserError, match=message):
            inspect(root, settings(lesion=values))
        with pytest.raises(UserError, match=message):
            prepare(read_layout(root, settings(lesion=values).data), settings(lesion=values), tmp_path / "s")
    assert not any("data.lesion" in line for line in problems(whole[2][0], tmp_path / "s2", lesion=["2"]))
    (line,) = [line for line in problems(whole[2][0], tmp_path / "s3", lesion=["1", "2"]) if "data.lesion" in line]
    assert line == "no lesion mask has the value 1 of data.lesion (there are: 0, 2)"


def test_a_label_value_nobody_has_in_volumes(tmp_path: Path) -> None:
    root = EXAMPLES["nnunet"].make(tmp_path / "data")
    (root / "labels.csv").write_text("case,label\n" + "".join(f"c{i},{i % 2}\n" for i in range(4)))
    for i in range(4):
        save(root / f"labelsTr/c{i}.nii.gz", labelled(lesion=False))
    wanted = EXAMPLES["nnunet"].settings(organ=["kidney"])
    for ask in (lambda: prepare(read_layout(root, wanted.data), wanted, tmp_path / "store"), lambda: inspect(root, wanted)):
        with pytest.raises(UserError, match=r"no lesion mask has the value 2 of data.lesion \(there are: 0, 1\)"):
            ask()
    save(root / "labelsTr/c3.nii.gz", labelled())
    prepare(read_layout(root, wanted.data), wanted, tmp_path / "store")


def test_organ_values_too_also_of_a_scan_that_is_segmented(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_images(tmp_path / "data", patients=2, masks=False)
    for name in ("normal", "abnormal"):
        for path in (root / name).iterdir():
            (root / "organs" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((40, 44), 255, np.uint8)).save(root / "organs" / name / path.name)
    with pytest.raises(UserError, match=r"no organ mask has the value 1 of data.organ \(there are: 255\)"):
        prepare(read_layout(root, settings(organ=["1"]).data), settings(organ=["1"]), tmp_path / "store")
    model = make_run(
        tmp_path / "model", settings_from({"data": {"size": 32, "organ": ["1"], "roi": "organ"}, "coin": {"width": 2}})
    )
    scan = make_scan(tmp_path / "scan.nii.gz")
    image = nib.load(scan)
    nib.save(nib.Nifti1Image(np.full(image.shape, 255, np.uint8), image.affine), tmp_path / "organ.nii.gz")
    words = [
        "segment",
        "-i",
        str(scan),
        "-o",
        str(tmp_path / "mask.nii.gz"),
        "--model",
        str(model),
        "--organ",
        str(tmp_path / "organ.nii.gz"),
    ]
    assert cli.main(words) == 2
    assert "no organ mask has the value 1 of data.organ (there are: 255)" in capsys.readouterr().err
    assert not (tmp_path / "mask.nii.gz").exists()


# --- what masks can hardly be


def test_odd_masks_are_said(tmp_path: Path) -> None:
    odd = {
        "all 4 lesion masks are empty: no lesion can be scored": lambda mask: mask * 0,
        "4 of 4 lesion masks mark more than half of the image (abnormal__i01, abnormal__i03": lambda mask:
            np.where(np.arange(44) < 40, 255, 0).astype(np.uint8) + mask * 0,
        "4 lesion masks are dark on light (abnormal__i01, abnormal__i03, abnormal__i05 and 1 more): the dark counts": lambda mask:
            255 - mask,
        "4 of 4 lesion masks are outlines (abnormal__i01, abnormal__i03, abnormal__i05 and 1 more): what they": lambda mask:
            mask - ndimage.minimum_filter(mask, 3),
    }  # fmt: skip
    for i, (line, change) in enumerate(odd.items()):
        said = problems(written(tmp_path / f"data{i}", change), tmp_path / f"store{i}")
        assert [one for one in said if "lesion mask" in one and line in one]
        assert sum("lesion mask" in one for one in said) == 1
    root = written(tmp_path / "data", lambda mask: mask)
    assert not any("lesion mask" in one for one in problems(root, tmp_path / "store"))
    Image.fromarray(np.zeros((40, 44), np.uint8)).save(root / "masks/i03.png")
    (root / "masks/normal").mkdir()
    (root / "masks/i01.png").rename(root / "masks/normal/i02.png")
    said = problems(root, tmp_path / "other")
    assert "lesion masks of 1 abnormal cases are empty (abnormal__i03)" in said
    assert "lesion masks of 1 normal cases are not empty (normal__i02): which is right, label or mask?" in said


def test_rings_and_few_outlines_are_lesions(tmp_path: Path) -> None:
    thick = written(tmp_path / "ring", lambda mask: mask - ndimage.minimum_filter(mask, 7))
    assert not any("lesion mask" in one for one in problems(thick, tmp_path / "store"))
    root = written(tmp_path / "data", lambda mask: mask)
    mask = np.asarray(Image.open(root / "masks/i01.png"))
    Image.fromarray(mask - ndimage.minimum_filter(mask, 3)).save(root / "masks/i01.png")
    assert not any("lesion mask" in one for one in problems(root, tmp_path / "other"))


def test_a_lesion_that_does_not_touch_its_organ_is_said(tmp_path: Path) -> None:
    root = EXAMPLES["nnunet"].make(tmp_path / "data")
    wanted = EXAMPLES["nnunet"].settings(organ=["kidney"])  # the tumour lies in a hole of it
    assert not any(
        "organ mask" in line for line in prepare(read_layout(root, wanted.data), wanted, tmp_path / "a").meta["problems"]
    )
    apart = labelled(lesion=False)
    apart[1:3, 13:, 15:] = 2
    save(root / "labelsTr/c2.nii.gz", apart)
    said = prepare(read_layout(root, wanted.data), wanted, tmp_path / "b").meta["problems"]
    assert "lesion masks of 1 cases do not touch the organ mask (c2): do both lie on this image?" in said


def test_of_a_large_set_some_masks_are_read_and_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coinseg.cli.inspect.IMAGES", 3)
    root = written(tmp_path / "data", lambda mask: mask)
    (line,) = [line for line in inspect(root, settings(lesion=["1"]))["problems"] if "data.lesion" in line]
    assert line == "of 3 cases whose masks were read: no lesion mask has the value 1 of data.lesion (there are: 0, 255)"


# --- orientation


def test_photographs_are_turned_in_training_and_masks_lie_on_them_as_shown(tmp_path: Path) -> None:
    root = write_images(tmp_path / "data", patients=2)
    exif = Image.Exif()
    exif[274] = 6
    for path in (root / "abnormal").iterdir():
        pixels = np.rot90(np.asarray(Image.open(path)), 1)
        Image.fromarray(np.ascontiguousarray(pixels)).save(path, exif=exif)
    said = problems(root, tmp_path / "store")
    assert any(line.startswith("4 photographs are turned as their orientation tag says (abnormal__i01") for line in said)
    store = SliceStore(tmp_path / "store")
    lesions = store.index["lesion_px"] > 0
    images, marked = store.unit(np.flatnonzero(lesions))[:, 0], store.truth()[lesions].astype(bool)
    assert images[marked].mean() > 2 * images[~marked].mean()
    model = make_run(tmp_path / "model", kind="percentile")
    for source, out in ((root / "abnormal/i01.png", tmp_path / "mask.png"), (root / "abnormal", tmp_path / "masks")):
        assert cli.main(["segment", "-i", str(source), "-o", str(out), "--model", str(model)]) == 0
    for written_mask in (tmp_path / "mask.png", tmp_path / "masks/i01.png"):
        assert Image.open(written_mask).size == (44, 40)
