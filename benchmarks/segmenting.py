"""Segmenting a whole scan, against plain loops over slices: one inpaints every slice, one only those f calls abnormal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from scipy import ndimage

from benchmarks.plain_networks import PlainGenerator
from benchmarks.timing import Row, in_turns, require_close
from benchmarks.training import networks
from coinseg.config.schema import EngineSettings, Settings
from coinseg.data.phantom.cohort import PhantomSettings, make_patient
from coinseg.data.slices.case import LoadedCase
from coinseg.data.slices.crop import Box
from coinseg.data.slices.intensity import Window
from coinseg.inference.explainer import Explainer
from coinseg.inference.predictor import Predictor, Preparation
from coinseg.masks.refine import GUIDE_RADIUS, guided_filter
from coinseg.runtime.devices import choose_device

ABNORMAL = 0.2


def plain_scan(scan: np.ndarray, run: Predictor, f: torch.nn.Module, g: PlainGenerator, every: bool = False) -> np.ndarray:
    """Slice by slice: resize, f, and where it says abnormal: inpaint the image and its mirror image, filter, clean, paste.

    With `every` slice is inpainted first, as the thesis explains images, and f decides what of it is kept.
    """
    mask, size, masks = np.zeros(scan.shape, bool), run.settings.data.size, run.settings.masks
    window = run.preparation.window
    for z, native in enumerate(scan):
        box = Box(0, 0, *native.shape)
        unit = np.clip((np.rint(box.resize(native, size)).astype(np.float64) - window.low) / (window.high - window.low), 0, 1)
        x = torch.from_numpy(unit * 2 - 1).float()[None, None]
        with torch.no_grad():
            called = torch.sigmoid(f(x)).item() >= run.settings.classifier.threshold
            if not called and not every:
                continue
            changes = [(y - g(y).clamp(-1, 1)).abs()[0, 0].numpy() / 2 for y in (x, x.flip(-1))]
        change = (changes[0] + changes[1][:, ::-1]) / 2
        refined = np.clip(guided_filter(change, unit, max(1, round(GUIDE_RADIUS * size))), 0, 1)
        inside = refined > max(run.threshold, masks.peak * np.quantile(refined, 0.999))
        inside = ndimage.binary_opening(inside, np.ones((masks.opening,) * 2))
        inside = ndimage.binary_closing(np.pad(inside, masks.closing), np.ones((masks.closing,) * 2))[
            masks.closing : -masks.closing, masks.closing : -masks.closing
        ]
        labels, _ = ndimage.label(inside)
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        if called and sizes.max(initial=0) >= masks.min_px:
            mask[z] = box.paste_mask(labels == sizes.argmax(), native.shape)
    return mask


def rows(quick: bool) -> Iterator[Row]:
    """One made-up scan; a threshold on f at which a fifth of its slices is abnormal."""
    size, slices = 128, 32 if quick else 96
    scan = make_patient(PhantomSettings(slices=slices, size=256), 0).scan
    base = Settings(engine=EngineSettings(accelerator="cpu", threads=torch.get_num_threads()))
    base = replace(base, data=replace(base.data, size=size))
    plain, ours = networks(base.coin)
    for module in (*plain, *ours):
        module.eval()
    explainer = Explainer(base, ours[2], ours[0], choose_device(base.engine))
    run = Predictor.of(explainer, Preparation("hu", Window(-160.0, 240.0), False), 0.02)
    case = LoadedCase(scan, (), None)
    found = np.sort(run.segment_cases([case])[0].probability)
    cut = int(len(found) * (1 - ABNORMAL))
    level = float(found[cut - 1 : cut + 1].mean())
    run = run.with_settings(replace(base, classifier=replace(base.classifier, threshold=level)))
    one, other = (lambda: plain_scan(scan, run, plain[2], plain[0])), (lambda: run.segment_cases([case])[0].mask)
    a, b = one(), other()
    agreed = require_close("segmenting", float((a != b).mean()), 1e-3) + f", {int(b.sum())} voxels inside"
    times = in_turns(one, other, 2 if quick else 4)
    note = (
        f"{slices} slices of 256x256 at {size}x{size}, {ABNORMAL:.0%} abnormal, {torch.get_num_threads()} thread; "
        f"{slices / times[1]:.0f} slices/s against {slices / times[0]:.0f}; share of voxels that {agreed}"
    )
    yield Row("segmenting a scan", *times, None, f"against a loop that leaves out what f calls normal; {note}")
    every_s, ours_s = in_turns(lambda: plain_scan(scan, run, plain[2], plain[0], every=True), other, 2 if quick else 4)
    yield Row(
        "segmenting a scan, all inpainted",
        every_s,
        ours_s,
        2.0,
        f"against a loop that inpaints every slice, as the thesis does; {note}",
    )
