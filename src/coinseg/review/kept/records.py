"""What the desk keeps: cases, decisions, and the reviewed masks that a training reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from coinseg.types import ScanMask

from .changes import unpacked

FOLDER = "review"  # of the desk in the folder of the masks
ACCEPTED, CORRECTED, REJECTED, REDRAW, UNSURE, SKIPPED = STATES = (
    "accepted", "corrected", "rejected", "redraw", "unsure", "skipped",
)  # fmt: skip
"""What is decided of a case: the draft is right, it was mended, there is nothing, it has to be drawn anew, unsure, not now."""
TEACHING = (ACCEPTED, CORRECTED, REJECTED)
OPEN = "open"
MODEL_CLASS = "of_class"  # among the numbers of a case, see `Reviewed.model_class`
MOST_TEXT = 4000


@dataclass(frozen=True)
class CaseRecord:
    """A case as the desk lists it: its draft's numbers as `inference.table` has them, `side` is "training", "held out" or ""."""

    id: str
    patient: str
    image: str
    volume: bool
    side: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, int, int] | None = None  # canonical; None until the case was first opened


@dataclass(frozen=True)
class Decision:
    """What one reviewer last decided of one case; `stale` where the mask was changed afterwards."""

    case: str
    reviewer: str
    state: str
    comment: str
    time: str
    seconds: float
    stale: bool
    id: int


@dataclass(frozen=True)
class Reviewed:
    """One decided case.

    Args:
        case, patient, image: as the desk listed them, `volume` whether the image is one. A folder may come from a stranger: read
            the scan of the case of that name in your own data, not what `image` names.
        side: of the split of the run, "training" or "held out"; "" where it is unknown.
        state: one of `TEACHING`.
        reviewer, time: who decided it, and when (UTC, ISO 8601).
        shape: canonical (slices, H, W); one slice for a plain image.
        class_name: of several classes that of the mask; the name of the case begins with it and a slash.
        sha256: the digest of the scan, where `segment` made the mask; None of a run.
        model_class: the only class of several that the model was trained on (`data.classes`); "" where it was none.
        pixels: a hash of those of the scan of a run (`twins.pixels_of`); None where it is unknown, and of masks of `segment`.
    """

    case: str
    patient: str
    image: Path
    volume: bool
    side: str
    state: str
    reviewer: str
    time: str
    shape: tuple[int, int, int]
    _mask: bytes = field(repr=False, default=b"")
    class_name: str = ""
    sha256: str | None = None
    model_class: str = ""
    pixels: str | None = None

    @property
    def mask(self) -> ScanMask:
        """Canonical (slices, H, W) bool; empty where it was rejected. Unpacked anew each time: a scan may be large."""
        return np.zeros(self.shape, bool) if self.state == REJECTED else unpacked(self._mask, self.shape)
