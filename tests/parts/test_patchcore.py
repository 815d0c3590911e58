"""PatchCore: distances and regions by hand, what the memory bank holds, when it is worth while."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import coinseg
from coinseg.data.layouts.registry import read_layout
from coinseg.data.slices.arrays import Dataset
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.data.slices.store import prepare
from coinseg.errors import UserError
from coinseg.export.folder import export_run
from coinseg.parts import patchcore as room
from coinseg.parts.base import Views
from coinseg.parts.patchcore import MemoryBank, PatchCore, add_anomalous_regions, beyond, distances
from coinseg.pipeline.manifest import model_of
from coinseg.pipeline.run import Workspace, train
from coinseg.runtime.files import read_json
from coinseg.runtime.records import write_record
from coinseg.runtime.streams import Stream, random_stream
from conftest import tiny_settings, write_images
from models import as_first_schema, learn_from_few, learning_of, maps_of, nobody, part_of, scores_of, without


def test_distances_by_hand() -> None:
    remembered = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0], [0.0, 100.0]])
    asked = torch.tensor([[0.0, 0.0], [0.0, 2.0]])
    # From (0, 0): 0, 1 and 5. From (0, 2): 1, 2 and the root of 9 + 4.
    assert distances(asked, remembered).tolist() == pytest.approx([2.0, (3 + 13**0.5) / 3])
    barred = torch.tensor([[True, False, False, False], [False, True, False, False]])
    assert distances(asked, remembered, barred).tolist() == pytest.approx([(1 + 5 + 100) / 3, (1 + 2 + 98) / 3])
    assert distances(asked, remembered[:2]).tolist() == pytest.approx([2.5, (2 + 13**0.5) / 2])  # as many as there are


def test_a_patch_is_at_a_distance_of_0_from_itself_though_its_square_is_rounded() -> None:
    """|a|^2 + |a|^2 - 2 a a of numbers in the hundreds is below 0 for some of them, of which there is no root."""
    bank = torch.randn(300, room.FEATURES, generator=torch.Generator().manual_seed(0)) * 300
    squares = (bank**2).sum(1) * 2 - 2 * (bank @ bank.T).diagonal()
    assert (squares < 0).any()
    far = distances(bank, bank.repeat_interleave(room.NEAREST, 0))
    assert far.isfinite().all()
    assert far.max() < 10


def test_the_recipe_is_the_one_that_was_measured() -> None:
    """docs/research/patchcore.md, study 24."""
    assert (room.SIDE, room.FEATURES, room.NEAREST, room.MEMORY, room.IMAGES, room.ASKED) == (384, 320, 3, 5000, 400, 200)
    assert (room.WORTH, room.HALO, room.WIDE) == (1 / 20, 1 / 8, 1 / 16)
    assert room.UNREACHABLE == 1e9


def test_the_extractor_is_frozen_and_sees_each_image_by_itself_without_being_told() -> None:
    extractor = room.FeatureExtractor()
    assert not extractor.encoder.training
    assert not any(weight.requires_grad for weight in extractor.parameters())
    images = torch.rand(3, 1, 24, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1
    together = extractor(images)
    assert together.shape == (3, 12, 12, room.FEATURES)
    torch.testing.assert_close(extractor(images[1:2]), together[1:2], rtol=1e-4, atol=1e-4)


def test_novelty_is_the_distance_over_the_limit() -> None:
    memory = MemoryBank(torch.zeros(3, 2), 2.0)
    features = torch.tensor([[[[3.0, 4.0], [0.0, 0.0]]]])
    torch.testing.assert_close(memory(features), torch.tensor([[[2.5, 0.0]]]))


def test_images_one_by_one_are_as_novel_as_together() -> None:
    generator = torch.Generator().manual_seed(0)
    asked = PatchCore(MemoryBank(torch.rand(50, room.FEATURES, generator=generator), 1.0)).eval()
    images = torch.rand(3, 1, 24, 24, generator=generator) * 2 - 1
    together = asked(images)
    assert together.shape == (3, 24, 24)
    torch.testing.assert_close(torch.cat([asked(image[None]) for image in images]), together, rtol=1e-4, atol=1e-4)


def disc(side: int, row: int, column: int, radius: float) -> np.ndarray:
    rows, columns = np.indices((side, side))
    return np.hypot(rows - row, columns - column) <= radius


def test_a_region_has_to_go_beyond_the_halo_of_what_is_drawn() -> None:
    side, nothing = 64, np.zeros((64, 64), bool)
    halo, radius = side * room.HALO, side * room.WIDE
    lesion, around, rest = disc(side, 32, 32, 2), disc(side, 32, 32, 2 + halo), disc(side, 32, 32, 26)
    assert not beyond(around[None], lesion[None]).any()  # a small lesion's halo
    assert np.array_equal(beyond(rest[None], lesion[None])[0], rest)  # the rest of a large one, whole
    assert np.array_equal(beyond(around[None], nothing[None])[0], around)  # the student has missed it
    assert not beyond(disc(side, 32, 32, radius - 1)[None], nothing[None]).any()  # too narrow
    two = disc(side, 10, 10, 2 + halo) | disc(side, 60, 50, 9)
    assert np.array_equal(beyond(two[None], disc(side, 10, 10, 2)[None])[0], disc(side, 60, 50, 9))  # each is asked for itself
    assert not beyond(disc(side, 63, 50, 2 * radius - 1)[None], nothing[None]).any()  # half of it lies outside of the image
    everything = np.ones((1, side, side), bool)
    assert beyond(everything, nothing[None]).all()
    assert not beyond(nothing[None], lesion[None]).any()


def test_regions_touch_at_corners_and_the_discs_must_be_wider_than_the_radius() -> None:
    """At a side of 20 the halo is round(2.5) = 2 pixels and the radius round(1.25) = 1."""
    nothing = np.zeros((1, 20, 20), bool)

    def squares(*corners: tuple[int, int, int]) -> np.ndarray:
        found = nothing.copy()
        for row, column, side in corners:
            found[0, row : row + side, column : column + side] = True
        return found

    assert beyond(squares((5, 5, 3)), nothing).sum() == 9  # its middle is 2 from the outside
    assert not beyond(squares((5, 5, 2)), nothing).any()  # 1 everywhere
    assert beyond(squares((5, 5, 3), (8, 8, 2)), nothing).sum() == 13  # one region by a corner
    assert beyond(squares((5, 5, 3), (9, 9, 2)), nothing).sum() == 9
    for gap, kept in ((2, True), (1, False)):  # columns 5 to 7, farther than 2 from a mark in column 4 - gap
        mark = squares((0, 0, 0))
        mark[0, :, 4 - gap] = True
        assert bool(beyond(squares((5, 5, 3)), mark).any()) is kept


def test_images_together_have_the_regions_of_each() -> None:
    rng = np.random.default_rng(0)
    novel = np.stack([disc(64, *rng.integers(0, 64, 2), r) for r in (3, 6, 12, 20)])
    drawn = np.stack([disc(64, *rng.integers(0, 64, 2), 3) for _ in novel])
    each = [beyond(n[None], d[None])[0] for n, d in zip(novel, drawn, strict=True)]
    assert np.array_equal(beyond(novel, drawn), each)
    assert {bool(region.any()) for region in each} == {True, False}


def test_regions_are_drawn_into_the_maps_and_nothing_is_taken_out() -> None:
    maps = np.random.default_rng(0).random((2, 64, 64)).astype(np.float32) * 0.4
    novelty = np.where(disc(64, 32, 32, 20), 1.5, 0.9)[None].repeat(2, 0)
    novelty[1] = 0.99
    found = add_anomalous_regions(maps, novelty, 0.5)
    assert found.dtype == np.float32
    assert np.array_equal(found[1], maps[1])
    assert np.array_equal(found[0] > 0.5, disc(64, 32, 32, 20))
    assert found[0][32, 32] == pytest.approx(0.75)
    assert (found >= maps).all()
    assert add_anomalous_regions(maps, novelty * 9, 0.5).max() == 1


class Brighter(PatchCore):
    """The anomaly score is the grey level, twice as high on the left."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0] * torch.where(torch.arange(x.shape[-1]) < x.shape[-1] // 2, 2, 1)


