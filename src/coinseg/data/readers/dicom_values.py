"""What the stored values of a DICOM image stand for: scale, padding, plain images as grey or colour; used by `dicom`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut

from coinseg.errors import UserError

AIR_HU = -1024.0  # what padding of a CT becomes
_CT_SLOPE, _CT_INTERCEPT = (1e-3, 100.0), 32768.0  # Hounsfield units fit 16 bits, and their steps are not lost
_SLOPE, _INTERCEPT = (1e-9, 1e9), 1e9  # of anything else


def require_scale(path: Path, name: str, slope: float, inter: float, ct: bool) -> None:
    """Raise `UserError` for a RescaleSlope or RescaleIntercept that no scanner writes, such as a slope of 0.

    Args:
        path: the scan.
        name: its file, as it may be shown.
        slope, inter: the scale.
        ct: whether it leads to Hounsfield units, which have a narrower range and rise with the stored values.
    """
    (low, high), largest = (_CT_SLOPE, _CT_INTERCEPT) if ct else (_SLOPE, _INTERCEPT)
    if low <= (slope if ct else abs(slope)) <= high and abs(inter) <= largest:
        return
    got = f"{path} has RescaleSlope {slope:.3g} and RescaleIntercept {inter:.3g} in {name}"
    required = f"a slope of {low:g} to {high:g} and an intercept within {largest:g} of 0"
    raise UserError(got, required, "export the original series, or leave it out")


def number(value: Any, default: float) -> float:
    """Return the number of a tag, the default where it is absent or empty."""
    return default if value is None or value == "" else float(value)


def padded(dataset: Dataset, stored: np.ndarray) -> np.ndarray | None:
    """Return where stored values stand for no measurement (PixelPaddingValue to PixelPaddingRangeLimit), bool, None for nowhere.

    Scanners write the value also with the sign that the pixels do not have (63536 for -2000): the bits that are stored count.
    """
    if (first := dataset.get("PixelPaddingValue")) is None or stored.ndim != 2 or stored.dtype.kind not in "iu":
        return None
    last, codes = dataset.get("PixelPaddingRangeLimit"), 2 ** int(dataset.BitsStored)
    lowest = -codes // 2 if int(dataset.PixelRepresentation) else 0
    low, high = sorted((int(end) - lowest) % codes + lowest for end in (first, first if last is None else last))
    inside = (stored >= low) & (stored <= high)
    return inside if inside.any() else None


def picture_of(dataset: Dataset, stored: np.ndarray, scale: Callable[[Dataset], None]) -> np.ndarray:
    """Return a plain image: (H, W) where white is high and padding the lowest value, (H, W, 3) of colours.

    Args:
        dataset: its tags.
        stored: its pixels, (H, W), or (H, W, 3) in red, green and blue.
        scale: raises an error for an impossible scale.
    """
    interpretation = str(dataset.get("PhotometricInterpretation"))
    if interpretation == "PALETTE COLOR":
        return np.asarray(apply_color_lut(stored, dataset))
    if stored.ndim == 3:
        return stored
    scale(dataset)
    values, outside = np.asarray(apply_modality_lut(stored, dataset)).astype(np.float64), padded(dataset, stored)
    measured = values if outside is None or outside.all() else values[~outside]
    if interpretation == "MONOCHROME1":
        values = measured.max() + measured.min() - values
    if outside is not None:
        values[outside] = measured.min()
    return values
