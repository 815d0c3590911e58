"""Names of MR sequences and the like in file names: x_flair.nii.gz and x_t2.nii.gz are two channels of the scan x."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .shared import few

SEQUENCES = (
    "flair", "t2f", "t1", "t1n", "t1w", "t1pre", "t1ce", "t1c", "t1gd", "t1post", "t2", "t2w", "t2star", "pd", "pdw", "dwi",
    "adc", "swi", "dir", "mprage", "ct", "pet", "suv",
)  # fmt: skip
"""In lower case; channels are in this order."""
_MOST = 2 / 3  # of the rows with a word in a name, with which its column is the usual one
_NAMED = re.compile(r"(.+)[_-]([a-z0-9]+)", re.IGNORECASE)


def is_sequence(name: str) -> bool:
    """Return whether this is the name of a sequence, in any capitals."""
    return name.lower() in SEQUENCES


def split_name(stem: str) -> tuple[str, str]:
    """Return the name of the scan and its sequence in lower case, which is empty where the name has none.

    Args:
        stem: a file name, or a path, without suffix.
    """
    match = _NAMED.fullmatch(stem)
    return (match[1], match[2].lower()) if match and is_sequence(match[2]) else (stem, "")


def in_order(sequences: Iterable[str]) -> list[str]:
    """Sort sequences as channels."""
    return sorted(set(sequences), key=SEQUENCES.index)


def by_scan(names: Mapping[Path, str]) -> dict[str, dict[str, Path]]:
    """Group files by scan and sequence; those without a sequence, or whose name another has, are left out.

    Args:
        names: of the files, without suffix; folders count.
    """
    scans: dict[str, dict[str, Path]] = {}
    for path, name in names.items():
        scan, sequence = split_name(name)
        if sequence:
            scans.setdefault(scan, {}).setdefault(sequence, path)
    return scans


def common_sequences(names: Mapping[Path, str]) -> tuple[tuple[str, ...], list[str]]:
    """Return the sequences that every scan has, none unless all files are such; and the line where only some are.

    Args:
        names: of all files of a data set, without suffix.
    """
    scans = by_scan(names)
    several = [name for name, found in scans.items() if len(found) > 1]
    if not several:
        return (), []
    kinds = {tuple(in_order(found)) for found in scans.values()}
    if len(kinds) == 1 and sum(map(len, scans.values())) == len(names):
        return kinds.pop(), []
    what = "may be sequences of one scan, but not every scan has the same ones: each file is a case of its own"
    return (), [f"files of {len(several)} names ({few(several, 3)}) {what}"]


def numbered(names: Iterable[str]) -> tuple[str, ...]:
    """Return names of channels of which no two are alike: the second MR is "MR #2". `plain_name` takes that off again."""
    found: list[str] = []
    for name in names:
        count = sum(plain_name(other) == name for other in found) + 1
        found.append(name if count == 1 else f"{name} #{count}")
    return tuple(found)


def plain_name(name: str) -> str:
    """Return the name that `numbered` was given."""
    return re.sub(r" #\d+$", "", name)


def further_channels(header: Sequence[str], first: str) -> tuple[str, ...]:
    """Return the columns of further channels, beside the first one: file_2, file_3 by number, or file_t1ce by sequence."""
    named = [column for column in header if is_sequence(column.removeprefix(f"{first}_")) and column.startswith(f"{first}_")]
    numbers = [column for column in header if re.fullmatch(rf"{re.escape(first)}_\d{{1,2}}", column)]
    return (*sorted(numbers, key=lambda column: int(column.rpartition("_")[2])), *named)


def exchanged(rows: Mapping[int, Sequence[str]]) -> list[str]:
    """Return the line about rows whose channels stand in other columns than in most rows, by a word in the names of their files.

    Args:
        rows: of a table by number, names of the files of each row, in the order of the columns.
    """
    found: dict[str, dict[int, int]] = defaultdict(dict)  # columns by word that one file of a row has, and row
    for row, names in rows.items():
        words = [{*re.split(r"[\W_]+", name.lower())} for name in names]
        for column, own in enumerate(words):
            for word in own.difference(*words[:column], *words[column + 1 :]):
                found[word][row] = column
    odd = set()
    for word, columns in found.items():
        usual, times = Counter(columns.values()).most_common(1)[0]
        # A month may be the first of one pair and the last of another.
        if word and not word.isdigit() and times >= _MOST * len(columns):
            odd |= {row for row, column in columns.items() if column != usual}
    what = "rows have their channels in other columns than most, by the names of the files"
    return [f"{len(odd)} {what}: rows {few(map(str, sorted(odd)), 5)}"] if odd else []
