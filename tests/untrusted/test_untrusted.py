"""What strangers' files may not do: choose what is read, run a module, unpickle, claim a size; and what must be read."""

from __future__ import annotations

import logging
import os
import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import coinseg
from coinseg.cli import main as cli
from coinseg.config.schema import ClassifierSettings, DataSettings
from coinseg.data.layouts.registry import LAYOUTS, read_layout
from coinseg.data.layouts.shared import files_in, lies_inside, safe_id
from coinseg.data.readers.limits import MAX_BYTES, MAX_PIXELS
from coinseg.data.readers.paths import sha256_of
from coinseg.data.readers.volume import read_geometry, read_volume
from coinseg.data.readers.voxels import require_fits
from coinseg.data.slices.store import SliceStore, prepare
from coinseg.errors import UserError
from coinseg.networks.classifier import build, load_classifier
from coinseg.runtime.stage import read_stats
from conftest import tiny_settings, write_images
from examples import text
from writers import make_run, scan_of, write_series, zipped

PROFILE = settings(max_examples=60, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))


# --- Names and places ---------------------------------------------------------------------------------------------


@PROFILE
@given(st.text() | st.lists(st.sampled_from(["..", ".", "a", "", "~", "C:", "\\", "\0", "x" * 300, "ä" * 200])).map("/".join))
def test_an_id_is_the_name_of_a_file_in_its_folder(name: str) -> None:
    found = safe_id(name)
    assert found not in ("", ".", "..")
    assert not found.startswith(".")
    assert "/" not in found
    assert "\0" not in found
    assert len(found.encode()) < 200


def test_what_lies_inside(tmp_path: Path) -> None:
    inside = ["a.png", "b/../a.png", "./a", "b/c", str(tmp_path / "a.png"), ""]
    outside = [
        "../a.png",
        "b/../../a",
        "/etc/passwd",
        "/",
        str(tmp_path.parent),
        f"{tmp_path}x/a",
        "x" * 300,
        "a\0b",
        "a/" * 3000,
    ]
    assert [name for name in inside if not lies_inside(tmp_path, name)] == []
    assert [name for name in outside if lies_inside(tmp_path, name)] == []


def test_inputs_outside_are_not_found_by_a_table(tmp_path: Path) -> None:
    """A link beside the table is followed: it was made by who keeps the folder."""
    data = write_images(tmp_path / "elsewhere", patients=4, each=2)
    (tmp_path / "data").mkdir()
    rows = "".join(
        f"link/{path.relative_to(data)},{int(path.parent.name == 'abnormal')}\n" for path in sorted(data.glob("*normal/*"))
    )
    text(tmp_path / "data" / "labels.csv", f"file,label\n{rows}")
    assert cli.main(["inspect", str(tmp_path / "data")]) == 2
    (tmp_path / "data" / "link").symlink_to(data)
    assert cli.main(["inspect", str(tmp_path / "data")]) == 0


