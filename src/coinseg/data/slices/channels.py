"""The channels of the images: one grey one, red, green and blue, or several sequences of a scan on one grid."""

from collections.abc import Sequence

import numpy as np

from coinseg.config.schema import DataSettings
from coinseg.data.layouts.shared import few
from coinseg.data.readers.image import is_coloured
from coinseg.errors import UserError
from coinseg.types import Cohort

Channels = tuple[str, ...]
"""Their names, in order."""
GREY: Channels = ("grey",)
RGB: Channels = ("red", "green", "blue")
_LEAST = 3  # images of each label from which their colour is no chance
ASKED = 20  # images, evenly spread, that decide whether a cohort is in colour


def _coloured(cohort: Cohort) -> tuple[int, int, str]:
    """Return how many images of those asked are in colour, how many were asked, and what is said where that tells the label."""
    cases = cohort.cases
    asked = [cases[i] for i in np.unique(np.linspace(0, len(cases) - 1, min(ASKED, len(cases))).astype(int))]
    found = []
    for case in asked:
        try:
            found.append((case.label, is_coloured(case.image)))
        except UserError:
            continue  # reported when it is prepared
    kinds = [{coloured for label, coloured in found if label == which} for which in (0, 1)]
    of_label = min(sum(label == which for label, _ in found) for which in (0, 1)) >= _LEAST and {*kinds[0]}.isdisjoint(kinds[1])
    which = f" (those are the {'abnormal' if True in kinds[1] else 'normal'} ones: f may learn that)" if of_label else ""
    return sum(coloured for _, coloured in found), len(found), which


def channels_of(cohort: Cohort, settings: DataSettings) -> tuple[Channels, list[str]]:
    """Return the channels that the images of a cohort are read as, and problem lines about them.

    Raises:
        UserError: data.channels is rgb and the data are volumes or several sequences, or cases have different numbers of images.
    """
    volumes = [case.id for case in cohort.cases if case.volume]
    if settings.channels == "rgb" and (volumes or cohort.sequences):
        got = f"data.channels is rgb and {'the data are volumes' if volumes else 'there are several images of one case'}"
        raise UserError(got, "plain images in colour", "leave data.channels at auto")
    if cohort.sequences:
        _require_same_number(cohort)
        return (cohort.sequences if settings.channels == "auto" else GREY), []
    if volumes or settings.channels == "grey":
        return GREY, []
    coloured, asked, which = _coloured(cohort)
    if settings.channels == "rgb":
        line = "data.channels is rgb, and none of the images that were asked is in colour: their channels are equal"
        return RGB, [] if coloured or not asked else [line]
    if coloured * 2 <= asked:
        line = (
            f"{coloured} of {asked} images that were asked are in colour{which}; all are read as grey "
            "(--data.channels rgb: in colour)"
        )
        return GREY, [line] if coloured else []
    grey = f"; {asked - coloured} of {asked} that were asked are grey, their channels are equal"
    grey = "" if coloured == asked else grey + which.replace("those are", "those in colour are")
    return RGB, [f"images are read in colour (--data.channels grey: as luminance){grey}"]


def _require_same_number(cohort: Cohort) -> None:
    wrong = [case.id for case in cohort.cases if len(case.others) + 1 != len(cohort.sequences)]
    if wrong:
        names = ", ".join(cohort.sequences)
        got = f"{len(wrong)} of {len(cohort.cases)} cases have not all of the images {names}: {few(wrong, 3)}"
        raise UserError(got, "the same channels for every case", "add them, leave these cases out, or set data.channels to grey")


def first_of(pixels: np.ndarray) -> np.ndarray:
    """Return the first channel of images (..., H, W, C) with three or four axes; grey ones (slices, H, W) as they are."""
    return pixels[..., 0] if pixels.ndim == 4 else pixels


def are_colour(channels: Sequence[str]) -> bool:
    """Return whether channels are those of a colour image."""
    return tuple(channels) == RGB


def sequences_of(channels: Sequence[str]) -> Channels:
    """Return the channels that are images of their own, as `Cohort.sequences` names them; none where an image has them all."""
    return () if tuple(channels) in (GREY, RGB) else tuple(channels)


def as_bytes(image: np.ndarray) -> np.ndarray:
    """Return an image (C, H, W) in [0, 1] as uint8 (H, W, 3) where it has three channels, else the first channel, (H, W)."""
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return np.moveaxis(pixels, 0, 2) if len(pixels) == len(RGB) else pixels[0]
