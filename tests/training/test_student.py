"""The student: its lessons, its training, and the masks of a run that has one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import coinseg
from coinseg.cli import main as cli
from coinseg.config.schema import Settings, StudentSettings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.data.slices.store import prepare
from coinseg.data.slices.student_data import Examples, PseudoMasks
from coinseg.export.folder import export_run
from coinseg.inference.predictor import Predictor
from coinseg.masks import student_maps
from coinseg.masks.postprocess import masks_of
from coinseg.networks import unet as student
from coinseg.parts import synthetic_lesions as drawn_lesions
from coinseg.parts.synthetic_lesions import SyntheticLesions
from coinseg.pipeline.run import Workspace
from coinseg.pipeline.run import train as train_run
from coinseg.runtime.stage import Report, silent
from coinseg.training import keys, pseudo_masks
from coinseg.training import student as teaching
from coinseg.training.schedule import averaging
from conftest import TINY, tiny_settings, write_images
from models import learn_from_few, learning_of, maps_of, scores_of

TAUGHT = [
    *TINY, "--student.steps", "3", "--student.trust", "0", "--student.gate", "0", "--student.teachers", "2",
    "--student.imagenet_steps", "2",
]  # fmt: skip


def test_the_band_lies_outside_and_is_not_taught() -> None:
    masks = np.zeros((2, 5, 5), bool)
    masks[0, 2, 2] = True
    target = pseudo_masks.ignored_band(masks, 1)
    assert (target == 1).sum() == 1
    assert (target == pseudo_masks.IGNORED).sum() == 4
    assert not target[1].any()
    logits = torch.zeros(1, 1, 5, 5)
    other = logits.clone()
    other[0, 0, 1, 2] = 9  # in the band
    given = torch.from_numpy(target[:1, None]).float()
    assert teaching.student_loss(logits, given) == teaching.student_loss(other, given)


def test_a_small_lesion_counts_as_a_large_one_where_dice_is_taken_in_each_image() -> None:
    target = torch.zeros(3, 1, 10, 10)
    target[0, 0, :8] = 1  # 80 pixels, all found
    target[1, 0, 9, :5] = 1  # 5 pixels, one of them found; the third image has none
    logits = torch.where(target == 1, 60.0, -60.0)
    logits[1, 0, 9, 1:] = -60.0
    entropy = teaching.F.binary_cross_entropy_with_logits(logits, target)
    whole, each = np.log(2 * 81 / (81 + 85)), np.mean([0.0, np.log(2 * 1 / (1 + 5))])
    for share, wanted in ((0.0, whole), (1.0, each), (0.25, 0.75 * whole + 0.25 * each)):
        found = teaching.student_loss(logits, target, share) - entropy
        assert found.item() == pytest.approx(-wanted, abs=5e-3)  # a hundredth of a pixel is added
    empty = torch.zeros_like(target)
    assert teaching.student_loss(logits, empty, 0.5) == teaching.student_loss(logits, empty)


def test_the_moving_average_forgets_how_it_began() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    for decay, expected in ((0.5, (0.25 * 1 + 0.5 * 2 + 3) / 1.75), (0.0, 3.0), (0.99, (0.9801 + 2 * 0.99 + 3) / 2.9701)):
        kept = torch.optim.swa_utils.AveragedModel(module, multi_avg_fn=averaging(decay), use_buffers=True)
        for value in (1.0, 2.0, 3.0):
            torch.nn.init.constant_(module.weight, value)
            kept.update_parameters(module)
        assert kept.module.weight.item() == pytest.approx(expected, rel=1e-6)


def test_a_student_keeps_the_size() -> None:
    for side in (16, 40):  # neither a multiple of what the deepest pixel stands for
        asked = student.Mean(student.build_student(2)).eval()
        assert student.marks(asked, torch.zeros(2, 1, side, side)).shape == (2, side, side)


def test_a_student_says_the_mean_of_what_its_members_say() -> None:
    made = student.build_student(2).eval()
    for number, member in enumerate(made.members):
        torch.nn.init.normal_(member.head.weight, generator=torch.Generator().manual_seed(number))  # type: ignore
    images = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        apart = torch.sigmoid(made(torch.stack([images, images])))[:, :, 0]
        # One alone gives what it gives, to the last digits.
        alone = student.Mean(student.Student(1))
        alone.student.members[0].load_state_dict(made.members[0].state_dict())
        torch.testing.assert_close(student.marks(alone.eval(), images), apart[0], rtol=1e-5, atol=1e-7)
    assert not torch.equal(apart[0], apart[1])
    torch.testing.assert_close(student.marks(student.Mean(made).eval(), images), apart.mean(0), rtol=1e-5, atol=1e-7)


def test_networks_that_branch_off_are_the_first_one_and_then_their_own() -> None:
    made = student.Student(3)
    first = made.members[0]
    for layer in first.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.fill_(0.5)  # type: ignore
    made.branch()
    for member in made.members[1:]:
        for name, value in member.state_dict().items():
            assert torch.equal(value, first.state_dict()[name]), name
    torch.nn.init.constant_(made.members[1].head.weight, 7.0)  # type: ignore
    assert not any((member.head.weight == 7).any() for member in (first, made.members[2]))  # type: ignore


def test_a_student_is_asked_at_two_sides() -> None:
    assert [student.sides(side) for side in (32, 64, 96, 256)] == [(32,), (96, 128), (128, 160), (352, 480)]
    made = student.build_student(1).eval()
    torch.nn.init.normal_(made.members[0].head.weight, generator=torch.Generator().manual_seed(0))  # type: ignore
    images = torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        apart = torch.stack([torch.sigmoid(made.members[0](images, seen))[:, 0] for seen in (96, 128)])
        torch.testing.assert_close(made(images[None])[0], made.members[0](images, 96))  # as it is taught
    assert not torch.allclose(apart[0], apart[1], atol=1e-4)
    torch.testing.assert_close(student.marks(student.Mean(made), images), apart.mean(0), rtol=1e-5, atol=1e-7)


def test_a_student_for_inference_says_the_same_without_batch_normalisation() -> None:
    made = student.build_student(2)
    noise = torch.Generator().manual_seed(0)
    for layer in made.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.2, generator=noise)  # type: ignore
            layer.running_var.uniform_(0.5, 2, generator=noise)  # type: ignore
        if isinstance(layer, torch.nn.Conv2d) and layer.out_channels == 1:
            torch.nn.init.normal_(layer.weight, generator=noise)
    images = torch.rand(3, 1, 32, 32, generator=noise) * 2 - 1
    folded = student.for_inference(made)
    assert made.training
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in folded.modules())
    expected = student.marks(student.Mean(made).eval(), images)
    assert expected.std() > 0.003
    torch.testing.assert_close(student.marks(folded, images), expected, rtol=0, atol=1e-5)


def test_what_all_members_are_sure_of_stays_finite() -> None:
    class Sure(torch.nn.Module):
        def __init__(self, logit: float) -> None:
            super().__init__()
            self.logit = logit

        def forward(self, x: Tensor, seen: int | None = None) -> Tensor:
            return torch.full_like(x, self.logit)

    made = student.Student(1)
    made.members = torch.nn.ModuleList([Sure(90.0), Sure(100.0)])
    x = torch.zeros(1, 1, 2, 2)
    assert student.Mean(made)(x).mean().item() == pytest.approx(90 + np.log(2 / (1 + np.exp(-10))), abs=1e-3)
    made.members = torch.nn.ModuleList([Sure(-100.0), Sure(100.0)])
    assert student.Mean(made)(x).abs().max() < 1e-4  # a half


def test_where_f_says_that_there_is_a_lesion_a_share_of_the_peak_is_enough() -> None:
    maps = np.zeros((5, 4, 4), np.float32)
    maps[:, :2, :2] = np.array([0.2, 0.2, 0.9, 0.03, 1.0])[:, None, None]
    maps[:, 0, 3] = np.array([0.09, 0.09, 0.35, 0, 0.5])
    called = np.array([True, False, True, True, True])
    found = student_maps.rescale_to_peak(maps, called, 0.4)
    # 0.09 and 0.5 are more than 0.4 of 0.2 and 1, 0.35 is not of 0.9.
    assert (found > student_maps.LEVEL).sum((1, 2)).tolist() == [5, 0, 4, 0, 5]
    assert found[0, 0, 3] == pytest.approx(0.09 / (0.2 * 0.4) * student_maps.LEVEL)
    assert (found[[1, 3]] == maps[[1, 3]]).all()
    assert found.dtype == maps.dtype
    assert found.max() == 1
    half = student_maps.rescale_to_peak(maps, called, student_maps.LEVEL)
    assert (half > student_maps.LEVEL).sum((1, 2)).tolist() == [4, 0, 4, 0, 4]
    assert (student_maps.rescale_to_peak(maps, called, 0) == maps).all()


def test_what_one_view_is_sure_of_is_marked_where_f_calls_the_image_abnormal() -> None:
    one, other = np.zeros((2, 1, 4, 4), np.float32)
    one[0, 1, 1] = other[0, 1, 1] = one[0, 2, 2] = 0.98
    other[0, 3, 3] = 0.7  # nor does one view mark what it doubts
    found = {
        called: student_maps.rescale_to_peak((one + other) / 2, np.array([called]), 0.4)[0] > student_maps.LEVEL
        for called in (True, False)
    }
    assert found[True].nonzero()[0].tolist() == [1, 2]
    assert found[False].nonzero()[0].tolist() == [1]


def test_it_sees_no_truth() -> None:
    for room in (student, teaching, drawn_lesions):
        source = Path(str(room.__file__)).read_text(encoding="utf-8")
        assert "truth" not in source
        assert "ScoredSlices" not in source


def bright(images: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Masks of what is bright, half of which can be trusted."""
    masks = images[:, 0].numpy() > 0.3
    return masks, np.where(masks[:, ::2].sum((1, 2)) % 2, 0.9, np.nan)


