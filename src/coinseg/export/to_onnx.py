"""The networks of a run as ONNX with a dynamic batch, compared with torch by their outputs and masks."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from coinseg.data.slices.intensity import signed
from coinseg.data.slices.store import SliceStore
from coinseg.errors import UserError
from coinseg.inference.classes import ClassPredictors, predictors_of
from coinseg.inference.image_score import ImageScore, ImageScores
from coinseg.inference.predictor import Predictor
from coinseg.inference.table import class_folder
from coinseg.masks.postprocess import masks_of
from coinseg.networks.classes import generator_of, logit_of, map_of, whole
from coinseg.networks.own import logits_in

PROBES = 8
TOLERANCE = 1e-3  # largest accepted difference of a logit (as a share of 1 + |logit|) and of the difference map in [0, 1]


def _library(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        got, required = f"the library {name} is not installed", "onnx, onnxruntime and onnxscript for --onnx"
        raise UserError(got, required, "pip install 'coinseg[onnx]'") from error


class _Logits(nn.Module):
    """f without its check of the shape, which would fix the batch size: (B,), or (B, K) of K classes."""

    def __init__(self, f: nn.Module, classes: int) -> None:
        super().__init__()
        self.network, self.classes = whole(f).get_submodule("network"), classes

    def forward(self, image: Tensor) -> Tensor:
        logits = logits_in(self.network(image))
        return logits.reshape(-1) if self.classes == 1 else logits


class _Counterfactual(nn.Module):
    """The generator with the condition "normal"; of several classes it is told which one it turns off."""

    def __init__(self, generator: nn.Module, conditions: int) -> None:
        super().__init__()
        self.generator, self.conditions = whole(generator), conditions

    def forward(self, image: Tensor, number: Tensor | None = None) -> Tensor:
        if number is None and self.conditions > 1:
            number = torch.zeros_like(image[:, 0, 0, 0], dtype=torch.long)
        return self.generator(image, *(() if number is None else (number,)))


class _Scores(nn.Module):
    """`ImageScore` of every class: each classifier is asked once about all of them."""

    def __init__(self, scores: Sequence[ImageScore]) -> None:
        super().__init__()
        self.each = nn.ModuleList(_Logits(cast(nn.Module, f), len(scores)) for f in scores[0].classifiers)
        self.parts = nn.ModuleList(score.parts for score in scores)
        self.shifts = [score.shift for score in scores]

    def forward(self, image: Tensor) -> Tensor:
        mean = torch.stack([f(image) for f in self.each]).mean(0)
        found = []
        for number, (parts, shift) in enumerate(zip(self.parts, self.shifts, strict=True)):
            logits = mean if mean.ndim == 1 else mean[:, number]
            for part in cast(nn.ModuleList, parts):
                logits = part.score(logits, image)  # type: ignore[operator]
            found.append(logits + shift)
        return found[0] if len(found) == 1 else torch.stack(found, 1)


class _Session(nn.Module):
    """An ONNX network as a torch module."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.session = _library("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def forward(self, *given: Tensor) -> Tensor:
        names = [one.name for one in self.session.get_inputs()]
        values = {name: np.ascontiguousarray(value.numpy()) for name, value in zip(names, given, strict=True)}
        return torch.from_numpy(self.session.run(None, values)[0])


