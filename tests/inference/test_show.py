"""What a notebook shows of a run, and MONAI's tensors as input."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import coinseg
from coinseg.inference.checkpoint import load
from coinseg.inference.predictor import Predictor
from coinseg.inference.scans import cut_slices, images_of
from coinseg.inference.show import Pictures, Row
from coinseg.inference.sources import load_all
from conftest import tiny_settings
from models import Brightness, PaintBlack, bright_run, explainer_of, hu
from writers import affine_of, make_run, make_scan


def one(root: Path, **more: object) -> Predictor:
    predictor = load(make_run(root, **more))  # type: ignore[arg-type]
    assert isinstance(predictor, Predictor)
    return predictor


def test_prepared_images_are_shown_beside_their_counterfactual_difference_and_mask() -> None:
    run = bright_run()
    images = torch.full((3, 1, 32, 32), -0.5)
    images[1, :, 4:10, 4:10] = 0.9
    shown, masks, explanation = run.show(images, most=2), run.masks(images), run.explain(images)
    assert shown.columns == ("image", "counterfactual", "difference", "mask")
    assert [row.caption.split(":")[0] for row in shown.rows] == ["image 0", "image 1"]
    assert shown.notes == ("1 more images are not shown",)
    image, counterfactual, difference, marked = shown.rows[1].pictures
    assert image[0, 0].tolist() == [64] * 3  # -0.5 is a quarter of 255
    assert (counterfactual[..., 0] == np.rint((explanation.painted()[0][1, 0].numpy() / 2 + 0.5) * 255)).all()
    assert difference.max() == 255
    orange = (marked == (255, 140, 0)).all(-1)
    assert orange.any()
    assert (orange <= masks[1]).all()
    assert (marked[~orange] == image[~orange]).all()
    assert f"{masks[1].mean():.1%} marked" in shown.rows[1].caption
    html = shown._repr_html_()
    assert html.count("<img") == 8
    assert set(re.findall(r'src="([^,"]+)', html)) == {"data:image/png;base64"}
    assert shown.picture().shape == (64, 128, 3)
    assert "image 1" in repr(shown)


def test_what_is_doubtful_of_prepared_images_is_shown_too_and_no_picture_at_all_is_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """`masks` said that images were in [0, 1], and `show` painted them as if they were not."""
    run, images = bright_run(), torch.full((2, 1, 64, 64), 0.5)
    images[:, :, 4:10] = 0.0
    lines = ["no value is below 0, are the images in [0, 1]? required: [-1, 1], 2 * images - 1"]
    lines.append("images of 64 x 64 pixels, and the training had 32 x 32")
    assert list(run.show(images).notes) == [f"doubtful: {line}" for line in lines]
    run.masks(images)
    assert caplog.messages == [f"doubtful masks: {line}" for line in lines]
    for most in (0, -1):  # a traceback; and one image too few, with a wrong number of the others
        with pytest.raises(coinseg.UserError, match=f"most is {most}; required: 1 image or more"):
            run.show(images, most=most)


def test_of_a_scan_the_slices_with_the_largest_masks_are_shown(tmp_path: Path) -> None:
    run, scan = one(tmp_path / "run"), make_scan(tmp_path / "scan.nii.gz", (40, 44, 5))
    mask = run.segment(scan).mask
    shown = run.show(scan, most=2)
    sizes = mask.sum((1, 2))
    largest = sorted(np.argsort(-sizes, kind="stable")[:2].tolist())
    assert [row.caption.split(":")[0] for row in shown.rows] == [f"slice {i}" for i in largest]
    assert any(note.startswith("3 more slices are not shown") for note in shown.notes)
    size = run.settings.data.size
    assert shown.rows[0].pictures[0].shape == (size, size, 3)


def test_every_tile_has_its_own_f_and_name() -> None:
    """Each was shown with the highest f of its slice."""
    settings = tiny_settings()
    settings = replace(settings, data=replace(settings.data, tile=32))
    run = Predictor.of(explainer_of(settings, Brightness(), PaintBlack()), hu(-1000.0, 1000.0), 0.5)
    scan = np.full((1, 40, 32), -1000, np.int16)
    scan[:, 20:] = 40  # the lower tile is the brighter one
    shown, (case,) = run.show(scan), load_all(run, scan)[0]
    f = run.probability(images_of(run, cut_slices(run, [case])))
    assert len(f) == 2
    assert f[1] > f[0] + 0.02
    captions = [row.caption.rsplit(",", 1)[0] for row in shown.rows]
    assert captions == [f"slice 0, tile {i}: f {value:.2f}" for i, value in enumerate(f)]


def test_captions_are_text_and_no_html() -> None:
    html = Pictures(("<b>",), (Row("<i>", (np.zeros((2, 2, 3), np.uint8),)),), ("&",))._repr_html_()
    assert "<b>" not in html
    assert "<i>" not in html
    assert "<p>&amp;</p>" in html


@pytest.mark.parametrize("space", ["RAS", "LPS"])
@pytest.mark.parametrize("channel", [True, False])
def test_a_metatensor_is_the_file_it_was_read_from(tmp_path: Path, space: str, channel: bool) -> None:
    meta_tensor = pytest.importorskip("monai.data").MetaTensor
    run, path = one(tmp_path / "run"), make_scan(tmp_path / "scan.nii.gz")
    image = nib.load(path)
    turned = nib.Nifti1Image(np.asarray(image.dataobj), affine_of((1, 0, 2), (1, -1, 1), (0.8, 0.8, 2.5)))
    nib.save(turned, tmp_path / "turned.nii.gz")
    affine = torch.from_numpy(turned.affine)
    given = affine if space == "RAS" else torch.diag(torch.tensor([-1.0, -1, 1, 1], dtype=affine.dtype)) @ affine
    voxels = torch.from_numpy(np.asarray(turned.dataobj).astype(np.float32))
    source = meta_tensor(voxels[None] if channel else voxels, affine=given, meta={"space": space})
    wanted, found = run.segment(tmp_path / "turned.nii.gz"), run.segment(source)
    assert wanted.mask.any()
    np.testing.assert_array_equal(found.mask, wanted.mask)
    np.testing.assert_allclose(found.geometry.affine, wanted.geometry.affine)  # type: ignore[union-attr]
    np.testing.assert_array_equal(run.masks(source), wanted.mask)
    with pytest.raises(coinseg.UserError, match=r"a MetaTensor of shape \(2, 40, 44, 3\); required: one volume"):
        run.segment(meta_tensor(torch.zeros(2, 40, 44, 3)))


def test_prepared_images_may_be_a_metatensor_and_plain_images_may_not(tmp_path: Path) -> None:
    meta_tensor = pytest.importorskip("monai.data").MetaTensor
    run = bright_run()
    images = torch.full((1, 1, 16, 16), -0.5)
    images[:, :, 4:10, 4:10] = 0.9
    np.testing.assert_array_equal(run.masks(meta_tensor(images)), run.masks(images))
    plain = one(tmp_path / "run", settings=tiny_settings(), kind="percentile")
    with pytest.raises(coinseg.UserError, match=r"a MetaTensor of shape .* give the file, or rows and columns as array"):
        plain.segment(meta_tensor(torch.rand(1, 40, 44)))
    assert plain.segment(np.random.default_rng(0).random((40, 44))).mask.shape == (1, 40, 44)
