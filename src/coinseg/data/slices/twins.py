"""Pictures that are there twice: the same pixels stay on one side of the split, and near copies, also mirrored ones, are named.

Public data sets have such twins (BUSI, RadImageNet). What is one grey value everywhere is nobody's twin.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from coinseg.data.readers.image import read_shown
from coinseg.data.readers.volume import read_volume
from coinseg.errors import UserError
from coinseg.types import Case, ClassLabels

SIDE = 16  # cells along the side of the small picture that a look is taken of
ALIKE = 0.96  # looks with this cosine count as near copies: JPEG of quality 90, another brightness, contrast or size
DARKEST = -1024.0  # HU of air: what pads a round field of view, -2000 to -32768, is the same in the scans of many patients
MOST = 20_000  # looks that are compared, each with all others, so twice as many take four times as long
MIRRORED = ((False, True), (True, False), (True, True))  # which of rows and columns are turned round
_BLOCK = 1024


def pixels_of(scan: np.ndarray) -> str | None:
    """Return a hash of the values of a scan (slices, H, W), whatever its file; None where all are the same."""
    if scan.min() == scan.max():
        return None
    digest = hashlib.blake2b(repr(scan.shape).encode(), digest_size=16)
    for plane in scan:
        digest.update(plane.tobytes())
    return digest.hexdigest()


def pixels_in(path: Path, volume: bool) -> str | None:
    """Return `pixels_of` what the desk shows of a volume or an image; `UserError` where it cannot be read."""
    return pixels_of(read_volume(path).scan if volume else read_shown(path)[None])


def _means(length: int) -> np.ndarray:
    """Return a matrix (SIDE, length) that averages pixels in cells of equal width, in parts where a border cuts one."""
    borders, pixels = np.linspace(0, length, SIDE + 1)[:, None], np.arange(length)
    inside = np.minimum(borders[1:], pixels + 1) - np.maximum(borders[:-1], pixels)
    return (inside.clip(min=0) * SIDE / length).astype(np.float32)


def look_of(image: np.ndarray) -> np.ndarray | None:
    """Return what an image (H, W) looks like from afar: differences between neighbouring cells of SIDE x SIDE, a unit vector.

    Of the differences the signed root, so that no single edge decides; None where there are none.
    """
    small = _means(image.shape[0]) @ np.maximum(image, DARKEST).astype(np.float32) @ _means(image.shape[1]).T
    steps = np.concatenate([np.diff(small, axis=axis).ravel() for axis in (0, 1)])
    look = np.sign(steps) * np.sqrt(np.abs(steps))
    norm = np.linalg.norm(look)
    return look / norm if norm else None


def mirrored(looks: np.ndarray, rows: bool, columns: bool) -> np.ndarray:
    """Return the looks (n, features) of pictures whose rows or columns, or both, are in the opposite order."""
    down, across = looks[:, : looks.shape[1] // 2].reshape(-1, SIDE - 1, SIDE), looks[:, looks.shape[1] // 2 :]
    across = across.reshape(-1, SIDE, SIDE - 1)
    if rows:
        down, across = -down[:, ::-1], across[:, ::-1]
    if columns:
        down, across = down[:, :, ::-1], -across[:, :, ::-1]
    return np.concatenate([down.reshape(len(looks), -1), across.reshape(len(looks), -1)], axis=1)


def near_copies(looks: np.ndarray, patients: np.ndarray, also: np.ndarray | None = None) -> list[tuple[int, int]]:
    """Return the index of every picture that looks like an earlier one of another patient, and the index of that one.

    Args:
        looks: unit vectors (n, features); the first `MOST` are compared.
        patients: numbers of patients, (n,).
        also: the looks of the earlier ones, (n, features), where they are other ones, as mirrored.
    """
    found, earlier = [], looks if also is None else also
    for start in range(0, min(len(looks), MOST), _BLOCK):
        end = min(start + _BLOCK, MOST)
        alike = looks[start:end] @ earlier[:end].T >= ALIKE
        alike &= patients[start:end, None] != patients[None, :end]
        alike = np.tril(alike, start - 1)
        found += [(int(start + row), int(alike[row].argmax())) for row in np.flatnonzero(alike.any(1))]
    return found


class Twins:
    """The cases of a store by their pixels: `copies` has the first case with the same pixels of every later one, by id."""

    def __init__(self) -> None:
        self.copies: dict[str, str] = {}
        self._first: dict[str, tuple[Case, Mapping[Any, Any]]] = {}
        self._looks: list[tuple[Case, np.ndarray]] = []

    def add(self, case: Case, pixels: str | None, look: np.ndarray | None, labels: Mapping[Any, Any]) -> None:
        """Add a case with its labels by slice; `UserError` where the same pixels have another label."""
        first, known = self._first.setdefault(pixels, (case, labels)) if pixels else (case, labels)
        if first is not case:
            self.copies[case.id] = first.id
            of_class = [_contradict(*pair) for pair in zip(first.classes, case.classes, strict=True)]
            if any(of_class) or _contradict(first, case) or any(known.get(at, label) != label for at, label in labels.items()):
                what = (
                    f"class {of_class.index(True) + 1} of {len(of_class)} in one alone"
                    if any(of_class)
                    else "normal and abnormal"
                )
                got = f"{first.image} and {case.image} have the same pixels and contradict each other: {what}"
                raise UserError(got, "one label for the same pixels", "correct one, or leave both out")
        elif look is not None:
            self._looks.append((case, look))

    def said(self) -> list[str]:
        """Return problem lines about cases with the same pixels, and about those that look nearly so."""
        lines = []
        if self.copies:
            copy, first = next(iter(self.copies.items()))
            what = f"cases with the pixels of another: {len(self.copies)} (such as {first} and {copy})"
            lines.append(f"{what}; they are kept on one side of the split")
        cases = [case for case, _ in self._looks]
        if not cases:
            return lines
        people = np.unique([case.patient for case in cases], return_inverse=True)[1]
        looks = np.array([look for _, look in self._looks])
        plain = near_copies(looks, people)
        turned = [pair for way in MIRRORED for pair in near_copies(looks, people, mirrored(looks, *way))]
        once = dict(sorted(pair for pair in turned if pair[0] not in dict(plain)))
        for pairs, like in ((plain, "one"), (list(once.items()), "the mirror image of one")):
            if pairs:
                first, other = (cases[i].id for i in reversed(pairs[0]))
                what = f"cases that look nearly like {like} of another patient: {len(pairs)} (such as {first} and {other})"
                lines.append(
                    f"{what}; name one patient for both where they are copies, or one is trained on and the other held out"
                )
        return lines


def _contradict(one: Case | ClassLabels, other: Case | ClassLabels) -> bool:
    """Return whether labels of the same pixels differ where both are given, of the whole or of a slice."""
    given = one.label != other.label and None not in (one.label, other.label)
    return given or any(one.slice_labels.get(at, label) != label for at, label in other.slice_labels.items())


def joined(patients: Sequence[str], pixels: Sequence[str]) -> list[str]:
    """Return the patients, where those that share pixels have one name, the first of theirs; both of every slice, n each."""
    names, who = np.unique(patients, return_inverse=True)
    what = np.unique(pixels, return_inverse=True)[1] + len(names)
    shared = coo_array((np.ones(len(who)), (who, what)), shape=(what.max() + 1,) * 2)
    part = connected_components(shared, directed=False)[1][: len(names)]
    first = np.unique(part, return_index=True)[1]  # parts are numbered from 0, names sorted
    return list(names[first[part]][who].tolist())
