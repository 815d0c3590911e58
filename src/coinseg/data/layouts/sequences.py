"""Several MR sequences of one scan, as BraTS has them; recognised by two files of one name but for the sequence.

    x/x_flair.nii.gz, x/x_t2.nii.gz    or x-t2f.nii.gz; in a folder for each scan or together: the channels of x, on one grid
    x/x_seg.nii.gz                     optional: a label map (also _mask, _lesions, ...); in BraTS 1 is the necrotic core (ncr),
                                       2 edema (ed), 3 or 4 the enhancing tumour (et)
    labels.csv, patients.csv           see `label_maps`

`data.organ_from` is a folder of label maps with the same names.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from coinseg.config.schema import DataSettings
from coinseg.data.readers.paths import VOLUME_SUFFIXES
from coinseg.errors import UserError
from coinseg.types import Cohort, MaskSource

from .classes import ScanClasses
from .label_maps import MapScan, Names, Regions, cohort_of
from .sequence_names import by_scan, in_order, split_name
from .shared import few, folders_in, is_value, organ_root, visible, without_suffix

_NAMES: Names = {"ncr": (1,), "ed": (2,), "et": (3, 4)}
_MASKS = ("seg", "segmentation", "mask", "label", "labels", "lesion", "lesions", "gt", "roi")
_VISIT = re.compile(r"(BraTS-[A-Za-z]+-\d+)-\d+|(sub-[^_]+)_.*")  # patient, then the visit


def fits_sequences(root: Path) -> bool:
    """Return whether two volumes beside each other are sequences of one scan."""
    return any(len(found) > 1 for folder in _folders(root) for found in by_scan(_names(folder, root)).values())


def list_sequences(root: Path, settings: DataSettings) -> Cohort:
    """List one case for each scan that has the first sequence."""
    names = {path: name for folder in _folders(root) for path, name in _names(folder, root).items()}
    scans, masks = by_scan(names), _masks(names)
    times = Counter(sequence for found in scans.values() for sequence in found)
    if len(times) < 2:
        required = "volumes named x_flair.nii.gz, x_t2.nii.gz"
        raise UserError(f"{root} holds no two sequences of one scan", required, "correct the path or data.layout")
    first = next(one for one in in_order(times) if 2 * times[one] > len(scans) or times[one] == max(times.values()))
    order = [first, *(sequence for sequence in in_order(times) if sequence != first)]
    left = [path.name for path, name in names.items() if not split_name(name)[1] and path not in set(masks.values())]
    lines = [f"volumes not read, they are named as no sequence and no mask: {few(left, 3)}"] if left else []
    bases, other, maps = Counter(name.rpartition("/")[2] for name in scans), organ_root(root, settings), []
    for scan, found in sorted(scans.items()):
        base = scan.rpartition("/")[2]
        mask = masks.get(scan, found.get(first, root / scan).with_name(f"{base}_seg.nii.gz"))
        image = found.get(first, next(iter(found.values())).with_name(f"{base}_{first}.nii.gz"))
        others = tuple(found[sequence] for sequence in order[1:] if sequence in found)
        maps.append(MapScan(base if bases[base] == 1 else scan, image, mask, other / mask.name if other else mask, others))
    classes = ScanClasses.of(root / "labels.csv", settings)
    values = {name: (int(name),) for name in (*settings.lesion, *settings.organ, *settings.classes) if is_value(name)}
    regions = Regions.asked_for(settings, {**_NAMES, **values}, {**_NAMES, **values}, "the layout sequences", classes)
    if whole := not settings.lesion and not classes.names and bool(masks):
        lines.append("data.lesion is empty: everything in the label maps is the lesion")
    found_in = "no image labels in the data"
    cohort = cohort_of("sequences", root, maps, regions, found_in, lines, classes, tuple(order))
    lesions = {scan.image: (MaskSource(scan.lesions),) for scan in maps if whole and scan.lesions.is_file()}
    cases = [replace(case, lesion=lesions.get(case.image, case.lesion)) for case in cohort.cases]
    visits = {case.patient: match[1] or match[2] for case in cases if (match := _VISIT.fullmatch(case.patient))}
    said = [f"patients are named as in {few(set(visits.values()), 1)}: their visits stay together"] if visits else []
    cases = [replace(case, patient=visits.get(case.patient, case.patient)) for case in cases]
    return replace(cohort, cases=tuple(cases), problems=(*cohort.problems, *said))


def _folders(root: Path) -> Iterator[Path]:
    """Yield `root` and the folders in it to the depth of two, as HGG/x in BraTS."""
    yield root
    for folder in folders_in(root):
        yield from (folder, *folders_in(folder))


def _names(folder: Path, root: Path) -> dict[Path, str]:
    """Return the volumes of a folder with their paths below `root`, without suffix."""
    files = (path for path in visible(folder) if path.name.lower().endswith(VOLUME_SUFFIXES) and path.is_file())
    return {path: without_suffix(path.relative_to(root)) for path in files}


def _masks(names: dict[Path, str]) -> dict[str, Path]:
    """Return the label maps by the name of their scan; of several the one whose ending comes first."""
    found: dict[str, tuple[int, Path]] = {}
    for path, name in names.items():
        match = re.fullmatch(r"(.+)[_-]([A-Za-z]+)", name)
        if match and match[2].lower() in _MASKS:
            rank = (_MASKS.index(match[2].lower()), path)
            found[match[1]] = min(found.get(match[1], rank), rank)
    return {scan: path for scan, (_, path) in found.items()}
