"""How long a run takes on this machine: its own training steps and forward passes, timed on random images, times their numbers.

The steps are those of the trainers themselves, with optimisers, augmentation and batches; `Cohort` and settings give the numbers.
What a run turns out to do (how many images are called abnormal, how many lesions are drawn) is guessed: `countdown` corrects it.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from coinseg.config.parsing import OPINION, asks_opinion, opinion_settings, teacher_folders
from coinseg.config.schema import Settings
from coinseg.data.slices.arrays import Dataset
from coinseg.data.slices.channels import channels_of
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.data.slices.prepare import readers
from coinseg.explain.registry import COUNTERFACTUAL
from coinseg.inference.distribution import IMAGES as DISTRIBUTION_IMAGES
from coinseg.inference.explainer import THRESHOLD_IMAGES, Explainer
from coinseg.inference.image_score import ImageScores
from coinseg.inference.segmenter import DifferenceSegmenter, StudentSegmenter
from coinseg.networks.classifier import build
from coinseg.parts import patchcore, synthetic_lesions
from coinseg.runtime.devices import choose_device, to_device
from coinseg.runtime.forward import forward
from coinseg.training.classifier import train_classifier
from coinseg.training.coin import train_coin
from coinseg.training.instance_selection import FOLD_STEPS, ROUNDS
from coinseg.training.monitor import PROBE
from coinseg.training.pseudo_masks import LEAST
from coinseg.training.student import Lesson, train_student

from .countdown import Clock
from .counts import Counts, counted
from .job import has_student
from .run import Workspace

PIXELS = 2**17
"""Of the images a step is measured with on a CPU: the whole batch of small ones, two of 256 x 256, which need less memory."""
STEPS = 3  # that are timed, after one that is not: it sets up what later steps find
RISE_MASKS = 100  # with which RISE is timed
KEPT = 0.75  # share of the tries after which enough synthetic lesions are drawn, as a guess
WORTH = 10**8  # Pixels of all training images, from which on a run says how long it takes; about two minutes of a CPU core
PAGES = 100  # cases on the case pages, at most


@dataclass(frozen=True)
class Seconds:
    """Of a training step of each network, and of what is done with one image; 0 for what a run does not do.

    Args:
        classifier, coin, student, imagenet: one step of each training, with its whole batch.
        f: one image through a classifier; `opinion` through the one on ImageNet features.
        explained: the refined difference of one image, by one pair of classifier and generator.
        drawn: the student's map of one image.
        patch: PatchCore's features of one image.
        lesion: one synthetic lesion.
    """

    classifier: float = 0.0
    coin: float = 0.0
    student: float = 0.0
    imagenet: float = 0.0
    f: float = 0.0
    opinion: float = 0.0
    explained: float = 0.0
    drawn: float = 0.0
    patch: float = 0.0
    lesion: float = 0.0


class _Stamps:
    """A report that notes when which step was done."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.at = clock, dict[int, float]()

    def __call__(self, stage: str, done: int, total: int, values: Mapping[str, float]) -> None:
        if not stage.startswith("warning"):
            self.at.setdefault(done, self.clock())

    def step(self) -> float:
        """Seconds of a step, from the first report to the last."""
        first, last = min(self.at), max(self.at)
        return (self.at[last] - self.at[first]) / max(last - first, 1)


