"""`--dry-run` measures steps with less memory than they need."""

from __future__ import annotations

from dataclasses import replace

import torch

from coinseg.cli import dry_run
from coinseg.runtime.devices import make_fabric
from conftest import tiny_settings


def test_a_step_is_measured_with_few_images_where_they_are_large() -> None:
    """Two networks asked about 16 images of 256 x 256 took 11 GB: two images say how long sixteen take."""
    fabric = make_fabric(tiny_settings().engine)
    for size, count in ((32, 16), (64, 16), (128, 8), (256, 2), (1024, 2)):
        shapes: list[torch.Size] = []
        seconds = dry_run._seconds(lambda x, seen=shapes: seen.append(x.shape), fabric, 1, size, 16)
        assert set(shapes) == {torch.Size((count, 1, size, size))}
        assert 0 < seconds < 1


def test_what_is_not_trained_is_not_measured() -> None:
    settings = tiny_settings()
    without = replace(settings, student=replace(settings.student, steps=0))
    classifier, coin, student, imagenet = dry_run.seconds_per_step(without)
    assert min(classifier, coin) > 0
    assert (student, imagenet) == (0, 0)
