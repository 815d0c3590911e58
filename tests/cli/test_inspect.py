"""`coinseg inspect` and `coinseg info`: what they say, as lines and as JSON, and what they refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from coinseg.cli import inspect as inspection
from coinseg.cli import main as cli
from coinseg.cli import twins
from coinseg.cli.inspect import inspect
from coinseg.config.parsing import PRESETS, setting_names, settings_from
from coinseg.config.schema import Settings
from coinseg.data.layouts.registry import LAYOUTS
from coinseg.explain.registry import METHODS
from conftest import write_images
from examples import EXAMPLES


def volumes(root: Path, count: int = 3) -> Path:
    """Small scans in TotalSegmentator layout, labels by slice, a lesion mask for the last; sizes and spacings differ."""
    rng = np.random.default_rng(0)
    lines = ["image_id,slice,label"]
    for i in range(count):
        affine, folder = np.diag([0.8, 0.8, 2.0 + i, 1]), root / f"s{i}"
        (folder / "segmentations").mkdir(parents=True)
        nib.save(nib.Nifti1Image(rng.integers(-200, 200, (9, 8, 4 + i)).astype(np.int16), affine), folder / "ct.nii.gz")
        if i == count - 1:
            nib.save(nib.Nifti1Image(np.ones((9, 8, 4 + i), np.uint8), affine), folder / "segmentations" / "cyst.nii.gz")
        lines += [f"s{i},{z},{z % 2}" for z in range(4)]
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root


CYSTS = settings_from({"data": {"lesion": ["cyst"]}})


def test_images(images: Path) -> None:
    found = inspect(images, Settings())
    assert (found["layout"], found["cases"], found["patients"], found["volumes"], found["images"]) == ("folders", 24, 24, 0, 24)
    size = {"looked_at": 24, "slices": [1, 1], "rows": [40, 40], "columns": [44, 44]}
    assert found["native"] == {**size, "feet_first": None, "spacing_mm": None}
    assert "numbers" not in "".join(inspection.lines(found))
    assert (found["labels"]["normal"], found["labels"]["abnormal"], found["labels"]["share_abnormal"]) == (12, 12, 0.5)
    assert found["lesion_masks"] == {"cases": 12}
    assert "folders" in found["label_source"]
    assert found["series"] == 0


def test_images_that_are_slices_of_scans(tmp_path: Path) -> None:
    images = write_images(tmp_path / "data", masks=False)
    files = sorted(images.glob("*normal/*.png"), key=lambda file: file.name)
    rows = [f"{file},{int(file.parent.name == 'abnormal')},p{i // 4},{i % 4}" for i, file in enumerate(files)]
    (images / "slices.csv").write_text("\n".join(["file,label,patient,slice", *(row.removeprefix(f"{images}/") for row in rows)]))
    found = inspect(images / "slices.csv", Settings())
    assert found["series"] == 6
    assert "24 images, slices of 6 scans: neighbouring slices can help decide" in "\n".join(inspection.lines(found))


def test_volumes_by_slice_with_spacing(tmp_path: Path) -> None:
    found = inspect(volumes(tmp_path / "data"), CYSTS)
    assert (found["layout"], found["volumes"], found["intensity"]) == ("totalsegmentator", 3, "hu")
    assert found["native"]["spacing_mm"] == {"z": [2.0, 4.0], "y": [0.8, 0.8], "x": [0.8, 0.8]}
    assert (found["native"]["slices"], found["native"]["rows"], found["native"]["columns"]) == ([4, 6], [8, 8], [9, 9])
    assert (found["labels"]["by_slice"], found["labels"]["slices_normal"], found["labels"]["slices_abnormal"]) == (3, 6, 6)
    said = "\n".join(inspection.lines(found))
    assert "2-4 x 0.8 x 0.8 mm" in said
    assert "3 by slice (6 normal, 6 abnormal slices)" in said


def test_organs_that_can_be_named_are_listed_until_some_are(tmp_path: Path) -> None:
    root = volumes(tmp_path / "data")
    for name in ("s0", "s1"):
        image = nib.load(root / name / "ct.nii.gz")
        ones = nib.Nifti1Image(np.ones(image.shape, np.uint8), image.affine)  # type: ignore[attr-defined]
        nib.save(ones, root / name / "segmentations" / "liver.nii.gz")
    assert "organs     liver, cyst: --data.organ NAME" in "\n".join(inspection.lines(inspect(root, Settings())))
    assert inspect(root, CYSTS)["organ_masks"] == {"cases": 0, "regions": 0, "named": ["liver"]}
    found = inspect(root, settings_from({"data": {"organ": ["liver"]}}))
    assert found["organ_masks"] == {"cases": 2, "regions": 1, "named": ["liver", "cyst"]}
    assert "organs " not in "\n".join(inspection.lines(found))


# layout -> cases, patients, (slices, rows, columns) as [smallest, largest], spacing as said, labels as said, masks
EVERY_LAYOUT = {
    "totalsegmentator": (4, 4, ([4, 4], [16, 16], [18, 18]), "2.5 x 0.8 x 0.8 mm",
        "4 by slice (8 normal, 8 abnormal slices); 50%", 4),
    "nnunet": (4, 4, ([4, 4], [16, 16], [18, 18]), "2.5 x 0.8 x 0.8 mm", "4 from lesion masks once they are read", 4),
    "decathlon": (4, 4, ([4, 4], [16, 16], [18, 18]), "2.5 x 0.8 x 0.8 mm", "4 from lesion masks once they are read", 4),
    "kits": (4, 4, ([4, 4], [16, 16], [18, 18]), "2.5 x 0.8 x 0.8 mm", "4 from lesion masks once they are read", 4),
    "csv": (8, 4, ([1, 1], [40, 40], [40, 44]), None, "4 normal, 4 abnormal; 50% of the given labels are abnormal", 4),
    "folders": (8, 8, ([1, 1], [40, 40], [44, 44]), None, "4 normal, 4 abnormal; 50% of the given labels are abnormal", 4),
    "dicom": (4, 4, ([4, 4], [16, 16], [18, 18]), "2.5 x 0.8 x 0.8 mm",
        "2 normal, 2 abnormal; 50% of the given labels are abnormal", 2),
    "sequences": (4, 4, ([4, 4], [16, 16], [18, 18]), "2.5 x 0.8 x 0.8 mm", "4 from lesion masks once they are read", 4),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_for_people_and_as_json(layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases, patients, sizes, spacing, labels, masks = EVERY_LAYOUT[layout]
    data, words = str(EXAMPLES[layout].make(tmp_path / "data")), EXAMPLES[layout].words()
    assert cli.main(["inspect", data, *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["layout"], found["cases"], found["patients"], found["lesion_masks"]["cases"]) == (
        layout,
        cases,
        patients,
        masks,
    )
    assert tuple(found["native"][name] for name in ("slices", "rows", "columns")) == sizes
    assert (found["native"]["spacing_mm"] is None) == (spacing is None)
    said_of_patients = ["its own patient" in problem for problem in found["problems"]]
    assert said_of_patients == ([True] if layout in ("folders", "dicom") else [])
    assert cli.main(["inspect", data, *words]) == 0
    said = capsys.readouterr().out
    assert f"layout {layout}" in said
    assert f"{cases} of {patients} patients" in said
    assert labels in said
    assert spacing is None or f"spacing    {spacing}" in said
    assert all(f"problem    {problem}" in said for problem in found["problems"])


def test_a_large_set_is_sampled_and_says_so(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "SAMPLE", 5)
    found = inspect(images, Settings())
    assert found["native"]["looked_at"] == 5
    assert "(headers of 5 of 24 cases)" in "\n".join(inspection.lines(found))


def test_what_is_broken_is_a_problem_and_all_broken_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = volumes(tmp_path / "data")
    nib.save(nib.Nifti1Image(np.ones((9, 8, 5), np.uint8), np.eye(4)), data / "s2" / "segmentations" / "cyst.nii.gz")
    (data / "s0" / "ct.nii.gz").write_bytes(b"no volume")
    problems = inspect(data, CYSTS)["problems"]
    assert any("s0" in problem and "cannot be read" in problem for problem in problems)
    assert any("cyst.nii.gz has (5, 8, 9) (slices, rows, columns) and its scan (6, 8, 9)" in problem for problem in problems)
    for i in range(3):  # A mask that fits nowhere is no scan that cannot be read.
        nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.eye(4)), data / f"s{i}" / "segmentations" / "cyst.nii.gz")
    assert len(inspect(data, CYSTS)["problems"]) == 1 + 3
    for i in (1, 2):
        (data / f"s{i}" / "ct.nii.gz").write_bytes(b"no volume")
    assert cli.main(["inspect", str(data)]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert "is readable" in error[0]
    assert "; required: " in error[0]


def twins_of(data: Path) -> tuple[dict[str, int], list[str]]:
    found = inspect(data, Settings())
    return found["twins"], [line for line in found["problems"] if "pixels" in line]


def test_the_same_pixels_twice_and_with_both_labels_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `coinseg run` does, which refuses the second kind; here all of them are counted."""
    data = write_images(tmp_path / "data")
    assert twins_of(data) == ({"compared": 24, "copies": 0, "contradictions": 0}, [])
    Image.open(data / "normal" / "i00.png").save(data / "normal" / "again.bmp")
    one = "cases with the pixels of another: 1 (such as normal__again and normal__i00); they are kept on one side of the split"
    assert twins_of(data) == ({"compared": 25, "copies": 1, "contradictions": 0}, [one])
    for i in ("01", "03"):
        shutil.copy(data / "abnormal" / f"i{i}.png", data / "normal" / f"n{i}.png")
    found, (first, _) = twins_of(data)
    assert found == {"compared": 27, "copies": 3, "contradictions": 2}
    assert "abnormal/i01.png" in first
    assert "normal/n01.png have the same pixels and contradict each other: normal and abnormal; required: " in first
    assert first.endswith("; so do 1 more")
    size = sum(file.stat().st_size for file in data.rglob("*normal/*.*"))
    monkeypatch.setattr(twins, "MOST", size - 1)  # only files as large as another
    found, (first, _) = twins_of(data)
    assert 4 <= found["compared"] < 27
    assert (found["copies"], found["contradictions"]) == (2, 2)
    assert first.startswith(f"of {found['compared']} cases whose pixels were compared: ")
    monkeypatch.setattr(twins, "MOST", 1)
    assert twins_of(data) == ({"compared": 0, "copies": 0, "contradictions": 0}, [])
    assert "pixels of 0 of 27 cases" in "\n".join(inspection.lines(inspect(data, Settings())))


