"""Without the extras: what needs one is refused in a line that names it, before any work; everything else works."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from coinseg.cli import main as cli
from coinseg.errors import EXTRAS
from conftest import TINY
from examples import EXAMPLES
from writers import make_run, make_scan, scan_of, write_itk, write_series

Words = pytest.CaptureFixture[str]


@pytest.fixture
def lean(monkeypatch: pytest.MonkeyPatch) -> None:
    """No module of any extra can be imported."""
    absent = {module for _, modules in EXTRAS.values() for module in modules}
    for name in [name for name in sys.modules if name.partition(".")[0] in absent or name.startswith("coinseg.data.readers.")]:
        if name.partition(".")[0] in absent or name.rpartition(".")[2] in (
            "dicom",
            "dicom_tags",
            "dicom_frames",
            "itk",
            "dicom_stack",
        ):
            monkeypatch.delitem(sys.modules, name)
    for module in absent:
        monkeypatch.setitem(sys.modules, module, None)


@pytest.mark.usefixtures("lean")
def test_images_and_nifti_need_no_extra(tmp_path: Path, images: Path) -> None:
    assert cli.main(["inspect", str(images)]) == 0
    assert cli.main(["inspect", str(EXAMPLES["nnunet"].make(tmp_path / "data")), *EXAMPLES["nnunet"].words()]) == 0
    run, scan = make_run(tmp_path / "run"), make_scan(tmp_path / "scan.nii.gz")
    assert cli.main(["segment", "-i", str(scan), "-o", str(tmp_path / "m.nii.gz"), "--model", str(run)]) == 0


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        ("run IMAGES -o OUT --method layercam", "attribution"), ("run IMAGES -o OUT --classifier.name resnet18", "timm"),
        ("segment -i SERIES -o OUT.nii.gz --model RUN", "dicom"), ("segment -i x.nrrd -o OUT.nii.gz --model RUN", "itk"),
        ("segment -i SCANS -o OUT --model RUN", "dicom"), ("export-seg mask.nii.gz --dicom SERIES -o OUT.dcm", "dicom"),
    ],
)  # fmt: skip
def test_what_needs_an_extra_names_it(
    words: str, extra: str, tmp_path: Path, images: Path, capsys: Words, request: pytest.FixtureRequest
) -> None:
    files = {"IMAGES": images, "OUT": tmp_path / "out", "RUN": make_run(tmp_path / "run")}
    files |= {"SERIES": write_series(tmp_path / "scans/series", scan_of()), "SCANS": tmp_path / "scans"}
    files["x.nrrd"] = write_itk(tmp_path / "x.nrrd", scan_of(), np.eye(4))
    files["mask.nii.gz"] = make_scan(tmp_path / "mask.nii.gz")
    files |= {"OUT.nii.gz": tmp_path / "o.nii.gz", "OUT.dcm": tmp_path / "o.dcm"}
    request.getfixturevalue("lean")
    more = TINY if words.startswith("run") else []
    assert cli.main([*(str(files.get(word, word)) for word in words.split()), *more]) == 2
    err = capsys.readouterr().err
    assert f"the extra {extra}" in err
    assert f"pip install 'coinseg[{extra}]'" in err
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").rglob("*.safetensors"))
