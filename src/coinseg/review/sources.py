"""What lies on the desk: the cases of a run folder, or of a folder of masks that `segment` wrote, with their drafts.

Paths come from the folder and are read only where they may be: the data of a run as `run_folder.data_of` says, the scans of
`segment` where their SHA-256 is the one its table has, which only who has the scan can know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from coinseg.config.parsing import stored_settings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.layouts.shared import lies_inside, safe_id
from coinseg.data.readers.volume import is_volume
from coinseg.data.slices.channels import sequences_of
from coinseg.data.slices.index import read_index
from coinseg.errors import UserError
from coinseg.inference.table import class_folder
from coinseg.pipeline.label_maps import names_beside
from coinseg.pipeline.run_folder import SETTINGS, data_of, is_run
from coinseg.runtime.files import MAX_JSON, damaged, read_json
from coinseg.runtime.records import fits, read_settings
from coinseg.types import Case, MaskSource

from .kept.records import MODEL_CLASS, CaseRecord

INDEX, MANIFEST, MODEL = "index.json", "manifest.json", "model.json"
ROW: dict[str, Any] = {"case": str, "mask": str, "pixels": int}
SEGMENTED: dict[str, Any] = {"kind": str, "source": str, "model": {"path": str}}
NUMBERS = ("confidence", "doubtful", "doubts", "pixels", "volume_ml", "components", "highest_f", "highest_posterior", "box")
_SIDES = {0: "training", 1: "held out"}


@dataclass(frozen=True)
class Draft:
    """One case on the desk.

    Args:
        record: what the store keeps of it.
        mask: of coinseg, which reviewers begin with.
        confidence: of every pixel in percent, a file; None where there is none.
        lesion: the truth; shown when it is asked for.
        digest: SHA-256 that the image must have; None where it may be any.
        case: as the layout lists it, for the model; None for images that coinseg made itself.
        class_name: of which class the mask is; "" where there is one. The id of the record begins with it.
    """

    record: CaseRecord
    mask: Path
    confidence: Path | None = None
    lesion: tuple[MaskSource, ...] = ()
    digest: str | None = None
    case: Case | None = None
    class_name: str = ""

    @property
    def key(self) -> str:
        """Names the case in an address of the page; never a path."""
        return key_of_case(self.record.id)

    @property
    def image(self) -> Path:
        """The scan or image."""
        return Path(self.record.image)


@dataclass(frozen=True)
class Source:
    """All cases of a folder, in the order of its table; `model` is the run that made the masks, where it is known and there.

    `sequences` are the names of the images that each case has, () where it has one; `missing` are the cases of a run that have a
    mask and are not among its data, each once.
    """

    folder: Path
    drafts: tuple[Draft, ...]
    model: Path | None = None
    hounsfield: bool = False
    sequences: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def key_of_case(case: str) -> str:
    """A short name of a case id, of hexadecimal digits."""
    return sha256(case.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def name_apart(case: str) -> str:
    """A name for files of a case where that of another one would be the same."""
    return f"{safe_id(case)}_{sha256(case.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def read_source(
    folder: Path, data: Path | None = None, scans: Path | None = None, confidences: Path | None = None, words: Sequence[str] = ()
) -> Source:
    """List the cases of a folder, of several classes each case once a class; no image is opened.

    Args:
        folder: of a finished run, or of masks that `segment` wrote for a folder of scans.
        data: of the run, if others made it or they were moved; `words` are those of the command line.
        scans: of the masks, if they were moved.
        confidences: the folder that `segment --confidence` wrote.

    Raises:
        UserError: it is neither, has no masks, or its data are not there or may not be read.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder", "a run folder, or the masks of `segment`", "correct the path")
    if (folder / SETTINGS).is_file():
        if not is_run(folder) or not (folder / "masks" / INDEX).is_file():
            raise UserError(f"{folder} has no masks yet", "a finished run", "finish it with `coinseg run` first")
        return _of_run(folder, data, words)
    if (folder / INDEX).is_file():
        return _of_segmented(folder, scans, confidences)
    raise UserError(
        f"{folder} has no masks", "a run folder, or the masks `segment` wrote for a folder of scans", "correct the path"
    )


def _rows(folder: Path) -> list[dict[str, Any]]:
    """The table of a folder of masks; every mask lies below it."""
    index = read_json(folder / INDEX, MAX_JSON)
    if not fits(index, {"masks": list[dict[str, Any]]}) or not all(fits(row, ROW) for row in index["masks"]):
        raise damaged(folder / INDEX, "it is no table of masks")
    rows: list[dict[str, Any]] = index["masks"]
    if odd := next((row["mask"] for row in rows if not _below(row["mask"]) or not lies_inside(folder, row["mask"])), None):
        raise damaged(folder / INDEX, f"the mask {odd!r} lies outside of its folder")
    if len({row["case"] for row in rows}) < len(rows):
        raise damaged(folder / INDEX, "a case stands in it twice")
    return rows


def _below(name: str) -> bool:
    return not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts


