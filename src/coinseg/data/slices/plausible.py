"""Whether masks can be what they are taken for: found while cases are read, said in one line for each kind."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

import numpy as np
from scipy import ndimage

from coinseg.data.layouts.shared import few
from coinseg.data.readers.image_mask import INVERTED, PICTURE, labels_of_image
from coinseg.data.readers.volume import labels_of_volume
from coinseg.errors import UserError
from coinseg.types import Case, MaskSource

from .case import CaseMasks

_MANY = 0.25  # share of the masks that mark most of their image from which that is said
_RING = 2  # a mask that this many times its pixels fill, with its holes, is an outline
_PLANES = 8  # slices with most of a lesion that are looked at for that
_LOOKED_AT = 5  # masks that are read once more, to name the labels there are
Notes = Mapping[str, Sequence[str]]
"""Ids of cases by note, see `notes_on`."""


def notes_on(case: Case, masks: CaseMasks | None) -> frozenset[str]:
    """Return what masks are like: their own notes, "lesion" and "organ" where there are any, and of the lesion what is odd.

    That is "empty", "missed" (empty, of an abnormal case), "normal" (not empty, of a normal one), "most" (more than half of the
    image), "outline" (mostly hole) and "apart" (nowhere within a pixel of the organ).
    """
    if masks is None:
        return frozenset()
    notes = {*masks.notes, *(["organ"] if masks.organs else [])}
    if (lesion := masks.lesion) is None:
        return frozenset(notes)
    share, given = float(lesion.mean()), {case.label, *case.slice_labels.values()}
    found = {
        "lesion": True, "empty": share == 0, "missed": share == 0 and 1 in given, "normal": share > 0 and given == {0},
        "most": share > 0.5, "outline": share > 0 and _is_outline(lesion),
        "apart": share > 0 and bool(masks.organs) and _apart(lesion, masks.organs),
    }  # fmt: skip
    return frozenset(notes | {name for name, holds in found.items() if holds})


def _is_outline(lesion: np.ndarray) -> bool:
    """Return whether the slices with most of a lesion, (slices, H, W), are more hole than lesion: it was never filled."""
    most = lesion[np.argsort(lesion.sum((1, 2)))[-_PLANES:]].astype(np.uint8)
    planes = [plane[ndimage.find_objects(plane)[0]] for plane in most if plane.any()]
    filled = sum(int(ndimage.binary_fill_holes(plane).sum()) for plane in planes)
    return filled > _RING * sum(int(plane.sum()) for plane in planes)


def _apart(lesion: np.ndarray, organs: Iterable[np.ndarray]) -> bool:
    """Return whether no organ voxel lies within one voxel of the box around a lesion, (slices, H, W) each."""
    box = ndimage.find_objects(lesion.astype(np.uint8))[0]
    near = tuple(slice(max(part.start - 1, 0), part.stop + 1) for part in box)
    return not any(organ[near].any() for organ in organs)


def implausible(notes: Notes) -> list[str]:
    """Return a problem line for each kind of masks that are hardly what they are taken for."""

    def of(note: str) -> tuple[int, str]:
        return len(cases := notes.get(note, ())), f"({few(cases, 3)})"

    lesions, (empty, _) = len(notes.get("lesion", ())), of("empty")
    lines = [f"all {lesions} lesion masks are empty: no lesion can be scored"] if lesions and empty == lesions else []
    missed, which = of("missed")
    lines += [f"lesion masks of {missed} abnormal cases are empty {which}"] if missed and not lines else []
    most, which = of("most")
    if most and most >= _MANY * (lesions - empty):
        ask = "are they inverted, or of something else?"
        lines.append(f"{most} of {lesions} lesion masks mark more than half of the image {which}: {ask}")
    outlines, which = of("outline")
    if 2 * outlines > lesions - empty:
        lines.append(f"{outlines} of {lesions} lesion masks are outlines {which}: what they surround does not count; fill them")
    for note, said in {
        "normal": "lesion masks of {} normal cases are not empty {}: which is right, label or mask?",
        "apart": "lesion masks of {} cases do not touch the organ mask {}: do both lie on this image?",
        f"lesion {INVERTED}": "{} lesion masks are dark on light {}: the dark counts, unless data.lesion names the light value",
        f"organ {INVERTED}": "{} organ masks are dark on light {}: the dark counts, unless data.organ names the light value",
        f"lesion {PICTURE}": "{} lesion masks look like pictures, with hardly any ground {}: are they masks?",
        f"organ {PICTURE}": "{} organ masks look like pictures, with hardly any ground {}: are they masks?",
        "turned": "{} photographs are turned as their orientation tag says {}: masks lie on the picture as it is shown",
    }.items():
        count, which = of(note)
        lines += [said.format(count, which)] if count else []
    return lines


def require_values(cases: Sequence[Case], notes: Notes, strict: bool = True) -> list[str]:
    """Return a line about label values that no mask has; `UserError` where it has none of those asked for and `strict`.

    Args:
        cases: whose masks were read.
        notes: on all of them.
        strict: False where lesions are injected, or only some masks were read.
    """
    lines = []
    for role in ("organ", "lesion"):
        sources = [(case, source) for case in cases for source in getattr(case, role)]
        asked = {value for _, source in sources for value in source.values}
        absent = sorted(value for value in asked if f"{role} {value}" not in notes)
        there = _there(sources) if absent and role in notes else []
        if there in ([], [0]):
            continue  # not asked for, or all are empty, which `implausible` says
        got = f"no {role} mask has the value {few(map(str, absent))} of data.{role}"
        got += f" (there are: {few(f'{label:g}' for label in there)})"
        if strict and len(absent) == len(asked):
            raise UserError(got, "label values that the masks have", f"correct data.{role}")
        lines.append(got)
    return lines


def _there(sources: Sequence[tuple[Case, MaskSource]]) -> list[float]:
    """Return the labels of some masks that can be read, ascending."""
    labels: set[float] = set()
    for case, source in sources[:: max(1, len(sources) // _LOOKED_AT)]:
        with suppress(UserError):
            labels.update(labels_of_volume(source.path) if case.volume else labels_of_image(source.path))
    return sorted(labels)
