"""Random numbers: every use has a named stream of its own, a function of the run's seed and of nothing that ran before."""

import random
from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What random numbers are drawn for: the last word of the entropy [seed, ..., value] of NumPy's `SeedSequence`.

    NumPy fills up with zeros, so [s, 4] and [s, 4, 0] are the same stream: no entropy may end with an index that can be 0.
    """

    SPLIT = 0  # patients that are held out; also the two folds of `training/instance_selection.py`
    BALANCED_BATCH = 1  # slices of a training step, half of them abnormal; by step
    EPOCH_ORDER = 2  # permutation of the training slices; by epoch
    MONITOR = 3  # images that the generator's training is watched on
    THRESHOLD = 4  # images that the threshold of masks is chosen on
    CAM_LAYER = 5  # images that the layer of a CAM is chosen on
    STUDENT_BATCH = 6  # slices of a step of the student; by step
    SYNTHETIC_LESIONS = 7  # synthetic lesions for the student
    PATCHCORE = 8  # images and patches of the memory bank
    ANOMALY = 9  # the injected anomaly; by slice (row of the store) and epoch

    CLASSIFIER_WEIGHTS = -1 % 2**31  # initial weights of f; this and what follows are for `seed_step`
    GENERATOR_WEIGHTS = -2 % 2**31  # initial weights of generator and discriminator
    STUDENT_WEIGHTS = -3 % 2**31  # initial weights of the student


def random_stream(stream: Stream, seed: int, *indices: int) -> np.random.Generator:
    """A fresh NumPy generator of a stream; the seed is that of the run, the indices (0 or more) say which draw, as the step."""
    return np.random.default_rng([seed, *indices, stream])


def seed_step(seed: int, step: int) -> None:
    """Seed PyTorch and Python for a training step, or for the `Stream` of initial weights, so that a resumed run repeats."""
    import torch  # not above: reading and splitting data needs no PyTorch

    value = int(np.random.SeedSequence([seed, step]).generate_state(1)[0])
    random.seed(value)
    torch.manual_seed(value)