def test_a_module_of_its_own_is_run_only_when_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "their_module.py").write_text(
        "import pathlib, torch\npathlib.Path(__file__).with_name('RAN').touch()\n"
        "def make():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(1))\n"
        "class Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.head = torch.nn.Conv2d(1, 1, 3)\n"
        "    def forward(self, x):\n        return self.head(x).mean((1, 2, 3))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    settings, ran, name = tiny_settings(), tmp_path / "RAN", "their_module:Net"
    root = make_run(tmp_path / "run", replace(settings, classifier=replace(settings.classifier, name=name)))
    ran.unlink()
    monkeypatch.delitem(sys.modules, "their_module")
    nib.save(nib.Nifti1Image(np.tile(np.int16([-1000, 40]), (8, 8, 4)), np.eye(4)), tmp_path / "scan.nii.gz")
    for wrong in (None, "their_module:make"):
        with pytest.raises(coinseg.UserError, match=f"a module of its own.*--classifier {name}; add it if you trust"):
            coinseg.load(root, classifier=wrong)
    words = ["segment", "-i", str(tmp_path / "scan.nii.gz"), "-o", str(tmp_path / "m.nii.gz"), "--model", str(root)]
    assert cli.main(words) == 2
    assert cli.main(["export", str(root), "-o", str(tmp_path / "model")]) == 2
    assert "a module of its own" in capsys.readouterr().err
    assert not ran.exists()
    assert cli.main([*words, "--classifier", name]) == 0
    assert ran.exists()
    assert cli.main(["export", str(root), "-o", str(tmp_path / "model"), "--classifier", name]) == 0
    assert coinseg.load(tmp_path / "model", classifier=name).settings.classifier.name == name


def test_links_in_circles_and_pipes_end(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data", patients=4, each=2)
    for name in "abcd":
        (data / name).symlink_to(data)
        (data / "normal" / name).symlink_to(data)
    found = files_in(data)
    assert {path.resolve() for path in found} == set(data.rglob("*.png"))
    assert len(found) <= 3 * len(list(data.rglob("*.png")))
    (tmp_path / "series").mkdir()
    os.mkfifo(tmp_path / "series" / "a.dcm")
    os.mkfifo(tmp_path / "pipe.nii.gz")
    for path in (tmp_path / "series", tmp_path / "pipe.nii.gz"):
        assert sha256_of(path) is None
        with pytest.raises(UserError, match=r"holds no DICOM file|is missing or no file"):
            read_volume(path)


NAMES = [
    "imagesTr", "labelsTr", "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "dataset.json", "case_00001/imaging.nii.gz",
    "s1/ct.nii.gz",
    "s1/segmentations/kidney.nii.gz", "meta.csv", "labels.csv", "patients.csv", "normal/a.png", "abnormal/a.png",
    "abnormal/b.png", "masks/a.png",
    "images/normal/x.tif",
    "p1/a.dcm", "p2.zip", "0/x.png", "1/y.png", "organs/a.png", ".hidden/a.png", "a/b/c/d.nrrd", "x.mhd", "normal/a/b.jpg", "s1",
    "masks",
]  # fmt: skip
CONTENTS = [
    b"",
    b"file,label\na.png,1\n",
    b"image_id,slice,label\ns1,0,1\n",
    b"{}",
    b'{"labels": {"a": 1}, "training": []}',
    b"case,patient\na,b\n",
    b"\xff\xfe",
    b"DICM" * 40,
]


@PROFILE
@given(st.dictionaries(st.sampled_from(NAMES), st.sampled_from(CONTENTS), max_size=8), st.sampled_from(["auto", *LAYOUTS]))
def test_a_folder_of_anything_is_a_cohort_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], layout: str
) -> None:
    root = tmp_path_factory.mktemp("any")
    for name, content in files.items():
        path = root / name
        if not path.suffix:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    try:
        assert read_layout(root, DataSettings(layout=layout)).cases  # type: ignore[arg-type]
    except UserError as error:
        assert str(error).isprintable()  # noqa: PT017


def test_names_in_the_index_are_no_formulas_and_come_back(tmp_path: Path) -> None:
    write_images(tmp_path / "data", patients=4, each=2, masks=False)
    names = ["=1+1", "'=1+1", "-x", "plain"]
    files = sorted((tmp_path / "data").glob("*normal/*.png"))
    rows = "".join(
        f'{f.relative_to(tmp_path / "data")},{int(f.parent.name == "abnormal")},"{names[int(f.stem[1:]) // 2]}"\n' for f in files
    )
    text(tmp_path / "data" / "labels.csv", f"file,label,patient\n{rows}")
    whole = tiny_settings()
    prepare(read_layout(tmp_path / "data", whole.data), whole, tmp_path / "store")
    assert set(SliceStore(tmp_path / "store").index["patient"]) == set(names)
    assert "\n=" not in (tmp_path / "store" / "index.csv").read_text()
    assert ",=" not in (tmp_path / "store" / "index.csv").read_text()


