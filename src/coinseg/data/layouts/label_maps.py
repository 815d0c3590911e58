"""What nnU-Net, the Decathlon and KiTS share: one label map for each scan with named structures, and tables beside the scans.

    labels.csv      image_id,slice,label or image_id,label  (optional: image labels; they win over masks; or a column a class)
    patients.csv    case,patient                            (optional; without it one patient per scan)

`data.organ` and `data.lesion` take names ("kidney"), label values ("1"), and several joined by + ("kidney+malignant") as one
region: the kidney ends where its tumour begins. An entry of `data.organ` is a region of its own; those of `data.lesion` are one,
those of `data.classes` a class each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from coinseg.config.schema import DataSettings
from coinseg.errors import UserError
from coinseg.types import Case, Cohort, MaskSource

from .classes import ScanClasses
from .shared import composed, existing, few, is_value, nearest, safe_id
from .tables import Given, label_source, labels_by_case, patients_by_case, strangers

Names = Mapping[str, tuple[int, ...]]  # label values by the name of a structure, without the background


@dataclass(frozen=True)
class MapScan:
    """One scan, the paths of its label maps, which may be missing, and those of its further channels, which are there."""

    name: str
    image: Path
    lesions: Path
    organs: Path
    others: tuple[Path, ...] = ()

    def existing(self) -> MapScan:
        """Return the scan with the names that its files have in their folders, which may differ in case or Unicode form."""
        image, lesions, organs = (existing(path.parent, path.name) for path in (self.image, self.lesions, self.organs))
        return MapScan(composed(self.name), image, lesions, organs, self.others)


@dataclass(frozen=True)
class Regions:
    """The label values that count: one tuple for each organ region, one for all lesions together or one for each class.

    A class of a table that is no structure of the maps has no values: its masks are not known.
    """

    organs: tuple[tuple[int, ...], ...]
    lesion: tuple[int, ...]
    classes: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def asked_for(cls, settings: DataSettings, names: Names, organ_names: Names, where: str, classes: ScanClasses) -> Regions:
        """Return the regions of `data.organ`, `data.lesion` and classes; `UserError` for one that is no structure of the maps.

        Args:
            settings: organ, organ_from and lesion are read.
            names: structures of the lesion maps.
            organ_names: structures of the organ maps.
            where: what names the structures, for error lines.
            classes: a class with a column of labels need not be a structure.
        """
        organs = tuple(values_of(text, organ_names, "organ", where) for text in settings.organ)
        lesion = {value for text in settings.lesion for value in values_of(text, names, "lesion", where)}
        classes = classes or ScanClasses((), {}, ())
        own = [
            () if name in classes.given and name not in names else values_of(name, names, "classes", where)
            for name in classes.names
        ]
        require_apart(dict(zip(classes.names, own, strict=True)))
        # As with masks found by name: a folder of organ masks and no name means everything in them.
        return cls(organs or (((),) if settings.organ_from else ()), tuple(sorted(lesion)), tuple(own))


def require_apart(classes: Names) -> None:
    """Raise `UserError` where two classes have the same label values, and so the same pixels."""
    known: dict[tuple[int, ...], str] = {}
    for name, values in classes.items():
        if values and (other := known.setdefault(tuple(sorted(values)), name)) != name:
            got = f"the classes {other!r} and {name!r} are the same label values ({few(map(str, values))})"
            raise UserError(got, "values of its own for each class", "correct classes.json or dataset.json, or data.classes")


def values_of(text: str, names: Names, setting: str, where: str) -> tuple[int, ...]:
    """Return the label values of a name, of a value, or of several joined by +, of data.`setting`."""
    known = {value for named in names.values() for value in named}
    values: set[int] = set()
    for part in [text] if text in names else [part.strip() for part in text.split("+")]:
        if part not in names and not (is_value(part) and int(part) in known):
            got = f"data.{setting} names {part!r}, which {where} does not have"
            raise UserError(got, f"a label by its name or value ({nearest(part, names)})", f"correct data.{setting}")
        values |= set(names[part]) if part in names else {int(part)}
    return tuple(sorted(values))


def cohort_of(
    layout: str, root: Path, scans: Sequence[MapScan], regions: Regions, unlabelled: str, problems: Sequence[str],
    classes: ScanClasses, sequences: tuple[str, ...] = (),
) -> Cohort:  # fmt: skip
    """Return the cohort of scans with label maps.

    Args:
        layout: name of the layout.
        root: where labels.csv and patients.csv are.
        scans: sorted.
        regions: what to take from the maps.
        unlabelled: where image labels come from without labels.csv.
        problems: problems that the layout has found.
        classes: those of the scans.
        sequences: names of the channels, where there are several.
    """
    table = root / "labels.csv"
    labels = {} if classes.names else labels_by_case(table)
    patients, known = patients_by_case(root / "patients.csv"), set(labels) | classes.cases()
    scans = [scan.existing() for scan in scans]
    lines, names = [*problems, *classes.lines], {scan.name for scan in scans}
    cases: list[Case] = []
    left_out: list[Case] = []
    rest = "their labels are made from masks" if regions.lesion or any(regions.classes) else "they have no labels"
    for name, rows, otherwise in (("labels.csv", known, rest), ("patients.csv", patients, "each is its own patient")):
        if unknown := set(rows) - names:
            lines.append(strangers(root / name, unknown))
        if rows and (missing := sorted(names - set(rows))):
            lines.append(f"{name} does not name {few(missing)}: {otherwise}")
    for scan in scans:
        given = labels.get(scan.name, Given())
        problem = _problem(scan, regions, labelled=given != Given() or classes.labelled(scan.name))
        lines += [f"{scan.name}: {problem}"] if problem else []
        if scan.image.is_file():
            kept = left_out if problem.startswith("skipped") else cases
            kept.append(_case(scan, regions, given, patients.get(scan.name, scan.name), classes))
    source = label_source(table) if labels else classes.source(table, unlabelled)
    return Cohort(layout, tuple(cases), source, tuple(lines), sequences, classes.names, tuple(left_out))


def _problem(scan: MapScan, regions: Regions, labelled: bool) -> str:
    """Describe what is wrong with the files of a scan, if anything; "skipped" comes first when the scan cannot be used."""
    if not scan.image.is_file():
        return f"skipped, no {scan.image.name}"
    if regions.organs and not scan.organs.is_file():
        return f"skipped, no {scan.organs.parent.name}/{scan.organs.name} to find the organ in"
    if (regions.lesion or any(regions.classes)) and not scan.lesions.is_file():
        missing = f"no {scan.lesions.parent.name}/{scan.lesions.name}"
        return f"{missing}: its masks cannot be scored" if labelled else f"skipped, {missing} to make its labels from"
    return ""


def _case(scan: MapScan, regions: Regions, given: Given, patient: str, classes: ScanClasses) -> Case:
    organ = tuple(MaskSource(scan.organs, values) for values in regions.organs if scan.organs.is_file())

    def lesion(values: tuple[int, ...]) -> tuple[MaskSource, ...]:
        return (MaskSource(scan.lesions, values),) if values and scan.lesions.is_file() else ()

    case = Case(safe_id(scan.name), patient, scan.image, True, given.label, given.slices, organ, lesion(regions.lesion))
    case = replace(case, others=scan.others)
    return classes.on(case, scan.name, [lesion(values) for values in regions.classes]) if classes.names else case
