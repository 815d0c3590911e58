"""`coinseg inspect --template`: a table of labels to fill in, a row for every image and for every slice of every scan."""

from pathlib import Path
from typing import Any

from coinseg.data.layouts.shared import patient_of, stem_of, without_suffix
from coinseg.data.layouts.unlabelled import cases_of
from coinseg.data.readers.paths import is_dicom, is_hidden
from coinseg.data.readers.volume import read_geometry
from coinseg.errors import UserError
from coinseg.runtime.files import csv_text, write_text
from coinseg.runtime.locks import claimed
from coinseg.types import Case

BY_CASE = ("totalsegmentator", "nnunet", "decathlon", "kits", "dicom")
"""Layouts whose table names cases; of others it names files."""


def write_template(data: Path, out: Path) -> list[str]:
    """Write the table; labels that are known already are in it.

    Args:
        data: a folder in any layout, or of images and scans without labels.
        out: the table, which must not exist.

    Returns:
        Lines for a person.

    Raises:
        UserError: there is a file, nothing to label, or `data` is not readable.
    """
    with claimed(out) as claim:
        if not claim.may_replace(out):
            raise UserError(f"{out} exists", "the name of a new table", "choose another --template; nothing was written")
        return _write(data, out)


def _write(data: Path, out: Path) -> list[str]:
    layout, cases = cases_of(data)
    named, dicom = layout in BY_CASE, any(case.volume and is_dicom(case.image) for case in cases)
    columns = ["case" if layout == "dicom" else "image_id"] if named else ["file", "patient"]
    columns += ["slice"] if any(case.volume for case in cases) else []
    columns += ["instance_number"] if dicom else []
    rows: list[dict[str, Any]] = []
    problems = []
    for case in cases:
        try:
            key = {columns[0]: _name(layout, data, case), "patient": patient_of(case.image, case.patient)}
            rows += [key | row for row in (_slices(case) if case.volume else [{"label": case.label}])]
        except UserError as error:
            problems.append(f"problem    left out: {error}")
    write_text(out, csv_text([[*columns, "label"], *([row.get(name) for name in [*columns, "label"]] for row in rows)]))
    what = "slices are counted from 0, which is that at the feet; " if "slice" in columns else ""
    return [
        *problems,
        f"template   {len(rows)} rows of {len(cases)} {'scans' if 'slice' in columns else 'images'} in {out}",
        f"next       fill in label: 0 normal, 1 abnormal, empty not known ({what}rows may be removed)",
        f"           then put it into {data if data.is_dir() else data.parent} as labels.csv",
    ]


def _slices(case: Case) -> list[dict[str, Any]]:
    """A row for every slice; a normal scan has normal slices only, of an abnormal one nobody knows which are."""
    grid = read_geometry(case.image)
    if grid.flat:
        return [{"label": case.label if case.label is not None else case.slice_labels.get(0)}]
    known = None if case.label else case.label
    rows: list[dict[str, Any]] = [
        {"slice": index, "label": case.slice_labels.get(index, known)} for index in range(grid.canonical_shape[0])
    ]
    if is_dicom(case.image):
        from coinseg.data.readers.dicom import instances_of

        for row, image in zip(rows, instances_of(case.image), strict=True):
            row["instance_number"] = image["InstanceNumber"]  # no UID: that would tell whose scan it is
    return rows


def _name(layout: str, data: Path, case: Case) -> str:
    """What the table of a layout calls a case: a folder, a file without its ending and channel, or a path."""
    if layout in ("totalsegmentator", "kits"):
        return case.image.parent.name
    if layout in ("nnunet", "decathlon"):
        return stem_of(case.image).removesuffix("_0000") if layout == "nnunet" else stem_of(case.image)
    place = case.image.relative_to(data if data.is_dir() else data.parent)
    if layout == "dicom":
        folders = [path for path in data.iterdir() if path.is_dir() and not is_hidden(path.name)]
        inside = len(place.parts) > 1 and len(folders) == 1
        return without_suffix(place.relative_to(place.parts[0]) if inside else place)
    return place.as_posix()