# --- Weights ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["safetensors", "pth", "checkpoint"])
def test_pretrained_weights_are_read_as_tensors(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    state = timm.create_model("resnet10t", num_classes=7).state_dict()
    path = tmp_path / f"w.{'safetensors' if kind == 'safetensors' else 'pth'}"
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(
            {"state_dict": {f"module.{n}": v for n, v in state.items()}, "epoch": 3} if kind == "checkpoint" else state, path
        )
    made = build(ClassifierSettings(name="resnet10t", weights=str(path))).state_dict()
    deep = "layer1.0.conv1.weight"
    assert torch.equal(made[f"network.{deep}"], state[deep])
    first = "conv1.0.weight"
    torch.testing.assert_close(made[f"network.{first}"], state[first].sum(1, keepdim=True))
    with pytest.raises(UserError, match="does not fit resnet18"):
        build(ClassifierSettings(name="resnet18", weights=str(path)))


def test_weights_that_cannot_be_fetched_are_one_line_and_a_trained_classifier_does_not_ask_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given_name = ClassifierSettings(name="resnet10t", weights="timm")
    trained = build(replace(given_name, weights=None))
    save_file(trained.state_dict(), tmp_path / "model.safetensors")
    fresh = timm.create_model

    def offline(*args: Any, pretrained: bool = False, **options: Any) -> Any:
        if pretrained:
            logging.getLogger("huggingface_hub").getChild("utils").warning("Retrying in 8s")
            raise FileNotFoundError("no network\nand more")
        return fresh(*args, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        UserError, match=r"could not fetch the weights of resnet10t \(.*no network.*null for a random start"
    ) as caught:
        build(given_name)
    assert "\n" not in str(caught.value)
    assert not caplog.records
    loaded = load_classifier(given_name, tmp_path / "model.safetensors", 32)
    assert torch.equal(loaded.state_dict()["network.fc.weight"], trained.state_dict()["network.fc.weight"])


# --- Sizes --------------------------------------------------------------------------------------------------------


def test_what_scanners_make_is_far_below_the_limits() -> None:
    for itemsize in (2, 4, 8):  # int16, float32, and what some tools save
        assert require_fits(Path("ct.nii"), (512, 512, 3000), itemsize) < MAX_BYTES
    assert require_fits(Path("ct.nii"), (1024, 1024, 1500), 4) < MAX_BYTES
    assert MAX_PIXELS > 16000 * 16000


@pytest.mark.parametrize("claimed", [16, 2**31 - 16, 0, -16, 1000])
def test_extensions_of_a_header_are_passed_over_whatever_they_claim(tmp_path: Path, claimed: int) -> None:
    """nibabel would read as many bytes as an extension says it has; voxels begin where the header says."""
    array = scan_of()
    content = bytearray(nib.Nifti1Image(array, np.eye(4)).to_bytes())
    voxels = content[352:]
    struct.pack_into("<f", content, 108, 368)
    content[348:] = b"\1\0\0\0" + struct.pack("<2i", claimed, 6) + bytes(8) + voxels
    (tmp_path / "x.nii").write_bytes(content)
    plain = nib.Nifti1Image(array, np.eye(4))
    nib.save(plain, tmp_path / "y.nii")
    assert np.array_equal(read_volume(tmp_path / "x.nii").scan, read_volume(tmp_path / "y.nii").scan)


def test_a_log_of_other_bytes_is_read_as_far_as_it_is_one(tmp_path: Path) -> None:
    lines = [b'{"step": 1, "loss": 0.5}', b"\xff\xfe", b"[" * 5000, b'{"step": "one"}', b"7", b'{"step": 2, "loss": 0.25}']
    (tmp_path / "stats.jsonl").write_bytes(b"\n".join(lines))
    assert read_stats(tmp_path / "stats.jsonl") == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]


def test_an_archive_is_unpacked_nowhere_on_the_disk(tmp_path: Path) -> None:
    path, array = tmp_path / "scan.zip", scan_of()
    zipped(write_series(tmp_path / "series", array), path)
    written: list[object] = []
    looking = [True]

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        opened = event == "open" and bool(int(str(arguments[2])) & (os.O_WRONLY | os.O_RDWR))
        if looking and (opened or event in ("os.mkdir", "os.rename", "tempfile.mkstemp", "tempfile.mkdtemp")):
            written.append(arguments)

    sys.addaudithook(hook)
    try:
        assert sorted(read_volume(path).scan.ravel()) == sorted(array.ravel())
        assert read_geometry(path).canonical_shape == array.shape[::-1]
    finally:
        looking.clear()
    assert not written
