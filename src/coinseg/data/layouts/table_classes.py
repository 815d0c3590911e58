"""The classes of a table of images: a column of 0 and 1 each, and their masks.

labels.csv       file,scratch,dent          two or more columns of 0, 1 or nothing and no column label, or as data.classes names
                 mask_scratch,mask_dent     optional: columns of masks
masks_scratch/   masks of one class by the name of their image; masks/ holds those of all
classes.json     {"scratch": 1, "dent": 2}  what the values in the masks of all mean; data.classes 1 2 does without
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from coinseg.config.schema import DataSettings
from coinseg.types import ClassLabels, MaskSource

from .classes import asked_names, class_columns, require_certain
from .dataset_json import values_by_class
from .masks_by_name import MasksByName
from .shared import existing, few
from .tables import LABEL, header_of, label_column, titles_of

PREFIXES = ("masks_", "mask_")
"""Before the name of a class: a folder, or a column, of its masks."""


@dataclass(frozen=True)
class TableClass:
    """One class and where a table has it.

    Args:
        name: of the class.
        column: of 0 and 1; empty where its masks decide.
        mask: column of its masks; empty where they are found by name, or are those of all classes.
        masks: its own masks by name; None where there are none.
        values: its label values in the masks of all classes; empty where they are not known.
    """

    name: str
    column: str = ""
    mask: str = ""
    masks: MasksByName | None = None
    values: tuple[int, ...] = ()

    @property
    def shares_masks(self) -> bool:
        """Whether its masks can only be those of all classes."""
        return not self.mask and self.masks is None


def classes_of(table: Path, settings: DataSettings, taken: Collection[str]) -> tuple[list[TableClass], list[str]]:
    """Return the classes of a table, none where it has one, and lines about how they were found.

    Args:
        table: with a header; folders of masks lie beside it.
        settings: classes are read.
        taken: columns, in lower case, that are something else.
    """
    header, titles = header_of(table), titles_of(table)
    if not settings.classes and label_column(header):
        return [], []
    if not settings.classes:
        require_certain(table, taken)
    columns, lines = class_columns(table, taken)
    if not settings.classes:
        if len(columns) < 2:
            one = [f"{table.name}: column {name} has 0 and 1 (--data.classes {name} reads it)" for name in columns.values()]
            return [], [*one, *lines]
        found = [_class(table, settings, column, title) for column, title in columns.items()]
        listed = few((one.name for one in found), 40)
        return found, [
            f"{table.name} has no column label and {len(found)} of classes: {listed} (data.classes picks some)",
            *lines,
        ]
    values = values_by_class(table.parent, settings.classes)
    named = {titles[name.lower()] for name in settings.classes if name.lower() in {*header} - {*taken}}
    masked = {titles[column][5:] for column in header if column.startswith("mask_")}
    folders = {path.name[len(prefix) :] for prefix in PREFIXES for path in table.parent.glob(f"{prefix}*") if path.is_dir()}
    names = asked_names(settings.classes, [*named, *columns.values(), *masked, *folders, *values], table.name)
    found = [_class(table, settings, name.lower() if name in named else "", name, values.get(name, ())) for name in names]
    unused = [name for name in LABEL if name in header and name not in {one.column for one in found}]
    return found, [f"data.classes is given: column {few(unused)} of {table.name} is not read"] if unused else []


def _class(table: Path, settings: DataSettings, column: str, name: str, values: tuple[int, ...] = ()) -> TableClass:
    header, lower = header_of(table), name.lower()
    if (mask := f"mask_{lower}") in header:
        return TableClass(name, column, mask, None, values)
    places = [existing(table.parent, prefix + name) for prefix in PREFIXES]
    folder = next((place for place in places if place.is_dir()), None)
    own = MasksByName.under(table.parent, settings, folder.name) if folder else None
    return TableClass(name, column, "", own, values)


def attributed(classes: Sequence[TableClass], known: Sequence[ClassLabels], common: Sequence[MaskSource]) -> list[ClassLabels]:
    """Give classes their part of the masks of all: their values, or all of it where an image has this class and no other.

    Args:
        classes: of the table.
        known: what an image has of each, with its own masks.
        common: the masks of all classes, with any value.
    """
    labels, found = [one.label for one in known], []
    for one, given in zip(classes, known, strict=True):
        only = given.label == 1 and labels.count(0) == len(labels) - 1
        sources = tuple(MaskSource(source.path, one.values) for source in common) if one.values or only else ()
        keep = given.lesion or not one.shares_masks
        found.append(given if keep else ClassLabels(given.label, given.slice_labels, sources))
    return found
