"""What the model says of one slice, when it is asked for: the counterfactual and the difference on the grid of the scan.

The model lives in a process of its own, which is started at the first question: the server stays small and never waits for it.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from coinseg.errors import UserError
from coinseg.types import Case


class SliceMaps(NamedTuple):
    """Of one slice (H, W): the counterfactual in the units of the scan, the difference in [0, 1], f before and after.

    Of a colour image the counterfactual is (H, W, 3), from 0 to 255 as the page shows the image.
    """

    counterfactual: np.ndarray
    difference: np.ndarray
    before: float
    after: float


class Explanations:
    """Asks the run in the folder `model`; `classifier` names your own one, see `coinseg.load`."""

    def __init__(self, model: Path, classifier: str | None = None) -> None:
        self._model, self._classifier = model, classifier
        self._pool: ProcessPoolExecutor | None = None

    def of_slice(self, case: Case, index: int, name: str = "") -> SliceMaps:
        """The maps of a slice, numbered along `data.axis` of the run, for the class `name`, "" where there is one.

        Raises:
            UserError: the model is gone, has no counterfactual or no such class, or does not look at that slice.
        """
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), end_with_parent)
        try:
            found = self._pool.submit(slice_maps, self._model, self._classifier, case, index, name).result()
        except BrokenProcessPool as error:
            self._pool = None
            raise UserError(
                "the process of the model ended", "memory for the model", "close other programs and ask again"
            ) from error
        if isinstance(found, SliceMaps):
            return found
        raise UserError(*found)

    def close(self) -> None:
        """End the process of the model."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


def end_with_parent() -> None:
    """End this process when the one that started it is gone, also where that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def slice_maps(model: Path, classifier: str | None, case: Case, index: int, name: str = "") -> SliceMaps | tuple[str, str, str]:
    """What `Explanations.of_slice` returns, or the parts of its `UserError`, which cannot be sent between processes."""
    try:
        predictors = _loaded(model, classifier)
        if name not in predictors:
            known = f"the classes {', '.join(predictors)}" if "" not in predictors else "one class"
            raise UserError(f"the run has {known}", f"the class {name} of the mask", "segment again with this run")
        return maps_of_slice(predictors[name], case, index)
    except UserError as error:
        return error.got, error.required, error.do


@lru_cache(maxsize=1)
def _loaded(model: Path, classifier: str | None) -> dict[str, Any]:
    """The predictors of a run by class, "" where there is one."""
    import torch

    from coinseg.inference.checkpoint import load
    from coinseg.inference.classes import predictors_of

    torch.set_num_threads(1)
    predictors = predictors_of(load(model, "cpu", classifier))
    first = next(iter(predictors.values()))
    if not first.is_counterfactual:
        raise UserError(f"the run has method {first.settings.method}", "a counterfactual method", "look at the other maps")
    return dict(predictors)


_read: dict[tuple[str, Path], Any] = {}


def _content(case: Case, channels: Sequence[str]) -> Any:
    """The case in memory; the last one is kept."""
    from coinseg.data.slices.case import load_case

    if (case.id, case.image) not in _read:
        _read.clear()
        _read[case.id, case.image] = load_case(case, with_lesion=False, channels=channels)
    return _read[case.id, case.image]


def maps_of_slice(predictor: Any, case: Case, index: int) -> SliceMaps:
    """What a predictor says of a slice; see `Explanations.of_slice`."""
    import torch

    from coinseg.data.readers.axes import turned
    from coinseg.data.slices.case import cut_pixels, encoder
    from coinseg.data.slices.intensity import signed
    from coinseg.inference.maps import native_slice, summed
    from coinseg.inference.scans import require_maps, span_of

    require_maps(predictor)
    data, kind, channels = predictor.settings.data, predictor.preparation.kind, predictor.preparation.channels
    content = _content(case, channels)
    native, span = turned(content.scan, data.axis)[index].astype(np.float32), span_of(predictor, content)
    shape = native.shape[:2]
    planes = [native.copy()] if native.ndim == 2 else list(np.moveaxis(native, 2, 0).copy())
    changes, differences, before, after = [], [], [0.0], [0.0]
    for cut in content.cuts(data):
        if cut.index != index:
            continue
        pixels = cut_pixels(encoder(content.scan, kind, channels)(native), cut.box, data.side, kind)
        images = torch.from_numpy(signed(predictor.preparation.window.unit(pixels[None])))
        found = predictor.explain(images)
        painted, probability = found.painted()
        changes.append((cut, (painted - images)[0].numpy() / 2))
        asked = np.array([float(found.probability[0]) >= predictor.settings.classifier.threshold])
        differences.append((cut, predictor.explainer.differences(images, asked).mean[0].astype(np.float32)))
        before.append(float(found.probability[0]))
        after.append(float(probability[0]))
    if len(before) == 1:
        raise UserError(f"the run does not look at slice {index + 1}", "a slice of its region", "choose another slice")
    for channel, plane in enumerate(planes):
        plane += summed(((cut, change[channel] * span) for cut, change in changes), shape)
    difference = native_slice(differences, shape)
    counterfactual = planes[0] if len(planes) == 1 else np.stack(planes, axis=-1)
    if native.ndim == 3 and content.scan.dtype != np.uint8 and native.max() > 255:  # the page shows colour with 8 bits
        counterfactual /= 257
    return SliceMaps(counterfactual, difference, max(before), max(after))
