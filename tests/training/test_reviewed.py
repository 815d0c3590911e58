"""Masks that a person reviewed: only those of training cases are learnt from, in the place of pseudo-masks, and it is said."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coinseg.data.slices.dataset import TrainingSlices
from coinseg.data.slices.student_data import PseudoMasks, ReviewedMasks, reviewed_masks
from coinseg.errors import UserError
from coinseg.pipeline.run import Workspace, job_of, reviewed_of, said_of_reviewed, train
from coinseg.training.pseudo_masks import REVIEWED, with_reviewed
from conftest import tiny_settings, write_images


@dataclass(frozen=True)
class Decided:
    case: str
    mask: np.ndarray


def decided(root: Path, case: str, inside: bool = True) -> Decided:
    """The true mask of a case as a reviewer's, or nothing."""
    path = root / "masks" / f"{case.partition('__')[2]}.png"
    true = np.asarray(Image.open(path)) > 0
    return Decided(case, (true & inside)[None])


def workspace(tmp_path: Path, reviews: tuple[Decided, ...] = (), root: Path | None = None) -> Workspace:
    base = tiny_settings()
    student = replace(base.student, steps=2, trust=0.0, teachers=1, imagenet_steps=0, patchcore_quantile=0.0, reviewed="reviews")
    return Workspace(root or write_images(tmp_path / "data"), tmp_path / "out", replace(base, student=student), reviews=reviews)


def test_reviewed_masks_are_cut_as_their_slices_were_and_held_out_cases_are_left_out(tmp_path: Path) -> None:
    work = workspace(tmp_path)
    slices = TrainingSlices(job_of(replace(work, settings=tiny_settings())).store, work.settings.anomaly, 0)
    index = slices.store.index
    abnormal = [str(case) for case in index["case"] if case.startswith("abnormal")]
    found = reviewed_masks([decided(work.data, case) for case in abnormal], slices, "axial")
    training = {str(case) for case in index["case"][slices.rows]} & set(abnormal)
    assert found.cases == len(training) == len(found.indices)
    assert found.held_out == len(abnormal) - len(training) > 0
    truth = slices.store.truth()[slices.rows[found.indices]]
    np.testing.assert_array_equal(found.targets, truth)
    with pytest.raises(UserError, match=r"reviewed mask of .* has 0 slices.*required: the masks of these data"):
        reviewed_masks([Decided(min(training), np.zeros((0, 4, 4), bool))], slices, "axial")


def test_a_reviewed_mask_stands_in_the_place_of_the_pseudo_mask_and_an_empty_one_is_normal() -> None:
    targets = np.zeros((3, 2, 2), np.uint8)
    targets[:, 0, 0] = 1
    pseudo = PseudoMasks(np.array([4, 5, 6]), targets, np.array([0, 1]))
    drawn = np.zeros((2, 2, 2), np.uint8)
    drawn[0] = 1
    found = with_reviewed(pseudo, ReviewedMasks(np.array([5, 6]), drawn, 2, 0))
    assert found.indices.tolist() == [4] + [5] * REVIEWED
    assert found.targets[1:].all()
    assert found.normals.tolist() == [0, 1] + [6] * REVIEWED
    assert with_reviewed(pseudo, None) is pseudo


@pytest.mark.slow
def test_a_run_with_reviews_says_that_it_is_not_mask_free_and_learns_other_masks_anew(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    for place in ("training.pseudo_masks", "training.student", "pipeline.recipe"):
        monkeypatch.setattr(f"coinseg.{place}.LEAST", 1)
    root = write_images(tmp_path / "data")
    names = sorted(f"abnormal__{path.stem}" for path in (root / "abnormal").glob("*.png"))
    work = workspace(tmp_path, tuple(decided(root, name) for name in names), root)
    work.start()
    first = train(work)
    (line,) = said_of_reviewed(first)
    assert line.startswith("not mask-free: the student learnt")
    assert "were not learnt from" in line
    again = train(replace(work, reviews=tuple(decided(root, name, inside=False) for name in names)))
    assert first.key != again.key
    assert train(work).key == first.key


def test_reviews_that_are_of_no_training_case_are_refused(tmp_path: Path) -> None:
    work = workspace(tmp_path, (Decided("somebody", np.zeros((1, 4, 4), bool)),))
    work.start()
    with pytest.raises(UserError, match=r"reviews has 1 decided cases, and none of them is a training case of these data"):
        job_of(work)
    assert reviewed_of(replace(work, settings=tiny_settings()), None) is None  # type: ignore[arg-type]
