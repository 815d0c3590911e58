"""`--dry-run`: what would be read, made and written, and about how long it would take on this machine."""

import timeit
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from lightning_fabric import Fabric
from torch import Tensor

from coinseg.config.parsing import asks_opinion, opinion_settings
from coinseg.config.schema import Settings
from coinseg.data.slices.case import labelled_per_scan
from coinseg.data.slices.channels import channels_of
from coinseg.data.slices.sizes import native_shapes, proposal
from coinseg.explain.counterfactual import coin, singla
from coinseg.explain.counterfactual.discriminator import Discriminator
from coinseg.explain.counterfactual.generator import Generator
from coinseg.networks.classifier import build
from coinseg.networks.unet import build_student
from coinseg.pipeline.recipe import has_student
from coinseg.pipeline.run import Workspace
from coinseg.runtime.devices import images_to, make_fabric, to_device
from coinseg.training.instance_selection import FOLD_STEPS, ROUNDS

from .inspect import per_scan_rule

PIXELS = 2**17
"""Of the images a step is measured with: the whole batch of small ones, two of 256 x 256; the time is that of a whole batch."""


def seconds_per_step(settings: Settings, channels: int = 1) -> tuple[float, float, float, float]:
    """Seconds of one step of classifier, COIN, student and the classifier on ImageNet features, measured on random images.

    One after the other, and never with more images than `PIXELS` says, so that less memory is needed than for a step. 0 for what
    is not trained.
    """
    fabric, student = make_fabric(settings.engine), has_student(settings)
    return (
        _of_classifier(settings, fabric, channels), _of_coin(settings, fabric, channels),
        _of_student(settings, fabric, channels) if student else 0.0,
        _of_imagenet(settings, fabric, channels) if student and asks_opinion(settings) else 0.0,
    )  # fmt: skip