def test_the_command(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    shutil.copytree(images, data)
    before = sorted(p for p in tmp_path.rglob("*"))
    assert cli.main(["inspect", str(data), "--json", "--data.size", "64"]) == 0
    assert json.loads(capsys.readouterr().out)["cases"] == 24
    assert cli.main(["inspect", str(data), "--data.normal", "abnormal", "--data.abnormal", "normal"]) == 0
    assert "layout folders" in capsys.readouterr().out
    assert cli.main(["inspect", str(tmp_path / "nowhere")]) == 2
    assert "does not exist; required: " in capsys.readouterr().err
    assert cli.main(["inspect", str(data), "--data.sise", "3"]) == 2
    assert "did you mean 'data.size'?" in capsys.readouterr().err
    assert sorted(p for p in tmp_path.rglob("*")) == before


def test_info_knows_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["commands"]) == set(cli.COMMANDS)
    assert (tuple(found["methods"]), tuple(found["layouts"]), set(found["presets"])) == (METHODS, tuple(LAYOUTS), set(PRESETS))
    by_name = {one["name"]: one for one in found["settings"]}
    assert list(by_name) == setting_names()
    assert all(one["about"] and one["type"] for one in found["settings"])
    assert by_name["data.roi"]["choices"] == ["none", "organ", "each"]
    assert by_name["masks.threshold"] == {
        "name": "masks.threshold", "type": "one of auto, normals, otsu, decision_flip or number",
        "choices": ["auto", "normals", "otsu", "decision_flip"],
        "range": [0, 1], "unit": None, "default": "auto", "about": by_name["masks.threshold"]["about"],
    }  # fmt: skip
    assert (by_name["data.spacing"]["range"], by_name["data.spacing"]["unit"]) == ([0, 100], "mm")
    assert by_name["data.organ"]["type"] == "list of words"
    assert by_name["classifier.weights"]["type"] == "word or null"
    assert cli.main(["info"]) == 0
    assert "coin.width = 8   (integer, 1 to 2048)" in capsys.readouterr().out
