"""f, the generator and the student as ONNX, with any number of images, checked against torch on the masks they lead to."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from coinseg.data.slices.intensity import signed
from coinseg.data.slices.store import SliceStore
from coinseg.errors import UserError
from coinseg.inference.image_score import ImageScore
from coinseg.inference.scans import Run
from coinseg.masks.postprocess import masks_of

PROBES = 8
TOLERANCE = 1e-3
"""Largest difference of a logit (as a share of 1 + |logit|) and of the difference map in [0, 1] that counts as rounding."""


def _library(name: str) -> ModuleType:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(
            f"the library {name} is not installed", "onnx, onnxruntime and onnxscript for --onnx", "pip install 'coinseg[onnx]'"
        ) from error


class _Logits(nn.Module):
    """f without its check of the shape, which would fix the number of images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image).reshape(-1)


class _Counterfactual(nn.Module):
    """The generator asked for a normal image."""

    def __init__(self, generator: nn.Module, conditions: int) -> None:
        super().__init__()
        self.generator, self.conditions = generator, conditions

    def forward(self, image: Tensor) -> Tensor:
        if self.conditions == 1:
            return self.generator(image)
        return self.generator(image, torch.zeros_like(image[:, 0, 0, 0], dtype=torch.long))


class _Session(nn.Module):
    """An ONNX network in the place of a torch one."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.session = _library("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def forward(self, image: Tensor) -> Tensor:
        return torch.from_numpy(self.session.run(None, {"image": np.ascontiguousarray(image.numpy())})[0])


def probe_images(root: Path, run: Run) -> Tensor:
    """A few images (B, 1, S, S) in [-1, 1]: prepared slices where the run still has them, else smooth noise."""
    size = run.settings.data.size
    if (root / "slices" / "store.json").is_file():
        store = SliceStore(root / "slices")
        rows = np.unique(np.linspace(0, len(store) - 1, PROBES).astype(int))
        return torch.from_numpy(signed(store.unit(rows)))[:, None]
    coarse = torch.rand(PROBES - 1, 1, size // 8 + 1, size // 8 + 1, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return nn.functional.interpolate(coarse, (size, size), mode="bilinear")


def write_onnx(run: Run, folder: Path, probes: Tensor) -> dict[str, Any]:
    """Write f.onnx ("image" (batch, 1, S, S) in [-1, 1] -> "logit" (batch,)), generator.onnx ("image" -> "counterfactual") and,
    where a student draws the masks, student.onnx ("image" -> "logits" (batch, 1, S, S), inside where above 0), posterior.onnx
    ("image" -> "logit" (batch,) of being abnormal, which says whether it is asked) and novelty.onnx ("image" -> "novelty" (batch, S, S),
    unlike anything in normal images where above 1), those there are.

    Args:
        run: on the CPU; an attribution has no generator, and only f is written.
        folder: to write to.
        probes: images (B, 1, S, S) in [-1, 1] on which both must agree.

    Returns:
        {"images", "largest_logit": largest difference of a logit of f or of the posterior, as a share of 1 + |logit|, "largest_difference": of the
        map masks are read from, in [0, 1], "mask_pixels": inside the masks of the probes, "mask_pixels_that_differ": 0}; the
        last three null for an attribution, which is not a forward pass.

    Raises:
        UserError: a library is missing, a network cannot be written as ONNX, or the masks or the logits do not agree.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        _library(name)
    size = run.settings.data.size
    _write(_Logits(run.f.get_submodule("network")), folder / "f.onnx", "logit", size)
    if run.generator is not None:
        _write(_Counterfactual(run.generator, run.settings.coin.conditions), folder / "generator.onnx", "counterfactual", size)
    if run.student is not None:
        _write(run.student, folder / "student.onnx", "logits", size)
    if isinstance(run.posterior, ImageScore):
        each = [_Logits(f.get_submodule("network")) for f in run.posterior.classifiers]
        opinion = run.posterior.opinion and _Logits(run.posterior.opinion.get_submodule("network"))
        _write(ImageScore(each, run.posterior.shift, opinion), folder / "posterior.onnx", "logit", size)
    if run.novelty is not None:
        _write(run.novelty, folder / "novelty.onnx", "novelty", size)
    return compare(run, folder, probes)


def compare(run: Run, folder: Path, probes: Tensor) -> dict[str, Any]:
    """Explain `probes` with torch and with the ONNX networks of a folder; see `write_onnx`."""
    f = _Session(folder / "f.onnx")
    posterior = None if run.posterior is None else _Session(folder / "posterior.onnx")
    with torch.no_grad():
        pairs = [
            (f(probes), run.f(probes)),
            *([(posterior(probes), run.posterior(probes))] if posterior and run.posterior else []),
        ]
    said: dict[str, Any] = {
        "images": len(probes), "largest_logit": max(float(((there - here).abs() / (1 + here.abs())).max()) for there, here in pairs),
        "largest_difference": None, "mask_pixels": None, "mask_pixels_that_differ": None,
    }  # fmt: skip
    if run.generator is not None:
        student = None if run.student is None else _Session(folder / "student.onnx")
        novelty = None if run.novelty is None else _Session(folder / "novelty.onnx")
        other = replace(
            run, f=f, generator=_Session(folder / "generator.onnx"), student=student, posterior=posterior, novelty=novelty
        )
        maps = [one.evidence(probes, inpaint_all=True)[1] for one in (other, run)]  # asked of all, so at one level for all
        masks = [masks_of(refined, run.level, run.cleaning) for refined in maps]
        said["largest_difference"] = float(np.abs(maps[0] - maps[1]).max())
        said["mask_pixels"] = int(masks[1].sum())
        said["mask_pixels_that_differ"] = int((masks[0] != masks[1]).sum())
    near = all(value <= TOLERANCE for value in (said["largest_logit"], said["largest_difference"] or 0.0))  # not for NaN
    if not near or said["mask_pixels_that_differ"]:
        raise UserError(
            f"the ONNX networks differ from torch: a logit by {said['largest_logit']:.2g}, the difference map by {said['largest_difference'] or 0:.2g}, "
            f"{said['mask_pixels_that_differ'] or 0} mask pixels of {probes.numel()}",
            f"the same masks, and differences below {TOLERANCE:g}",
            "export without --onnx, or with other versions of torch and onnx",
        )
    return said


def _write(network: nn.Module, path: Path, output: str, size: int) -> None:
    """One network with a dynamic batch, everything in one file, without the traces of this machine's source files."""
    onnx = _library("onnx")
    example = torch.zeros(2, 1, size, size)
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), torch.no_grad():
            torch.onnx.export(
                network.eval(), (example,), str(path), dynamo=True, verbose=False, external_data=False,
                input_names=["image"], output_names=[output], dynamic_shapes=({0: torch.export.Dim("batch")},),
            )  # fmt: skip
    except Exception as error:  # A user's own network can fail in any way the exporter knows.
        why = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path.stem} cannot be written as ONNX ({type(error).__name__}: {why})",
            "a network torch.onnx knows",
            "export without --onnx",
        ) from error
    model = onnx.load(str(path))
    for part in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info):
        del part.metadata_props[:]
        if hasattr(part, "doc_string"):
            part.doc_string = ""
    onnx.save(model, str(path))
