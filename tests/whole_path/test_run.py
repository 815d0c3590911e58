"""The whole path on tiny data, and the laws it must keep."""

from __future__ import annotations

import ast
import csv
import json
import re
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import get_type_hints

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import coinseg
from coinseg.cli import main as cli
from coinseg.config.parsing import settings_from
from coinseg.data.layouts.registry import read_layout
from coinseg.data.slices.dataset import Batch, ScoredSlices, TrainingSlices
from coinseg.data.slices.split import LEFT_OUT, TRAINING, VALIDATION, require_both_classes, split, split_rows
from coinseg.data.slices.store import prepare
from coinseg.errors import UserError
from coinseg.inference.ensemble import Ensemble
from coinseg.inference.predictor import Predictor
from coinseg.networks.classifier import Classifier, build
from coinseg.pipeline.job import Job
from coinseg.pipeline.run import Run, Workspace, evaluate, job_of, train, write_masks
from coinseg.runtime.stage import COST
from coinseg.training.classifier import train_classifier
from coinseg.training.coin import train_coin
from conftest import SIZE, TINY, tiny_settings, write_images

SOURCE = Path(coinseg.__file__).parent


def digest(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.fixture(scope="module")
def finished(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    work = Workspace(images, tmp_path_factory.mktemp("out") / "run", tiny_settings())
    work.start()
    run = train(work)
    evaluate(run)
    write_masks(run)
    return run


def test_inputs_are_never_modified_and_nothing_is_written_beside_them(images: Path, tmp_path: Path) -> None:
    before = digest(images)
    work = Workspace(images, tmp_path / "run", tiny_settings())
    work.start()
    write_masks(train(work))
    assert digest(images) == before


def test_scores_are_numbers_between_0_and_1(finished: Run) -> None:
    scores = evaluate(finished)
    for name in ("iou_mask_free", "iou_oracle", "dice_per_image", "false_positive_area", "auroc"):
        assert 0 <= scores[name] <= 1, name
    assert scores["iou_oracle"] > scores["iou_mask_free"], "the oracle is tuned on the masks it is scored with"
    no_student = "no student: f alone says which images are marked"
    reasons = {f"posterior_{name}": no_student for name in ("auroc", "accuracy", "calibration_error")}
    reasons["auroc_scans"] = "every image is a scan of its own"
    assert {name: scores["null_because"][name] for name in reasons} == reasons
    assert not {"cv", "flip_rate", "auroc"} & scores["null_because"].keys(), "these have a value in this run"


def test_masks_have_the_size_of_their_image_and_only_abnormal_images_get_one(finished: Run) -> None:
    found = sorted((finished.work.root / "masks").glob("*.png"))
    assert [p.stem for p in found] == sorted(case.id for case in finished.work.cohort.cases if case.label == 1)
    assert {Image.open(p).size for p in found} == {(44, 40)}


def test_the_index_has_the_numbers_of_every_mask(finished: Run) -> None:
    rows = json.loads((finished.work.root / "masks" / "index.json").read_text())["masks"]
    assert len((finished.work.root / "masks" / "index.csv").read_text().splitlines()) == len(rows) + 1 == 13
    for row in rows:
        inside = np.argwhere(np.array(Image.open(finished.work.root / "masks" / row["mask"])) > 0)
        assert row["pixels"] == len(inside)
        assert row["box"] == ({"min": inside.min(0).tolist(), "max": inside.max(0).tolist()} if len(inside) else None)
        assert row["volume_ml"] is None


def test_every_mask_comes_with_how_far_to_trust_it_and_its_pixels(finished: Run) -> None:
    rows = json.loads((finished.work.root / "masks" / "index.json").read_text())["masks"]
    assert sorted(p.name for p in (finished.work.root / "confidence").iterdir()) == sorted(row["mask"] for row in rows)
    for row in rows:
        mask, sure = (np.array(Image.open(finished.work.root / part / row["mask"])) for part in ("masks", "confidence"))
        assert sure.shape == mask.shape
        assert sure.max() <= 100
        assert not (mask > 0).any() or sure[mask > 0].mean() > max(50, sure[mask == 0].mean())
        assert row["doubtful"] is (None if row["confidence"] is None else row["confidence"] < 0.5)
    assert any(row["pixels"] for row in rows)
    with (finished.work.root / "masks" / "index.csv").open() as file:
        assert [line["doubtful"] for line in csv.DictReader(file)] == [
            "" if row["doubtful"] is None else str(int(row["doubtful"])) for row in rows
        ]


def test_a_run_of_an_earlier_version_gets_what_it_lacks_and_is_not_trained_again(finished: Run, tmp_path: Path) -> None:
    root = shutil.copytree(finished.work.root, tmp_path / "run")
    shutil.rmtree(root / "confidence")
    stamps = {path: path.stat().st_mtime_ns for path in root.rglob("*.safetensors")}
    again = Workspace(finished.work.data, root, finished.work.settings)
    again.start()
    write_masks(train(again))
    assert digest(root / "confidence") == digest(finished.work.root / "confidence")
    assert digest(root / "masks").keys() == digest(finished.work.root / "masks").keys()
    victim = min((root / "confidence").iterdir())
    victim.unlink()  # lost before there was an index
    (root / "masks" / "index.json").unlink()
    write_masks(train(Workspace(finished.work.data, root, finished.work.settings)))
    assert victim.read_bytes() == (finished.work.root / "confidence" / victim.name).read_bytes()
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.safetensors")} == stamps


def test_a_loaded_run_gives_the_masks_of_the_run(finished: Run) -> None:
    run = coinseg.load(finished.work.root)
    case = next(case for case in finished.work.cohort.cases if case.label == 1)
    written = np.array(Image.open(finished.work.root / "masks" / f"{case.id}.png")) > 0
    assert np.array_equal(run.segment(case.image).mask[0], written)


def test_images_that_f_calls_normal_come_back_unchanged_to_the_last_bit(finished: Run) -> None:
    x = torch.rand(8, 1, SIZE, SIZE) * 2 - 1
    f = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, 1)))
    nn.init.zeros_(f.network[1].weight)
    nn.init.constant_(f.network[1].bias, -3.0)
    loaded = coinseg.load(finished.work.root)
    run = Predictor.of(replace(loaded.explainer, f=f.frozen()), loaded.preparation, loaded.threshold)
    explained = run.explain(x)
    assert torch.equal(explained.counterfactual, x)
    assert not explained.saliency.any()
    assert not run.masks(x).any()


