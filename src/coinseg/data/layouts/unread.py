"""What lies in a data set and is not read is said in one line: files of other endings, and folders and images nobody names."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from coinseg.data.readers.image import IMAGE_SUFFIXES, UNREAD, is_image, unread_in
from coinseg.data.readers.paths import ARCHIVE, VOLUME_SUFFIXES, is_dicom, kind_of, parts_of, split_key, voxel_file
from coinseg.types import Case

from .shared import few, files_in, is_readable, place_of, visible

_DOCUMENTS = (
    ".csv", ".tsv", ".txt", ".md", ".rst", ".json", ".jsonl", ".yaml", ".yml", ".toml", ".xml", ".html", ".pdf", ".log",
    ".py", ".ipynb", ".sh", ".md5", ".sha256", ".db", ".ini", ".lnk",
)  # fmt: skip
"""Endings of tables, texts and programs: nobody expects pixels of them."""
_ANNOTATIONS = (".json", ".txt", ".xml")


def paths_of(cases: Iterable[Case]) -> set[Path]:
    """Return the files and folders that cases name, masks included."""
    return {path for case in cases for path in (case.image, *case.others, *(mask.path for mask in (*case.organ, *case.lesion)))}


def other_endings(others: Iterable[Path], read: Collection[Path]) -> list[str]:
    """Return lines about the `others`, which no reader takes; none where they are documents, or voxels of a .mhd of `read`."""
    others = list(others)
    voxels = {voxel_file(path) for path in read if path.suffix.lower() == ".mhd" and path.is_file()}
    left = [path for path in others if path not in voxels and not path.name.lower().endswith(_DOCUMENTS)]
    objects = {path for path in left if kind_of(path) == "other"}
    what = "reports, segmentations or other objects that are no images"
    lines = [f"{len(objects)} DICOM files not read, which are {what}"] if objects else []
    left = [path for path in left if path not in objects]
    lines += _annotations(others, read)
    endings = Counter(path.suffix.lower() or "DICOM" for path in left if path.suffix or is_dicom(path))
    listed = few(f"{count} x {ending}" for ending, count in sorted(endings.items()))
    return lines + ([f"{endings.total()} files not read, for their ending: {listed}"] if endings else [])


def _annotations(others: Iterable[Path], read: Collection[Path]) -> list[str]:
    """Return the line about texts that are named as an image, as LabelMe, YOLO and VOC write outlines and boxes."""
    names = {path.stem for path in read if is_image(path)}
    found = Counter(ending for path in others if (ending := path.suffix.lower()) in _ANNOTATIONS and path.stem in names)
    listed = few(f"{count} x {ending}" for ending, count in sorted(found.items()))
    what = "annotations not read, named as images: only images are masks"
    return [f"{found.total()} {what} ({listed})"] if found else []


def folders_left(root: Path, covered: Collection[Path]) -> list[str]:
    """Return the line about folders below `root` that hold images or volumes and lie in none of those that are `covered`."""
    left = Counter(path if path.is_dir() else path.parent for path in files_in(root) if {path, *path.parents}.isdisjoint(covered))
    names = (f"{place_of(f, root).as_posix() if f != root else root.name} ({count})" for f, count in sorted(left.items()))
    do = "data.normal and data.abnormal name those that are"
    return [f"folders not read: {few(names)}, with {left.total()} images or volumes; {do}"] if left else []


def beside(files: Iterable[Path], read: Collection[Path]) -> list[Path]:
    """Return the files beside `files`, not in folders, that are not `read`."""
    near = (path for folder in sorted({file.parent for file in files}) for path in visible(folder))
    return [path for path in near if path not in read and path.is_file()]


def in_series(read: Iterable[Path]) -> list[Path]:
    """Return the images, volumes and archives in folders of DICOM series that are `read`, which are read without them; sorted."""
    folders = {place for path in read if (place := split_key(path)[0]).is_dir()}
    readable = (*VOLUME_SUFFIXES, *IMAGE_SUFFIXES, ARCHIVE)
    files = {file for folder in folders for file in parts_of(folder) if file.name.lower().endswith(readable)}
    return sorted(file for file in files if is_readable(file))


def beside_series(root: Path, read: Collection[Path], masks: Callable[[Path], bool]) -> list[str]:
    """Return the line about images and volumes in and beside the DICOM series that are `read`, but for `masks`."""
    places = {split_key(path)[0] for path in read}
    beside_them = [path for path in files_in(root) if {path, *path.parents}.isdisjoint(places)]
    left = [
        path.relative_to(root).as_posix() for path in (*beside_them, *in_series(read)) if path not in read and not masks(path)
    ]
    return [f"{len(left)} images or volumes not read, in or beside the DICOM series: {few(left, 3)}"] if left else []


def not_named(cases: Collection[Case], table: Path, masks: Collection[Path]) -> list[str]:
    """Return the line about images and volumes beside those of a table that no row of it names; `masks` are folders of masks."""
    near = beside((case.image for case in cases), paths_of(cases))
    left = [path.name for path in near if is_readable(path) and set(path.parents).isdisjoint(masks)]
    return [f"{len(left)} images or volumes not read, no row of {table.name} names them: {few(left, 3)}"] if left else []


def parts_left(images: Iterable[Path]) -> list[str]:
    """Return the lines about images of which not everything is read, see `UNREAD`."""
    found: dict[str, list[str]] = {}
    for path in filter(is_image, images):
        for what in unread_in(path):
            found.setdefault(what, []).append(path.name)
    return parts_lines(found)


def parts_lines(found: Mapping[str, Sequence[str]]) -> list[str]:
    """Return those lines for the names of such images, by what is not read."""
    return [f"in {len(found[what])} images {what}: {few(found[what], 3)}" for what in UNREAD if what in found]
