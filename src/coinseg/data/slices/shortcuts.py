"""What tells normal images from abnormal ones beside their content, so that f may learn that: their size, and their ending."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from coinseg.types import Case

_LEAST = 3  # images of each label from which one size for all of them is no chance
_MANY = 8  # and from which areas that do not overlap are none: 1 in 6435 where sizes say nothing about labels
_SAME = {".jpeg": ".jpg", ".tiff": ".tif"}


def shortcuts(sizes: Mapping[Path, tuple[int, int]], cases: Iterable[Case]) -> list[str]:
    """Return the lines about plain images whose label their size or their ending tells.

    Args:
        sizes: (H, W) of images.
        cases: those without a label, or without a size, are passed over.
    """
    known = [case for case in cases if not case.volume and case.label is not None and case.image in sizes]
    normal, abnormal = ([case for case in known if case.label == label] for label in (0, 1))
    if min(len(normal), len(abnormal)) < _LEAST:
        return []
    lines = []
    own, other = ({sizes[case.image] for case in some} for some in (normal, abnormal))
    areas, others = ([rows * columns for rows, columns in some] for some in (own, other))
    apart = max(areas) < min(others) or max(others) < min(areas)
    if (len(own) == len(other) == 1 and own != other) or (apart and min(len(normal), len(abnormal)) >= _MANY):
        lines.append(f"normal images have {_shown(own)} pixels (H x W) and abnormal ones {_shown(other)}: f may learn that")
    endings, ends = ({_SAME.get(end := case.image.suffix.lower(), end) for case in some} for some in (normal, abnormal))
    if len(endings) == len(ends) == 1 and endings != ends:
        lines.append(f"normal images are {endings.pop()} and abnormal ones {ends.pop()}: f may learn how they were saved")
    return lines


def _shown(sizes: set[tuple[int, int]]) -> str:
    smallest, largest = min(sizes, key=_area), max(sizes, key=_area)
    return " to ".join(f"{rows} x {columns}" for rows, columns in dict.fromkeys((smallest, largest)))


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]
