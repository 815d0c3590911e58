"""What the page draws of a case beside its mask: the scan, the truth, the confidence, and what the model says of a slice."""

from __future__ import annotations

from typing import cast

import numpy as np

from coinseg.config.schema import Axis
from coinseg.errors import UserError
from coinseg.runtime.files import read_json

from .explanations import Explanations, SliceMaps
from .scans import PLANES, Kept, OpenedScan, open_scan, plane_of, read_confidence, read_truth
from .sources import MODEL, Draft, Source


class Views:
    """The cases of a source by `Draft.key`; scans are read when they are first asked for, and the last few are kept."""

    def __init__(self, source: Source, classifier: str | None = None) -> None:
        self.source = source
        self.drafts = {draft.key: draft for draft in source.drafts}
        self._kept = Kept()
        self._model = Explanations(source.model, classifier) if source.model else None

    def close(self) -> None:
        """Stop reading ahead, and the process of the model."""
        self._kept.close()
        if self._model:
            self._model.close()

    def draft(self, key: str) -> Draft:
        """The case of a key; `UserError` where there is none."""
        if key not in self.drafts:
            raise UserError("there is no such case", "a case of the queue", "load the page again")
        return self.drafts[key]

    def opened(self, key: str) -> OpenedScan:
        """The scan of a case."""
        draft = self.draft(key)
        return cast(OpenedScan, self._kept.get("scan", key, lambda: open_scan(draft)))

    def ahead(self, key: str) -> None:
        """Begin to read a case that comes next."""
        draft = self.draft(key)
        self._kept.ahead("scan", key, lambda: open_scan(draft))

    def layers(self, key: str) -> list[str]:
        """What there is to lay over the scan of a case."""
        draft = self.draft(key)
        there = ["mask", "draft"] + (["truth"] if draft.lesion else []) + (["confidence"] if draft.confidence else [])
        return there + (["counterfactual", "difference"] if self._model and draft.case else [])

    def image(self, key: str, plane: Axis, index: int) -> np.ndarray:
        """One slice of the scan, (rows, columns), or (rows, columns, 3)."""
        return plane_of(self.opened(key).scan, plane, index)

    def whole(self, key: str, layer: str) -> np.ndarray:
        """The truth, bool, or the confidence, uint8 percent, of a case: (slices, H, W)."""
        draft = self.draft(key)
        if layer not in self.layers(key):
            do = "segment again with --confidence FOLDER, and name it here" if layer == "confidence" else "look at the others"
            raise UserError(f"this case has no {layer[:20]}", f"one of {', '.join(self.layers(key))}", do)
        read = read_truth if layer == "truth" else read_confidence
        opened = self.opened(key)  # not in the reader's thread, which might wait for itself
        return cast(np.ndarray, self._kept.get(layer, key, lambda: read(draft, opened)))

    def said(self, key: str, plane: Axis, index: int) -> SliceMaps:
        """What the model says of a slice."""
        draft = self.draft(key)
        if self._model is None or draft.case is None:
            raise UserError("this case has no counterfactual", "the run that made the masks", "put it back where it was")
        axis = axis_of(self.source) if draft.record.volume else "axial"
        if plane != axis:
            raise UserError(f"the model looks at {axis} slices", f"the {axis} view", "choose it")
        plane_of(self.opened(key).scan, plane, index)
        return self._model.of_slice(draft.case, index, draft.class_name)


def axis_of(source: Source) -> Axis:
    """Along which the run of a source cut its slices."""
    file = source.model and source.model / MODEL
    settings = read_json(file, 2**24).get("settings", {}) if file and file.is_file() else {}
    axis = settings.get("data", {}).get("axis", "axial")
    return cast(Axis, axis if axis in PLANES else "axial")