def test_explaining_a_batch_is_explaining_its_images_one_by_one(finished: Run) -> None:
    run = coinseg.load(finished.work.root)
    x = torch.rand(5, 1, SIZE, SIZE) * 2 - 1
    together = run.explain(x, inpaint_all=True).counterfactual
    singles = torch.cat([run.explain(x[i : i + 1], inpaint_all=True).counterfactual for i in range(5)])
    torch.testing.assert_close(together, singles, atol=1e-5, rtol=0)


def test_explain_says_what_shape_it_wants(finished: Run) -> None:
    with pytest.raises(UserError, match=r"images of shape \(2, 3, 32, 32\); required: \(B, 1, S, S\) with S a multiple of 4"):
        coinseg.load(finished.work.root).explain(torch.zeros(2, 3, 32, 32))


def test_running_again_changes_nothing(finished: Run) -> None:
    before = digest(finished.work.root)
    again = Workspace(finished.work.data, finished.work.root, finished.work.settings)
    again.start()
    run = train(again)
    evaluate(run)
    write_masks(run)
    assert digest(finished.work.root) == before


# --- frozen, deterministic, resumable -----------------------------------------------------------------------------


def test_f_is_frozen_while_coin_trains(finished: Run, tmp_path: Path) -> None:
    f = build(finished.work.settings.classifier)
    before = weights(f)
    train_coin(finished.store, f, finished.work.settings, tmp_path / "coin")
    assert same(weights(f), before)  # batch statistics included
    assert not any(p.requires_grad or p.grad is not None for p in f.parameters())


