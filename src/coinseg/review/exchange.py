"""Reviewed masks to other programs: masks, DICOM SEG, RTSTRUCT, nnU-Net, prompts, a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from coinseg.data.layouts.shared import safe_id
from coinseg.data.readers.image import image_size, write_image_map, write_image_mask
from coinseg.data.readers.paths import is_dicom, parts_of, sha256_of
from coinseg.data.readers.volume import peek_shape, read_geometry, write_mask, write_scan
from coinseg.data.slices.twins import pixels_in
from coinseg.errors import UserError
from coinseg.export.folder import new_folder
from coinseg.inference.table import measure
from coinseg.runtime.files import csv_text, write_json, write_text

from .kept.records import TEACHING, Reviewed
from .kept.store import Store
from .sources import Draft, Source, name_apart

if TYPE_CHECKING:
    from pydicom import Dataset

MARK = "reviewed.json"  # in every folder that is exported, of what it is
TABLE = ("case", "patient", "side", "reviewer", "state", "changed_since", "comment", "time", "seconds", "pixels")
Export = Callable[[Sequence[tuple[str, Reviewed]], Path], list[str]]


@dataclass(frozen=True)
class Exported:
    """What an export wrote, in how many files, and a line for each case that was left out."""

    cases: int
    left_out: list[str]


def export_reviewed(source: Source, store: Store, kind: str, out: Path, overwrite: bool = False) -> Exported:
    """Write the accepted and corrected masks, and the empty ones of rejected cases, to a new folder.

    Args:
        source: says where the scans are; what the store says of that is not followed.
        store: of the desk.
        kind: one of `KINDS`.
        out: the folder.
        overwrite: replace an earlier export.

    Raises:
        UserError: nothing was decided yet, no case fits the kind, or a scan is gone.
    """
    if kind not in KINDS:
        raise UserError(f"the export {kind[:20]!r}", f"one of {', '.join(KINDS)}", "choose one")
    decided = store.reviewed()
    if not decided and kind != "csv":
        raise UserError("no case was accepted, corrected or rejected yet", "decided cases", "decide some first")
    drafts = {draft.record.id: draft for draft in source.drafts}
    gone = [f"{one.case}: it is no longer among the cases" for one in decided if one.case not in drafts]
    there = [one for one in decided if one.case in drafts]
    other = [one.case for one in there if kind != "csv" and _is_other(one, drafts[one.case])]
    gone += [f"{case}: it was another scan that was reviewed" for case in other]
    named = _named([one for one in there if one.case not in other], drafts)
    if kind == "nnunet":  # whose folder has a mark of its own
        return _nnunet(named, out, overwrite, gone, source)
    with new_folder(out, overwrite, MARK) as part:
        left_out = [*gone, *KINDS[kind](named, part)]
        if decided and len(left_out) == len(decided) and kind != "csv":
            raise UserError(f"no reviewed case can be written as {kind} ({left_out[0]})", "another kind", "choose masks")
        write_text(part / "decisions.csv", _decisions(store))
        write_json(part / MARK, {"coinseg": "reviewed masks", "kind": kind, "cases": len(decided) - len(left_out)})
    return Exported(len(decided) - len(left_out), left_out)


def _is_other(one: Reviewed, draft: Draft) -> bool:
    """Whether the scan of a name is another one than a person looked at: its SHA-256 says so, or of a run its pixels."""
    if one.sha256 is not None and draft.digest is not None:
        return one.sha256 != draft.digest
    if one.pixels is None or not parts_of(draft.image):
        return False
    return pixels_in(draft.image, draft.record.volume) != one.pixels


def _named(decided: Sequence[Reviewed], drafts: dict[str, Draft]) -> list[tuple[str, Reviewed]]:
    """The cases with names that are safe for files, each once, with their scans where they are now."""
    found = [replace(one, image=drafts[one.case].image, class_name=drafts[one.case].class_name) for one in decided]
    for one in found:
        if not parts_of(one.image):
            raise UserError(f"{one.image} is gone", "the scan, for its grid", "put it back, or give --data or --scans")
        if (digest := drafts[one.case].digest) is not None and sha256_of(one.image) != digest:
            raise UserError(f"{one.image} is not the scan its mask was made of", "the same file", "put it back")
        if (shape := peek_shape(one.image) if one.volume else (1, *image_size(one.image))) != one.shape:
            raise UserError(
                f"{one.image} has shape {shape} and its reviewed mask {one.shape}", "the scan that was reviewed", "put it back"
            )
    names = [safe_id(one.case) for one in found]
    times = Counter(names)
    unique = [name if times[name] == 1 else name_apart(one.case) for name, one in zip(names, found, strict=True)]
    return list(zip(unique, found, strict=True))


def _write(one: Reviewed, place: Path, name: str) -> Path:
    """Write a mask in the geometry of its source, and return where."""
    out = place / f"{name}{'.nii.gz' if one.volume else '.png'}"
    if one.volume:
        write_mask(out, one.mask, read_geometry(one.image))
    else:
        write_image_mask(out, one.mask[0])
    return out


def _masks(cases: Sequence[tuple[str, Reviewed]], out: Path) -> list[str]:
    for name, one in cases:
        _write(one, out, name)
    return []


def _on_series(cases: Sequence[tuple[str, Reviewed]], write: Callable[[str, Reviewed, list[Dataset]], object]) -> list[str]:
    """Write the cases whose source is a DICOM series that can carry them; returns a line for each of the others."""
    from coinseg.data.readers.dicom import read_series

    left_out = []
    for name, one in cases:
        try:
            series = read_series(one.image) if one.volume and is_dicom(one.image) else []
            frames = any(int(image.get("NumberOfFrames") or 1) > 1 for image in series)
            why = "its source is a multi-frame image" if frames else "" if series else "its source is no DICOM series"
            if not why:
                write(name, one, series)
        except UserError as error:  # of this series, and no matter of the others
            why = str(error)
        left_out += [f"{name}: {why}"] if why else []
    return left_out


def _dicom_seg(cases: Sequence[tuple[str, Reviewed]], out: Path) -> list[str]:
    from coinseg.export.dicom_seg import LABEL, write_dicom_seg

    def write(name: str, one: Reviewed, series: list[Dataset]) -> None:
        affine = read_geometry(one.image).canonical_to_mm
        write_dicom_seg({one.class_name or LABEL: one.mask}, series, out / f"{name}.dcm", affine, reviewed=True)

    return _on_series(cases, write)


def _rtstruct(cases: Sequence[tuple[str, Reviewed]], out: Path) -> list[str]:
    from coinseg.export.dicom_seg import LABEL

    from .rtstruct import write_rtstruct

    def write(name: str, one: Reviewed, series: list[Dataset]) -> None:
        affine, label = read_geometry(one.image).canonical_to_mm, one.class_name or LABEL
        write_rtstruct(one.mask, series, out / f"{name}.dcm", affine, label)

    return _on_series(cases, write)


def _nnunet(cases: Sequence[tuple[str, Reviewed]], out: Path, overwrite: bool, gone: list[str], source: Source) -> Exported:
    from coinseg.export.nnunet import LESION, TrainingCase, channels_of_run, write_nnunet

    others = {draft.record.id: draft.case.others if draft.case else () for draft in source.drafts}
    if source.sequences and not all(others[one.case] for _, one in cases):
        got = f"reviews of masks of `segment`, whose scans have several sequences: {', '.join(source.sequences)}"
        raise UserError(got, "the review of a run for nnunet, which knows the sequences of each case", "choose masks")
    volumes = any(one.volume for _, one in cases)  # a data set has one kind of files
    left_out = [*gone, *(f"{name}: a plain image beside volumes" for name, one in cases if one.volume != volumes)]
    of_kind = [(name, one) for name, one in cases if one.volume == volumes]
    classes = tuple(dict.fromkeys(draft.class_name for draft in source.drafts if draft.class_name))
    with TemporaryDirectory() as folder:
        if classes:
            written, missing = _label_maps(of_kind, classes, source, Path(folder))
            left_out += missing
        else:
            written = [(name, one, _write(one, Path(folder), name)) for name, one in of_kind]
        if not written:
            raise UserError(f"no reviewed case can be written as nnunet ({left_out[0]})", "another kind", "choose masks")
        training = [
            TrainingCase(name, one.image, mask, others=others[one.case] if source.sequences else ())
            for name, one, mask in written
        ]
        channels = source.sequences or channels_of_run(source.model)
        write_nnunet(out, training, channels=channels, labels=classes or LESION, overwrite=overwrite)
    return Exported(len(training), left_out)


def _label_maps(
    cases: Sequence[tuple[str, Reviewed]], classes: Sequence[str], source: Source, folder: Path
) -> tuple[list[tuple[str, Reviewed, Path]], list[str]]:
    """Write a label map, 1, 2, ... in the order of the classes, of each case that is decided of all classes it has masks of.

    Returns:
        Name, one of the decided masks and label map of each case; a line for each case that is not written.
    """
    decided: dict[str, dict[str, Reviewed]] = {}
    for _, one in cases:
        decided.setdefault(one.case.removeprefix(f"{one.class_name}/"), {})[one.class_name] = one
    listed, left_out = {draft.record.id for draft in source.drafts}, list[str]()
    found: list[tuple[str, Reviewed, Path]] = []
    for case, of in decided.items():
        first = next(iter(of.values()))
        open_ = [name for name in classes if f"{name}/{case}" in listed and name not in of]
        masks = np.stack([of[name].mask if name in of else np.zeros(first.shape, bool) for name in classes])
        if open_ or (twice := int((masks.sum(0) > 1).sum())):
            why = f"not decided yet of {', '.join(open_)}" if open_ else f"classes overlap in {twice} of its pixels"
            left_out.append(f"{case}: {why}")
            continue
        labels = (masks * np.arange(1, len(classes) + 1, dtype=np.uint8)[:, None, None, None]).max(0)
        name = safe_id(case)
        if any(name == other for other, _, _ in found):
            name = name_apart(case)
        path = folder / f"{name}{'.nii.gz' if first.volume else '.png'}"
        if first.volume:
            write_scan(path, labels, read_geometry(first.image))
        else:
            write_image_map(path, labels[0])
        found.append((name, first, path))
    return found, left_out


def _prompts(cases: Sequence[tuple[str, Reviewed]], out: Path) -> list[str]:
    """prompts.json: boxes and points of every component, as models of the kind of SAM take them."""
    rows = []
    for name, one in cases:
        geometry, mask = read_geometry(one.image) if one.volume else None, one.mask
        parts = measure(mask, geometry)["parts"]
        slices = [{"slice": int(z), "objects": _objects(mask[z])} for z in np.flatnonzero(mask.any((1, 2)))]
        rows.append({
            "case": one.case, "class": one.class_name or None, "mask": name, "image": one.image.name,
            "state": one.state, "shape": list(one.shape), "boxes": [part["box"] for part in parts], "slices": slices,
        })  # fmt: skip
    write_json(out / "prompts.json", {
        "axes": "boxes: voxels in the order of the file, both ends included; slices: canonical, from inferior; [row, column]",
        "cases": rows,
    })  # fmt: skip
    return []


def _objects(plane: np.ndarray) -> list[dict[str, Any]]:
    """Box and innermost point of every component of a slice, the largest first."""
    labels, _ = ndimage.label(plane, np.ones((3, 3)))
    found = []
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        part = labels[box] == number
        depth = np.asarray(ndimage.distance_transform_edt(np.pad(part, 1)))[1:-1, 1:-1]
        point = np.unravel_index(int(depth.argmax()), depth.shape)
        found.append({
            "pixels": int(part.sum()), "box": [[side.start for side in box], [side.stop - 1 for side in box]],
            "point": [int(at) + side.start for at, side in zip(point, box, strict=True)],
        })  # fmt: skip
    return sorted(found, key=lambda one: -one["pixels"])


def _decisions(store: Store) -> str:
    """Every reviewer's last decision about every case, as a table."""
    cases = {case.id: case for case in store.cases(gone=True)}
    rows: list[list[Any]] = [list(TABLE)]
    for one in store.decisions():
        mask, about = store.decided_mask(one.id) if one.state in TEACHING else None, cases[one.case]
        what = [one.case, about.patient, about.side, one.reviewer, one.state, int(one.stale), one.comment, one.time]
        rows.append([*what, round(one.seconds, 1), None if mask is None else int(mask.sum())])
    return csv_text(rows)


KINDS: dict[str, Export] = {
    "masks": _masks, "dicom-seg": _dicom_seg, "rtstruct": _rtstruct, "nnunet": _masks, "prompts": _prompts, "csv": lambda *_: [],
}  # fmt: skip
"""What can be exported; every folder has decisions.csv as well, but for that of nnU-Net, whose contents it prescribes."""