def _record(
    row: dict[str, Any], name: str, patient: str, image: Path, volume: bool, side: str, model_class: str = ""
) -> CaseRecord:  # fmt: skip
    """The record of a row of the class `name`, "" where there is one; `UserError` for a name that the store cannot hold."""
    if odd := next((text for text in (row["case"], row["mask"], patient, str(image)) if not _is_text(text)), None):
        raise UserError(f"the case {odd!a} has a name that is no UTF-8", "names that are", "rename it, and make its mask again")
    numbers = {key: row[key] for key in NUMBERS if row.get(key) is not None} | {"mask": row["mask"]}
    numbers |= {"class": name} if name else {MODEL_CLASS: model_class} if model_class else {}
    numbers |= {"sha256": row["sha256"]} if fits(row.get("sha256"), str) else {}
    return CaseRecord(f"{name}/{row['case']}" if name else row["case"], patient, str(image), volume, side, numbers)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _classes(masks: Path, root: Path) -> list[tuple[str, Path]]:
    """The classes of a folder of masks and where the masks of each lie, below `root`; of one class the folder itself, and ""."""
    return [(name, root / class_folder(name) / "masks") for name in names_beside(masks)] or [("", masks)]


def _of_run(root: Path, data: Path | None, words: Sequence[str]) -> Source:
    settings = stored_settings(read_settings(root / SETTINGS, "data", "settings")["settings"])
    injected = settings.anomaly.kind != "none"
    cohort = None if injected else read_layout(data or data_of(root, words), settings.data)
    cases = {case.id: case for case in cohort.cases} if cohort else {}
    sides, drafts, missing, count, only = _sides(root), [], dict[str, None](), 0, _only(settings.data.classes)
    for name, masks in _classes(root / "masks", root):
        rows = _rows(masks)
        count += len(rows)
        for row in rows:
            case, sure = cases.get(row["case"]), masks.with_name("confidence") / row["mask"]
            confidence = sure if sure.is_file() else None
            if injected:  # the run keeps the pictures it drew the anomalies into
                record = _record(row, "", row["case"], masks / f"{row['case']}_image.png", False, "held out")
                drafts.append(Draft(record, masks / row["mask"], confidence))
            elif case is not None and cohort is not None:
                of = case.of_class(cohort.classes.index(name)) if name in cohort.classes else case
                lesion = of.lesion if name in ("", *cohort.classes) else ()
                record = _record(row, name, case.patient, case.image, case.volume, sides.get(case.patient, ""), only)
                drafts.append(Draft(record, masks / row["mask"], confidence, lesion, None, of, name))
            else:
                missing[row["case"]] = None
    if not drafts:
        raise UserError(f"none of the {count} masks of {root} belongs to a case of its data", "its own data", "mend --data")
    return Source(root, tuple(drafts), root, _hounsfield(root), sequences_of_model(root), tuple(missing))


def _sides(root: Path) -> dict[str, str]:
    """The side of the split of every patient."""
    file = root / "slices" / "index.csv"
    if not file.is_file():
        return {}
    index = read_index(file, len(names_beside(root / "masks")))
    return {str(who): _SIDES.get(int(side), "") for who, side in zip(index["patient"], index["split"], strict=True)}


def _of_segmented(folder: Path, scans: Path | None, confidences: Path | None) -> Source:
    manifest = read_json(folder / MANIFEST, MAX_JSON) if (folder / MANIFEST).is_file() else {}
    known = fits(manifest, SEGMENTED)
    if scans is None and not known:
        raise UserError(f"{folder} does not say where its scans are", "a manifest of `segment`", "name their folder with --scans")
    source, drafts, classes = scans or Path(manifest["source"]), [], _classes(folder, folder)
    model = Path(manifest["model"]["path"]) if known else None
    only = _class_of_model(model)
    if confidences and len(classes) > 1:
        got = f"--confidence and masks of {len(classes)} classes"
        raise UserError(got, "those of each class, which lie beside its masks", "leave --confidence out")
    for name, masks, row in [(name, place, row) for name, place in classes for row in _rows(place)]:
        image = source / row["case"]
        if not _below(row["case"]):
            raise damaged(folder / INDEX, f"the case {row['case']!r} lies outside of its folder")
        digest = row["sha256"] if fits(row.get("sha256"), str) else None
        if digest is None and scans is None:
            raise UserError(
                f"{folder} does not say which scans it was made of", "them named by you", "name their folder with --scans"
            )
        volume = is_volume(image)
        record = _record(row, name, row["case"], image, volume, "", only)
        sure = masks.with_name("confidence") if name else confidences
        confidence = sure / row["mask"] if sure else None
        lies = confidence if confidence and confidence.is_file() else None
        case = Case(key_of_case(row["case"]), row["case"], image, volume)
        drafts.append(Draft(record, masks / row["mask"], lies, (), digest, case, name))
    if not drafts:
        raise UserError(f"{folder} has no masks", "the masks `segment` wrote", "segment scans first")
    there = model if model and (model / MODEL).is_file() else None
    return Source(folder, tuple(drafts), there, _hounsfield(model), sequences_of_model(model))


def _model(folder: Path | None) -> dict[str, Any]:
    file = folder and folder / MODEL
    found = read_json(file, 2**24) if file and file.is_file() else None
    return found if isinstance(found, dict) else {}


def _only(classes: Sequence[str]) -> str:
    """The name of the only class of several that was asked for; "" where there was none."""
    return classes[0] if len(classes) == 1 else ""


def _class_of_model(model: Path | None) -> str:
    """The only class of several that a run was trained on."""
    settings: Any = _model(model).get("settings")
    classes: Any = settings["data"].get("classes") if fits(settings, {"data": dict[str, Any]}) else None
    return _only(classes) if fits(classes, list[str]) else ""


def _hounsfield(model: Path | None) -> bool:
    """Whether the run was trained on Hounsfield units."""
    return _model(model).get("kind") == "hu"


def sequences_of_model(model: Path | None) -> tuple[str, ...]:
    """The images of a case that the run was trained on; () where it has one."""
    channels: Any = _model(model).get("channels")
    return sequences_of(channels) if fits(channels, list[str]) else ()
