"""`--dry-run`: what would be read, made and written, and about how long it would take on this machine."""

import timeit
from collections.abc import Callable
from dataclasses import replace

import torch

from coinseg.config.parsing import asks_opinion, opinion_settings
from coinseg.config.schema import Settings
from coinseg.data.slices.case import labelled_per_scan
from coinseg.data.slices.channels import channels_of
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


def _seconds(step: Callable[[], object]) -> float:
    step()
    return min(timeit.repeat(step, number=1, repeat=3))  # the least: what else the machine does only adds


def seconds_per_step(settings: Settings, channels: int = 1) -> tuple[float, float, float, float]:
    """Seconds of one step of classifier, COIN, student and the classifier on ImageNet features, on random images."""
    fabric, size = make_fabric(settings.engine), settings.data.size
    made = build(settings.classifier, channels)
    made.require_usable(size, channels=channels)
    f = to_device(made, fabric)
    generator, discriminator = (to_device(module(settings.coin, channels), fabric) for module in (Generator, Discriminator))
    batch = images_to(fabric, torch.rand(settings.classifier.batch, channels, size, size) * 2 - 1)
    classifier = _seconds(lambda: f(batch).mean().backward())
    f.eval().requires_grad_(False)
    method = coin if settings.coin.conditions == 1 else singla
    x = batch[: settings.coin.batch]

    def step() -> None:
        fakes = method.generate(x, generator, f, settings.coin)
        torch.stack(list(method.generator_losses(x, fakes, generator, discriminator, f, settings.coin).values())).sum().backward()
        method.discriminator_loss(x, fakes, discriminator).backward()

    student = to_device(build_student(settings.student.networks, channels), fabric)
    opinion = to_device(build(replace(opinion_settings(settings).classifier, weights=None), channels), fabric)
    stack = (torch.rand(settings.student.networks, settings.student.batch, channels, size, size) * 2 - 1).to(fabric.device)
    return (
        classifier, _seconds(step) * settings.coin.batch / len(x),
        _seconds(lambda: student(stack).mean().backward()), _seconds(lambda: opinion(stack[0]).mean().backward()),
    )  # fmt: skip


def describe(work: Workspace) -> str:
    """A summary in lines; raises `UserError` for anything that would stop the run."""
    settings, cohort = work.settings, work.cohort
    needed = work.check()
    labels, source = [case.label for case in cohort.cases], cohort.label_source
    classifier, step, student, opinion = seconds_per_step(settings, len(channels_of(cohort, settings.data)[0]))
    student_steps = settings.student.steps if has_student(settings) else 0
    opinion_steps = settings.student.imagenet_steps if has_student(settings) and asks_opinion(settings) else 0
    pairs = settings.student.teachers if student_steps else 1
    every = settings.coin.generator_every
    level = settings.data.label_level if settings.anomaly.kind == "none" else "slice"
    per_scan = sum(labelled_per_scan(case, level) for case in cohort.cases)
    searched = round(2 * ROUNDS * FOLD_STEPS * settings.classifier.steps) if per_scan else 0
    total = (
        classifier * (searched + pairs * settings.classifier.steps)
        + step * pairs * settings.coin.steps * (1 + 0.35 * (every - 1)) / every
        + student * student_steps
        + opinion * opinion_steps
    )
    search = f"{searched} steps of {classifier:.2f} s to look for witnesses, " if searched else ""
    times = f"{pairs} times " if pairs > 1 else ""
    extra = "".join(f", {n} of {seconds:.2f} s" for n, seconds in ((student_steps, student), (opinion_steps, opinion)) if n)
    outputs = {
        "slices": True, "witnesses": searched, "classifier": True, "coin": True, "teacher-N": pairs > 1, "student": student_steps,
        "opinion": opinion_steps, "evaluation": True, "masks": True, "manifest.json": True, "report.html": True,
    }  # fmt: skip
    patients, unknown = len({case.patient for case in cohort.cases}), labels.count(None)
    lines = [
        f"data       {work.data}: layout {cohort.layout}, {len(cohort.cases)} cases of {patients} patients",
        f"labels     {labels.count(0)} normal, {labels.count(1)} abnormal, {unknown} by slice or from elsewhere ({source})",
        *([f"per scan   {per_scan_rule(per_scan)}"] if per_scan else []),
        f"anomalies  {settings.anomaly.kind}",
        f"slices     {settings.data.size} x {settings.data.size}, at most {needed / 1e9:.2f} GB in {work.root / 'slices'}",
        f"training   {search}{times}{settings.classifier.steps} steps of {classifier:.2f} s, "
        f"{times}{settings.coin.steps} of {step:.2f} s{extra}: about {total / 60:.0f} min here",
        f"would write {work.root}/{{{', '.join(name for name, is_written in outputs.items() if is_written)}}}",
    ]
    return "\n".join(lines + [f"note       {problem}" for problem in cohort.problems])
