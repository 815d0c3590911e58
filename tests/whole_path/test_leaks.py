"""What is held out, and every lesion mask, changes nothing that is trained or chosen: to the last bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from coinseg.data.layouts.registry import read_layout
from coinseg.data.slices.split import VALIDATION
from coinseg.data.slices.store import SliceStore, prepare
from coinseg.parts.synthetic_lesions import SyntheticLesions
from coinseg.pipeline.run import Run, Workspace, train
from coinseg.runtime.files import read_json
from conftest import tiny_settings, write_images
from models import learn_from_few


def held_out_files(store: SliceStore) -> set[str]:
    """The names of held-out files without their ending; cases are called folder_name."""
    return {name.rpartition("_")[2] for name in store.index["case"][store.index["split"] == VALIDATION].tolist()}


def run_on(data: Path, out: Path) -> Run:
    """The whole recipe but for the ImageNet encoder's parts, in a few steps."""
    tiny = tiny_settings()
    student = replace(
        tiny.student, steps=2, batch=4, networks=1, trust=0.0, gate=0.0, teachers=2, imagenet_steps=0, patchcore_quantile=0.0
    )
    f, generator = replace(tiny.classifier, threshold=0.0, steps=6), replace(tiny.coin, steps=4)
    work = Workspace(data, out, replace(tiny, student=student, classifier=f, coin=generator))
    work.start()
    return train(work)


def test_other_held_out_images_and_other_masks_train_the_same_files_byte_by_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn_from_few(monkeypatch)
    monkeypatch.setattr(SyntheticLesions, "asked_for", classmethod(lambda cls, settings: False))
    one, two = (write_images(tmp_path / name) for name in ("one", "two"))
    first = run_on(one, tmp_path / "out-one")
    index = first.store.index
    held_out = held_out_files(first.store)
    rng = np.random.default_rng(5)
    for path in two.rglob("*.png"):
        if path.parent.name == "masks":
            Image.fromarray(np.where(rng.random((40, 44)) < 0.5, 255, 0).astype(np.uint8)).save(path)
        elif path.stem in held_out:
            Image.fromarray(rng.integers(0, 256, (40, 44)).astype(np.uint8)).save(path)
    second = run_on(two, tmp_path / "out-two")
    assert np.array_equal(second.store.index["split"], index["split"])
    rows = np.flatnonzero(index["split"] == VALIDATION)
    assert not np.array_equal(first.store.images[rows], second.store.images[rows])
    files = sorted(path.relative_to(first.work.root) for path in first.work.root.rglob("*.safetensors"))
    files.remove(Path("distribution/model.safetensors"))  # its limit is taken of held-out images, without their labels
    assert len(files) == 5  # f and generator of both teachers, the student
    for file in files:
        assert (first.work.root / file).read_bytes() == (second.work.root / file).read_bytes(), file
    made = [read_json(run.work.root / "model.json") for run in (first, second)]
    assert made[0] == made[1]


def ct(root: Path, beyond: dict[str, int]) -> SliceStore:
    """Ten small scans in HU; those named have more HU than the others. Returns their prepared slices."""
    for i in range(10):
        file = root / "data" / ("normal", "abnormal")[i % 2] / f"s{i}.nii.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        scan = np.random.default_rng(i).normal(40, 150, (20, 20, 3)) + beyond.get(file.name.split(".")[0], 0)
        nib.save(nib.Nifti1Image(scan.astype(np.int16), np.eye(4)), file)
    settings = replace(tiny_settings(), data=replace(tiny_settings().data, intensity="hu"))
    return prepare(read_layout(root / "data", settings.data), settings, root / "slices")


def test_the_window_of_hounsfield_units_is_of_training_patients_alone(tmp_path: Path) -> None:
    plain = ct(tmp_path / "plain", {})
    assert plain.meta["kind"] == "hu"
    held_out = held_out_files(plain)
    trained_on = min({f"s{i}" for i in range(10)} - held_out)
    moved = ct(tmp_path / "held-out", dict.fromkeys(held_out, 150))
    assert moved.window == plain.window
    assert not np.array_equal(moved.images, plain.images)
    assert ct(tmp_path / "training", {trained_on: 150}).window != plain.window
