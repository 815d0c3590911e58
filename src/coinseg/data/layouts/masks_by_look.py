"""Images and masks told apart; masks that only their pixels tell are files with few values, named like an image with many.

x_lesion.png beside x.png            any word in the name: a lesion mask of x.png
labels/x.png beside x.png            any folder more, or another one (imgs/x.png); x_mask.png in it too
case1/mask.png beside case1/ct.png   a folder for each image
crack_masks/x.png for crack/x.png    a folder of masks beside those of classes

Nothing is a mask for its name alone: folders of patients have files of the same names, and a class may be called a mask.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np

from coinseg.data.readers.image import read_image
from coinseg.data.readers.volume import is_volume, read_volume
from coinseg.errors import UserError

from .masks_by_name import MASK_FOLDERS, without_tail
from .sequence_names import split_name
from .shared import files_in, without_suffix

ASKED = 3  # files with the same word in their name or folder that are read to see whether they are masks
_BETWEEN = "_-. ("  # between the name of an image and such a word
_FEW, _FLAT = 16, 0.98  # values of a label map; share of the pixels of a mask in JPEG that is nearly black or white
_SIDES = 4  # folders beside each other in which one name is looked for: those of patients are more
_WORDS = 16  # names of folders that may be those of masks; of more only these are asked
_MASK_WORD = re.compile(r"mask|gt|truth|label|seg|annot|lesion|roi", re.IGNORECASE)
_ROLE = re.compile(r"(masks?|gt|ground[_ -]?truth|labels?|seg|segmentation|annotation|lesions?|roi)[_-]?\d*", re.IGNORECASE)
"""What a mask is called in the folder of its image."""


class _Related(NamedTuple):
    """A file that may be a mask, by what it shares with others of a data set (`word`).

    Args:
        word: in its name or folder; the same for all masks of a data set.
        image: the name of the image it would be a mask of; of nothing in the data where that is not known.
        beside: a file that must have many values then.
    """

    word: str
    image: str
    beside: Path


def apart(folder: Path, files: Sequence[Path]) -> tuple[dict[Path, str], dict[str, list[Path]]]:
    """Return the names of images, and masks by the name of their image; names are without suffix, `images/` and `masks/`.

    A mask is a file in a folder of masks, and `x_mask` beside `x`; where there are such, also an `x_mask` beside nothing. Files
    beside `x` with another word in their name are masks by their pixels.
    """
    places = {path: path.relative_to(folder).parent.parts for path in files}
    masks = {path for path in files if in_masks(path, folder)}
    masks = set() if len(masks) == len(files) else masks  # a class may have such a name
    names = {}
    for path, parts in places.items():
        kept = [part for part in parts if part.lower() not in (*MASK_FOLDERS, "images")]
        names[path] = without_suffix(PurePath(*kept, path.name))
    own = {names[path] for path in files if path not in masks}
    own |= {split_name(names[path])[0] for path in files if path not in masks and is_volume(path)}  # x_mask beside x_flair
    tailed = {path for path in files if path not in masks and without_tail(names[path]) != names[path]}
    masks |= tailed if any(without_tail(names[path]) in own for path in tailed) else set()
    guessed = masks_by_look({path: names[path] for path in files if path not in masks})
    beside: dict[str, list[Path]] = {}
    for path in files:
        if path in masks or path in guessed:
            beside.setdefault(guessed.get(path, without_tail(names[path])), []).append(path)
    return {path: names[path] for path in files if path not in masks and path not in guessed}, beside


def in_masks(path: Path, folder: Path) -> bool:
    """Return whether a folder between `folder` and the file has the name of one of masks."""
    return any(part.lower() in MASK_FOLDERS for part in path.relative_to(folder).parent.parts)


def masks_by_look(names: Mapping[Path, str]) -> dict[Path, str]:
    """Return the files that are masks of other files by their pixels, each with the name of its image.

    Of each word in a name or folder `ASKED` files are read: all must have few values, and their images many.

    Args:
        names: of files that are not known as masks, relative and without suffix.
    """
    of_name = {name: path for path, name in names.items()}
    by_word: dict[str, dict[Path, _Related]] = {}
    words: dict[Path, str] = {}
    for path, name in sorted(names.items(), key=lambda item: len(item[1])):
        if (one := _by_word(name, of_name, words)) is not None:
            words[path] = one.word
            by_word.setdefault(one.word, {})[path] = one
    for path, one in (*_by_folder(names), *_by_role(names)):
        if path not in words:
            by_word.setdefault(one.word, {}).setdefault(path, one)
    masks: dict[Path, str] = {}
    for word in sorted(by_word, key=len):  # x_lesion before x_lesion_2, which is of x then
        group = by_word[word]
        if _are_masks({path: of_name[image] if (image := _root_of(one, masks, of_name)) in of_name else one.beside
                       for path, one in group.items()}):  # fmt: skip
            masks |= {path: _root_of(one, masks, of_name) for path, one in group.items()}
    return masks


def _root_of(one: _Related, masks: Mapping[Path, str], of_name: Mapping[str, Path]) -> str:
    """Return the name of the image, also where a file seems to belong to a mask of that."""
    return masks.get(of_name[one.image], one.image) if one.image in of_name else one.image


def _by_word(name: str, of_name: Mapping[str, Path], words: Mapping[Path, str]) -> _Related | None:
    """Relate x_lesion to x beside it, the longest such x."""
    place, _, last = name.rpartition("/")
    cuts = [at for at, letter in enumerate(last) if letter in _BETWEEN]
    parts = [(last[:at], last[at:]) for at in reversed(cuts)] + [(last[at + 1 :], last[: at + 1]) for at in cuts]
    for image, word in parts:
        if (whole := f"{place}/{image}" if place else image) in of_name:
            return _Related(words.get(of_name[whole], "") + re.sub(r"\d", "", word).lower(), whole, of_name[whole])
    return None


def _by_folder(names: Mapping[Path, str]) -> Iterator[tuple[Path, _Related]]:
    """Relate labels/x, labels/x_mask and labels/x_2 to x, and to imgs/x where few folders beside each other have an x."""
    of_name = {name: path for path, name in names.items()}
    split = {path: (PurePath(name).parts[:-1], PurePath(name).name) for path, name in names.items()}
    sides: dict[tuple[str, ...], list[str]] = {}  # names by their path without one of its folders
    for path, (place, last) in split.items():
        for at in range(len(place)):
            sides.setdefault((*place[:at], "", *place[at + 1 :], last), []).append(names[path])
    found: dict[Path, _Related] = {}
    for path, (place, last) in split.items():
        bases = dict.fromkeys((without_tail(last), *(last[:at] for at in reversed(range(len(last))) if last[at] in _BETWEEN)))
        for at, base in ((at, base) for base in bases for at in reversed(range(len(place)))):
            group = sides.get((*place[:at], "", *place[at + 1 :], base), ())
            beside = [name for name in group if name != names[path]] if len(group) <= _SIDES else []
            image = "/".join((*place[:at], *place[at + 1 :], base))
            image = beside[0] if image not in of_name and beside else image
            if image in of_name:
                found[path] = _Related(f"{place[at].lower()}/", image, of_name[image])
                break
    found = {path: one for path, one in found.items() if not is_volume(path) or _MASK_WORD.search(one.word)}  # they are large
    words = {one.word for one in found.values()}
    known = {word for word in words if len(words) <= _WORDS or _MASK_WORD.search(word)}
    yield from ((path, one) for path, one in found.items() if one.word in known)


def _by_role(names: Mapping[Path, str]) -> Iterator[tuple[Path, _Related]]:
    """Relate case1/mask to the only other file of case1; of several nobody knows which it is of."""
    folders: dict[str, list[Path]] = {}
    for path, name in names.items():
        folders.setdefault(name.rpartition("/")[0], []).append(path)
    for place, paths in folders.items():
        roles = {path: name for path in paths if _ROLE.fullmatch(name := PurePath(names[path]).name)}
        images = [path for path in paths if path not in roles]
        if not place or not images:
            continue
        for path, name in roles.items():
            image = names[images[0]] if len(images) == 1 else f"{place}/"
            yield path, _Related(f"={re.sub(r'[_-]?[0-9]+$', '', name).lower()}", image, images[0])


def mask_folders(folders: Sequence[Path], images: Sequence[Path]) -> list[Path]:
    """Return those of the `folders` that hold masks: most of their files are named as images elsewhere, and look like masks.

    Args:
        folders: any beside those of classes, or that may be classes.
        images: folders of classes.
    """
    of_folder = {folder: files_in(folder) for folder in dict.fromkeys((*folders, *images))}
    return [folder for folder in folders if _is_mask_folder(of_folder[folder], [
        path for other, paths in of_folder.items() if other != folder for path in paths])]  # fmt: skip


def marks_normal(folder: Path, normal: Sequence[Path], abnormal: Sequence[Path]) -> bool:
    """Return whether a folder of masks has some that are not empty and, by their names, of normal images alone: of an organ."""
    names, others = ({_stem(path) for one in some for path in files_in(one)} for some in (normal, abnormal))
    own = [path for path in files_in(folder) if {_stem(path), without_tail(_stem(path))} & (names - others)]
    return any(_is_marked(path) for path in _some(own))


def _stem(path: Path) -> str:
    return without_suffix(PurePath(path.name))


def _is_marked(path: Path) -> bool:
    try:
        return bool(np.ptp(read_volume(path).scan if is_volume(path) else read_image(path)))
    except UserError:
        return False


def _is_mask_folder(files: Sequence[Path], images: Iterable[Path]) -> bool:
    stems: dict[str, list[Path]] = {}
    for path in images:
        stems.setdefault(_stem(path), []).append(path)
    own = {path: _stem(path) for path in files}
    named = {path: stems.get(stem) or stems.get(without_tail(stem)) for path, stem in own.items()}
    related = {path: others for path, others in named.items() if others}
    if not related or 2 * len(related) < len(files):
        return False
    return all(has_few_values(path) and not all(map(has_few_values, related[path][:_SIDES])) for path in _some(related))


def _are_masks(pairs: Mapping[Path, Path]) -> bool:
    """Return whether files are masks of others: some of them have few values, and the others many."""
    return all(has_few_values(path) and not has_few_values(pairs[path]) for path in _some(pairs))


def _some(paths: Iterable[Path]) -> list[Path]:
    """Return `ASKED` of the paths, evenly spread."""
    listed = list(paths)
    return listed[:: max(1, len(listed) // ASKED)][:ASKED]


def has_few_values(path: Path) -> bool:
    """Return whether an image or volume is of a few labels, or of two levels and the noise of JPEG; False where unreadable."""
    try:
        values = (read_volume(path).scan if is_volume(path) else read_image(path)).ravel()
    except UserError:
        return False
    values = values[:: max(1, len(values) // 2**18)]
    if len(np.unique(values)) <= _FEW:
        return True
    low, high = float(values.min()), float(values.max())
    return bool((np.minimum(values - low, high - values) <= (high - low) / 8).mean() > _FLAT)
