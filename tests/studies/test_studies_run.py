"""The scripts of studies/ run: every command of theirs, on one tiny run; and what they change is what they say."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from coinseg.inference.predictor import Predictor
from coinseg.pipeline.run import Run, train
from coinseg.runtime.files import read_json
from conftest import tiny_settings

STUDIES = Path(__file__).resolve().parents[2] / "studies"
if not STUDIES.is_dir():
    pytest.skip("studies/ is not part of this copy", allow_module_level=True)
sys.path.insert(0, str(STUDIES))
import ablation  # noqa: E402
import confidence  # noqa: E402
import gates  # noqa: E402
import labels_per_scan  # noqa: E402
import recipe  # noqa: E402
import runs  # noqa: E402
import stopping  # noqa: E402
import student_cleaning  # noqa: E402
import student_schedule  # noqa: E402
import thresholds  # noqa: E402

pytestmark = pytest.mark.slow

SET = "phantom"
"""The tiny set has this name, so that its cysts are counted as well."""
Command = Callable[..., list[str]]


def settings() -> dict[str, Any]:
    """Of the tiny set: every part of the recipe is learnt in a few seconds."""
    values = tiny_settings().as_dict()
    values["data"] |= {"lesion": ["kidney_tumor"]}
    values["classifier"] |= {"name": "small", "threshold": 0.0}
    values["student"] |= {"steps": 2, "batch": 4, "trust": 0.0, "teachers": 2, "imagenet_steps": 2, "patchcore_quantile": 0.01}
    values["attribution"] |= {"masks": 4, "grid": 4}
    return values


def write_phantom(root: Path, patients: int) -> Path:
    """Scans with two kidneys on eight slices; one of them has a bright tumour on four, and the other a cyst on two."""
    rng, shape = np.random.default_rng(0), (48, 32, 8)
    boxes = {
        "kidney_left": np.s_[4:22, 6:24, :], "kidney_right": np.s_[26:44, 6:24, :], "kidney_tumor": np.s_[6:16, 9:19, 2:6],
        "kidney_cyst": np.s_[30:36, 10:16, 5:7],
    }  # fmt: skip
    rows = ["image_id,slice,label"]
    for i in range(patients):
        rows += [f"p{i},{place},{int(2 <= place < 6)}" for place in range(shape[2])]
        hu, folder = rng.normal(-60, 10, shape), root / f"p{i}" / "segmentations"
        folder.mkdir(parents=True)
        for (name, box), rise in zip(boxes.items(), (60, 60, 150, 50), strict=True):
            mask = np.zeros(shape, np.uint8)
            mask[box] = 1
            hu[box] += rise
            nib.save(nib.Nifti1Image(mask, np.eye(4)), folder / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(hu.astype(np.int16), np.eye(4)), folder.parent / "ct.nii.gz")
    (root / "labels.csv").write_text("\n".join(rows))
    return root


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the work, with the run of seed 0 trained."""
    root = tmp_path_factory.mktemp("studies")
    write_phantom(root / "data" / SET, 9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(runs.SETS, SET, settings())
        patch.setattr("coinseg.parts.synthetic_lesions.TRIES", 64)
        patch.setattr("coinseg.parts.patchcore.SIDE", 64)
        patch.setattr("coinseg.parts.patchcore.WORTH", 0.0)
        yield root


@pytest.fixture
def command(work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a script with some words and returns its lines."""

    def command(script: Any, *words: object) -> list[str]:
        monkeypatch.setattr(sys, "argv", [script.__name__, *map(str, words)])
        script.main()
        return capsys.readouterr().out.splitlines()

    return command


@pytest.fixture(scope="module")
def run(work: Path) -> Run:
    """The trained run."""
    return train(runs.workspace(work, work, SET, 0, "test"))


def test_the_recipe_is_trained_scored_and_shown(work: Path, command: Command) -> None:
    command(recipe, "train", work, work, SET, 0)
    assert command(recipe, "student", work, work, SET, 0) == ["True"]
    assert len(command(recipe, "final", work, work, SET, 0)) == 6  # five steps, and cysts
    assert len(command(recipe, "ceiling", work, work, SET, 0)) == 2
    assert command(recipe, "cysts", work, work, SET, 0)
    assert len(command(recipe, "attributions", work, work, SET, 0)) >= 6
    command(recipe, "pictures", work, work, SET, 0, work / "pictures.png")
    assert (work / "pictures.png").stat().st_size > 1000
    assert len(command(recipe, "table", work, work / "table.json")) == len(recipe.STEPS)
    rows = {row["step"]: row for row in read_json(work / "table.json")}
    assert set(rows) == set(recipe.STEPS)
    assert {"cysts", "minutes", "attributions_oracle", "share_of_ceiling"} <= rows["student"].keys()
    assert {"novelty", "opinion", "teacher-2 coin"} <= rows["student"]["minutes"][0].keys()


def test_what_is_changed_of_a_run_is_what_its_row_says(run: Run) -> None:
    whole, images = run.predictor, run.held_out().batch(np.arange(6)).image
    assert [part.name for part in whole.parts] == ["imagenet_classifier", "slice_hmm", "patchcore"]
    assert len(whole.image_score.classifiers) == 2
    rows = ablation.variants(whole)

    def masks(predictor: Predictor) -> np.ndarray:
        return predictor.masks(images)

    assert np.array_equal(masks(runs.rebuilt(whole)), masks(whole))
    scores = whole.scores(whole.logits(images))
    for one, cleaning in (rows["all of it"], rows["COIN, refined: no student (study 15)"]):
        assert np.array_equal(runs.masks_with(one, images, scores, cleaning), masks(one))
    left_out = {
        "each slice alone (study 27)": {"slice_hmm"}, "no ImageNet classifier (study 26)": {"imagenet_classifier"},
        "no PatchCore (study 24)": {"patchcore"}, "f alone says which images (study 23)": {"imagenet_classifier", "slice_hmm"},
    }  # fmt: skip
    for name, (one, _) in rows.items():
        gone = left_out.get(name, set())
        if one.student is not None:
            assert {part.name for part in one.parts} == {part.name for part in whole.parts} - gone, name
            assert tuple(one.image_score.parts) == one.parts == tuple(one.segmenter.parts), name  # type: ignore[attr-defined]
    assert rows["not the share of abnormal images (study 23)"][0].image_score.shift == 0
    alone = rows["f alone says which images (study 23)"][0]
    assert alone.scores(alone.logits(images)).ensemble == pytest.approx(whole.probability(images).numpy(), abs=1e-6)
    assert rows["a gate of 0.5 (study 23)"][0].settings.student.gate == whole.settings.classifier.threshold
    assert [len(rows[name][0].student.student.members) for name in list(rows)[8:10]] == [1, 1]  # type: ignore[union-attr]


def test_tables_of_a_trained_run_are_printed(work: Path, command: Command, run: Run) -> None:
    assert len(command(ablation, work, work, "test", SET, 0)) == 13
    assert len(command(gates, work, work, SET, 0)) == 3 * len(gates.GATES)
    assert len(command(student_cleaning, work, work, SET, 0)) == 3
    assert len(command(confidence, work, work, SET, 0)) == 6
    assert len(command(thresholds, work, work, "validation", SET, 0)) == len(thresholds.RULES) + 1


def test_generators_of_every_checkpoint_are_looked_at(work: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"STEPS": 4, "EVERY": 2, "IMAGES": 8}.items():
        monkeypatch.setattr(stopping, name, value)
    assert len(command(stopping, work, work, SET, 0)) == 3
    found = read_json(work / f"{SET}-0-stopping" / "stopping.json")
    assert [row["steps"] for row in found["rows"]] == [2, 4]


def test_one_label_per_scan(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, base = tiny_settings(), labels_per_scan.BASE
    classifier, data = replace(base.classifier, steps=20, batch=8, threshold=0.0), replace(base.data, size=32)
    monkeypatch.setattr(labels_per_scan, "BASE", replace(base, classifier=classifier, data=data, coin=tiny.coin))
    command(labels_per_scan, "cut", write_phantom(tmp_path / "phantom", 6), tmp_path / "cut")
    places = (tmp_path / "cut", tmp_path / "cut", tmp_path / "out", 0)
    lines = command(labels_per_scan, "score", *places)
    assert [line.split()[2] for line in lines] == list(labels_per_scan.WAYS)
    assert "recall" in lines[0]
    monkeypatch.delitem(labels_per_scan.WAYS, "inherited")
    assert all("iou_mask_free" in line for line in command(labels_per_scan, "masks", *places))


def test_a_schedule_has_a_row_of_the_first_network_where_that_is_trained_alone(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = student_schedule.Phase((1,), 2, rate=0.5, begun_as=0, small=0.5, decoder=3.0)
    monkeypatch.setitem(student_schedule.PLANS, "in-turn", (student_schedule.Phase((0,), 2), later))
    rows = list(student_schedule.measure(work, work, SET, 0, ["in-turn"]))
    assert [row["plan"] for row in rows] == ["in-turn, first network", "in-turn"]
