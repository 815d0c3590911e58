"""Tiles: how images are cut and joined, whose labels they have, and on which side of the split they are."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from coinseg.config.parsing import settings_from
from coinseg.config.schema import DataSettings, MaskSettings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.slices.crop import MAX_TILES, OVERLAP, Cut, cuts, number_of_tiles, slices_in, tiles_of
from coinseg.data.slices.dataset import JointSlices
from coinseg.data.slices.split import LEFT_OUT, TRAINING, VALIDATION
from coinseg.data.slices.store import bytes_needed
from coinseg.errors import UserError
from coinseg.masks.postprocess import scaled
from coinseg.masks.tiles import blended, joined_mask, window
from tiles import images, prepared, tiled

SHAPES = st.tuples(st.integers(1, 90), st.integers(1, 90))
SIDES = st.integers(4, 40)
FEW = settings(max_examples=25, deadline=None)
AS_DRAWN = MaskSettings(opening=0, closing=0, keep="all", min_px=0)


def joined(image: np.ndarray, side: int, size: int | None = None) -> np.ndarray:
    """An image cut into tiles, as they are stored, and joined again."""
    shape = (image.shape[0], image.shape[1])
    boxes = tiles_of(shape, side)
    return blended((box.part(box.resize(image, size or side), shape) for box in boxes), shape)


# --- geometry -----------------------------------------------------------------------------------------------------


@FEW
@given(SHAPES, SIDES)
def test_every_pixel_is_in_a_tile_and_neighbours_overlap(shape: tuple[int, int], side: int) -> None:
    boxes = tiles_of(shape, side)
    covered = np.zeros(shape, int)
    for box in boxes:
        (top, bottom), (left, right) = box.pixels(shape)
        assert (bottom - top, right - left) == (min(side, shape[0]), min(side, shape[1])) == (box.height, box.width)
        covered[top:bottom, left:right] += 1
    assert covered.min() >= 1
    assert len(boxes) == number_of_tiles(shape, side)
    for starts in (sorted({box.top for box in boxes}), sorted({box.left for box in boxes})):
        assert starts[0] == 0
        assert all(b - a <= max(1, side - np.ceil(OVERLAP * side)) for a, b in zip(starts, starts[1:], strict=False))


def test_tiles_by_hand() -> None:
    # 10 columns in tiles of 4, at least 1 shared: 0-3, 3-6, 6-9. Of 9 rows: steps of 2.5, to the even one.
    assert [box.left for box in tiles_of((4, 10), 4)] == [0, 3, 6]
    assert [(box.top, box.left) for box in tiles_of((9, 4), 4)] == [(0, 0), (2, 0), (5, 0)]
    assert len(tiles_of((160, 160), 80)) == 9


def test_a_slice_that_fits_into_a_tile_is_cut_as_without_tiles() -> None:
    without = DataSettings(size=8)
    for tile in (20, 30, 16384):
        assert list(cuts((2, 12, 20), (), replace(without, tile=tile))) == list(cuts((2, 12, 20), (), without))


def test_numbers_of_tiles_run_through_a_slice_and_begin_anew_in_the_next() -> None:
    found = list(cuts((2, 8, 6), (), DataSettings(size=4, tile=6)))
    assert [(cut.index, cut.region, cut.box.top, cut.is_tile) for cut in found] == [
        (0, 0, 0, True), (0, 1, 2, True), (1, 0, 0, True), (1, 1, 2, True),
    ]  # fmt: skip
    assert slices_in(found) == 2


def test_tiles_without_enough_of_the_organ_are_left_out() -> None:
    organ = np.zeros((1, 8, 8), bool)
    organ[0, 0, :3] = True
    found = list(cuts((1, 8, 8), [organ], DataSettings(size=4, tile=4, min_organ_px=2)))
    assert {(cut.box.top, cut.box.left) for cut in found} == {(0, 0)}
    assert [cut.box.left for cut in cuts((1, 8, 8), [organ], DataSettings(size=4, tile=4, min_organ_px=1))] == [0, 2]


def test_too_many_tiles_are_refused_with_a_side_that_fits() -> None:
    with pytest.raises(UserError, match=r"an image of 4000 x 3000 pixels .* tiles of data.tile 32.*at most 1024") as error:
        tiles_of((4000, 3000), 32)
    fitting = int(str(error.value).split("set data.tile to ")[1].split()[0])
    assert number_of_tiles((4000, 3000), fitting) <= MAX_TILES < number_of_tiles((4000, 3000), fitting - 1)


# --- joining ------------------------------------------------------------------------------------------------------


@FEW
@given(SHAPES, SIDES, st.integers(0, 2**32 - 1))
def test_cutting_and_joining_a_label_image_is_the_identity(shape: tuple[int, int], side: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 200, shape).astype(np.float32)
    assume_native = min(side, *shape) == side  # a tile that is longer than the image is stretched
    if assume_native:
        assert np.array_equal(np.rint(joined(image, side)), image)
        assert np.array_equal(joined_mask(joined(image > 100, side), AS_DRAWN, 1.0), image > 100)


@FEW
@given(SHAPES, SIDES, st.integers(1, 20))
def test_joining_constant_maps_gives_a_constant(shape: tuple[int, int], side: int, size: int) -> None:
    np.testing.assert_allclose(joined(np.full(shape, 0.7, np.float32), side, size), 0.7, rtol=1e-5)


def test_tiles_that_disagree_are_joined_without_a_step() -> None:
    boxes, shape = tiles_of((40, 100), 40), (40, 100)
    values = [np.full((40, 40), float(i % 2)) for i in range(len(boxes))]
    found = blended((box.part(one, shape) for box, one in zip(boxes, values, strict=True)), shape)
    assert np.abs(np.diff(found[20])).max() < 0.2
    assert found[20, 0] == 0


def test_a_pixel_by_hand() -> None:
    # Of two tiles of 4 that share columns 2 and 3, 0.2 and 0.8: sin^2 of 5/8 pi and of 1/8 pi in column 2.
    far, near = np.sin(5 * np.pi / 8) ** 2, np.sin(np.pi / 8) ** 2
    pieces = [(slice(0, 4), slice(a, a + 4), np.full((4, 4), value)) for a, value in ((0, 0.2), (2, 0.8))]
    found = blended(pieces, (4, 6))
    assert found[1, 2] == pytest.approx((0.2 * far + 0.8 * near) / (far + near), rel=1e-6)
    assert (window(4) > 0).all()
    assert np.allclose(window(4), window(4)[::-1])


def test_where_no_tile_is_there_is_nothing() -> None:
    assert not blended([], (3, 4)).any()
    assert blended([(slice(0, 2), slice(0, 2), np.ones((2, 2)))], (3, 4)).sum() == pytest.approx(4)


def test_cleaning_is_of_the_whole_slice_in_its_own_pixels() -> None:
    sure = np.zeros((20, 40))
    sure[2:6, 2:6] = sure[10:13, 30:33] = 0.9
    sure[15, 15] = 0.5  # at the border, not inside
    assert joined_mask(sure, replace(AS_DRAWN, keep="largest"), 1.0).sum() == 16
    assert joined_mask(sure, replace(AS_DRAWN, min_px=3), 2.0).sum() == 16  # 3 prepared pixels are 12 native ones
    assert scaled(MaskSettings(opening=3, closing=0, min_px=4), 2.0) == MaskSettings(opening=6, closing=0, min_px=16)
    assert scaled(MaskSettings(opening=3), 0.1).opening == 1


# --- labels and sides ---------------------------------------------------------------------------------------------


def test_a_label_of_an_image_says_that_some_tile_is_abnormal(tmp_path: Path) -> None:
    store = prepared(images(tmp_path / "data"), tmp_path / "slices", tiled())
    index = store.index
    assert len(store) == 12 * 4  # 2 x 2 tiles
    assert np.array_equal(index["weak"], index["label"])
    assert set(index["region"].tolist()) == {0, 1, 2, 3}
    inside = index["lesion_px"][index["label"] == 1]
    assert inside[:4].tolist() == [0, 12, 0, 36]  # of each tile, not of the image
    assert (inside == 36).sum() == 6
    assert all(len(set(index["split"][index["case"] == case])) == 1 for case in set(index["case"]))
    assert bytes_needed(read_layout(tmp_path / "data" / "labels.csv", tiled().data), tiled()) == 48 * 32 * 32 * 4


def test_every_tile_is_abnormal_where_that_is_asked_for(tmp_path: Path) -> None:
    assert not prepared(images(tmp_path / "data"), tmp_path / "slices", tiled(label_level="slice")).index["weak"].any()


@pytest.mark.parametrize("split_by", ["patient", "hash", "slice"])
def test_all_tiles_of_an_image_are_on_one_side(tmp_path: Path, split_by: str) -> None:
    index = prepared(images(tmp_path / "data", 18, each=1), tmp_path / "slices", tiled(split_by=split_by)).index
    assert set(index["split"].tolist()) >= {TRAINING, VALIDATION}
    assert {len(set(index["split"][index["case"] == case].tolist())) for case in set(index["case"])} == {1}


def test_one_tile_is_the_image_to_the_last_bit(tmp_path: Path) -> None:
    table = images(tmp_path / "data")
    one, none = (prepared(table, tmp_path / f"slices{tile}", tiled(tile=tile)) for tile in (50, 0))
    assert (one.root / "index.csv").read_bytes() == (none.root / "index.csv").read_bytes()
    for name in ("images.bin", "organs.bin", "truth.bin"):
        assert (one.root / name).read_bytes() == (none.root / name).read_bytes()


def test_labels_made_of_masks_are_those_of_the_image(tmp_path: Path) -> None:
    # Otherwise lesion masks would say which tiles are abnormal.
    table = images(tmp_path / "data")
    rows = list(csv.DictReader(table.open()))
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "patient", "mask"])
        writer.writerows([row["file"], row["patient"], row["mask"] or "empty.png"] for row in rows)
    Image.fromarray(np.zeros((40, 50), np.uint8)).save(tmp_path / "data" / "empty.png")
    index = prepared(table, tmp_path / "slices", tiled()).index
    assert (index["label"] == 1).sum() == 6 * 4
    assert np.array_equal(index["weak"], index["label"])


# --- what does not fit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"data": {"tile": 64, "roi": "organ"}}, "data.tile is 64 and data.roi is organ; required: whole slices to cut"),
        ({"data": {"tile": 64, "spacing": 1.5}}, "data.tile is 64 and data.spacing is 1.5; required: slices on their own grid"),
        (
            {"data": {"tile": 64}, "anomaly": {"kind": "blob"}},
            "data.tile is 64 and anomaly.kind is blob; required: labels of whole",
        ),
        ({"data": {"tile": -1}}, "data.tile is -1; required: auto or 0 to 16384"),
        ({"data": {"tile": "big"}}, "data.tile is 'big'"),
        ({"data": {"tile": 64.5}}, "data.tile is 64.5"),
    ],
)
def test_misfits_are_one_line(values: dict[str, object], words: str) -> None:
    with pytest.raises(UserError) as error:
        settings_from(values)
    assert str(error.value).startswith(words)


def test_left_out_side_is_no_tile(tmp_path: Path) -> None:
    assert LEFT_OUT not in prepared(images(tmp_path / "data"), tmp_path / "slices", tiled()).index["split"]
    assert Cut(0, 0, tiles_of((4, 4), 4)[0], None).is_tile is False


def test_a_tile_that_is_not_known_to_have_a_class_teaches_nothing_about_it(tmp_path: Path) -> None:
    table = images(tmp_path / "data", patients=12)
    rows = [f"{number}.png,p{number // 2},{number % 2},{int(number % 3 > 0)}" for number in range(24)]
    table.write_text("\n".join(["file,patient,crack,dent", *rows]) + "\n")
    store = prepared(table, tmp_path / "slices", tiled())
    crack, dent = store.views
    assert np.array_equal(crack.index["weak"], crack.index["label"])
    kept = crack.index["split"].copy()
    kept[(crack.index["label"] == 1) & (crack.index["region"] > 0)] = LEFT_OUT  # the first tile of each was found to be abnormal
    slices = JointSlices(store.with_views([crack.with_sides(kept), dent]), tiled().anomaly, 0)
    asked = np.flatnonzero((dent.index["split"] == TRAINING) & (dent.index["label"] == 1))
    batch = slices.batch(np.stack([np.ones(len(asked), int), asked], axis=1))
    unsure = torch.from_numpy((crack.index["label"][asked] == 1) & (crack.index["region"][asked] > 0))
    assert batch.label[unsure, 0].isnan().all()
    assert not batch.label[~unsure].isnan().any()
    assert (batch.label[:, 1] == 1).all()
    assert 0 < int(unsure.sum()) < len(asked)
