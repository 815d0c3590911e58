"""What is to be segmented in a folder or a table: the scans and images of any layout, whether labelled or not; no mask is a scan.

a layout of `registry`       its cases, with the organ masks that `data.organ` of the trained run names
images/, normal/, s7/x.nii   in no layout: every image and volume at any depth that is no mask by name or folder
organ_masks/x.nii.gz         organ masks of such files, by their names (also FOLDER/x.nii.gz of another folder)
s7/segmentations/NAME.nii.gz as the program TotalSegmentator leaves them beside a scan (also FOLDER/x/NAME.nii.gz)
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from coinseg.config.schema import DataSettings
from coinseg.data.readers.paths import holds_slices, kind_of, parts_of, split_key
from coinseg.data.readers.volume import is_volume
from coinseg.errors import UserError
from coinseg.types import Case, Cohort, MaskSource

from .masks_by_look import apart
from .masks_by_name import MASK_FOLDERS, ORGAN_FOLDERS, MasksByName
from .registry import LAYOUTS
from .sequence_names import split_name
from .sequences import fits_sequences
from .shared import few, files_in, is_value, lies_inside, place_of, safe_id, without_suffix
from .table_classes import PREFIXES
from .totalsegmentator import masks_named
from .unread import in_series

_MASKS = {*MASK_FOLDERS, *ORGAN_FOLDERS, "labelstr", "labelsts"}
_MAPS = ("segmentation.nii.gz", "aggregated_maj_seg.nii.gz")
_NAMED = ("totalsegmentator", "nnunet", "decathlon", "kits")
"""Layouts whose organs have names; in the others they are label values, or everything in the mask."""


@dataclass(frozen=True)
class ToSegment:
    """The cases, sorted by path, without labels and lesions; and lines about images and volumes that are none of them."""

    cases: tuple[Case, ...]
    left: tuple[str, ...] = ()


def scans_in(
    source: Path, data: DataSettings, organs: str = "none", organ_from: Path | None = None, channels: Sequence[str] = ()
) -> ToSegment:
    """List what is to be segmented.

    Args:
        source: a folder, or a .csv that lists images or scans.
        data: of the trained run; organ, organ_from and masks are read.
        organs: "none" reads no organ mask; "wanted" and "required" look for those of `data.organ`; cases without have none;
            only "required" is a `UserError` where no case can have one.
        organ_from: a folder of organ masks, arranged like the scans, in the place of `data.organ_from`.
        channels: names of the images of one case that the run was trained on (`Cohort.sequences`); by default each is a case.

    Raises:
        UserError: there is nothing to segment, a table is wrong, or see `organs`.
    """
    settings = _settings(source, data, organs != "none", organ_from)
    try:
        layout, cases = _listed(source, settings, channels=channels)
    except UserError:
        if organs != "wanted":
            raise
        layout, cases = _listed(source, _settings(source, data, False, None), channels=channels)
    kept = [_to_segment(case, organs != "none", bool(channels)) for case in cases]
    if not kept:
        needed = "a folder of volumes, DICOM folders, PNG, JPEG or TIFF files"
        raise UserError(f"{source} holds no image or volume", needed, "mend the path")
    of_path = {case.image: case for case in kept}
    kept = [of_path[path] for path in sorted(of_path)]
    lines = _left(source, layout, kept) if source.is_dir() else []
    alone = [*_each_alone(source), *_slices_alone(source, kept)] if layout == "files" and not channels else []
    return ToSegment(tuple(kept), (*lines, *alone))


def cases_of(source: Path) -> tuple[str, Sequence[Case]]:
    """The layout, "files" where there is none, and its cases with what labels they have, sorted; no mask is looked for."""
    settings = _settings(source, DataSettings(), False, None)
    layout, cases = _listed(source, settings, dicom_by_series=False)
    if layout == "files" and source.is_dir() and LAYOUTS["folders"].fits(source):
        known: dict[Path, Case] = {}
        with suppress(UserError):  # grades, or a class without images: their labels are to be filled in
            known = {case.image: case for case in LAYOUTS["folders"].list(source, settings).cases}
        labels = [known.get(case.image, case) for case in cases]
        cases = [replace(case, label=one.label, slice_labels=one.slice_labels) for case, one in zip(cases, labels, strict=True)]
    return layout, sorted(cases, key=lambda case: case.image)


def sequences_in(source: Path) -> tuple[str, ...]:
    """The names of the images that each case of a folder or table has, in order; () where it has one, or there is no layout."""
    name = next((name for name, layout in LAYOUTS.items() if layout.fits(source)), "files")
    return () if name == "files" else LAYOUTS[name].list(source, _settings(source, DataSettings(), False, None)).sequences


def _settings(source: Path, data: DataSettings, organs: bool, organ_from: Path | None) -> DataSettings:
    """The settings that new data are read with: of folders that a run names, only those below the new data."""

    root = (source if source.is_dir() else source.parent).absolute()

    def inside(name: str | None) -> str | None:
        return name if name and lies_inside(root, name) and (root / name).is_dir() else None

    found = DataSettings(masks=inside(data.masks), study_type="")
    if not organs:
        return found
    if (place := organ_from and organ_from.absolute()) is None and (name := inside(data.organ_from)):
        place = root / name
    return replace(found, organ=data.organ, organ_from=str(place) if place else None)


def _to_segment(case: Case, organ: bool, channels: bool) -> Case:
    """A case without what only a training reads."""
    bare = replace(case, label=None, slice_labels={}, lesion=(), classes=())
    return replace(bare, organ=case.organ if organ else (), others=case.others if channels else ())


def _listed(
    source: Path, settings: DataSettings, dicom_by_series: bool = True, channels: Sequence[str] = ()
) -> tuple[str, Sequence[Case]]:
    """The layout and its cases, those without the organ mask asked for included; "files" where none is recognised."""
    name = next((name for name, layout in LAYOUTS.items() if layout.fits(source)), "files")
    values = settings if all(map(is_value, settings.organ)) else replace(settings, organ=())
    if channels or name not in ("files", "folders", "sequences"):  # without channels each sequence is an image of its own
        if name == "files":
            raise UserError(f"{source} is in no layout with several images of a case", f"the images {few(channels)}", "mend -i")
        cohort: Cohort = LAYOUTS[name].list(source, settings if name in _NAMED else values)
        cases = (*cohort.cases, *cohort.left_out)
        if channels:
            return name, _with_channels(source, cohort.sequences, cases, channels)
        # Without a table that names series, files say better what the series are than the folders of patients.
        if name != "dicom" or not dicom_by_series or any(case.label is not None or case.slice_labels for case in cases):
            return name, cases
    elif source.is_file():
        raise UserError(f"{source} is no table", "a .csv with a column file, a scan, an image or a folder", "mend -i")
    return "files", _files(source, settings, MasksByName.under(source, values, settings.masks))


def _with_channels(source: Path, sequences: Sequence[str], cases: Sequence[Case], channels: Sequence[str]) -> list[Case]:
    """The cases with the images that a run was trained on, in its order; `UserError` where some have others."""
    if len(set(channels)) < len(channels):  # as runs on nnU-Net data once had them
        got = f"the run has two channels of one name ({few(channels)}): which image of a case is which is not known"
        raise UserError(got, "channels with names of their own", "train it again")
    if missing := [name for name in channels if name not in sequences]:
        got = f"the cases of {source} have the images {few(sequences)}, without {few(missing)}"
        raise UserError(got, f"those of the training: {few(channels)}", "name them like those, or use another run")
    found, wrong = [], []
    for case in cases:
        files = (case.image, *case.others)
        named = sequences if len(files) == len(sequences) else [split_name(without_suffix(PurePath(f.name)))[1] for f in files]
        paths = {name: path for name, path in zip(named, files, strict=True) if parts_of(path)}
        if missing := [name for name in channels if name not in paths]:
            wrong.append(f"{case.id} ({few(missing)})")
        else:
            image, *others = (paths[name] for name in channels)
            found.append(replace(case, image=image, others=tuple(others)))
    if wrong:
        got = f"{len(wrong)} of {len(cases)} cases lack images that the run was trained on: {few(wrong, 3)}"
        raise UserError(got, f"{few(channels)} for every case", "add them, or leave these cases out")
    return found


def _files(root: Path, settings: DataSettings, masks: MasksByName) -> list[Case]:
    if holds_slices(root):
        from coinseg.data.readers.dicom import identifiers_of

        slices = (path for path in root.iterdir() if kind_of(path) in ("slice", "volume"))
        if len({identifiers_of(path, ["StudyInstanceUID"]) for path in slices} - {frozenset()}) < 2:
            raise UserError(f"{root} is one DICOM series", "the name of one mask", "give -o a name that ends in .nii.gz")
    files = [path for path in files_in(root) if not (masks.contains(path) or _is_mask(root, path, ORGAN_FOLDERS))]
    names = () if all(map(is_value, settings.organ)) else settings.organ
    cases = []
    for path in apart(root, files)[0]:
        place = path.relative_to(root)
        organ = _named_beside(path, place, names, settings)
        if organ is None:
            organ = masks.organ_sources(masks.organ(path, place_of(path, root)))
        cases.append(Case(safe_id(place), safe_id(place), path, is_volume(path), organ=organ))
    return cases


def _named_beside(path: Path, place: PurePath, names: Sequence[str], settings: DataSettings) -> tuple[MaskSource, ...] | None:
    """The masks of the organs in files of their names, () where some are missing; None where there is none of them."""
    other = Path(settings.organ_from) / without_suffix(place) if settings.organ_from else None
    found = masks_named([other, other / "segmentations"] if other else [path.parent / "segmentations"], names)
    return (tuple(found.values()) if len(found) == len(names) else ()) if found else None


def _is_mask(root: Path, path: Path, folders: Sequence[str] | set[str]) -> bool:
    parts = [part.lower() for part in path.relative_to(root).parts[:-1]]
    return any(part in folders or part.startswith(PREFIXES) for part in parts)


def _each_alone(root: Path) -> list[str]:
    """The line about several images of one scan for a run on one image of it: which of them it was trained on is not known."""
    if not fits_sequences(root):
        return []
    with suppress(UserError):  # they are no data to learn from, and need not be
        if names := sequences_in(root):
            return [f"images of one scan ({few(names)}) are segmented each by itself: look at those alone that the run is for"]
    return []


def _slices_alone(root: Path, cases: Sequence[Case]) -> list[str]:
    """The line about slices of one series that lie in the folder itself beside those of other studies, where each is a scan."""
    slices = [case.image for case in cases if case.image.parent == root and kind_of(case.image) in ("slice", "volume")]
    if not slices:
        return []
    from coinseg.data.readers.dicom import identifiers_of  # pydicom is imported only when it is needed

    counts = Counter(uid for path in slices for uid in identifiers_of(path, ["SeriesInstanceUID"]))
    if not (several := [count for count in counts.values() if count > 1]):
        return []
    do = "put each series into a folder of its own for masks of whole scans"
    return [f"{sum(several)} DICOM slices of {len(several)} series are segmented each by itself: {do}"]


def _left(root: Path, layout: str, cases: Sequence[Case]) -> list[str]:
    """The lines about images and volumes that are neither segmented nor masks by their place."""
    read = {split_key(place)[0] for case in cases for place in (case.image, *case.others, *(mask.path for mask in case.organ))}
    left = [
        path.relative_to(root).as_posix() for path in files_in(root)
        if {path, *path.parents}.isdisjoint(read) and not _is_mask(root, path, _MASKS) and path.name.lower() not in _MAPS
        and not any(path in place.parents for place in read)
    ]  # fmt: skip
    series = in_series(place for place in read if place.is_relative_to(root))  # a table may name scans elsewhere
    inside = [path.relative_to(root).as_posix() for path in series if not (path in read or _is_mask(root, path, _MASKS))]
    what = "they are taken for masks" if layout == "files" else f"the layout {layout} has no case of them"
    why = {what: left, "they lie in the folder of a DICOM series": inside}
    return [f"{len(names)} images or volumes are not segmented, {of}: {few(names, 3)}" for of, names in why.items() if names]
