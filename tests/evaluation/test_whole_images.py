"""Images that were cut into tiles are scored and shown whole."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from coinseg.config.schema import MaskSettings, Settings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.slices.case import load_case
from coinseg.data.slices.dataset import ScoredBatch, ScoredSlices
from coinseg.data.slices.intensity import CODE_WINDOW
from coinseg.data.slices.split import VALIDATION
from coinseg.evaluation.evaluate import evaluate
from coinseg.evaluation.explained import explain_all
from coinseg.evaluation.whole_images import OF_TILES, WholeImages
from coinseg.inference.predictor import Predictor, Preparation
from coinseg.masks.postprocess import masks_of
from coinseg.types import Explanation, Maps
from models import PaintBlack, SameLogit, explainer_of
from tiles import images, prepared, tiled

PLAIN = MaskSettings(peak=0.0, refine="none", opening=0, closing=0, keep="all", min_px=0)


def held_out(folder: Path, **masks: Any) -> tuple[ScoredSlices, Settings]:
    settings = replace(tiled(), masks=replace(PLAIN, **masks))
    store = prepared(images(folder / "data"), folder / "slices", settings)
    return ScoredSlices(store, settings.anomaly, settings.seed, VALIDATION), settings


def told(batch: ScoredBatch, maps: np.ndarray) -> tuple[Explanation, Maps]:
    """Maps as they are given; f is the share of a tile that they mark, the counterfactual is black."""
    probability = torch.from_numpy(maps.reshape(len(maps), -1).max(1).astype(np.float32))
    return Explanation(probability, torch.from_numpy(maps), torch.full_like(batch.image, -1.0), probability / 8), Maps(maps)


def test_perfect_tiles_make_perfect_images(tmp_path: Path) -> None:
    slices, settings = held_out(tmp_path)
    explain = lambda batch: told(batch, batch.truth.astype(np.float32))
    scores = evaluate(slices, explain, 0.5, settings, tmp_path / "evaluation")
    cases = set(slices.store.index["case"][slices.rows])
    assert scores["slices_abnormal"] + scores["slices_normal"] == len(cases) < len(slices)
    assert (scores["iou_mask_free"], scores["iou_all_images"], scores["dice_per_image"]) == (1, 1, 1)
    assert (scores["normals_marked"], scores["false_positive_area"], scores["auroc"]) == (0, 0, 1)
    assert scores["of_tiles"] == [*OF_TILES]
    assert sum(row["lesions"] for row in scores["lesions_by_size"]) == scores["slices_abnormal"]  # each once, not in every tile
    shown = np.load(tmp_path / "evaluation" / "examples.npz", allow_pickle=False)
    assert shown["image"].shape[1:] == shown["mask"].shape[1:] == (40, 50)
    assert set(shown["name"].tolist()) <= cases
    best = shown["mask"][shown["group"] == "best"]
    assert best.any()
    assert (best.sum((1, 2)) == 36).all()
    with (tmp_path / "evaluation" / "slices.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(slices)  # that is a line for each tile


def test_what_is_marked_in_a_normal_image_is_counted_in_its_own_pixels(tmp_path: Path) -> None:
    slices, settings = held_out(tmp_path)
    regions = slices.store.index["region"]

    def explain(batch: ScoredBatch) -> tuple[Explanation, Maps]:
        maps = np.zeros(batch.truth.shape, np.float32)
        maps[regions[batch.rows] == 0, :5, :4] = 1  # the first tile begins where the image does
        return told(batch, maps)

    scores = evaluate(slices, explain, 0.5, settings, tmp_path / "evaluation")
    assert scores["false_positive_area"] == pytest.approx(20 / (40 * 50))
    assert scores["normals_marked"] == 1
    assert scores["iou_mask_free"] == 0


def test_tiles_without_a_map_have_their_say_in_scores_too(tmp_path: Path) -> None:
    slices, settings = held_out(tmp_path)
    regions = slices.store.index["region"]

    def explain(batch: ScoredBatch) -> tuple[Explanation, Maps]:
        maps = np.zeros(batch.truth.shape, np.float32)
        maps[regions[batch.rows] == 3, :4, 14:] = 1  # the last tile begins at row 8, which the second one shows as well
        return told(batch, maps)

    assert evaluate(slices, explain, 0.5, settings, tmp_path / "e")["false_positive_area"] == 0


def test_masks_that_are_scored_are_those_that_segment_writes(tmp_path: Path) -> None:
    slices, settings = held_out(tmp_path, opening=3, keep="largest")
    preparation = Preparation("percentile", CODE_WINDOW, False)
    predictor = Predictor.of(explainer_of(settings, SameLogit(9.0), PaintBlack()), preparation, 0.3)
    scores_of = predictor.scores_of(slices)
    found = explain_all(slices, lambda batch: predictor.evidence(batch.image, scores_of(batch.rows)), lambda *_: None)
    predicted = masks_of(found.refined, 0.3, settings.masks)
    whole = WholeImages(found, predicted, slices.store.index, 0.3, settings)
    cases = {case.id: case for case in read_layout(tmp_path / "data" / "labels.csv", settings.data).cases}
    marked = 0
    for positions in whole.members():
        case = cases[slices.store.index["case"][found.rows[positions[0]]]]
        own = predictor.segment(case.image).mask[0]
        assert np.array_equal(whole.mask(positions, whole.shape(positions)), own)
        truth = load_case(case).lesion
        assert np.array_equal(whole.truth(positions, own.shape), np.zeros_like(own) if truth is None else truth[0])
        marked += own.any()
    assert marked


def test_large_images_are_shown_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coinseg.evaluation.whole_images.LONGEST", 25)
    slices, settings = held_out(tmp_path)
    evaluate(slices, lambda batch: told(batch, batch.truth.astype(np.float32)), 0.5, settings, tmp_path / "evaluation")
    assert np.load(tmp_path / "evaluation" / "examples.npz", allow_pickle=False)["image"].shape[1:] == (20, 25)


def scans(folder: Path, masks: bool, count: int = 10) -> Path:
    """A table of scans of 4 slices, every second one abnormal as a whole, with a lesion in its second slice alone."""
    folder.mkdir(parents=True)
    rows = ["file,label,patient,mask"]
    for number in range(count):
        values = np.random.default_rng(number).integers(60, 120, (40, 50, 4)).astype(np.int16)
        lesion = np.zeros(values.shape, np.uint8)
        lesion[-10:-4, -10:-4, 1] = number % 2
        nib.save(nib.Nifti1Image(values, np.eye(4)), folder / f"scan{number}.nii.gz")
        mask = f"mask{number}.nii.gz" if masks and number % 2 else ""
        if mask:
            nib.save(nib.Nifti1Image(lesion, np.eye(4)), folder / mask)
        rows.append(f"scan{number}.nii.gz,{number % 2},p{number},{mask}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder / "labels.csv"


@pytest.mark.parametrize("masks", [True, False])
def test_the_label_of_a_scan_is_not_that_of_its_slices_in_tiles_either(tmp_path: Path, masks: bool) -> None:
    settings, counted = replace(tiled(validation=0.4), masks=PLAIN), []
    for tile in (0, 32):
        asked = replace(settings, data=replace(settings.data, tile=tile))
        store = prepared(scans(tmp_path / str(tile), masks), tmp_path / f"slices{tile}", asked)
        slices = ScoredSlices(store, asked.anomaly, asked.seed, VALIDATION)
        explain = lambda batch: told(batch, batch.truth.astype(np.float32))
        scores = evaluate(slices, explain, 0.5, asked, tmp_path / f"evaluation{tile}")
        names = ("slices_abnormal", "slices_scored", "slices_normal", "slices_unknown", "auroc", "accuracy", "abnormals_marked")
        counted.append([scores[name] for name in (*names, "auroc_scans")])
    assert counted[0] == counted[1]
    assert counted[0][:5] == ([2, 2, 14, 0, 1.0] if masks else [0, 0, 8, 8, None])