def grey(images: Tensor) -> np.ndarray:
    """Calls an image abnormal by its mean, as f would."""
    return 0.5 + images.mean((1, 2, 3)).numpy()


def taught(
    slices: TrainingSlices, settings: Settings, folder: Path, report: Report = silent,
    probability: Callable[[Tensor], np.ndarray] = grey,
) -> torch.nn.Module | None:  # fmt: skip
    """A student of what is bright, and of synthetic lesions where the settings ask for them."""

    def examples(pseudo_masks: PseudoMasks) -> list[Examples]:
        learning = learning_of(slices, settings, probability=probability)
        return [SyntheticLesions.examples(learning, pseudo_masks)] if SyntheticLesions.asked_for(settings) else []

    return teaching.train_student([teaching.Lesson(slices, bright, examples)], settings, "t", folder, report)[0]


def settings_of(trust: float) -> Settings:
    return replace(tiny_settings(), student=StudentSettings(steps=12, batch=4, trust=trust))


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> TrainingSlices:
    root, settings = tmp_path_factory.mktemp("student"), tiny_settings()
    store = prepare(read_layout(write_images(root / "data", patients=16), settings.data), settings, root / "slices")
    return TrainingSlices(store, settings.anomaly, 0)


def test_only_trusted_masks_and_empty_normals_are_taught(slices: TrainingSlices) -> None:
    labels = slices.labels()
    lessons = pseudo_masks.collect_pseudo_masks(slices, bright, StudentSettings(trust=0.5))
    masks, sure = bright(slices.batch(np.arange(len(slices))).image)
    assert lessons.indices.tolist() == np.flatnonzero((labels == 1) & (sure >= 0.5)).tolist()
    assert 0 < len(lessons.indices) < (labels == 1).sum()
    assert (lessons.targets == masks[lessons.indices]).all()
    assert (labels[lessons.normals] == 0).all()
    assert len(lessons.normals) == (labels == 0).sum()


