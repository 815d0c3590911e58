"""Random streams: no two of them give the same numbers."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from coinseg.runtime.streams import Stream, random_stream, seed_step

INDICES = {Stream.BALANCED_BATCH: 1, Stream.EPOCH_ORDER: 1, Stream.STUDENT_BATCH: 1, Stream.ANOMALY: 2}
"""How many indices a stream of NumPy's has; the others have none."""
WEIGHTS = (Stream.CLASSIFIER_WEIGHTS, Stream.GENERATOR_WEIGHTS, Stream.STUDENT_WEIGHTS)


@pytest.mark.parametrize("seed", [0, 1, 4])
def test_no_two_streams_give_the_same_numbers(seed: int) -> None:
    drawn: dict[bytes, tuple[int, ...]] = {}
    for stream in set(Stream) - set(WEIGHTS):
        for indices in product(range(12), repeat=INDICES.get(stream, 0)):
            numbers = random_stream(stream, seed, *indices).random(4).tobytes()
            assert drawn.setdefault(numbers, (stream, *indices)) == (stream, *indices)
    assert len(drawn) == 6 + 3 * 12 + 12 * 12


def test_initial_weights_and_steps_give_different_numbers() -> None:
    drawn = set()
    for step in (*range(100), *WEIGHTS):
        seed_step(7, step)
        drawn.add(torch.rand(4).numpy().tobytes())
    assert len(drawn) == 100 + len(WEIGHTS)


def test_numbers_of_streams_stay_what_they_were() -> None:
    """Runs of earlier versions are continued: only the injected anomaly has another stream than it had there."""
    for stream, before in (
        (random_stream(Stream.SPLIT, 3), 3),
        (random_stream(Stream.THRESHOLD, 3), [3, 4]),
        (random_stream(Stream.STUDENT_BATCH, 3, 5), [3, 5, 6]),
    ):
        assert stream.random() == np.random.default_rng(before).random()