def test_a_users_own_module_can_be_the_classifier(finished: Run, tmp_path: Path) -> None:
    own = Classifier(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1)))
    generator = train_coin(finished.store, own.frozen(), finished.work.settings, tmp_path / "coin")
    x = torch.rand(2, 1, SIZE, SIZE)
    assert generator(x).shape == x.shape


def test_a_classifier_with_two_logits_is_refused_in_one_line() -> None:
    own = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, 2)))
    with pytest.raises(UserError, match=r"the classifier returned shape \(3, 2\) for 3 images; required: one logit"):
        own(torch.zeros(3, 1, SIZE, SIZE))


class Killed(Exception):
    pass


def killer(stage: str, at: int):
    def report(name: str, done: int, total: int, values: object) -> None:
        if name == stage and done >= at:
            raise Killed

    return report


@pytest.mark.parametrize("stage", ["classifier", "coin"])
def test_a_killed_training_resumes_to_the_same_numbers(finished: Run, tmp_path: Path, stage: str) -> None:
    settings, store = finished.work.settings, finished.store

    def train(folder: Path, report=lambda *a: None) -> dict[str, torch.Tensor]:
        if stage == "classifier":
            return weights(train_classifier(store, settings, folder, report))
        f = build(settings.classifier).frozen()
        f.load_state_dict(finished.predictor.f.state_dict())
        return weights(train_coin(store, f, settings, folder, report))

    undisturbed = train(tmp_path / "whole")
    with pytest.raises(Killed):
        train(tmp_path / "killed", killer(stage, 10))
    assert (tmp_path / "killed" / "checkpoint.pt").exists()
    assert not (tmp_path / "killed" / "stage.json").exists()
    assert same(train(tmp_path / "killed"), undisturbed)
    steps = [json.loads(line)["step"] for line in (tmp_path / "killed" / "stats.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    whole = [json.loads(line) for line in (tmp_path / "whole" / "stats.jsonl").read_text().splitlines()]
    killed = [json.loads(line) for line in (tmp_path / "killed" / "stats.jsonl").read_text().splitlines()]
    assert [{k: v for k, v in a.items() if k not in ("time", *COST)} for a in whole] == [
        {k: v for k, v in a.items() if k not in ("time", *COST)} for a in killed
    ]


def test_the_seed_decides_everything(finished: Run, tmp_path: Path) -> None:
    runs = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        settings = replace(finished.work.settings, seed=seed)
        runs.append(weights(train_classifier(finished.store, settings, tmp_path / name)))
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


# --- weak supervision, visibly ------------------------------------------------------------------------------------


def test_training_and_threshold_never_see_a_lesion_mask(tmp_path: Path) -> None:
    """The same run with the masks taken away: same weights, same threshold, same masks out; only the scores are gone."""
    runs = []
    for name, masks in (("with", True), ("without", False)):
        data = write_images(tmp_path / name / "data", masks=masks)
        work = Workspace(data, tmp_path / name / "out", tiny_settings())
        work.start()
        run = train(work)
        write_masks(run)
        made = run.predictor
        runs.append((weights(made.f), weights(made.generator), made.threshold, digest(work.root / "masks")))
        if not masks:
            scores = evaluate(run)
            assert scores["iou_mask_free"] is None
            assert "no held-out abnormal image has a lesion mask" in scores["null_because"]["iou_mask_free"]
    (f1, g1, t1, m1), (f2, g2, t2, m2) = runs
    assert same(f1, f2)
    assert same(g1, g2)
    assert t1 == t2
    assert {k: v for k, v in m1.items() if k.endswith(".png")} == {k: v for k, v in m2.items() if k.endswith(".png")}


def test_training_works_when_the_truth_file_is_gone(finished: Run, tmp_path: Path) -> None:
    shutil.copytree(finished.work.root / "slices", tmp_path / "slices")
    (tmp_path / "slices" / "truth.bin").unlink()
    store = type(finished.store)(tmp_path / "slices")
    train_coin(store, train_classifier(store, finished.work.settings, tmp_path / "f"), finished.work.settings, tmp_path / "coin")
    with pytest.raises(FileNotFoundError):
        ScoredSlices(store, finished.work.settings.anomaly, 0).scored(np.arange(2))


def test_a_training_batch_has_no_place_for_a_mask() -> None:
    assert {f.name for f in fields(Batch)} == {"image", "label", "regions", "asked"}  # asked: the number of a class, see there


def test_the_regions_of_a_batch_are_the_organ_and_the_rest_and_no_lesion(finished: Run, tmp_path: Path) -> None:
    shutil.copytree(finished.work.root / "slices", tmp_path / "slices")
    (tmp_path / "slices" / "truth.bin").unlink()
    store = type(finished.store)(tmp_path / "slices")
    slices = TrainingSlices(store, finished.work.settings.anomaly, 0)
    assert slices.batch(np.arange(3)).regions is None
    regions = slices.batch(np.arange(3), regions=True).regions
    assert regions is not None
    organ = torch.from_numpy(store.organs[slices.rows[:3]].astype(np.float32))
    assert torch.equal(regions[:, 0], organ)
    assert torch.equal(regions.sum(1), torch.ones_like(organ))


def test_only_scoring_names_the_truth() -> None:
    """`truth()` and `ScoredSlices` are used by scoring and by nothing that trains or chooses a threshold."""
    users = {p.name for p in SOURCE.rglob("*.py") if ".truth()" in p.read_text() or "ScoredSlices(" in p.read_text()}
    assert users == {"dataset.py", "run.py", "reproduce.py"}
    # The threshold is chosen, and everything is trained, by rooms that cannot name them.
    for room in ("inference/explainer.py", "inference/ensemble.py", "pipeline/recipe.py", "parts/base.py"):
        assert "ScoredSlices" not in (SOURCE / room).read_text(), room
    assert get_type_hints(Job.slices.fget)["return"] is get_type_hints(Ensemble)["slices"] is TrainingSlices
    users = {
        p.relative_to(SOURCE).as_posix(): p.read_text() for p in SOURCE.rglob("*.py") if ".choose_threshold(" in p.read_text()
    }
    assert users.keys() == {"inference/ensemble.py", "pipeline/recipe.py", "thesis/reproduce.py"}
    for text in users.values():
        calls = [
            ast.unparse(n)
            for n in ast.walk(ast.parse(text))
            if isinstance(n, ast.Call) and ast.unparse(n.func).endswith(".choose_threshold")
        ]
        assert calls
        assert all(re.search(r"\((TrainingSlices\(.*|job\.slices|self\.slices)\)$", call) for call in calls), calls


# --- slices and splits --------------------------------------------------------------------------------------------


def test_no_patient_is_on_both_sides(finished: Run) -> None:
    index = finished.store.index
    sides = {p: set(index["split"][index["patient"] == p].tolist()) for p in index["patient"]}
    assert all(len(found) == 1 for found in sides.values())
    assert {TRAINING, VALIDATION} == {side for found in sides.values() for side in found}


def test_the_split_is_stratified_and_repeatable() -> None:
    patients = [f"p{i:03d}" for i in range(100) for _ in range(10)]
    labels = np.array([int(j < i // 10) for i in range(100) for j in range(10)])  # shares from 0 to 0.9
    sides = split(patients, labels, 0.2, 3)
    assert sides == split(patients, labels, 0.2, 3)
    assert sum(side == VALIDATION for side in sides.values()) == 20
    held = np.array([sides[p] for p in patients]) == VALIDATION
    assert abs(labels[held].mean() - labels[~held].mean()) < 0.05


def test_injected_anomalies_are_the_same_at_every_read_of_validation_and_redrawn_in_training(
    images: Path, tmp_path: Path
) -> None:
    settings = tiny_settings()
    settings = replace(settings, anomaly=replace(settings.anomaly, kind="blob", template=10))
    store = prepare(read_layout(images, settings.data, one_class=True), settings, tmp_path / "slices")
    assert set(store.index["label"].tolist()) == {0}  # a real lesion would be called normal
    held = ScoredSlices(store, settings.anomaly, 0, VALIDATION)
    one, two = (held.scored(np.arange(len(held))) for _ in range(2))
    assert torch.equal(one.image, two.image)
    assert np.array_equal(one.truth, two.truth)
    assert np.array_equal(one.label == 1, one.truth.any((1, 2)))
    train = TrainingSlices(store, settings.anomaly, 0)
    assert not torch.equal(train.batch(np.arange(4), epoch=0).image, train.batch(np.arange(4), epoch=1).image)


def test_every_slice_comes_once_in_an_epoch(finished: Run) -> None:
    slices = TrainingSlices(finished.store, finished.work.settings.anomaly, 0)
    drawn = np.concatenate([slices.indices_of_step(step, 1, balanced=False)[0] for step in range(len(slices))])
    assert sorted(drawn.tolist()) == list(range(len(slices)))


def test_balanced_steps_have_both_classes_equally(finished: Run) -> None:
    slices = TrainingSlices(finished.store, finished.work.settings.anomaly, 0)
    assert slices.batch(slices.indices_of_step(7, 8, balanced=True)[0]).label.mean() == 0.5


def test_a_half_written_store_is_not_trusted(finished: Run, tmp_path: Path) -> None:
    root = tmp_path / "slices"
    shutil.copytree(finished.work.root / "slices", root)
    (root / "store.json").unlink()
    fresh = prepare(finished.work.cohort, finished.work.settings, root)
    assert fresh.meta["fingerprint"] == finished.store.meta["fingerprint"]


def test_a_changed_input_makes_the_store_stale(tmp_path: Path) -> None:
    data, settings = write_images(tmp_path / "data"), tiny_settings()
    first = prepare(read_layout(data, settings.data), settings, tmp_path / "slices")
    victim = data / "normal" / "i00.png"
    Image.fromarray(np.full((40, 44), 7, np.uint8)).save(victim)
    second = prepare(read_layout(data, settings.data), settings, tmp_path / "slices")
    assert first.meta["key"] != second.meta["key"]
    assert first.meta["fingerprint"] != second.meta["fingerprint"]


# --- volumes ------------------------------------------------------------------------------------------------------


def oblique_affine() -> np.ndarray:
    angle = np.deg2rad(12)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([0.9, -0.9, 2.5])  # the second axis is flipped
    affine[:3, 3] = [-20, 31, 7]
    return affine


def write_volumes(root: Path, patients: int = 3) -> Path:
    """A CSV of small CT volumes with an organ, on an oblique grid with a flipped axis."""
    rng, lines = np.random.default_rng(1), ["file,patient,organ"]
    root.mkdir(parents=True)
    for i in range(patients):
        scan = rng.normal(40, 15, (44, 40, 6)).astype(np.int16)
        organ = np.zeros(scan.shape, np.uint8)
        organ[10:30, 8:32, 1:5] = 1
        scan[organ == 1] += 80
        nib.save(nib.Nifti1Image(scan, oblique_affine()), root / f"ct{i}.nii.gz")
        nib.save(nib.Nifti1Image(organ, oblique_affine()), root / f"organ{i}.nii.gz")
        lines.append(f"ct{i}.nii.gz,p{i},organ{i}.nii.gz")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root


def test_volumes_with_injected_anomalies_go_through_and_the_mask_lies_on_the_scans_own_grid(tmp_path: Path) -> None:
    data = write_volumes(tmp_path / "ct")
    settings = tiny_settings()
    settings = replace(
        settings,
        anomaly=replace(settings.anomaly, kind="blob", template=10, probability=0.5),
        data=replace(settings.data, roi="organ"),
    )
    work = Workspace(data, tmp_path / "run", settings)
    work.start()
    run = train(work)
    scores = evaluate(run)
    assert scores["slices_normal"] + scores["slices_abnormal"] == 4  # one patient held out, organ slices only
    f = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, 1)))
    nn.init.constant_(f.network[1].bias, 20.0)  # calls everything abnormal
    predictor = Predictor.of(replace(run.predictor.explainer, f=f), run.predictor.preparation, 0.0)
    out = tmp_path / "mask.nii.gz"
    organ = [coinseg.types.MaskSource(data / "organ0.nii.gz")]
    predictor.segment(data / "ct0.nii.gz", organ).write(out)
    mask, scan = nib.load(out), nib.load(data / "ct0.nii.gz")
    assert mask.shape == scan.shape
    assert np.issubdtype(mask.get_data_dtype(), np.integer)
    assert np.allclose(mask.affine, scan.affine, atol=1e-5)
    voxels = np.asarray(mask.dataobj)
    assert set(np.unique(voxels)) <= {0, 1}
    assert not voxels[:, :, [0, 5]].any()  # slices without the organ are left alone
    with pytest.raises(UserError, match=r"no organ mask for .*; required: the organ mask of the scan; give it with --organ"):
        predictor.segment(data / "ct0.nii.gz")
    changed = replace(run, predictor=predictor)
    rows = write_masks(changed)["masks"]  # of the held-out slices, whose anomalies were injected
    assert len(rows) == 4
    assert all(0 <= row["highest_f"] <= 1 and (row["confidence"] is None) == (row["pixels"] == 0) for row in rows)


# --- the command line ---------------------------------------------------------------------------------------------


def test_run_leaves_manifest_report_and_masks(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert cli.main(["run", str(images), "-o", str(out), *TINY]) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    for key in ("schema", "version", "command", "seed", "settings", "data", "timings_s", "scores", "outputs", "warnings"):
        assert key in manifest, key
    assert {"cases", "slices", "patients", "abnormal", "fingerprint"} <= manifest["data"].keys()
    wanted = {"iou_mask_free", "iou_oracle", "dice_per_image", "false_positive_area", "cv", "flip_rate", "auroc"}
    assert wanted <= manifest["scores"].keys()
    for name in wanted:
        value = manifest["scores"][name]
        assert (0 <= value <= 1) if value is not None else manifest["scores"]["null_because"][name]
    assert manifest["data"]["cases"] == 24
    assert manifest["settings"]["coin"]["width"] == 4
    assert (out / "report.html").stat().st_size > 10_000
    assert len(list((out / "masks").glob("*.png"))) == 12
    assert "iou_mask_free" in capsys.readouterr().out
    # the same command again goes on with what is there; other settings are refused
    assert cli.main(["run", str(images), "-o", str(out), *TINY]) == 0
    assert cli.main(["run", str(images), "-o", str(out), *TINY, "--coin.steps", "5"]) == 2
    assert "was made with other settings (coin.steps: 4 -> 5)" in capsys.readouterr().err
    # segmenting a folder: skips what is done, goes on past a bad file, says so
    source, masks = tmp_path / "new", tmp_path / "new_masks"
    shutil.copytree(images / "abnormal", source)
    (source / "broken.png").write_bytes(b"not an image")
    assert cli.main(["segment", "-i", str(source), "-o", str(masks), "--model", str(out)]) == 2
    err = capsys.readouterr().err
    assert "1 inputs failed, 12 masks were written: " in err
    assert "broken.png" in err
    assert len(list(masks.glob("*.png"))) == 12
    stamp = (masks / "i01.png").stat().st_mtime_ns
    (source / "broken.png").unlink()
    assert cli.main(["segment", "-i", str(source), "-o", str(masks), "--model", str(out)]) == 0
    assert (masks / "i01.png").stat().st_mtime_ns == stamp


def test_the_steps_are_the_run(images: Path, tmp_path: Path) -> None:
    whole, steps = tmp_path / "whole", tmp_path / "steps"
    assert cli.main(["run", str(images), "-o", str(whole), *TINY]) == 0
    assert cli.main(["prepare", str(images), "-o", str(steps), *TINY]) == 0
    for command in ("train-classifier", "train-coin", "evaluate", "report"):
        assert cli.main([command, str(steps)]) == 0
    one, other = (json.loads((out / "manifest.json").read_text()) for out in (whole, steps))
    assert one["scores"] == other["scores"]
    assert one["settings"] == other["settings"]


def test_dry_run_writes_nothing(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", str(images), "-o", str(tmp_path / "out"), *TINY, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "12 normal, 12 abnormal" in said
    assert "time       about " in said
    assert "here, while the machine is as busy as now" in said
    assert not (tmp_path / "out").exists()


def test_print_config_shows_the_resolved_settings(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "--print_config", "--coin.steps", "77", str(images), "-o", "x"])
    assert stop.value.code == 0
    assert "steps: 77" in capsys.readouterr().out


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err.strip().splitlines()
    said = [line for line in error if line.startswith("coinseg: error: ")]
    assert len(said) == 1, error
    assert "Traceback" not in "".join(error)
    assert "; required: " in said[0]
    return said[0]


def test_bad_commands_end_in_one_line(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")

    def refused(*arguments: str) -> str:
        assert cli.main(list(arguments)) == 2
        return one_line(capsys)

    assert "did you mean 'coin.width'?" in refused("run", str(images), "-o", out, "--coin.witdh", "8")
    assert "did you mean run?" in refused("rum")
    assert "does not exist" in refused("run", str(tmp_path / "nowhere"), "-o", out)
    (tmp_path / "empty").mkdir()
    assert "empty" in refused("run", str(tmp_path / "empty"), "-o", out)
    assert "lies inside the data folder" in refused("run", str(images), "-o", str(images / "out"))
    assert "a side that is a multiple of 16" in refused("run", str(images), "-o", out, "--data.size", "50")
    assert "coin.skips is 7" in refused("run", str(images), "-o", out, "--data.size", "64", "--coin.skips", "7")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.docx").write_text("mine")
    assert "exists and is not a coinseg run" in refused("run", str(images), "-o", str(tmp_path / "other"), *TINY)
    assert "has no model.json" in refused(
        "segment", "-i", str(images / "normal" / "i00.png"), "-o", out, "--model", str(tmp_path / "other")
    )
    assert "is not a coinseg run" in refused("evaluate", str(tmp_path / "nothing"))
    bad = tmp_path / "bad.yaml"
    bad.write_text("coin: {widht: 3}\n")
    assert "widht" in refused("run", str(images), "-o", out, "--config", str(bad))
    assert refused("run", str(images), "-o", out, "--coin.steps", "many")
    assert not (tmp_path / "out").exists()


def test_a_disk_without_room_is_said_before_any_work(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type(usage)(10**9, 10**9, 10))
    assert cli.main(["run", str(images), "-o", str(tmp_path / "out"), *TINY]) == 2
    assert "GB are needed" in one_line(capsys)


def test_checkpoints_that_are_none_or_of_another_architecture(finished: Run, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(finished.work.root, root)
    model = json.loads((root / "model.json").read_text())
    model["settings"]["coin"]["width"] = 8
    (root / "model.json").write_text(json.dumps(model))
    with pytest.raises(UserError, match="is a checkpoint of another architecture"):
        coinseg.load(root)
    (root / "coin" / "generator.safetensors").write_bytes(b"PK not a checkpoint")
    with pytest.raises(UserError, match="is damaged"):
        coinseg.load(root)
    (root / "coin" / "generator.safetensors").unlink()
    with pytest.raises(UserError, match=r"is missing; required: a trained generator"):
        coinseg.load(root)


def test_a_training_checkpoint_that_is_none_is_refused(finished: Run, tmp_path: Path) -> None:
    (tmp_path / "coin").mkdir()
    (tmp_path / "coin" / "checkpoint.pt").write_bytes(b"garbage")
    with pytest.raises(
        UserError, match=r"checkpoint.pt is damaged \(it is not a checkpoint: .*required: a file coinseg wrote; remove"
    ):
        train_coin(finished.store, finished.predictor.f, finished.work.settings, tmp_path / "coin")


def test_a_corrupt_case_is_reported_and_skipped(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data")
    (data / "normal" / "i02.png").write_bytes(b"\x89PNG broken")
    work = Workspace(data, tmp_path / "out", tiny_settings())
    work.start()
    store = job_of(work).store
    assert len(store) == 23
    assert any("i02" in problem for problem in store.meta["problems"])


def test_a_mirrored_image_has_the_mirrored_mask(finished: Run) -> None:
    run = coinseg.load(finished.work.root)
    x = torch.rand(3, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(5)) * 2 - 1
    there, back = (run.explainer.differences(images, np.ones(3, bool)).mean for images in (x, x.flip(-1)))
    assert there.max() > 0
    np.testing.assert_allclose(there, back[..., ::-1], atol=1e-6)


def test_the_oracle_is_an_upper_bound_of_the_mask_free_score(finished: Run) -> None:
    scores = evaluate(finished)
    assert scores["iou_oracle"] >= scores["iou_mask_free"] - 0.02  # the sweep is a grid


def test_a_training_in_which_nothing_flips_says_so_while_it_runs(finished: Run, tmp_path: Path) -> None:
    """With no wish to change anything and f calling everything abnormal, nothing can flip."""
    settings = replace(finished.work.settings, coin=replace(finished.work.settings.coin, classifier=0.0, adversarial=0.0))
    f = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, 1)))
    nn.init.zeros_(f.network[1].weight)
    nn.init.constant_(f.network[1].bias, 3.0)
    said: list[str] = []
    train_coin(finished.store, f.frozen(), settings, tmp_path / "coin", lambda stage, done, total, values: said.append(stage))
    assert any(stage.startswith("warning: only 0% of abnormal images flip") for stage in said)
    assert any("changes nothing" in stage for stage in said)
    kept = json.loads((tmp_path / "coin" / "stage.json").read_text())["warnings"]
    assert len(kept) == 2


def test_losses_that_are_not_numbers_stop_the_training_in_one_line(finished: Run, tmp_path: Path) -> None:
    settings = replace(finished.work.settings, coin=replace(finished.work.settings.coin, tv=float("nan")))
    with pytest.raises(UserError, match=r"tv.* became nan at step 4; required: finite losses; lower coin.lr"):
        train_coin(finished.store, build(settings.classifier).frozen(), settings, tmp_path / "coin")


def test_a_hash_puts_every_patient_on_the_same_side_for_all_seeds_and_keeps_the_test_fifth_out() -> None:
    rows = [{"patient": f"p{i:04d}", "label": i % 2, "lesion_px": -1, "case": f"c{i}", "region": -1} for i in range(2000)]

    def sides(held_out: str, seed: int) -> np.ndarray:
        return split_rows(rows, settings_from({"seed": seed, "data": {"split_by": "hash", "held_out": held_out}}))

    chosen, read = sides("validation", 0), sides("test", 1)
    assert np.array_equal(sides("validation", 5), chosen)
    for share, side in ((0.6, TRAINING), (0.2, VALIDATION), (0.2, LEFT_OUT)):
        assert (chosen == side).mean() == pytest.approx(share, abs=0.04)
    assert np.array_equal(chosen == TRAINING, read == TRAINING)
    assert np.array_equal(chosen == VALIDATION, read == LEFT_OUT)  # what a choice saw is not what the table is read on


def test_a_fifth_left_out_by_the_hash_is_not_called_small_lesions() -> None:
    with pytest.raises(UserError) as caught:
        require_both_classes(np.array([1, 0]), np.array([TRAINING, LEFT_OUT]), left=0)
    assert caught.value.got == "the training side of the split has 0 normal and 1 abnormal slices"