def test_an_empty_mask_is_no_lesson_whatever_is_trusted(slices: TrainingSlices) -> None:
    def empty(images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((len(images), *images.shape[2:]), bool), np.full(len(images), np.nan)

    assert not len(pseudo_masks.collect_pseudo_masks(slices, empty, StudentSettings(trust=0.0)).indices)


def test_pseudo_masks_are_those_of_their_own_images_in_batches_of_any_size(
    slices: TrainingSlices, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pseudo_masks.collect_pseudo_masks(slices, bright, StudentSettings(trust=0.5, band=2))
    monkeypatch.setattr(pseudo_masks, "CHUNK", 3)
    parts = pseudo_masks.collect_pseudo_masks(slices, bright, StudentSettings(trust=0.5, band=2))
    for name in ("indices", "targets", "normals"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name)), name
    assert (whole.targets == pseudo_masks.ignored_band(bright(slices.batch(whole.indices).image)[0], 2)).all()
    # A confidence at the bound is trusted; where nobody knows one, only a bound of 0 is met.
    assert len(pseudo_masks.collect_pseudo_masks(slices, bright, StudentSettings(trust=0.9)).indices) == len(whole.indices)
    assert not len(pseudo_masks.collect_pseudo_masks(slices, bright, StudentSettings(trust=0.91)).indices)
    everything = pseudo_masks.collect_pseudo_masks(slices, bright, StudentSettings(trust=0.0)).indices
    assert (
        everything.tolist()
        == np.flatnonzero((slices.labels() == 1) & bright(slices.batch(np.arange(len(slices))).image)[0].any((1, 2))).tolist()
    )


@pytest.mark.parametrize("band", [0, 1, 2, 3])
def test_the_band_is_as_wide_as_asked_and_in_its_own_image(band: int) -> None:
    masks = np.zeros((3, 9, 9), bool)
    masks[1, 4, 4] = True
    target = pseudo_masks.ignored_band(masks, band)
    rows, columns = np.indices((9, 9)) - 4
    wanted = np.where(np.abs(rows) + np.abs(columns) <= band, pseudo_masks.IGNORED, 0)
    wanted[4, 4] = 1
    assert (target[1] == wanted).all()
    assert target.dtype == np.uint8
    assert not target[[0, 2]].any()


def test_further_examples_are_joined_and_too_few_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (Examples(torch.full((n, 1, 4, 4), float(n)), np.full((n, 4, 4), n > 11)) for n in (9, 12))
    joined = teaching._joined([one, other])
    assert joined is not None
    assert joined.images[:, 0, 0, 0].tolist() == [9.0] * 9 + [12.0] * 12
    assert joined.masks[:, 0, 0].tolist() == [False] * 9 + [True] * 12
    assert teaching._joined([one]) is teaching._joined([]) is None
    monkeypatch.setattr(teaching, "LEAST", 9)
    assert teaching._joined([one]) is not None


def test_with_too_few_masks_there_is_none_and_the_stage_says_so(slices: TrainingSlices, tmp_path: Path) -> None:
    for _ in range(2):  # the second time it is read
        assert taught(slices, settings_of(1.0), tmp_path) is None
    assert json.loads((tmp_path / "stage.json").read_text())["trusted"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("branch", [2 / 3, 11 / 12])  # before it is killed, and after it
def test_a_killed_student_resumes_to_the_same_numbers(
    slices: TrainingSlices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, branch: float
) -> None:
    monkeypatch.setattr(teaching, "BRANCH", branch)

    class Killed(Exception):
        pass

    monkeypatch.setattr(drawn_lesions, "TRIES", 100)
    learn_from_few(monkeypatch)

    def killer(name: str, done: int, total: int, values: object) -> None:
        if name == "student" and done > 1:  # after a checkpoint
            raise Killed

    def train(folder: Path, report: Report = silent) -> dict[str, Tensor]:
        made = taught(slices, settings_of(0.0), folder, report)
        assert made is not None
        return made.state_dict()

    whole = train(tmp_path / "whole")
    with pytest.raises(Killed):
        train(tmp_path / "killed", killer)
    assert (tmp_path / "killed" / "checkpoint.pt").exists()
    for again in (train(tmp_path / "killed"), train(tmp_path / "killed")):
        assert all(torch.equal(again[name], value) for name, value in whole.items())


@pytest.mark.slow
def test_the_second_network_is_a_copy_of_the_first_until_it_learns_by_itself(
    slices: TrainingSlices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn_from_few(monkeypatch)
    settings = settings_of(0.0)
    settings = replace(settings, student=replace(settings.student, synthetic_lesions=0.0))

    def distance(branch: float) -> float:
        """Of the two networks, in their weights."""
        monkeypatch.setattr(teaching, "BRANCH", branch)
        made = taught(slices, settings, tmp_path / str(branch))
        assert isinstance(made, student.Mean)
        pairs = zip(*(member.parameters() for member in made.student.members), strict=True)
        return sum((one - other).detach().square().sum().item() for one, other in pairs) ** 0.5

    sooner, late, last = distance(4 / 12), distance(10 / 12), distance(1.0)
    assert sooner > late > last > 0  # in the last step at the latest


@pytest.mark.slow
def test_members_are_taught_apart_and_only_every_second_one_drawn_lesions(
    slices: TrainingSlices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawn_lesions, "TRIES", 100)
    learn_from_few(monkeypatch)
    base, made = settings_of(0.0), {}
    asked: list[int] = []

    def counted(images: Tensor) -> np.ndarray:
        asked.append(len(images))
        return grey(images)

    for name, members, drawn in (("one", 1, 0.5), ("none drawn", 2, 0.0), ("drawn", 2, 0.5)):
        settings = replace(base, student=replace(base.student, networks=members, synthetic_lesions=drawn))
        trained = taught(slices, settings, tmp_path / name, probability=counted)
        assert trained is not None
        made[name] = trained.state_dict()
        assert bool(asked) == (name == "drawn")  # f is asked about drawn lesions alone
    first = [name for name in made["one"] if ".members.0." in name]
    second = [name.replace(".0.", ".1.", 1) for name in first]
    # In memory they are trained together, yet the first is the same without the second, whatever that is taught.
    for name in first:
        torch.testing.assert_close(made["one"][name], made["none drawn"][name], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(made["none drawn"][name], made["drawn"][name], rtol=1e-4, atol=1e-5)
    assert any(not torch.equal(made["none drawn"][name], made["drawn"][name]) for name in second)
    assert json.loads((tmp_path / "drawn" / "stage.json").read_text())["drawn"] > 0
    assert json.loads((tmp_path / "none drawn" / "stage.json").read_text())["drawn"] == 0


@pytest.mark.slow
def test_a_run_with_a_student_sees_no_lesion_mask_and_gives_its_masks_wherever_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    learn_from_few(monkeypatch)
    roots = []
    for masks in (True, False):
        data, out = write_images(tmp_path / f"data{masks}", masks=masks), tmp_path / f"out{masks}"
        # Every image is called abnormal, so that six steps of f leave something to mark.
        assert cli.main(["run", str(data), "-o", str(out), *TAUGHT, "--classifier.threshold", "0"]) == 0
        roots.append(out)
    weights = [(out / "student" / "model.safetensors").read_bytes() for out in roots]
    assert weights[0] == weights[1]
    out = roots[0]
    made = json.loads((out / "manifest.json").read_text())
    assert made["threshold"]["of"] == "student"
    assert made["threshold"]["value"] == student_maps.LEVEL
    assert set(made["timings_s"]) >= {"coin", "teachers", "student", "opinion"}
    assert (out / "teacher-2" / "coin" / "generator.safetensors").read_bytes() != (
        out / "coin" / "generator.safetensors"
    ).read_bytes()
    assert "what the student draws" in (out / "report.html").read_text()
    export_run(out, tmp_path / "away")
    # Of the teachers only what says which images are marked.
    for name in ("teacher-2", "opinion"):
        kept = [p.relative_to(tmp_path / "away" / name).as_posix() for p in (tmp_path / "away" / name).rglob("*.*")]
        assert sorted(kept) == ["classifier/checksums.json", "classifier/model.safetensors"]
        assert f"{name}/classifier/model.safetensors" in made["model"]["sha256"]
    images = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    here, away = coinseg.load(out), coinseg.load(tmp_path / "away")
    assert here.student is not None
    assert (here.masks(images) == away.masks(images)).all()
    again = train_run(Workspace(tmp_path / "dataTrue", out, here.settings)).predictor
    np.testing.assert_allclose(maps_of(here, images), maps_of(again, images), atol=1e-6)
    # The mirror image has the mirrored map, and the differences stay those of the generator.
    np.testing.assert_allclose(maps_of(here, images.flip(-1)), maps_of(again, images)[:, :, ::-1], atol=1e-6)
    alone = Predictor.of(here.explainer, here.preparation, here.threshold)
    everywhere = here.explainer.differences(images, np.ones(len(images), bool))
    assert np.array_equal(everywhere.mean, maps_of(alone, images))  # f calls everything abnormal
    assert torch.equal(here.evidence(images, scores_of(here, images))[0].saliency, alone.explain(images).saliency)
    # Below the gate nothing is marked, whatever the classifier's own threshold; and the gate is no reason to train again.
    shut = replace(here.settings, student=replace(here.settings.student, gate=1.0))
    assert maps_of(here, images).any()
    assert not maps_of(here.with_settings(shut), images).any()
    assert keys.student_key(shut, "t") == keys.student_key(here.settings, "t")


def test_what_a_student_draws_is_taken_as_it_is() -> None:
    maps = np.zeros((1, 24, 24), np.float32)
    maps[0, 2, 2:12] = 0.9  # thin
    maps[0, 10:16, 10:16] = 0.6
    maps[0, 20, 20:23] = 0.9  # a speck of three pixels
    settings = replace(Settings().masks, opening=3, keep="largest")
    drawn = masks_of(maps, student_maps.LEVEL, student_maps.student_cleaning(settings))
    assert drawn[0, 2, 2:12].all()
    assert drawn[0, 10:16, 10:16].all()
    assert drawn.sum() == 10 + 36
    assert masks_of(maps, student_maps.LEVEL, settings).sum() == 36  # a difference is opened, and its largest part counts
