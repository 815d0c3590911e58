"""Channels of a data set for nnU-Net: every file that dataset.json names is there, under the name that says how to normalise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coinseg.errors import UserError
from coinseg.export.nnunet import TrainingCase, write_nnunet
from writers import write_nifti


def picture(path: Path, level: int, shape: tuple[int, ...] = (6, 8)) -> Path:
    Image.fromarray(np.full(shape, level, np.uint8)).save(path)
    return path


def test_every_channel_of_plain_images_is_written(tmp_path: Path) -> None:
    first = picture(tmp_path / "a.png", 10, (6, 8, 3))
    second, mask = picture(tmp_path / "b.png", 200), picture(tmp_path / "m.png", 0)
    case = TrainingCase("c", first, mask, others=(second,))
    about = write_nnunet(tmp_path / "Dataset001_x", [case], channels=("file", "file_2"))
    assert about["channel_names"] == {"0": "file", "1": "file_2"}
    images = sorted((tmp_path / "Dataset001_x" / "imagesTr").iterdir())
    assert [path.name for path in images] == ["c_0000.png", "c_0001.png"]
    assert [np.unique(np.asarray(Image.open(path))).tolist() for path in images] == [[10], [200]]
    odd = TrainingCase("c", first, mask, others=(picture(tmp_path / "odd.png", 1, (6, 9)),))
    with pytest.raises(UserError, match=r"channel .*odd\.png has 6 x 9 pixels \(H x W\) and its image 6 x 8; .* resample it"):
        write_nnunet(tmp_path / "Dataset002_x", [odd], channels=("file", "file_2"))


def test_channels_of_one_name_keep_it_for_nnunet(tmp_path: Path) -> None:
    scan = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    one, two = write_nifti(tmp_path / "a.nii.gz", scan), write_nifti(tmp_path / "b.nii.gz", scan + 1)
    about = write_nnunet(tmp_path / "out", [TrainingCase("a", one, None, others=(two,))], channels=("CT", "CT #2"))
    assert about["channel_names"] == {"0": "CT", "1": "CT"}
