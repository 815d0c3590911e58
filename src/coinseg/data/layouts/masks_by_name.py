"""Masks that are found by the names of their images.

masks/x.png, masks/x_mask.tif    lesion masks of x.png (also mask/, ground_truth/, data.masks)
masks/x_mask_1.png, masks/x/000.png    several lesion masks of x.png, which are joined; masks/x_1.png too, where no image is x_1
organ_masks/x.png                organ mask of x.png (also organs/, data.organ_from)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath

from coinseg.config.schema import DataSettings
from coinseg.data.readers.volume import is_volume
from coinseg.errors import UserError
from coinseg.types import Case, MaskSource

from .shared import existing, few, files_in, is_value, organ_root, without_suffix

MASK_FOLDERS, ORGAN_FOLDERS = ("masks", "mask", "ground_truth", "gt", "segmentations"), ("organ_masks", "organs")
_WORD = r"[_-](mask|gt|groundtruth|label|seg|segmentation|annotation)"
_TAIL = re.compile(rf"{_WORD}([_-]?\d*|[_-][a-z])$", re.IGNORECASE)  # x_mask, x_mask_1, x_mask_b
_NUMBER = re.compile(r"[_\-. (]+\d+\)?$")  # x_1, x-1, x (1)
_Index = dict[tuple[str, bool], Path]  # masks by relative name without suffix and whether they are volumes


def without_tail(name: str) -> str:
    """Return the name of the image that a mask of this name, without suffix, belongs to: that before `_mask` or `_mask_1`."""
    return _TAIL.sub("", name)


@dataclass(frozen=True)
class MasksByName:
    """The masks of a data set, the folders they are in, and the settings, whose organ and lesion are label values."""

    lesions: _Index
    organs: _Index
    folders: tuple[Path, ...]
    settings: DataSettings
    images: frozenset[str] = frozenset()  # names of images, without folder and suffix: x_1 is then no further mask of x

    @classmethod
    def under(cls, root: Path, settings: DataSettings, masks: str | None) -> MasksByName:
        """Index the masks below a folder.

        Args:
            root: the data.
            settings: `data.organ_from` is the folder of organ masks.
            masks: the folder of lesion masks; None for a folder with a known name, "" for no folder.
        """
        if masks and not existing(root, masks).is_dir():
            raise UserError(f"data.masks {root / masks} is no folder", "a folder relative to the data", "correct data.masks")
        lesion = existing(root, masks) if masks else _first_folder(root, MASK_FOLDERS) if masks is None else None
        organ = organ_root(root, settings) or _first_folder(root, ORGAN_FOLDERS)
        return cls(_index(lesion), _index(organ), tuple(folder for folder in (lesion, organ) if folder), settings)

    def contains(self, path: Path) -> bool:
        """Return whether the file lies in a folder of masks."""
        return any(folder in path.parents for folder in self.folders)

    @cached_property
    def _of_image(self) -> Mapping[tuple[str, bool], Sequence[Path]]:
        """Lesion masks by the relative name of their image: that with its own name, those with a tail, those in a folder."""
        named: dict[tuple[str, bool], list[Path]] = {key: [path] for key, path in self.lesions.items()}
        for name_of in (without_tail, self._without_number, lambda name: name.rpartition("/")[0]):
            joined: dict[tuple[str, bool], list[Path]] = {}
            for (name, volume), path in self.lesions.items():
                if (image := name_of(name)) not in (name, ""):
                    joined.setdefault((image, volume), []).append(path)
            numbered = name_of == self._without_number
            both = {key: [*named[key], *paths] for key, paths in joined.items() if numbered and key in named}
            named = joined | named | both
        return named

    def _without_number(self, name: str) -> str:
        """Return the name of the image of a mask x_1; the same name where there is an image x_1, or none x."""
        image = _NUMBER.sub("", name)
        return image if PurePath(image).name in self.images and PurePath(name).name not in self.images else name

    def lesion(self, image: Path, *places: PurePath) -> Sequence[Path]:
        """Return the lesion masks with the first of the relative names that has any (any suffix, `_mask` appended or not)."""
        keys = [(without_suffix(place), is_volume(image)) for place in places]
        return next((self._of_image[key] for key in keys if key in self._of_image), ())

    def organ(self, image: Path, place: PurePath) -> Path | None:
        """Return the organ mask with the relative name."""
        return self.organs.get((without_suffix(place), is_volume(image)))

    def organ_sources(self, path: Path | None) -> tuple[MaskSource, ...]:
        """Return one source for each value of `data.organ`; one for the whole mask without values."""
        values = _values("organ", self.settings.organ)
        return () if path is None else tuple(MaskSource(path, (v,)) for v in values) or (MaskSource(path),)

    def lesion_sources(self, paths: Iterable[Path | None]) -> tuple[MaskSource, ...]:
        """Return one source for every mask, with all values of `data.lesion` together."""
        values = _values("lesion", self.settings.lesion)
        return tuple(MaskSource(path, values) for path in paths if path is not None)

    def matched(self, cases: list[Case]) -> tuple[list[Case], list[str], list[Case]]:
        """Return the usable cases, the problems of all, and those skipped: all without an organ mask, where some have one."""
        cases, problems, left_out = self.with_organs(cases)
        return cases, problems + self.unmatched(cases), left_out

    def with_organs(self, cases: list[Case]) -> tuple[list[Case], list[str], list[Case]]:
        """Return the cases with an organ mask where some have one, a problem for each of the others, and these."""
        if cases and self.settings.organ and not any(case.organ for case in cases):
            raise UserError("data.organ is set and no image has an organ mask", "organ masks", "add them or clear data.organ")
        if not any(case.organ for case in cases):
            names = [path.name for path in self.organs.values()]
            what = "organ masks not used: none lies in its folder as an image in the data, such as organ_masks/normal/x.png"
            return cases, [f"{what} for normal/x.png: {few(names, 3)}"] if names and cases else [], []
        left_out = [case for case in cases if not case.organ]  # whole and cropped slices must not be mixed
        return [case for case in cases if case.organ], [f"{case.id}: skipped, no organ mask" for case in left_out], left_out

    def unmatched(self, cases: Sequence[Case]) -> list[str]:
        """Return the problems of lesion masks without an image, and of abnormal cases without one."""
        used, problems = {source.path for case in cases for source in case.lesion}, []
        numbered = [path.name for (name, _), path in self.lesions.items() if path in used and self._without_number(name) != name]
        if numbered:
            problems.append(f"lesion masks joined with those of their image, by the number in their name: {few(numbered, 3)}")
        if unused := [path.name for path in self.lesions.values() if path not in used]:
            problems.append(f"lesion masks not used, no abnormal image has their name: {few(unused)}")
        bare = [case.id for case in cases if not case.lesion and (case.label == 1 or 1 in case.slice_labels.values())]
        if self.lesions and bare:
            problems.append(f"abnormal and without a lesion mask, so not scored: {few(bare)}")
        return problems


def _first_folder(root: Path, names: Iterable[str]) -> Path | None:
    return next((folder for name in names if (folder := existing(root, name)).is_dir()), None)


def _index(folder: Path | None) -> _Index:
    return {(without_suffix(path.relative_to(folder)), is_volume(path)): path for path in files_in(folder)} if folder else {}


def _values(name: str, texts: Iterable[str]) -> tuple[int, ...]:
    if not all(is_value(text.strip()) for text in texts):
        raise UserError(f"data.{name} is {few(texts)}", "label values such as 1 in this layout", f"correct data.{name}")
    return tuple(int(text) for text in texts)