def _seconds(step: Callable[[Tensor], object], fabric: Fabric, channels: int, size: int, batch: int) -> float:
    """Seconds of a step for a batch of images (B, channels, size, size) in [-1, 1]."""
    count = min(batch, max(2, PIXELS // size**2))
    images = images_to(fabric, torch.rand(count, channels, size, size) * 2 - 1)
    step(images)
    # The least: what else the machine does only adds.
    return min(timeit.repeat(lambda: step(images), number=1, repeat=3)) * batch / count


def _of_classifier(settings: Settings, fabric: Fabric, channels: int) -> float:
    f = build(settings.classifier, channels)
    f.require_usable(settings.data.side, channels=channels)
    to_device(f, fabric)
    return _seconds(lambda x: f(x).mean().backward(), fabric, channels, settings.data.side, settings.classifier.batch)


def _of_coin(settings: Settings, fabric: Fabric, channels: int) -> float:
    f, s = to_device(build(settings.classifier, channels), fabric).eval().requires_grad_(False), settings.coin
    generator, discriminator = (to_device(module(s, channels), fabric) for module in (Generator, Discriminator))
    method = coin if s.conditions == 1 else singla

    def step(x: Tensor) -> None:
        fakes = method.generate(x, generator, f, s)
        torch.stack(list(method.generator_losses(x, fakes, generator, discriminator, f, s).values())).sum().backward()
        method.discriminator_loss(x, fakes, discriminator).backward()

    return _seconds(step, fabric, channels, settings.data.side, s.batch)


def _of_student(settings: Settings, fabric: Fabric, channels: int) -> float:
    one = to_device(build_student(1, channels), fabric)
    seconds = _seconds(lambda x: one(x[None]).mean().backward(), fabric, channels, settings.data.side, settings.student.batch)
    return seconds * settings.student.networks


def _of_imagenet(settings: Settings, fabric: Fabric, channels: int) -> float:
    f = to_device(build(replace(opinion_settings(settings).classifier, weights=None), channels), fabric)
    return _seconds(lambda x: f(x).mean().backward(), fabric, channels, settings.data.side, settings.student.batch)


@dataclass(frozen=True)
class Estimate:
    """Steps of a run, and their seconds here.

    Args:
        classifier, coin, student, imagenet: seconds of one step; 0 for what is not trained.
        searched: steps of the classifier that looks for the abnormal slices of scans.
        pairs: classifier-generator pairs.
        settings: of the run.
    """

    classifier: float
    coin: float
    student: float
    imagenet: float
    searched: int
    pairs: int
    settings: Settings

    @property
    def student_steps(self) -> int:
        """Steps of the student."""
        return self.settings.student.steps if has_student(self.settings) else 0

    @property
    def imagenet_steps(self) -> int:
        """Steps of the classifier on ImageNet features."""
        return self.settings.student.imagenet_steps if self.student_steps and asks_opinion(self.settings) else 0

    @property
    def training(self) -> float:
        """Seconds of all that is trained."""
        every = self.settings.coin.generator_every
        return (
            self.classifier * (self.searched + self.pairs * self.settings.classifier.steps)
            + self.coin * self.pairs * self.settings.coin.steps * (1 + 0.35 * (every - 1)) / every
            + self.student * self.student_steps
            + self.imagenet * self.imagenet_steps
        )


def estimate(work: Workspace) -> Estimate:
    """What a run would train, measured in some steps of each network."""
    settings, cohort = work.settings, work.cohort
    seconds = seconds_per_step(settings, len(channels_of(cohort, settings.data)[0]))
    level = settings.data.label_level if settings.anomaly.kind == "none" else "slice"
    per_scan = sum(labelled_per_scan(case, level) for case in cohort.cases)
    weak = per_scan or (settings.data.tile and level != "slice")
    searched = round(2 * ROUNDS * FOLD_STEPS * settings.classifier.steps) if weak else 0
    return Estimate(*seconds, searched, settings.student.teachers if has_student(settings) else 1, settings)


def describe(work: Workspace) -> str:
    """A summary in lines; raises `UserError` for anything that would stop the run."""
    settings, cohort = work.settings, work.cohort
    needed = work.check()
    labels, source = [case.label for case in cohort.cases], cohort.label_source
    found = estimate(work)
    level = settings.data.label_level if settings.anomaly.kind == "none" else "slice"
    per_scan = sum(labelled_per_scan(case, level) for case in cohort.cases)
    tiles = f", tiles of {settings.data.tile} pixels of larger ones" if settings.data.tile else ""
    search = f"{found.searched} steps of {found.classifier:.2f} s to look for witnesses, " if found.searched else ""
    times = f"{found.pairs} times " if found.pairs > 1 else ""
    others = ((found.student_steps, found.student), (found.imagenet_steps, found.imagenet))
    extra = "".join(f", {n} of {seconds:.2f} s" for n, seconds in others if n)
    outputs = {
        "slices": True, "witnesses": found.searched, "classifier": True, "coin": True, "teacher-N": found.pairs > 1,
        "student": found.student_steps, "opinion": found.imagenet_steps,
        "evaluation": True, "masks": True, "manifest.json": True, "report.html": True,
    }  # fmt: skip
    patients, unknown = len({case.patient for case in cohort.cases}), labels.count(None)
    lines = [
        f"data       {work.data}: layout {cohort.layout}, {len(cohort.cases)} cases of {patients} patients",
        f"labels     {labels.count(0)} normal, {labels.count(1)} abnormal, {unknown} by slice or from elsewhere ({source})",
        *([f"per scan   {per_scan_rule(per_scan)}"] if per_scan else []),
        f"anomalies  {settings.anomaly.kind}",
        f"slices     {settings.data.side} x {settings.data.side}{tiles}, at most {needed / 1e9:.2f} GB in {work.root / 'slices'}",
        f"training   {search}{times}{settings.classifier.steps} steps of {found.classifier:.2f} s, "
        f"{times}{settings.coin.steps} of {found.coin:.2f} s{extra}: about {found.training / 60:.0f} min here, "
        "and slices, scores and masks on top",
        f"would write {work.root}/{{{', '.join(name for name, is_written in outputs.items() if is_written)}}}",
    ]
    lines += [f"note       {line}" for line in proposal(native_shapes(cohort, settings), settings)]
    return "\n".join(lines + [f"note       {problem}" for problem in cohort.problems])
