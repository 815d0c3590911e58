"""The maps of a student, rescaled to their peak: by hand."""

from __future__ import annotations

import numpy as np
import pytest

from coinseg.config.schema import MaskSettings
from coinseg.masks.student_maps import FAINTEST, LEVEL, rescale_to_peak, student_cleaning


def maps(*peaks: float) -> np.ndarray:
    """Images of 20 x 20 whose left column, 5 % of the pixels, has the peak, and whose next one has 0.6 of it."""
    found = np.zeros((len(peaks), 20, 20), np.float32)
    found[:, :, 0] = np.array(peaks)[:, None]
    found[:, :, 1] = 0.6 * found[:, :, 0]
    return found


@pytest.mark.parametrize("share", [0.4, 0.8])
def test_a_share_of_the_peak_becomes_the_level_where_an_image_is_called_abnormal(share: float) -> None:
    given = maps(0.05, 0.9, 0.2, FAINTEST)
    found = rescale_to_peak(given, np.array([True, True, False, True]), share)
    for i, peak in enumerate((0.05, 0.9)):
        assert found[i, 0, 1] == pytest.approx(min(1.0, 0.6 * peak * LEVEL / (share * peak)), rel=1e-6)
        assert ((found[i] > LEVEL) == (given[i] > share * peak)).all()
    assert np.array_equal(found[2:], given[2:])
    assert (LEVEL, FAINTEST) == (0.5, 0.04)
    assert (found.max(), found.dtype) == (1.0, np.float32) if share == 0.4 else found.max() <= 1.0


def test_without_a_share_nothing_is_rescaled() -> None:
    given = maps(0.2, 0.9)
    assert np.array_equal(rescale_to_peak(given, np.ones(2, bool), 0.0), given)


def test_a_student_is_cleaned_of_small_components_alone() -> None:
    made = student_cleaning(MaskSettings(opening=3, closing=5, keep="largest", min_px=7))
    assert (made.opening, made.closing, made.keep, made.min_px) == (0, 0, "all", 7)