def test_each_view_gets_its_own_regions_and_the_mean_those_of_the_mean_where_an_image_is_called() -> None:
    part, side = Brighter(MemoryBank(torch.zeros(1, room.FEATURES), 1.0)), 32
    images = torch.full((3, 1, side, side), -1.0)
    images[..., 2:14, 2:14] = 0.6  # on the left: 1.2 as it is, 0.6 in the mirror image, 0.9 in the mean of both
    images[..., 2:14, 18:30] = 0.8  # on the right: 0.8, 1.6 and 1.2
    mean, own, other = (np.zeros((3, side, side), np.float32) for _ in range(3))
    part.add(Views(images, np.array([True, False, True]), mean, own, other), torch.device("cpu"))
    left, right = own[0, 5, 5], other[0, 5, 20]
    assert (left, right, mean[0, 5, 20]) == (pytest.approx(0.6), pytest.approx(0.8), pytest.approx(0.6))
    for maps, marked in ((own, slice(2, 14)), (other, slice(18, 30)), (mean, slice(18, 30))):
        expected = np.zeros((side, side), bool)
        expected[2:14, marked] = True
        assert [np.array_equal(one > 0, expected) for one in maps] == [True, False, True]
        assert not maps[1].any()
    untouched = np.zeros((1, side, side), np.float32)
    part.add(Views(images[:1], np.array([False]), *[untouched] * 3), torch.device("cpu"))
    assert not untouched.any()


