"""What the model says of one slice, when it is asked for: the counterfactual and the difference on the grid of the scan.

The model lives in a process of its own, which is started at the first question: the server stays small and never waits for it.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from coinseg.errors import UserError
from coinseg.types import Case


class SliceMaps(NamedTuple):
    """Of one slice (H, W): the counterfactual in the units of the scan, the difference in [0, 1], f before and after."""

    counterfactual: np.ndarray
    difference: np.ndarray
    before: float
    after: float


class Explanations:
    """Asks the run in the folder `model`; `classifier` names your own one, see `coinseg.load`."""

    def __init__(self, model: Path, classifier: str | None = None) -> None:
        self._model, self._classifier = model, classifier
        self._pool: ProcessPoolExecutor | None = None

    def of_slice(self, case: Case, index: int) -> SliceMaps:
        """The maps of a slice, numbered along `data.axis` of the run.

        Raises:
            UserError: the model is gone, has no counterfactual, or does not look at that slice.
        """
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        try:
            found = self._pool.submit(slice_maps, self._model, self._classifier, case, index).result()
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


def slice_maps(model: Path, classifier: str | None, case: Case, index: int) -> SliceMaps | tuple[str, str, str]:
    """What `Explanations.of_slice` returns, or the parts of its `UserError`, which cannot be sent between processes."""
    try:
        return _slice_maps(*_loaded(model, classifier), _content(case), index)
    except UserError as error:
        return error.got, error.required, error.do


@lru_cache(maxsize=1)
def _loaded(model: Path, classifier: str | None) -> tuple[Any]:
    import torch

    from coinseg.inference.checkpoint import load
    from coinseg.inference.classes import ClassPredictors

    torch.set_num_threads(1)
    predictor = load(model, "cpu", classifier)
    if isinstance(predictor, ClassPredictors):
        raise UserError(f"the run has {len(predictor.of)} classes", "a run of one class", "look at the other maps")
    if not predictor.is_counterfactual or len(channels := predictor.preparation.channels) > 1:
        what = f"channels {', '.join(channels)}" if predictor.is_counterfactual else f"method {predictor.settings.method}"
        raise UserError(f"the run has {what}", "a counterfactual method on one grey image", "look at the other maps")
    return (predictor,)


@lru_cache(maxsize=1)
def _content(case: Case) -> Any:
    from coinseg.data.slices.case import load_case

    return load_case(case, with_lesion=False)


def _slice_maps(predictor: Any, content: Any, index: int) -> SliceMaps:
    import torch

    from coinseg.data.readers.axes import turned
    from coinseg.data.slices.case import cut_pixels, encoder
    from coinseg.data.slices.intensity import signed
    from coinseg.inference.scans import span_of

    data, window, kind = predictor.settings.data, predictor.preparation.window, predictor.preparation.kind
    native = turned(content.scan, data.axis)[index].astype(np.float32)
    counterfactual, difference, before, after = native.copy(), np.zeros(native.shape, np.float32), [0.0], [0.0]
    unit = span_of(predictor, content)
    for cut in content.cuts(data):
        if cut.index != index:
            continue
        pixels = cut_pixels(encoder(content.scan, kind)(native), cut.box, data.size, kind)
        images = torch.from_numpy(signed(window.unit(pixels[None])))
        found = predictor.explain(images)
        painted, probability = found.painted()
        change = cut.box.paste((painted - images)[0, 0].numpy() / 2 * unit, native.shape)
        counterfactual += change
        asked = np.array([float(found.probability[0]) >= predictor.settings.classifier.threshold])
        refined = predictor.explainer.differences(images, asked).mean[0].astype(np.float32)
        difference = np.maximum(difference, cut.box.paste(refined, native.shape))
        before.append(float(found.probability[0]))
        after.append(float(probability[0]))
    if len(before) == 1:
        raise UserError(f"the run does not look at slice {index + 1}", "a slice of its region", "choose another slice")
    return SliceMaps(counterfactual, difference, max(before), max(after))
