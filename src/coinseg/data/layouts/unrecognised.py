"""What can be said of data in no known layout: what lies there, and the settings or the folder that somebody may have meant."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath

from coinseg.config.schema import DataSettings

from .class_folders import NORMAL, class_paths
from .masks_by_name import MasksByName, without_tail
from .shared import few, files_in, folders_in, is_readable, visible, without_suffix
from .tables import FILE, columns_in, header_of, tables_in

_MOST = 16  # folders that are looked into
_OTHER_TABLES = (".xls", ".xlsx", ".ods", ".tsv")
_SHOWN = 8  # names in a proposed command
_FREE = {*NORMAL, "benign", "control", "controls", "notumor", "notumour", "nofinding", "uninfected", "undamaged", "uncracked"} - {
    "0"
}
"""Words in the names of folders of normal images; a proposal names them, and a person decides."""
_DENIALS = ("no", "non", "without")  # no_tumor, No_DR


def what_is_there(root: Path) -> str:
    """Describe a file, or the folders, files and tables in a folder, for an error line."""
    if not root.is_dir():
        return "a file"
    suffixes = Counter(path.suffix.lower() or "no suffix" for path in visible(root) if path.is_file())
    files = ", ".join(f"{count} x {suffix}" for suffix, count in sorted(suffixes.items())) or "none"
    return f"folders: {few(folder.name for folder in folders_in(root))}; files: {files}{columns_in(root)}"


def proposal(root: Path, fits: Callable[[Path], bool]) -> str:
    """Propose what to do with data in no known layout, as it follows "; " in an error line.

    Args:
        root: the data.
        fits: whether a folder is in a known layout.
    """
    tables = [path.name for path in tables_in(root) if {*FILE} & {*header_of(path)}]
    if len(tables) > 1:
        return f"name one of {few(tables, 3)} labels.csv, or give its path"
    if others := [path.name for path in visible(root) if path.suffix.lower() in _OTHER_TABLES and not tables_in(root)]:
        return f"save {others[0]} as a .csv with a column file and a column label, or rearrange the data"
    folders, do = folders_in(root), "rearrange the data or set data.normal and data.abnormal"
    classes = class_paths(root)
    normal = [path for path in classes if _is_free(PurePath(path).name)]
    if normal and (others := [path for path in classes if path not in normal]):
        return f"{do}, such as --data.normal {_words(normal)} --data.abnormal {_words(others)}"
    if inside := [folder.as_posix() for folder in folders if len(folders) <= _MOST and fits(folder)]:
        return f"give {'' if len(inside) == 1 else 'one of '}{few(inside, 3)}, or {do}"
    if root.is_dir() and _has_masks(root, folders):
        return f"{do}; where masks say which images are abnormal, --data.classes 255 reads them (or what their lesions have)"
    return do


def _is_free(name: str) -> bool:
    words = [word for word in re.split(r"[\W_]+", name.lower()) if word]
    return bool(words) and (words[0] in _DENIALS or (not _FREE.isdisjoint(words) and words[0] != "not"))


def _words(paths: Sequence[str]) -> str:
    quoted = [f"'{path}'" if " " in path else path for path in paths]
    return " ".join(quoted[:_SHOWN]) + (" ..." if len(quoted) > _SHOWN else "")


def _has_masks(root: Path, folders: Sequence[Path]) -> bool:
    if MasksByName.under(root, DataSettings(), None).lesions:
        return True
    some = [path for folder in (root, *folders[:_MOST]) for path in (files_in(folder) if folder != root else visible(root))]
    names = [without_suffix(PurePath(path.name)) for path in some if path.is_file() and is_readable(path)]
    return any(without_tail(name) in {*names} for name in names if without_tail(name) != name)
