"""How the student's steps are spent: networks apart, in turn, smaller images first, other rates; over the same pairs and masks.

    python studies/faster.py DATA WORK SET SEED default                   the run whose pairs are taken
    python studies/student_schedule.py DATA WORK SET SEED PLAN...         rows in WORK/student_schedule.json

Read on the validation fifth; no lesson is of a true mask. The time is that of the student alone.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
from board import scored, sides
from runs import rebuilt, without_student, workspace
from torch.optim.swa_utils import AveragedModel

from coinseg.config.schema import Settings
from coinseg.inference.predictor import Predictor
from coinseg.networks.imagenet import DEEPEST
from coinseg.networks.unet import Student, StudentNetwork, build_student, for_inference
from coinseg.pipeline import recipe
from coinseg.pipeline.job import Job
from coinseg.pipeline.run import job_of, train
from coinseg.runtime.files import read_json, write_json
from coinseg.runtime.streams import Stream, random_stream, seed_step
from coinseg.training import student
from coinseg.training.pseudo_masks import collect_pseudo_masks
from coinseg.training.schedule import averaging, one_cycle


@dataclass(frozen=True)
class Phase:
    """What is trained together: networks by their numbers, begun as they are or as another one; steps, and the share of the
    learning rate. In the `small` share of the steps images are not enlarged; the decoder's rate is `decoder` times the encoder's.
    """

    networks: tuple[int, ...]
    steps: int
    rate: float = 1.0
    begun_as: int | None = None
    small: float = 0.0
    decoder: float = 1.0


PLANS: dict[str, tuple[Phase, ...]] = {
    "apart": (Phase((0, 1), 600),),
    "half": (Phase((0, 1), 300),),
    "small-first": (Phase((0, 1), 600, small=2 / 3),),
    "half-decoder-3": (Phase((0, 1), 300, decoder=3.0),),
    "in-turn": (Phase((0,), 600), Phase((1,), 200, rate=0.5, begun_as=0)),
}


def taught_by(run_: Predictor, job: Job) -> student.Taught:
    """The pseudo-masks and synthetic lesions of a run of one class."""
    first = without_student(run_)
    others = [replace(first.explainer, f=f, generator=generator) for f, generator in recipe.other_pairs(job)]
    learning, masks = recipe._learning(job, first, others, "")
    lesson = recipe._lesson(job, replace(learning, root=None), masks)
    found = collect_pseudo_masks(lesson.slices, lesson.masks, job.settings.student)
    return student.Taught(lesson.slices, found, student._joined(lesson.examples(found)))


def train_phase(networks: Student, phase: Phase, taught: student.Taught, settings: Settings) -> None:
    """Train some networks in place, as `train_student` does; they end as their moving averages."""
    members = {number: cast(StudentNetwork, networks.members[number]) for number in phase.networks}
    if phase.begun_as is not None:
        for member in members.values():
            member.load_state_dict(networks.members[phase.begun_as].state_dict())
    average = partial(AveragedModel, multi_avg_fn=averaging(student.EMA), use_buffers=True)
    averages = {number: average(member) for number, member in members.items()}
    encoders = [weight for member in members.values() for weight in member.encoder.parameters()]
    known = set(map(id, encoders))
    others = [weight for member in members.values() for weight in member.parameters() if id(weight) not in known]
    optimiser = torch.optim.AdamW([{"params": encoders}, {"params": others}], weight_decay=1e-3)
    networks.train()
    for number in range(phase.steps):
        seed_step(settings.seed, number)
        rate = settings.student.lr * phase.rate * one_cycle(number, phase.steps)
        optimiser.param_groups[0]["lr"], optimiser.param_groups[1]["lr"] = rate, rate * phase.decoder
        rng = random_stream(Stream.STUDENT_BATCH, settings.seed, number)
        seen = -(-settings.data.side // DEEPEST) * DEEPEST if number < phase.small * phase.steps else None
        losses = []
        for i, member in members.items():
            images, targets = student._batch([taught], i % 2 == 1, settings.student, rng)
            losses.append(student.student_loss(member(images, seen), targets, 0.0 if i % 2 else settings.student.per_image))
        optimiser.zero_grad()
        torch.stack(losses).sum().backward()
        optimiser.step()
        for i, member in members.items():
            averages[i].update_parameters(member)
    for i, member in members.items():
        member.load_state_dict(averages[i].module.state_dict())


def measure(source: Path, work: Path, name: str, seed: int, plans: list[str]) -> Iterator[dict[str, object]]:
    """A row for each plan, and for the first network alone where it is trained alone."""
    space = workspace(source, work, name, seed, "test")
    space = replace(space, root=work / "default" / space.root.name)
    run_, job, settings = train(space).predictor, job_of(space), space.settings
    taught = taught_by(run_, job)
    ((_, held_out),) = sides(space, "validation")
    for plan in plans:
        seed_step(seed, Stream.STUDENT_WEIGHTS)
        networks, seconds = build_student(settings.student.networks, len(job.store.channels)), 0.0
        for phase in PLANS[plan]:
            begun = time.process_time()
            train_phase(networks, phase, taught, settings)
            seconds += time.process_time() - begun
            alone = phase.networks == (0,)
            kept = deepcopy(networks)
            kept.members = kept.members[: 1 if alone else None]
            row = {"set": name, "seed": seed, "plan": f"{plan}, first network" if alone else plan, "cpu_s": round(seconds)}
            scores = scored(rebuilt(run_, student=for_inference(kept)), held_out, space.root / "schedules" / str(row["plan"]))
            yield row | scores


if __name__ == "__main__":
    source, work, name, seed, *plans = sys.argv[1:]
    file = Path(work) / "student_schedule.json"
    for row in measure(Path(source), Path(work), name, int(seed), plans):
        print(json.dumps(row), flush=True)
        write_json(file, [*(read_json(file) if file.exists() else []), row])
