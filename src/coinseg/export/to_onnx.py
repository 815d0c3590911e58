"""The networks of a run as ONNX with a dynamic batch, compared with torch by their outputs and masks."""

import contextlib
import io
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
from coinseg.inference.image_score import ImageScore, ImageScores
from coinseg.inference.predictor import Predictor
from coinseg.masks.postprocess import masks_of
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
    """f without its check of the shape, which would fix the batch size."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return logits_in(self.network(image)).reshape(-1)


class _Counterfactual(nn.Module):
    """The generator with the condition "normal"."""

    def __init__(self, generator: nn.Module, conditions: int) -> None:
        super().__init__()
        self.generator, self.conditions = generator, conditions

    def forward(self, image: Tensor) -> Tensor:
        normal = () if self.conditions == 1 else (torch.zeros_like(image[:, 0, 0, 0], dtype=torch.long),)
        return self.generator(image, *normal)


class _Session(nn.Module):
    """An ONNX network as a torch module."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.session = _library("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def forward(self, image: Tensor) -> Tensor:
        return torch.from_numpy(self.session.run(None, {"image": np.ascontiguousarray(image.numpy())})[0])


def probe_images(root: Path, run: Predictor) -> Tensor:
    """Return test images (B, C, S, S) in [-1, 1]: prepared slices of the run folder `root` if there are any, else noise."""
    size, channels = run.settings.data.side, run.explainer.channels
    if (root / "slices" / "store.json").is_file():
        store = SliceStore(root / "slices")
        rows = np.unique(np.linspace(0, len(store) - 1, PROBES).astype(int))
        return torch.from_numpy(signed(store.unit(rows)))
    coarse = torch.rand(PROBES - 1, channels, size // 8 + 1, size // 8 + 1, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return nn.functional.interpolate(coarse, (size, size), mode="bilinear")


def write_onnx(run: Predictor, folder: Path, probes: Tensor) -> dict[str, Any]:
    """Write the networks of a run as ONNX and compare them with torch; every input is "image" (batch, C, S, S) in [-1, 1].

    f.onnx -> "logit" (batch,); generator.onnx -> "counterfactual"; student.onnx -> "logits" (batch, 1, S, S), above 0 inside;
    posterior.onnx -> "logit" (batch,) of the image score; novelty.onnx -> "novelty" (batch, S, S), above 1 anomalous.

    Args:
        run: on the CPU; of an attribution only f is written. `UserError` when that fails, or masks or logits differ.
        folder: receives the files.
        probes: images (B, C, S, S) in [-1, 1] for the comparison.

    Returns:
        The largest differences of logits (shares of 1 + |logit|) and maps, and pixels; None but for logits of an attribution.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        _library(name)
    shape, score = (run.explainer.channels, *[run.settings.data.side] * 2), run.image_score
    _write(_Logits(run.f.get_submodule("network")), folder / "f.onnx", "logit", shape)
    if run.generator is not None:
        _write(_Counterfactual(run.generator, run.settings.coin.conditions), folder / "generator.onnx", "counterfactual", shape)
    if run.student is not None:
        _write(run.student, folder / "student.onnx", "logits", shape)
        each = [_Logits(cast(nn.Module, f).get_submodule("network")) for f in score.classifiers]
        _write(ImageScore(each, score.shift, run.parts), folder / "posterior.onnx", "logit", shape)
    for part in run.parts:
        if part.onnx:
            _write(part, folder / f"{part.onnx}.onnx", part.onnx, shape)
    return compare(run, folder, probes)


class _SessionScore(nn.Module):
    """The two logits of `ImageScore.both` from ONNX networks."""

    def __init__(self, f: nn.Module, ensemble: nn.Module) -> None:
        super().__init__()
        self.f, self.ensemble = f, ensemble

    def both(self, image: Tensor) -> Tensor:
        return torch.stack([self.f(image), self.ensemble(image)], 1)


def _of_sessions(run: Predictor, folder: Path) -> Predictor:
    """The predictor with the ONNX networks of a folder in the place of its own."""
    f, generator = _Session(folder / "f.onnx"), _Session(folder / "generator.onnx")
    explainer = replace(run.explainer, f=f, generator=generator)
    if not run.has_student:
        return Predictor.of(explainer, run.preparation, run.threshold)
    other = Predictor.of(explainer, run.preparation, run.threshold, _Session(folder / "student.onnx"), parts=run.parts)
    return replace(other, image_score=cast(ImageScore, _SessionScore(f, _Session(folder / "posterior.onnx"))))


def compare(run: Predictor, folder: Path, probes: Tensor) -> dict[str, Any]:
    """Segment `probes` with torch and with the ONNX networks of a folder; see `write_onnx`."""
    pairs = [(_Session(folder / "f.onnx"), run.f)]
    pairs += [(_Session(folder / "posterior.onnx"), run.image_score)] if run.has_student else []
    pairs += [(_Session(folder / f"{part.onnx}.onnx"), part) for part in run.parts if part.onnx]
    with torch.no_grad():
        logits = [(there(probes), here(probes)) for there, here in pairs]
    result: dict[str, Any] = {
        "images": len(probes), "largest_logit": max(float(((a - b).abs() / (1 + b.abs())).max()) for a, b in logits),
        "largest_difference": None, "mask_pixels": None, "mask_pixels_that_differ": None,
    }  # fmt: skip
    if run.generator is not None:
        every = np.ones(len(probes))  # all are segmented, at one level
        both = [_of_sessions(run, folder), run]
        maps = [one.segmenter.maps(probes, ImageScores(every, every, every)).values for one in both]
        masks = [masks_of(values, run.segmenter.level, run.segmenter.cleaning) for values in maps]
        result["largest_difference"] = float(np.abs(maps[0] - maps[1]).max())
        result["mask_pixels"], result["mask_pixels_that_differ"] = int(masks[1].sum()), int((masks[0] != masks[1]).sum())
    logit, difference, pixels = (result[key] or 0 for key in ("largest_logit", "largest_difference", "mask_pixels_that_differ"))
    if not (logit <= TOLERANCE and difference <= TOLERANCE) or pixels:  # also for NaN
        got = f"the ONNX networks differ from torch: a logit by {logit:.2g}, the difference map by {difference:.2g}, "
        got += f"{pixels} mask pixels of {probes.numel()}"
        do = "export without --onnx, or with other versions of torch and onnx"
        raise UserError(got, f"the same masks, and differences below {TOLERANCE:g}", do)
    return result


def _write(network: nn.Module, path: Path, output: str, shape: tuple[int, ...]) -> None:
    """Write one network with a dynamic batch as one file, without names of source files."""
    onnx, silenced = _library("onnx"), io.StringIO()
    try:
        with contextlib.redirect_stdout(silenced), contextlib.redirect_stderr(silenced), torch.no_grad():
            torch.onnx.export(
                network.eval(), (torch.zeros(2, *shape),), str(path), dynamo=True, verbose=False, external_data=False,
                input_names=["image"], output_names=[output], dynamic_shapes=({0: torch.export.Dim("batch")},),
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