class Grey(nn.Module):
    """An eye that sees 4 x 4 places and their mean grey level."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        assert channels == 1

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, 4).permute(0, 2, 3, 1)


@pytest.fixture
def slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingSlices:
    """Images of eight patients; a mean grey level is all that is seen of a place."""
    monkeypatch.setattr(room, "FEATURES", 1)
    monkeypatch.setattr(room, "FeatureExtractor", Grey)
    settings = tiny_settings()
    store = prepare(
        read_layout(write_images(tmp_path / "data", masks=False), settings.data, one_class=False), settings, tmp_path / "slices"
    )
    return TrainingSlices(store, settings.anomaly, 0)


def nothing(images: Tensor) -> np.ndarray:
    return np.zeros((len(images), *images.shape[2:]), bool)


def test_a_patient_is_compared_with_others_only(slices: TrainingSlices, tmp_path: Path) -> None:
    settings = tiny_settings()
    settings = replace(settings, student=replace(settings.student, patchcore_quantile=1.0))
    PatchCore.fit(learning_of(slices, settings, root=tmp_path, segment=nothing))
    normals = np.flatnonzero(slices.labels() == 0)
    seen = Grey()(slices.batch(normals).image).flatten(1, 2)[..., 0].numpy()
    patients = slices.store.index["patient"][slices.rows[normals]]
    far = [
        np.sort(np.abs(level - np.concatenate([s for s, p in zip(seen, patients, strict=True) if p != own])))[:3].mean()
        for levels, own in zip(seen, patients, strict=True)
        for level in levels
    ]
    facts = read_json(tmp_path / "novelty" / "stage.json")
    assert facts["places"] == seen.size
    assert facts["limit"] == pytest.approx(max(far), rel=1e-3, abs=2e-4)


def test_nothing_is_novel_where_the_normal_images_that_were_drawn_are_of_one_patient(
    slices: TrainingSlices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "IMAGES", 1)  # of two patients and more
    assert PatchCore.fit(learning_of(slices, tiny_settings(), root=tmp_path, segment=nothing)) is None
    assert read_json(tmp_path / "novelty" / "stage.json")["share"] == 0


def test_its_random_numbers_are_those_of_its_own_stream(slices: TrainingSlices, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, ...]] = []
    monkeypatch.setattr(room, "random_stream", lambda *of: (drawn.append(of), random_stream(*of))[1])
    learning = learning_of(slices, tiny_settings(), None, segment=nothing)
    PatchCore.fit(replace(learning, settings=replace(learning.settings, seed=5)))
    assert drawn == [(Stream.PATCHCORE, 5)]


def test_it_is_kept_where_it_is_worth_while_and_read_again(slices: TrainingSlices, tmp_path: Path) -> None:
    settings, folder = tiny_settings(), tmp_path / "novelty"
    settings = replace(settings, student=replace(settings.student, patchcore_quantile=0.5))

    def fit(key: str, segment: Callable[[Tensor], np.ndarray]) -> PatchCore | None:
        return PatchCore.fit(learning_of(slices, settings, key, tmp_path, segment=segment))

    kept = fit("a", nothing)
    assert kept is not None
    assert read_json(folder / "stage.json")["share"] >= room.WORTH
    before = (folder / "model.safetensors").read_bytes()
    again = fit("a", nobody)
    assert again is not None
    images = slices.batch(np.arange(2)).image
    torch.testing.assert_close(again(images), kept(images))
    assert fit("b", lambda images: ~nothing(images)) is None  # no region goes beyond what is drawn
    assert fit("a", nothing) is not None
    assert (folder / "model.safetensors").read_bytes() == before
    shutil.rmtree(folder)
    assert PatchCore.asked_for(settings)
    assert not PatchCore.asked_for(replace(settings, student=replace(settings.student, patchcore_quantile=0.0)))
    slices.store.index["patient"][:] = "one"
    assert fit("d", nobody) is None
    assert not folder.exists()


@pytest.mark.parametrize(("asked", "kept"), [(20, True), (21, False)])
def test_it_is_kept_where_one_of_twenty_images_has_a_region_to_add(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: int, kept: bool
) -> None:
    monkeypatch.setattr(room, "FEATURES", 1)
    monkeypatch.setattr(room, "FeatureExtractor", Grey)
    monkeypatch.setattr(room, "ASKED", asked)
    one = np.arange(asked)[:, None, None] == 7
    monkeypatch.setattr(room, "beyond", lambda anomalous, marked: one[: len(anomalous)] | np.zeros_like(anomalous))
    images, labels = np.random.default_rng(0).random((60, 32, 32)), (np.arange(60) % 2).astype(int)
    slices = TrainingSlices(Dataset(images, labels, held_out=0.1), tiny_settings().anomaly, 0)
    assert (PatchCore.fit(learning_of(slices, tiny_settings(), root=tmp_path, segment=nothing)) is not None) is kept
    assert read_json(tmp_path / "novelty" / "stage.json")["share"] == round(1 / asked, 4)


def test_another_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "novelty" / "model.safetensors"
    file.parent.mkdir()

    def load() -> PatchCore:
        return PatchCore.load(tiny_settings(), {}, tmp_path)

    with pytest.raises(UserError, match="is missing"):
        load()
    file.write_bytes(b"nothing")
    with pytest.raises(UserError, match="is damaged"):
        load()
    for places, limit in ((0, 1.0), (3, 0.0), (3, -1.0)):
        save_file(MemoryBank(torch.zeros(places, room.FEATURES), limit).state_dict(), file)
        with pytest.raises(UserError, match="remembers nothing"):
            load()


@pytest.mark.slow
def test_a_run_draws_it_saves_it_and_loads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learn_from_few(monkeypatch)
    monkeypatch.setattr(room, "WORTH", 0.0)
    settings = tiny_settings()
    settings = replace(
        settings,
        classifier=replace(settings.classifier, threshold=0.0),
        student=replace(settings.student, steps=2, trust=0.0, teachers=1, imagenet_steps=0, patchcore_quantile=0.01, gate=0.0),
    )
    work = Workspace(write_images(tmp_path / "data", masks=False), tmp_path / "out", settings)
    work.start()
    assert part_of(train(work).predictor, PatchCore) is not None
    run = coinseg.load(work.root)
    # maps as the student gives them
    run = run.with_settings(replace(run.settings, masks=replace(run.settings.masks, peak=0.0)))
    side = settings.data.size
    images = torch.rand(3, 1, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    patchcore = part_of(run, PatchCore)
    with torch.no_grad():
        scores = (patchcore(images) + patchcore(images.flip(-1)).flip(-1)) / 2
    alone, maps = maps_of(without(run, PatchCore), images), maps_of(run, images)
    assert (maps != alone).any()
    np.testing.assert_allclose(maps, add_anomalous_regions(alone, scores.numpy(), 0.5), atol=1e-5)
    assert np.array_equal(run.evidence(images, scores_of(run, images))[1].values, maps)
    export_run(work.root, tmp_path / "away")
    assert np.array_equal(coinseg.load(tmp_path / "away").masks(images), coinseg.load(work.root).masks(images))
    # Where the classifiers call nothing abnormal nothing is drawn in.
    careful = run.with_settings(replace(run.settings, classifier=replace(run.settings.classifier, threshold=1.0)))
    assert np.array_equal(maps_of(careful, images), maps_of(without(careful, PatchCore), images))
    # An earlier run has none.
    model = json.loads((work.root / "model.json").read_text())
    assert "novelty/model.safetensors" in model_of(work.root)["sha256"]
    for wrong in (model | {"parts": {"patchcore": 1}}, as_first_schema(model) | {"novelty": 1}):
        write_record(work.root / "model.json", wrong)
        with pytest.raises(UserError, match=r"has a wrong (parts|novelty)"):
            coinseg.load(work.root)
    first = as_first_schema(model)
    for before in (model | {"parts": {}}, {name: value for name, value in first.items() if name != "novelty"}):
        write_record(work.root / "model.json", before)
        assert part_of(coinseg.load(work.root), PatchCore) is None
        assert "novelty/model.safetensors" not in model_of(work.root)["sha256"]