def probe_images(root: Path, run: Predictor | ClassPredictors) -> Tensor:
    """Return test images (B, C, S, S) in [-1, 1]: prepared slices of the run folder `root` if there are any, else noise."""
    size, channels = run.settings.data.side, len(run.preparation.channels)
    if (root / "slices" / "store.json").is_file():
        store = SliceStore(root / "slices")
        rows = np.unique(np.linspace(0, len(store) - 1, PROBES).astype(int))
        return torch.from_numpy(signed(store.unit(rows)))
    coarse = torch.rand(PROBES - 1, channels, size // 8 + 1, size // 8 + 1, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return nn.functional.interpolate(coarse, (size, size), mode="bilinear")


def write_onnx(run: Predictor | ClassPredictors, folder: Path, probes: Tensor) -> dict[str, Any]:
    """Write the networks of a run as ONNX and compare them with torch; every input is "image" (batch, C, S, S) in [-1, 1].

    f.onnx -> "logit" (batch,); generator.onnx -> "counterfactual"; student.onnx -> "logits" (batch, 1, S, S), above 0 inside;
    posterior.onnx -> "logit" (batch,) of the image score; novelty.onnx -> "novelty" (batch, S, S), above 1 anomalous.

    Of K classes, in the order of model.json: "logit" is (batch, K) and "logits" (batch, K, S, S), the generator has a second
    input "class" (batch,), int64 from 0 on, and novelty.onnx lies in the folder of each class.

    Args:
        run: on the CPU; of an attribution only f is written. `UserError` when that fails, or masks or logits differ.
        folder: receives the files.
        probes: images (B, C, S, S) in [-1, 1] for the comparison.

    Returns:
        The largest differences of logits (shares of 1 + |logit|) and maps, and pixels, over all classes; None but for logits of
        an attribution.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        _library(name)
    every = predictors_of(run)
    first, classes = next(iter(every.values())), len(every)
    image = (torch.zeros(2, len(first.preparation.channels), *[first.settings.data.side] * 2),)
    _write(_Logits(first.f, classes), folder / "f.onnx", "logit", image)
    if first.generator is not None:
        inputs = image if classes == 1 else (*image, torch.arange(2))
        generator = _Counterfactual(first.generator, first.settings.coin.conditions)
        _write(generator, folder / "generator.onnx", "counterfactual", inputs)
    if student := next((one.student for one in every.values() if one.student is not None), None):
        _write(whole(student), folder / "student.onnx", "logits", image)
        _write(_Scores([one.image_score for one in every.values()]), folder / "posterior.onnx", "logit", image)
    for name, one in every.items():
        for part in one.parts:
            if part.onnx:
                _own(folder, name).mkdir(parents=True, exist_ok=True)
                _write(part, _own(folder, name) / f"{part.onnx}.onnx", part.onnx, image)
    return compare(run, folder, probes)


def _own(folder: Path, name: str) -> Path:
    """Where what only one class has lies in an export; `name` is "" where there is one class."""
    return folder / class_folder(name) if name else folder


class _SessionScore(nn.Module):
    """The two logits of `ImageScore.both` from ONNX networks."""

    def __init__(self, f: nn.Module, ensemble: nn.Module) -> None:
        super().__init__()
        self.f, self.ensemble = f, ensemble

    def both(self, image: Tensor) -> Tensor:
        return torch.stack([self.f(image), self.ensemble(image)], 1)


def _of_sessions(run: Predictor, folder: Path, number: int, classes: int) -> Predictor:
    """The predictor of a class with the ONNX networks of a folder in the place of its own."""

    def session(name: str) -> nn.Module:
        return _Session(folder / f"{name}.onnx")

    f = logit_of(session("f"), number, classes)
    generator = generator_of(session("generator"), number, classes) if run.generator is not None else None
    student = map_of(session("student"), number, classes) if run.has_student else None
    explainer = replace(run.explainer, f=f, generator=generator)
    other = Predictor.of(explainer, run.preparation, run.threshold, student, parts=run.parts)
    ensemble = logit_of(session("posterior"), number, classes) if run.has_student else f
    return replace(other, image_score=cast(ImageScore, _SessionScore(f, ensemble)))


def compare(run: Predictor | ClassPredictors, folder: Path, probes: Tensor) -> dict[str, Any]:
    """Segment `probes` with torch and with the ONNX networks of a folder, every class; see `write_onnx`."""
    every = predictors_of(run)
    found = [
        _compared(one, _of_sessions(one, folder, number, len(every)), _own(folder, name), probes)
        for number, (name, one) in enumerate(every.items())
    ]
    logit, difference = (float(np.max(values)) for values in list(zip(*found, strict=True))[:2])  # NaN where one is
    inside, pixels = (sum(values) for values in list(zip(*found, strict=True))[2:])
    if not (logit <= TOLERANCE and difference <= TOLERANCE) or pixels:  # also for NaN
        got = f"the ONNX networks differ from torch: a logit by {logit:.2g}, the difference map by {difference:.2g}, "
        got += f"{pixels} mask pixels of {probes.numel()}"
        do = "export without --onnx, or with other versions of torch and onnx"
        raise UserError(got, f"the same masks, and differences below {TOLERANCE:g}", do)
    maps = next(iter(every.values())).generator is not None
    return {
        "images": len(probes), "largest_logit": logit, "largest_difference": difference if maps else None,
        "mask_pixels": inside if maps else None, "mask_pixels_that_differ": pixels if maps else None,
    }  # fmt: skip


def _compared(run: Predictor, other: Predictor, own: Path, probes: Tensor) -> tuple[float, float, int, int]:
    """Largest differences of logits (shares) and maps of one class, its mask pixels, and those that differ.

    `own` is the folder of the networks that only this class has.
    """
    pairs = [(_Session(own / f"{part.onnx}.onnx")(probes), part(probes)) for part in run.parts if part.onnx]
    with torch.no_grad():
        pairs.append((other.image_score.both(probes), run.image_score.both(probes)))
    logit = float(np.max([float(((a - b).abs() / (1 + b.abs())).max()) for a, b in pairs]))
    if run.generator is None:
        return logit, 0.0, 0, 0
    every = np.ones(len(probes))  # all are segmented, at one level
    maps = [one.segmenter.maps(probes, ImageScores(every, every, every)).values for one in (other, run)]
    masks = [masks_of(values, run.segmenter.level, run.segmenter.cleaning) for values in maps]
    maps += [one.explainer.saliency(probes).numpy() for one in (other, run)]  # of the generator, also where a student marks
    largest = float(np.max([np.abs(maps[0] - maps[1]).max(), np.abs(maps[2] - maps[3]).max()]))
    return logit, largest, int(masks[1].sum()), int((masks[0] != masks[1]).sum())


def _write(network: nn.Module, path: Path, output: str, inputs: tuple[Tensor, ...]) -> None:
    """Write one network of "image" and, of several classes, "class", with a dynamic batch, without names of source files."""
    onnx, silenced, batch = _library("onnx"), io.StringIO(), torch.export.Dim("batch")
    try:
        with contextlib.redirect_stdout(silenced), contextlib.redirect_stderr(silenced), torch.no_grad():
            torch.onnx.export(
                network.eval(), inputs, str(path), dynamo=True, verbose=False, external_data=False,
                input_names=["image", "class"][: len(inputs)], output_names=[output],
                dynamic_shapes=tuple({0: batch} for _ in inputs),
            )  # fmt: skip
    except Exception as error:  # the exporter raises many kinds for a user's own network
        why = " ".join(str(error).split())[:200]
        fault = f"{path.stem} cannot be written as ONNX ({type(error).__name__}: {why})"
        raise UserError(fault, "a network torch.onnx knows", "export without --onnx") from error
    model = onnx.load(str(path))
    for part in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info):
        del part.metadata_props[:]
        if hasattr(part, "doc_string"):
            part.doc_string = ""
    onnx.save(model, str(path))