@dataclass(frozen=True)
class Measure:
    """Times the steps of a run of `settings` with images of so many `channels`; nothing is written."""

    settings: Settings
    channels: int = 1
    clock: Clock = time.perf_counter

    def count(self, batch: int) -> int:
        """How many images of a batch are taken; a GPU needs all of it to show what it can do."""
        cuda = choose_device(self.settings.engine).type == "cuda"
        return batch if cuda else min(batch, max(2, PIXELS // self.settings.data.side**2))

    def seconds(self) -> Seconds:
        """All of `Seconds`."""
        data, f = self._images(), None
        classifier, f = self._of_classifier(data, self.settings)
        explainer, coin = self._explainer(data, f)
        found = Seconds(classifier, coin, f=self._each(explainer.probability), explained=self._of_explainer(explainer))
        if not has_student(self.settings):
            return found
        if asks_opinion(self.settings):
            imagenet, o = self._of_classifier(data, opinion_settings(self.settings))
            found = replace(found, imagenet=imagenet, opinion=self._each(replace(explainer, f=o).probability))
        student, drawn = self._of_student(data, explainer)
        found = replace(found, student=student, drawn=self._each(drawn))
        if patchcore.PatchCore.asked_for(self.settings):
            extractor = to_device(patchcore.FeatureExtractor(self.channels), explainer.device)
            patch = lambda x: forward(extractor, x, explainer.device, patchcore.SIDE, patchcore.BATCH)
            found = replace(found, patch=self._each(patch))
        lesion = self._of_lesion() if synthetic_lesions.SyntheticLesions.asked_for(self.settings) else 0.0
        return replace(found, lesion=lesion)

    def _images(self) -> Dataset:
        """Images of noise, enough of either label for every training."""
        rng, side, n = np.random.default_rng(0), self.settings.data.side, 4 * LEAST
        images = rng.random((n, self.channels, side, side), np.float32)
        organs = np.zeros((n, side, side), np.uint8)
        organs[:, side // 4 :] = 1
        return Dataset(images, np.arange(n) % 2, organs=organs)

    def _short(self, settings: Settings, name: str, steps: int) -> Settings:
        """The settings with few steps of one training, and images as `count` says."""
        section = getattr(settings, name)
        return replace(settings, **{name: replace(section, steps=steps, batch=self.count(section.batch))})

    def _of_classifier(self, data: Dataset, settings: Settings) -> tuple[float, nn.Module]:
        stamps, batch = _Stamps(self.clock), settings.classifier.batch
        if not settings.classifier.steps:
            return 0.0, train_classifier(data, settings)
        if settings.classifier.weights:
            build(settings.classifier, self.channels)  # refused here as the run would refuse them
        settings = replace(settings, classifier=replace(settings.classifier, weights=None))  # as quick
        f = train_classifier(data, self._short(settings, "classifier", 1 + STEPS), report=stamps)
        return stamps.step() * batch / self.count(batch), f

    def _explainer(self, data: Dataset, f: nn.Module) -> tuple[Explainer, float]:
        s, stamps, generator, seconds = self.settings.coin, _Stamps(self.clock), None, 0.0
        if self.settings.method == COUNTERFACTUAL:
            rounds = s.generator_every * -(-STEPS // s.generator_every)  # whole ones: the generator is not updated in every step
            generator = train_coin(data, f, self._short(self.settings, "coin", 1 + rounds), report=stamps)
            seconds = stamps.step() * s.batch / self.count(s.batch)
        return Explainer(self.settings, f, generator, choose_device(self.settings.engine), None, self.channels), seconds

    def _of_student(self, data: Dataset, explainer: Explainer) -> tuple[float, Callable[[Tensor], object]]:
        def masks(images: Tensor) -> tuple[np.ndarray, np.ndarray]:
            found = np.zeros((len(images), *images.shape[2:]), bool)
            found[:, : images.shape[2] // 2] = True
            return found, np.ones(len(images))

        stamps, s, settings = _Stamps(self.clock), self.settings.student, self._short(self.settings, "student", 1 + STEPS)
        slices = TrainingSlices(data, replace(settings.anomaly, kind="none"), settings.seed)
        student = cast(nn.Module, train_student([Lesson(slices, masks)], settings, report=stamps)[0])
        segmenter = StudentSegmenter(student, (), DifferenceSegmenter(explainer, 0.0))
        draw = lambda x: segmenter.maps(x, ImageScores.of_f(torch.ones(len(x))))
        return stamps.step() * s.batch / self.count(s.batch), draw

    def _of_lesion(self) -> float:
        rng, side = np.random.default_rng(0), self.settings.data.side
        image, mask = rng.random((self.channels, side, side)), np.zeros((side, side), bool)
        mask[side // 3 : side // 2, side // 3 : side // 2] = True
        began = self.clock()
        for _ in range(STEPS):
            synthetic_lesions.synthetic_lesion(image, np.ones((side, side), bool), mask, np.ones(self.channels), rng)
        return (self.clock() - began) / STEPS

    def _of_explainer(self, explainer: Explainer) -> float:
        """Seconds of a refined difference; RISE is asked with few of its masks."""
        own = self.settings.attribution
        fewer = replace(own, layer="last" if own.layer == "best" else own.layer, masks=min(own.masks, RISE_MASKS))
        one = replace(explainer, settings=replace(self.settings, attribution=fewer))
        seconds = self._each(lambda x: one.differences(x, np.ones(len(x), bool)), 8 if explainer.generator else 2)
        return seconds * (own.masks / fewer.masks if self.settings.method == "rise" else 1)

    def _each(self, ask: Callable[[Tensor], object], most: int = 8) -> float:
        """Seconds of one image, of as many as are asked together."""
        side = self.settings.data.side
        images = torch.rand(self.count(most), self.channels, side, side) * 2 - 1
        ask(images[:1])
        began = self.clock()
        ask(images)
        return (self.clock() - began) / len(images)


def stages(settings: Settings, counts: Counts, each: Seconds, classes: int = 1) -> dict[str, float]:
    """The stages of a run, by the names under which they report, in their order, and the seconds of each."""
    s, held_out = settings, settings.data.validation * counts.slices
    training, abnormal = counts.slices - held_out, (1 - s.data.validation) * counts.abnormal
    student = has_student(s) and abnormal >= LEAST  # with fewer there is none
    pairs = len(teacher_folders(s)) + 1 if student else 1
    normal, share = training - abnormal, counts.abnormal / max(counts.slices, 1)
    look = pairs * each.f + (each.opinion if student else 0)
    segmented = each.drawn + 2 * each.patch if student else each.explained
    found = {"prepare": counts.cases * counts.reading / readers()}
    if counts.weak:
        steps = 2 * ROUNDS * max(1, round(FOLD_STEPS * s.classifier.steps))
        found["witnesses"] = steps * each.classifier + 2 * ROUNDS * training * each.f
    looks = 1 + s.coin.steps // max(s.engine.sample_every, 1)
    for owner in ("", *(f" of {name}" for name in (teacher_folders(s) if student else []))):
        found[f"classifier{owner}"] = s.classifier.steps * each.classifier + held_out * each.f
        found[f"coin{owner}"] = s.coin.steps * each.coin * (s.method == COUNTERFACTUAL) + classes * (
            min(THRESHOLD_IMAGES, normal) * each.explained + looks * min(PROBE, training) * (each.explained / 2 + 2 * each.f)
        )
    if student:
        asked = classes * abnormal * pairs * (each.explained + each.f)
        if each.lesion:
            tries = classes * KEPT * synthetic_lesions.TRIES
            found["drawn lesions"] = asked + tries * (each.lesion + 2 * pairs * each.f)
        found["student"] = s.student.steps * each.student + (0 if each.lesion else asked)
        if each.imagenet:
            found["classifier of the second opinion"] = classes * (
                s.student.imagenet_steps * each.imagenet + held_out * each.opinion
            )
        if each.patch:
            asked = min(patchcore.ASKED, abnormal) * (each.patch + look + each.drawn)
            found["novelty"] = classes * (min(patchcore.IMAGES, normal) * each.patch + asked)
    known = (min(training, DISTRIBUTION_IMAGES) + min(held_out, DISTRIBUTION_IMAGES)) * each.f
    of_image = look + each.explained + share * segmented
    found["evaluate"] = known + classes * held_out * of_image
    written = 3 * counts.wanted * counts.reading  # read, and masks and confidences packed
    found["masks"] = classes * (written + counts.cut * (look + share * segmented))
    explained = 2 * counts.squares * (each.explained + each.f)
    found["pages"] = min(PAGES, classes * counts.wanted) * (2 * counts.reading + explained)
    return found


def forecast(work: Workspace, root: Path | None = None, clock: Clock = time.perf_counter) -> dict[str, float]:
    """The seconds of each stage of a run here, see `stages`; nothing is written.

    Args:
        work: the run.
        root: a folder whose stages, where they are finished, take no time any more.
        clock: in seconds.
    """
    settings, channels = work.settings, len(channels_of(work.cohort, work.settings.data)[0])
    settings = replace(settings, engine=replace(settings.engine, compile=False))
    each = Measure(settings, channels, clock).seconds()
    found = stages(settings, counted(work, clock), each, max(len(work.cohort.classes), 1))
    return {name: 0.0 if root and finished(root, name) else seconds for name, seconds in found.items()}


def finished(root: Path, stage: str) -> bool:
    """Whether a stage of a run folder has ended, as far as its files say; whether they are of these settings is not asked."""
    name, _, owner = stage.partition(" of ")
    folder = OPINION if owner == "the second opinion" else owner
    file = {"prepare": "slices/store.json", "witnesses": "witnesses/witnesses.json", "drawn lesions": "student/stage.json"}
    return (root / folder / file.get(name, f"{name}/stage.json")).is_file()


def worth(settings: Settings) -> bool:
    """Whether a run is long enough for its steps to be timed first."""
    s = settings
    images = s.classifier.steps * s.classifier.batch + 2 * s.coin.steps * s.coin.batch
    images = images * s.student.teachers + s.student.steps * s.student.batch if has_student(s) else images
    return images * s.data.side**2 > WORTH
