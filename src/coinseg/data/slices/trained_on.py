"""What a run was trained on, so that what it is asked about later can be held against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_type_hints

from beartype.door import is_bearable

from coinseg.config.schema import DataSettings
from coinseg.data.readers.axes import reordered, turned

from .case import LoadedCase
from .channels import first_of
from .scale import UNSAID, Greys

Range = list[float]  # lowest, highest
AIR_APART = 200  # HU that the lowest values of a scan may lie from those of the training
FARTHER = 1.5  # how many times smaller or larger than in the training a pixel or a field of view may be


@dataclass(frozen=True)
class Facts:
    """What one case is, before anything is made of it.

    Args:
        kind: "volume", "image", or "array" where nothing says which.
        modality: see `LoadedCase`.
        not_hu: why the values of a volume are no Hounsfield units; "" where they may be, and of an image.
        lowest, body: see `scale.Greys`; of an image, `body` says nothing.
        pixel_mm, field_mm: side of a pixel and of a slice in mm, the longer one; None without millimetres. The field is None too
            where slices are cut around an organ or to a fixed size.
    """

    kind: str
    modality: str
    not_hu: str
    lowest: float
    pixel_mm: float | None
    field_mm: float | None
    body: float = float("nan")


def facts_of(loaded: LoadedCase, settings: DataSettings) -> Facts:
    """Look at a case once."""
    grid, kind = loaded.geometry, "array" if loaded.case is None else "image"
    if grid is not None:
        kind = "volume"
    scan = first_of(loaded.scan)
    greys = Greys.of(scan, loaded.modality)
    why, lowest = greys.not_hu if kind != "image" else "", greys.lowest
    modality = "" if loaded.modality in UNSAID else loaded.modality
    if grid is None:
        return Facts(kind, modality, why, lowest, None, None)
    pixel, shape = reordered(grid.spacing, settings.axis)[1:], turned(scan, settings.axis).shape[1:]
    whole = settings.roi == "none" and not settings.spacing and not settings.tile
    field = max(mm * count for mm, count in zip(pixel, shape, strict=True)) if whole else None
    return Facts(kind, modality, why, lowest, max(pixel), field, greys.body)


@dataclass(frozen=True)
class TrainedOn:
    """The facts of the cases that a run was made of; ranges over them, None where no case has such a number.

    Args:
        kinds: of "volume", "image", and "array" for images in [0, 1] that were given in memory.
        modalities: those that DICOM named.
        in_hu: whether the values of all may be Hounsfield units.
        lowest, pixel_mm, field_mm: see `Facts`.
    """

    kinds: list[str]
    modalities: list[str]
    in_hu: bool
    lowest: Range | None = None
    pixel_mm: Range | None = None
    field_mm: Range | None = None

    @classmethod
    def summary(cls, cases: Sequence[Facts]) -> TrainedOn:
        """The record of a training."""
        kinds, modalities = ({getattr(case, name) for case in cases} - {""} for name in ("kind", "modality"))
        ranges: dict[str, Any] = {}
        for name in _RANGES:
            known = [value for case in cases if (value := getattr(case, name)) is not None]
            ranges[name] = [round(min(known), 4), round(max(known), 4)] if known else None
        in_hu = "volume" in kinds and not any(case.not_hu for case in cases)
        return cls(sorted(kinds), sorted(modalities), in_hu, **ranges)

    @classmethod
    def read(cls, stored: Any) -> TrainedOn | None:
        """The record that `as_dict` gave; None for anything else."""
        hints = get_type_hints(cls)
        right = isinstance(stored, dict) and set(stored) == set(hints)
        right = right and all(is_bearable(stored[name], hint) for name, hint in hints.items())
        right = right and all(isinstance(kind, str) and kind in _MANY for kind in stored["kinds"])
        return cls(**stored) if right and all(len(stored[name] or "ab") == 2 for name in _RANGES) else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def refusal(self, case: Facts, hu: bool) -> str:
        """Say why a case is of another kind than those of the training, in words after "which"; "" where it is not.

        `hu`: the run reads its volumes as Hounsfield units.
        """
        if case.kind != "array" and case.kind not in self.kinds:
            return f"is {_A[case.kind]}, and the run was trained on {' and '.join(_MANY[kind] for kind in self.kinds)}"
        if case.modality and self.modalities and case.modality not in self.modalities:
            return f"is {case.modality} by its DICOM Modality, and the run was trained on {', '.join(self.modalities)}"
        if hu and self.in_hu and case.not_hu:
            return f"is not in Hounsfield units ({case.not_hu}), as the scans were that the run was trained on"
        return ""

    def doubts(self, case: Facts, hu: bool) -> tuple[str, ...]:
        """Say in what a case lies outside of what the run was trained on; `hu` as in `refusal`."""
        lines = []
        if not hu and "volume" in self.kinds and case.kind == "volume" and self.in_hu == bool(case.not_hu):
            looks, did = ("does not look", "did") if self.in_hu else ("looks", "did not")
            lines.append(f"it {looks} like CT in Hounsfield units, and those of the training {did}")
        if hu and self.lowest and not self.lowest[0] - AIR_APART <= case.lowest <= self.lowest[1] + AIR_APART:
            lines.append(f"its lowest values are around {case.lowest:.0f} HU, those of the training {_shown(self.lowest)}")
        for name, what in (("pixel_mm", "pixels measure"), ("field_mm", "field of view measures")):
            value, known = getattr(case, name), getattr(self, name)
            if value and known and not known[0] / FARTHER <= value <= known[1] * FARTHER:
                lines.append(f"its {what} {value:.3g} mm, those of the training {_shown(known)} mm")
        return tuple(lines)


_RANGES = ("lowest", "pixel_mm", "field_mm")
_A = {"volume": "a volume", "image": "a plain image"}
_MANY = {"volume": "volumes", "image": "plain images", "array": "arrays in [0, 1]"}


def _shown(pair: Range) -> str:
    return f"{pair[0]:.4g} to {pair[1]:.4g}" if pair[0] != pair[1] else f"{pair[0]:.4g}"
