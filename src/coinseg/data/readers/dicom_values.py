"""What the stored values of a DICOM image stand for: their scale, padding, and those of a plain image; used by `dicom`."""

from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut

from coinseg.errors import UserError

AIR_HU = -1024.0  # what padding of a CT becomes
_CT_SLOPE, _CT_INTERCEPT = (1e-3, 100.0), 32768.0  # Hounsfield units rise with the stored values and fit 16 bits
_SLOPE, _INTERCEPT = (1e-9, 1e9), 1e9  # of anything else


def number(tags: Dataset, name: str, default: float) -> float:
    """Return the number of a tag, the default where it is absent or empty."""
    return float(default if (value := tags.get(name)) in (None, "") else value)


def numbers(path: Path | str, tags: Dataset, name: str) -> np.ndarray:
    """Return the numbers of a tag that is there, (n,) float64; `UserError` where it is text, such as "1,0"."""
    try:
        return np.array([float(each) for each in np.atleast_1d(np.array(tags[name].value, object))])
    except (TypeError, ValueError, OverflowError):
        raise _no_number(path, name) from None


def _one(path: Path | str, tags: Dataset, name: str, default: float) -> float:
    """Return `number`; `UserError` where it is text, or several."""
    try:
        return number(tags, name, default)
    except (TypeError, ValueError, OverflowError):
        raise _no_number(path, name) from None


def _no_number(path: Path | str, name: str) -> UserError:
    do = "export the original series, or leave it out"
    return UserError(f"{path}: its {name} is no number", "numbers with a point, such as 1.0", do)


def scale_of(path: Path | str, tags: Dataset, ct: bool) -> tuple[float, float]:
    """Return RescaleSlope and RescaleIntercept; `UserError` where no scanner writes such, as a slope of 0. `ct`: it gives HU."""
    slope, inter = _one(path, tags, "RescaleSlope", 1.0), _one(path, tags, "RescaleIntercept", 0.0)
    (low, high), largest = (_CT_SLOPE, _CT_INTERCEPT) if ct else (_SLOPE, _INTERCEPT)
    if not (low <= (slope if ct else abs(slope)) <= high and abs(inter) <= largest):
        required = f"a slope of {low:g} to {high:g} and an intercept within {largest:g} of 0"
        got = f"{path} has RescaleSlope {slope:.3g} and RescaleIntercept {inter:.3g}"
        raise UserError(got, required, "export the original series, or leave it out")
    return slope, inter


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


def picture_of(dataset: Dataset, stored: np.ndarray) -> np.ndarray:
    """Return a plain image, stored as (H, W) or in RGB: (H, W), where white is high and padding lowest, or (H, W, 3)."""
    interpretation = str(dataset.get("PhotometricInterpretation"))
    if interpretation == "PALETTE COLOR":
        return np.asarray(apply_color_lut(stored, dataset))
    if stored.ndim == 3:
        return stored
    values, outside = np.asarray(apply_modality_lut(stored, dataset), np.float64), padded(dataset, stored)
    measured = values if outside is None or outside.all() else values[~outside]
    lowest, highest = measured.min(), measured.max()
    if interpretation == "MONOCHROME1":
        values = lowest + highest - values
    return values if outside is None else np.where(outside, lowest, values)
