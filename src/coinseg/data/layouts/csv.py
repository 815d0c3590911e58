"""A table with one row for each image, volume or slice of a volume; recognised by a column of files (see `COLUMNS`).

    labels.csv                      file,label,patient,slice,mask,organ     (only file is required; classes: `table_classes`)
                                    file,file_2,file_t1ce                   further channels, by number or sequence
    images/a.png                    named a.png, images/a.png or a; a volume, a DICOM folder or .zip (FOLDER#KEY for one series),
                                    one DICOM slice or X-ray; images may have another name where it is the only folder
    masks/a.png, organ_masks/a.png  used when the table has no column mask or organ; lesion masks also without the folders of
                                their image where no name is twice

An image with patient and slice belongs to a scan; a row of a volume with slice labels that slice alone, from 0, inferior first
(`instances` has other columns for it).
Paths are relative to the table or to `images`, and stay below the folder of the table: it may come from somebody else.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from coinseg.config.schema import DataSettings
from coinseg.data.readers.image import IMAGE_SUFFIXES, is_image
from coinseg.data.readers.paths import ARCHIVE, SLICE_SUFFIXES, VOLUME_SUFFIXES, is_dicom, kind_of
from coinseg.data.readers.volume import is_volume
from coinseg.errors import UserError
from coinseg.types import Case, ClassLabels, Cohort

from .class_folders import masks_beside
from .classes import any_of, with_classes, zero_or_one
from .dicom_studies import fits_dicom
from .instances import INSTANCES, Instance, index_of, named_in
from .masks_by_name import MasksByName
from .sequence_names import exchanged, further_channels
from .shared import few, own_patients, patient_of, place_of, safe_id, with_label, without_suffix
from .table_classes import TableClass, attributed, classes_of
from .table_columns import like_patients, of_no_class, without_flags, without_groups, without_split
from .table_files import is_inside, named_file, places_of
from .table_scans import along_scans, whole_scans
from .tables import (
    FILE,
    LABEL,
    PATIENT,
    PATIENT_IDS,
    columns_in,
    first_of,
    header_of,
    label_column,
    label_in,
    label_source,
    read_table,
    row_error,
    shown,
    tables_in,
    titles_of,
    whole_number,
)  # fmt: skip
from .unread import not_named

_KEYS = (
    "image_id", "isic_id", "image_name", "file_name", "img_name", "image_file", "file_path", "filepath", "img_path",
    "image index", "imageid", "id_code",
)  # fmt: skip
"""Columns of files only where they name some: tables about scans have them too."""
COLUMNS = {
    "file": (*FILE, *_KEYS),
    "label": LABEL,
    "patient": (*PATIENT, *PATIENT_IDS, "case", "case_id", "group"),
    "slice": ("slice", "slice_number", "slice_index"),
    "mask": ("mask", "mask_path", "lesion", "lesion_mask"),
    "organ": ("organ", "organ_mask"),
}
"""Names of the columns, in any case; the first that a table has is read."""
SUFFIXES = ("", *IMAGE_SUFFIXES, *VOLUME_SUFFIXES, ARCHIVE, *SLICE_SUFFIXES)  # may be left out in a cell
_FIRST = 20  # rows that say what a table is about


def fits_table(root: Path) -> bool:
    """Return whether `root` is or holds a table of files; beside DICOM files a column id counts where it names single ones."""
    table = table_of(root)
    columns = {*COLUMNS["file"]} & {*header_of(table)} if table else set()
    if table in (None, root) or columns - {"id", *_KEYS} or ("id" in columns and not fits_dicom(root)):
        return table is not None
    return names_files(table)


def names_files(table: Path) -> bool:
    """Return whether one of the first rows of a table names a file that is there."""
    return any(_names_some(table, column) for column in COLUMNS["file"] if column in header_of(table))


def _names_some(table: Path, column: str) -> bool:
    cells = [cell for _, row in read_table(table)[:_FIRST] if (cell := row[column]) and is_inside(table, cell)]
    places = (place for cell in cells for place in places_of(table, cell, SUFFIXES) if place.is_file())
    return any(kind_of(place) or is_image(place) for place in places)


def file_column(table: Path) -> str | None:
    """Return the first column of files, of several the first that names one that is there: `id` may be a number of its own."""
    columns = [name for name in COLUMNS["file"] if name in header_of(table)]
    there = (name for name in columns if len(columns) > 1 and _names_some(table, name))
    return next(there, columns[0] if columns else None)


def table_of(root: Path) -> Path | None:
    """Return the table to read: `root` itself, labels.csv, slices.csv, or the only one with a column of files."""
    if root.is_file():
        return root if root.suffix.lower() == ".csv" else None
    for names in ({*FILE}, {*_KEYS}):
        fitting = {path.name.lower(): path for path in tables_in(root) if names & {*header_of(path)}}
        if (
            found := fitting.get("labels.csv")
            or fitting.get("slices.csv")
            or (fitting.popitem()[1] if len(fitting) == 1 else None)
        ):
            return found
    return None


def list_table(root: Path, settings: DataSettings) -> Cohort:
    """List one case for each row; masks are named in the row, or found by name in folders beside the table."""
    table = table_of(root)
    if table is None:
        got = f"{root} is or holds no table to read{columns_in(root)}"
        raise UserError(got, f"one .csv with a column {' or '.join(FILE)}", "name it labels.csv, or give its path")
    header, rows = header_of(table), read_table(table)
    column = {role: name for role, names in COLUMNS.items() if (name := first_of(names, header))}
    if file := file_column(table):
        column["file"] = file
        if "label" in column and not label_column(header):
            del column["label"]
    else:
        required = f"a column {' or '.join(FILE)}, separated by comma, semicolon or tab"
        do = "rename one; where the table is about DICOM studies give the folder they are in"
        raise UserError(f"{table} has the columns {shown(header)}", required, do)
    said = [*without_groups(table, column, rows), *without_flags(table, column, rows)]
    if settings.masks and "mask" in column:
        said.append(f"data.masks is given and not read: column {column['mask']} of {table.name} names the masks")
    channels = further_channels(header, column["file"])
    classes, lines = classes_of(table, settings, {*column.values(), *channels, *INSTANCES} - {column.get("label")})
    column = {role: name for role, name in column.items() if not (classes and role == "label")}
    masks = MasksByName.under(table.parent, settings, "" if "mask" in column else settings.masks)
    files = [PurePath(PurePath(row[column["file"]]).name) for _, row in rows]
    times = Counter(without_suffix(name) for name in files)
    masks = replace(masks, images=frozenset(times))
    reader = _Rows(table, column, channels, tuple(classes), masks, times)
    listed = [reader.case(number, row) for number, row in rows]
    cases, problems, left_out = reader.matched(whole_scans(table, listed))
    problems += [*not_named(listed, table, reader.folders), *without_split(table), *of_no_class(table, classes)]
    if not any(case.lesion for case in listed) and "mask" not in column:
        problems += masks_beside(table.parent, listed)
    problems += exchanged({number: [row[name] for name in (column["file"], *channels)] for number, row in rows})
    if cases and "patient" not in column:
        problems.insert(0, f"{table.name} has no column patient{like_patients(header)}: {own_patients(cases)}")
    if {"slice", "patient"} <= column.keys():
        cases, alone = along_scans(cases)
        what = f"their {column['slice']} is no whole number, or twice in one patient"
        problems += [f"{alone} images of {table.name} are taken by themselves: {what}"] if alone else []
    if "slice" in column and (alone := sum(kind_of(case.image) == "slice" for case in cases)):
        problems.append(f"{alone} DICOM slices of {table.name} are taken by themselves, not as neighbours in their scans")
    source = f"no image labels in {table.name}"
    if classes:
        columns = [one.column for one in classes if one.column]
        source = f"image labels from {table.name}, columns {few(columns, 40)}" if columns else source
    elif "label" in column:
        source = label_source(table)
    else:
        what = "labels can only come from lesion masks or anomalies"
        problems.insert(0, f"{table.name} has no column label ({shown(header)}): {what}")
    sequences = tuple(titles_of(table)[name] for name in (column["file"], *channels)) if channels else ()
    found = tuple(one.name for one in classes)
    all_lines = (*said, *lines, *problems) if classes else (*said, *problems, *lines)
    return Cohort("csv", tuple(cases), source, all_lines, sequences, found, tuple(left_out))


@dataclass(frozen=True)
class _Rows:
    """How the rows of a table are read: the columns by role, those of further channels, the classes, and masks by name."""

    table: Path
    column: Mapping[str, str]
    channels: tuple[str, ...]
    classes: tuple[TableClass, ...]
    masks: MasksByName
    times: Counter[str]  # how many rows name an image so, without its folders
    unclear: list[str] = field(default_factory=list)  # ids of images whose mask cannot be given to a class

    @property
    def folders(self) -> list[Path]:
        """Folders of masks."""
        own = [folder for one in self.classes if one.masks for folder in one.masks.folders]
        return [*self.masks.folders, *own]

    def bare(self, place: PurePath) -> list[PurePath]:
        """Return the name of an image without its folders, where no other row has it: its mask may lie in none either."""
        return [PurePath(place.name)] if self.times[without_suffix(PurePath(place.name))] == 1 else []

    def case(self, number: int, row: Mapping[str, str]) -> Case:
        """Return the case of row `number`."""
        table, masks = self.table, self.masks
        cells = {role: row[name] for role, name in self.column.items()}
        image = named_file(table, number, cells["file"], SUFFIXES)
        if image is None or not (is_image(image) or is_volume(image)):
            raise row_error(table, number, f"names {'something else' if cells['file'] else 'no file'}", "an image or a volume")
        if cells.get("patient") == "":
            raise row_error(table, number, "has no patient", "a patient in every row")
        place = place_of(image, table.parent)
        organ = named_file(table, number, cells["organ"], role="organ") if "organ" in cells else masks.organ(image, place)
        lesions = [named_file(table, number, cells["mask"], role="mask")] if "mask" in cells else masks.lesion(image, place)
        if image in lesions or image == organ:
            raise row_error(table, number, "names its image as its mask", "a mask, or nothing")
        name, volume = safe_id(place), is_volume(image)
        index = whole_number(cells.get("slice", ""))
        if volume and cells.get("slice") and index is None:
            raise row_error(table, number, "labels no slice of its volume", "a whole number, from 0, inferior first")
        labels = [label_in(cells.get("label", ""), table, number)]
        if self.classes:
            labels = [zero_or_one(row[one.column], table, number, one.name) if one.column else None for one in self.classes]
        if not any(lesions) and "mask" not in cells and any_of(labels) != 0:
            lesions = masks.lesion(image, *self.bare(place))
        if (named := named_in(row)) and volume and labels.count(None) < len(labels) and kind_of(image) != "slice":
            if index is None or is_dicom(image):
                index = index_of(image, table, Instance(number, named, index))
            labels = labels if index is not None else [None] * len(labels)
        others = tuple(path for column in self.channels if (path := named_file(table, number, row[column], SUFFIXES)))
        if len({image, *others}) <= len(others):
            raise row_error(table, number, "names one file for two channels", "a file for each")
        # What a DICOM file calls PatientID stays hidden where a table names it so, see `dicom.patient_of`.
        hidden = "patient" not in cells or (self.column["patient"] == "patientid" and is_dicom(image))
        case = Case(name, patient_of(image, name) if hidden else cells["patient"], image, volume, others=others)
        case = replace(case, organ=masks.organ_sources(organ), lesion=masks.lesion_sources(lesions))
        if index is not None and not volume and kind_of(image) != "slice" and "patient" in cells:
            case = replace(case, series=cells["patient"], place=index)
        if not self.classes:
            return _labelled(case, labels[0], index)
        pairs = zip(self.classes, labels, strict=True)
        known = [self._of_class(one, number, row, _labelled(case, label, index)) for one, label in pairs]
        found = with_classes(case, attributed(self.classes, known, case.lesion))
        self.unclear.extend([case.id] if case.lesion and not found.lesion else [])
        return found

    def _of_class(self, one: TableClass, number: int, row: Mapping[str, str], case: Case) -> ClassLabels:
        """Return what a row says of one class, whose label the case has, with its own masks."""
        place = place_of(case.image, self.table.parent)
        own = one.masks.lesion(case.image, place, *self.bare(place)) if one.masks else ()
        paths = [named_file(self.table, number, row[one.mask])] if one.mask else own
        return ClassLabels(case.label, case.slice_labels, self.masks.lesion_sources(paths))

    def matched(self, cases: list[Case]) -> tuple[list[Case], list[str], list[Case]]:
        """Return the usable cases, the problems of all, and the cases left out, as `MasksByName.matched`."""
        if not self.classes:
            return self.masks.matched(cases)
        cases, problems, left_out = self.masks.with_organs(cases)
        for number, one in enumerate(self.classes):
            own = one.masks.unmatched([case.of_class(number) for case in cases]) if one.masks else []
            problems += [f"class {one.name}: {line}" for line in own]
        what = "not used: nobody says which class they mark (masks_CLASS/, a column mask_CLASS or classes.json would)"
        if any(one.shares_masks for one in self.classes) and not self.unclear:
            problems += self.masks.unmatched(cases)
        problems += [f"masks of {len(self.unclear)} images ({few(self.unclear, 3)}) are {what}"] if self.unclear else []
        return cases, problems, left_out


def _labelled(case: Case, label: int | None, index: int | None) -> Case:
    """Give a case the label of its row, which is that of slice `index` of a volume."""
    if index is None or not case.volume or kind_of(case.image) == "slice":
        return with_label(case, label)
    return replace(case, label=None, slice_labels={} if label is None else {index: label})
