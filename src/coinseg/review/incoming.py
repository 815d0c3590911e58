"""Masks that were corrected elsewhere, matched to cases by name, read, and taken to the desk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from filecmp import cmp
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from coinseg.data.layouts.shared import few, files_in, is_readable, others_in, safe_id, stem_of
from coinseg.data.layouts.unread import other_endings
from coinseg.data.readers.image import read_image
from coinseg.data.readers.image_mask import labels_of_image
from coinseg.data.readers.volume import labels_of_volume, read_geometry
from coinseg.errors import UserError

from .kept.records import ACCEPTED
from .kept.schema import Busy
from .scans import read_region_of
from .sources import Draft, name_apart

if TYPE_CHECKING:
    from .desk import Desk

MOST_LABELS = 32  # of a mask; everything above 0 is taken, so that a scan or a map would pass for one
ALIKE = 0.98  # correlation of the grey values of an image and of its copy, saved with loss or with other grey values


def masks_by_name(folder: Path, drafts: Sequence[Draft]) -> tuple[list[tuple[Draft, Path]], list[str]]:
    """Match the masks of a folder to cases, by the name of the mask, of the scan, or of an export.

    Returns:
        The cases with their files, and a line for each file that belongs to none, or to several.
    """
    names: dict[str, dict[str, Draft]] = {}
    for draft in drafts:
        case, mask = draft.record.id, Path(draft.record.numbers.get("mask", draft.record.id))
        for name in (case, safe_id(case), name_apart(case), stem_of(Path(case)), stem_of(mask), stem_of(draft.image)):
            names.setdefault(name, {})[case] = draft
    found, problems = [], []
    taken: dict[str, Path] = {}
    for file in files_in(folder):
        fits = names.get(safe_id(file.relative_to(folder))) or names.get(stem_of(file)) or {}
        if len(fits) != 1:
            problems.append(f"{file.name}: {'the name of several cases' if fits else 'the name of no case'}")
            continue
        (draft,) = fits.values()
        if other := taken.setdefault(draft.record.id, file) if taken.get(draft.record.id) else None:
            problems.append(f"{file.name}: {other.name} is a mask of the same case")
            continue
        taken[draft.record.id] = file
        found.append((draft, file))
    return found, problems


def read_elsewhere(file: Path, draft: Draft, shape: tuple[int, int, int]) -> np.ndarray:
    """Read a mask that was corrected elsewhere; `UserError` where it does not lie on the grid of the case, or is no mask."""
    if _are_alike(file, draft.image) or (not draft.record.volume and _is_picture(file, draft.image)):
        raise _is_no_mask(file, "scan")
    if draft.record.volume and (count := len(labels_of_volume(file))) > MOST_LABELS:
        got = f"{file} has {count} different values, as scans and maps have"
        raise UserError(got, f"a mask, which has {MOST_LABELS} at most", "choose the folder or file of the mask")
    mask = read_region_of(file, read_geometry(draft.image) if draft.record.volume else None, shape)
    if mask.any() and draft.confidence is not None and _are_alike(file, draft.confidence):  # empty, both may be the same bytes
        raise _is_no_mask(file, "confidence")
    return mask


def _is_picture(file: Path, image: Path) -> bool:
    """Whether an image has the grey values of another one, saved anew: of soft edges alone a mask may have as many."""
    try:
        one, other = read_image(file), read_image(image)
    except UserError:  # said where it is read as a mask
        return False
    if one.shape != other.shape or len(np.unique(one)) <= MOST_LABELS or np.ptp(other) == 0:
        return False
    return bool(np.corrcoef(one.ravel(), other.ravel())[0, 1] > ALIKE)


def several_values(file: Path, draft: Draft) -> str:
    """What to say of a mask with several labels, which are all taken: one of them may be no lesion; "" of others."""
    try:
        labels = labels_of_volume(file) if draft.record.volume else labels_of_image(file)
    except UserError:  # in colours
        return ""
    inside = [f"{label:g}" for label in labels if label > 0]
    # Of an image only numbers of classes: other levels may be edges.
    known = len(labels) <= MOST_LABELS and (draft.record.volume or labels[-1] < MOST_LABELS)
    return f"the values {few(inside)} all count as inside" if len(inside) > 1 and known else ""


def _is_no_mask(file: Path, what: str) -> UserError:
    return UserError(f"{file} is the {what} itself", "a mask of it", "choose the folder or file of the mask")


def _are_alike(file: Path, other: Path) -> bool:
    return other.is_file() and cmp(file, other, shallow=False)


def _require_upright(file: Path, mask: np.ndarray, draft: np.ndarray) -> None:
    """Raise `UserError` where more than half is marked and the draft is rather what is not: dark on light, labels swapped."""
    if mask.mean() > 0.5 and (not draft.any() or (draft & ~mask).sum() > (draft & mask).sum()):
        got = f"mask {file} marks {mask.mean():.0%}, and what it does not mark is rather the lesion"
        raise UserError(got, "the lesion alone", "invert it, or draw it on the desk")


def import_masks(
    desk: Desk, folder: Path, reviewer: str, accept: bool, new_name: Callable[[], str]
) -> tuple[int, list[str], list[str]]:
    """Take masks that were corrected elsewhere as a stroke each, but those that may be inverted; `accept` decides them with that.

    Returns:
        How many were taken, a line for each file that was not, and one for each that was and has several values.
    """
    found, problems = masks_by_name(folder, desk.source.drafts)
    taken, notes = 0, list[str]()
    for draft, file in found:
        try:
            mask = read_elsewhere(file, draft, desk.views.opened(draft.key).shape)
            _require_upright(file, mask, desk.editor.kept_draft(draft.key))
            state = desk.editor.replace(draft.key, reviewer, mask, "file", new_name())
            if accept:
                desk.editor.decide(draft.key, reviewer, ACCEPTED, "", 0.0, state["edits"])
            taken += 1
            notes += [f"{file.name}: {line}"] if (line := several_values(file, draft)) else []
        except Busy:
            raise
        except UserError as error:
            problems.append(f"{file.name}: {error}")
    return taken, problems + other_endings((path for path in others_in(folder, ()) if not is_readable(path)), ()), notes
