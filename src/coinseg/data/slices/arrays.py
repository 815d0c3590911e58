"""Images and labels in memory, for a notebook: no folder, no layout, nothing on disk."""

import hashlib
import numbers
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coinseg.errors import UserError
from coinseg.types import Case

from .channels import GREY, RGB
from .intensity import Window
from .split import TRAINING, split
from .store import SliceStore
from .trained_on import TrainedOn
from .twins import Twins, joined, look_of, pixels_of

Images = np.ndarray | Tensor
Labels = np.ndarray | Tensor | Sequence[int]
Patients = np.ndarray | Sequence[object] | None
LEAST_SIDE = 8  # pixels along the side of an image
_MISSING = ("nan", "NaT", "<NA>")  # a patient nobody knows, as NumPy and pandas write it


class Dataset(SliceStore):
    """A store in memory; settings of `data` are not read, and `anomaly.kind` has to be "none".

    Args:
        images: (N, S, S) or (N, C, S, S) floating-point array or tensor in [0, 1]; three channels are red, green and blue.
        labels: (N,) of 0 (normal) and 1 (abnormal).
        patients: (N,) names or numbers in the order of the images, none missing, which the split keeps together; 1 and 1.0 are
            one. None: every image is a patient of its own.
        held_out: share of the patients that f is scored on, above 0 and below 1.
        organs: (N, S, S) of 0 and 1, for `coin.regions` "organ"; None where there are none.
        seed: decides which patients are held out.

    Raises:
        UserError: an argument has another shape, type or range, or training would see one class only.
    """

    def __init__(
        self,
        images: Images,
        labels: Labels,
        patients: Patients = None,
        held_out: float = 0.2,
        organs: np.ndarray | Tensor | None = None,
        seed: int = 0,
    ) -> None:
        self.images = unit_images(images)
        count, depth, self.size = self.images.shape[:3]
        self.classes, self.number, self._views = (), None, ()
        self.channels = {1: GREY, 3: RGB}.get(depth, tuple(f"channel{i}" for i in range(depth)))
        label = _binary(labels, "labels", (count,)).astype(np.int64)
        grid = (count, self.size, self.size)
        self.organs = np.ones(grid, np.uint8) if organs is None else _binary(organs, "organs", grid)
        case = np.array([f"image{i:06d}" for i in range(count)])
        people = case if patients is None else np.array(_names(patients))
        twins = Twins()
        for name, patient, y, image in zip(case.tolist(), people.tolist(), label.tolist(), self.images, strict=False):
            twins.add(Case(name, patient, Path(name), False, y), pixels_of(image), look_of(image[0]), {})
        sides = _sides(people, label, held_out, seed, [twins.copies.get(name, name) for name in case.tolist()])
        constants = {"slice": 0, "region": -1, "weak": 0, "lesion_px": -1, "top": 0.0, "left": 0.0}
        self.index = {name: np.full(count, value) for name, value in constants.items()} | {
            "case": case, "patient": people, "series": case, "label": label, "truth": 1 - label, "split": sides,
            "height": np.full(count, float(self.size)), "width": np.full(count, float(self.size)),
        }  # fmt: skip
        digest = hashlib.sha256(repr((grid if depth == 1 else self.images.shape, people.tolist(), sides.tolist())).encode())
        for array in (self.images, label, self.organs):
            digest.update(array.tobytes())
        contents = digest.hexdigest()[:16]
        self.window, self.drawn = Window(0.0, 1.0), {}
        self.meta = {
            "key": contents, "contents": contents, "fingerprint": contents, "size": self.size, "dtype": "float32",
            "kind": "percentile", "window": [0.0, 1.0], "has_organs": organs is not None, "injected": False,
            "channels": list(self.channels), "classes": [], "problems": twins.said(),
            "trained_on": TrainedOn(["array"], [], False).as_dict(), "layout": "arrays",
            "label_source": "given with the arrays", "seconds": 0.0,
        }  # fmt: skip

    def truth(self) -> np.ndarray:
        """(N, S, S) of 0: there are no lesion masks."""
        return np.broadcast_to(np.uint8(0), self.organs.shape)


def _require(holds: bool | np.bool_, got: str, required: str, do: str) -> None:
    if not holds:
        raise UserError(got, required, do)


