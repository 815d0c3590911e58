"""What the model says of a slice on the desk is what `segment --counterfactual --difference` writes of the whole scan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coinseg.data.readers.axes import turned
from coinseg.data.slices.case import load_case
from coinseg.inference.checkpoint import load
from coinseg.review.explanations import Explanations, SliceMaps, slice_maps
from coinseg.types import Case
from writers import make_run, make_scan


def test_of_a_volume_it_is_the_slice_of_the_maps(tmp_path: Path) -> None:
    root, file = make_run(tmp_path / "run"), make_scan(tmp_path / "scan.nii.gz")
    case = Case("c", "p", file, True)
    loaded = load_case(case)
    whole = load(root).segment_cases([loaded], maps=True)[0].maps
    assert whole is not None
    for index in range(len(loaded.scan)):
        found = slice_maps(root, None, case, index)
        assert isinstance(found, SliceMaps)
        wanted = turned(np.asarray(whole.counterfactual), "axial")[index]
        assert np.abs(found.counterfactual - wanted).max() <= 0.51  # written as whole HU
        np.testing.assert_allclose(found.difference * whole.span, np.asarray(whole.difference)[index], atol=1e-3)
        assert found.before > 0.5


def test_of_a_picture_it_is_in_its_own_grey_values(tmp_path: Path) -> None:
    root = make_run(tmp_path / "run", kind="percentile")
    pixels = np.random.default_rng(0).integers(20, 200, (48, 40)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    found = slice_maps(root, None, Case("c", "p", tmp_path / "p.png", False), 0)
    assert isinstance(found, SliceMaps)
    assert found.counterfactual.shape == pixels.shape
    change = np.abs(found.counterfactual - pixels)
    assert 0.1 < change.max() < 256
    assert slice_maps(root, None, Case("c", "p", tmp_path / "p.png", False), 0).after == found.after  # the case is kept


def test_a_model_that_is_gone_is_one_line_also_from_its_own_process(tmp_path: Path) -> None:
    case = Case("c", "p", make_scan(tmp_path / "scan.nii.gz"), True)
    explanations = Explanations(tmp_path / "nothing")
    with pytest.raises(Exception, match=r"no model\.json"):
        explanations.of_slice(case, 0)
    explanations.close()
