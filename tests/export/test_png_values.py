"""A PNG holds whole numbers from 0 to 65535: what else an image has is refused, not wrapped around or rounded away."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from coinseg.cli.main import main
from coinseg.data.readers.image import require_png, write_image_mask
from coinseg.errors import UserError
from coinseg.export.nnunet import TrainingCase, write_nnunet
from writers import make_run

UNIT = np.random.default_rng(0).random((40, 40)).astype(np.float32)
REFUSED = {"in [0, 1]": UNIT, "below 0": (UNIT * 2000 - 1000).astype(np.int16), "above 65535": UNIT * 1e6}


@pytest.mark.parametrize("name", REFUSED)
def test_nnunet_data_and_maps_of_an_image_that_no_png_holds(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "x.tif"
    tifffile.imwrite(image, REFUSED[name])
    write_image_mask(tmp_path / "mask.png", UNIT > 0.5)
    with pytest.raises(UserError, match=r"x\.tif has values from .*; required: whole numbers from 0 to 65535"):
        write_nnunet(tmp_path / "Dataset101_x", [TrainingCase("x", image, tmp_path / "mask.png")])
    assert not (tmp_path / "Dataset101_x").exists()
    model = make_run(tmp_path / "model", kind="percentile")
    words = ["segment", "-i", str(image), "-o", str(tmp_path / "out.png"), "--model", str(model)]
    assert main([*words, "--counterfactual", str(tmp_path / "cf.png")]) == 2
    assert "cf.png is a map of has values from " in capsys.readouterr().err
    assert main(words) == 0


def test_what_a_png_holds_is_written_to_the_last_value(tmp_path: Path) -> None:
    pixels = (UNIT * 65535).astype(np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", pixels)
    write_image_mask(tmp_path / "mask.png", UNIT > 0.5)
    write_nnunet(tmp_path / "Dataset101_x", [TrainingCase("x", tmp_path / "x.tif", tmp_path / "mask.png")])
    with Image.open(tmp_path / "Dataset101_x" / "imagesTr" / "x_0000.png") as image:
        assert (np.asarray(image) == pixels).all()
    require_png(np.eye(4), "a mask")
    require_png(np.array([[0, 0.299], [0.587, 1]]), "black in colour")