def _names(patients: Iterable[object]) -> list[str]:
    """Return the patients as text; a number has one name, whatever its type. `UserError` where one is missing."""
    kind = type(patients).__name__
    ordered = not isinstance(patients, Mapping | Set | str | bytes)  # of a dict the keys would be taken
    _require(ordered, f"patients in a {kind}", "a list or an array, one of each image", "give them in the order of the images")
    given = as_array(patients).tolist() if isinstance(patients, np.ndarray | Tensor) else list(patients)
    names = [str(int(one)) if isinstance(one, float) and one.is_integer() else str(one) for one in given]
    pairs = zip(given, names, strict=True)
    missing = [
        i for i, (one, name) in enumerate(pairs) if name in ("", "None") or (name in _MISSING and not isinstance(one, str))
    ]
    what = "a patient of every image, or patients=None"
    _require(not missing, f"{len(missing)} images have no patient (the first: {missing[:1]})", what, "name them")
    return names


def _sides(patients: np.ndarray, label: np.ndarray, held_out: float, seed: int, pixels: Sequence[str]) -> np.ndarray:
    """Return the side of every image, by patient; patients who share `pixels` are one."""
    one_each = f"{len(label)}, one of each image"
    _require(len(patients) == len(label), f"{len(patients)} patients", one_each, "name the patient of every image, or give none")
    share = isinstance(held_out, numbers.Real) and 0 < held_out < 1
    _require(share, f"held_out is {held_out}", "a number above 0 and below 1", "give 0.2")
    _require(isinstance(seed, numbers.Integral) and seed >= 0, f"seed is {seed}", "a whole number from 0", "give 0")
    _require(len(np.unique(label)) == 2, f"images labelled {label[0]} only", "both 0 and 1", "add images of the other class")
    _require(len(np.unique(patients)) > 1, "images of one patient", "at least 2, one is held out", "add patients")
    names = joined(patients.tolist(), pixels)
    side = split(names, label, held_out, seed)
    sides = np.array([side[name] for name in names])
    both = len(np.unique(label[sides == TRAINING])) == 2
    _require(both, "images of one class to train on", "both classes", "add patients, or change held_out or seed")
    return sides


def as_array(values: Any) -> np.ndarray:
    """Return a tensor or a sequence as NumPy array; `UserError` where values are masked, which stand for nothing."""
    if not isinstance(values, Tensor):
        masked = any(map(np.ma.is_masked, [values, *values] if isinstance(values, list | tuple) else [values]))
        _require(not masked, "an array some of whose values are masked", "an array of values", "fill them: array.filled(value)")
        try:
            return np.asarray(values)
        except ValueError as error:  # a list of arrays of several shapes
            raise UserError(f"a {type(values).__name__} of several shapes", "one shape for all", "resize them") from error
    values = values.detach().cpu()
    return (values.float() if values.dtype is torch.bfloat16 else values).numpy()


def unit_images(images: np.ndarray | Tensor) -> np.ndarray:
    """Return a float32 copy (N, C, S, S) of images (N, S, S) or (N, C, S, S) in [0, 1]."""
    values = as_array(images)
    square = values.ndim in (3, 4) and values.size > 0 and values.shape[-2] == values.shape[-1] >= LEAST_SIDE
    squares = f"(N, S, S) or (N, C, S, S) with S at least {LEAST_SIDE}"
    _require(square, f"images of shape {values.shape}", squares, "crop or resize them to squares of one size, channels first")
    floating = np.issubdtype(values.dtype, np.floating)
    _require(floating, f"images of type {values.dtype}", "floating point in [0, 1]", "divide them by their largest value")
    _require(np.isfinite(values).all(), "images with NaN or infinite values", "finite values", "replace these")
    low, high = float(values.min()), float(values.max())
    _require(low >= 0 and high <= 1, f"images between {low:.4g} and {high:.4g}", "values in [0, 1]", "scale them")
    return np.array(values if values.ndim == 4 else values[:, None], np.float32, order="C")


def _binary(values: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return values 0 and 1 as uint8."""
    array = as_array(values)
    _require(array.shape == shape, f"{name} of shape {array.shape}", f"{shape}, as the images", f"give {name} of all images")
    binary = array.dtype.kind in "biuf" and bool(np.isin(array, (0, 1)).all())
    _require(binary, f"{name} with other values than 0 and 1", "0 and 1", f"correct {name}")
    return array.astype(np.uint8)
