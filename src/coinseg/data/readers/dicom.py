"""Find the DICOM series of a folder or a .zip, choose one, and read it in Hounsfield units; used through `volume`.

No message has data of the patient: descriptions of series are not shown, and messages of decoders are not repeated.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom import Dataset

from coinseg.errors import UserError

from .dicom_frames import decoded
from .dicom_stack import Frame, Header, stack_of
from .dicom_tags import DERIVED, header_of, is_ct, other_scale, tags_of
from .dicom_values import AIR_HU, padded
from .paths import Members, members, split_key
from .voxels import Opened, fits_int16, require_finite

_CAPTURE = "1.2.840.10008.5.1.4.1.1.7."  # beginning of the SOP classes of secondary captures, compared after adding a dot
_MODALITIES = {
    "CT", "MR", "PT", "NM", "US", "IVUS", "CR", "DX", "MG", "XA", "RF", "RG", "OT", "OP", "OPT", "OCT", "OAM", "ES", "GM", "SM",
    "XC", "DG", "DMS", "IO", "PX", "LS", "TG", "BI", "BMD", *DERIVED,
}  # fmt: skip  # of images and volumes; other words may be anybody's name
IDENTIFIERS = ("StudyInstanceUID", "SeriesInstanceUID", "AccessionNumber", "PatientID")
_SALT = "coinseg patient "
_MOST = 8
Series = dict[str, list[Header]]  # the files of every series, by its key


def open_series(path: Path) -> Opened:
    """Read the headers of the only DICOM series of a folder, archive or file, or of the one that a `#KEY` names.

    `UserError` for no series or several, broken files, unsafe archives, colour, or slices that are no even, straight stack.
    """
    place, _ = split_key(path)
    with members(place) as files:
        chosen = _choose(path, _series_in(place, files))
    frames, geometry = stack_of(path, chosen)
    ct = is_ct(chosen[0][1])
    return Opened(geometry, lambda: _voxels(path, place, frames, ct), _modality(chosen[0][1]))


def read_series(path: Path) -> list[Dataset]:
    """Read all tags of the images of the series that `open_series` reads, without pixels, by file name; errors likewise."""
    place, _ = split_key(path)
    with members(place) as files:
        series = [(member, tags_of(place, member, files)) for member, _ in _choose(path, _series_in(place, files))]
    for member, tags in series:
        tags.filename = Path(member).name
    return [tags for _, tags in series]


def instances_of(path: Path) -> list[dict[str, str]]:
    """Return InstanceNumber and SOPInstanceUID of the axial slices of a series, from inferior to superior.

    Frames of one file have none of their own: both are empty then. `UserError` like `open_series`, and for slices across
    another axis.
    """
    place, _ = split_key(path)
    with members(place) as files:
        chosen = _choose(path, _series_in(place, files))
    frames, geometry = stack_of(path, chosen)
    axis, places = geometry.slices_of_file
    if axis != "axial":
        raise UserError(f"{path} is a stack of {axis} slices", "axial slices, which labels by slice are of", "label whole scans")
    headers, times = dict(chosen), Counter(frame.member for frame in frames)
    slices: list[dict[str, str]] = [{}] * len(frames)
    for index, frame in zip(places, frames, strict=True):
        header = headers[frame.member] if times[frame.member] == 1 else Dataset()
        slices[index] = {tag: str(header.get(tag, "")).strip() for tag in ("InstanceNumber", "SOPInstanceUID")}
    return slices


def patient_of(path: Path, default: str, tag: str = "PatientID") -> str:
    """Return a hash of PatientID, which somebody who has the ids can compute too; `default` without a PatientID."""
    place, key = split_key(path)
    try:
        with members(place) as files:
            chosen = [header for _, header in _choose(path, _series_in(place, files))] if key is not None else None
            headers = chosen or (header_of(place, member, files) for member in files)
            known = next(filter(None, (str(header.get(tag) or "").strip() for header in headers)), "")
    except UserError:
        return default  # reading the scan raises the error
    return f"patient-{hashlib.sha256((_SALT + known).encode()).hexdigest()[:12]}" if known else default


def identifiers_of(path: Path, tags: Sequence[str] = IDENTIFIERS) -> frozenset[str]:
    """Return what a table may name a scan by, of its first image; to be compared, never shown. Empty for an unreadable scan."""
    place, _ = split_key(path)
    try:
        with members(place) as files:
            headers = (header_of(place, member, files) for member in files)
            header = next((header for header in headers if header.get("Rows")), Dataset())  # before it a DICOMDIR, a report
    except UserError:
        return frozenset()
    return frozenset(filter(None, (str(header.get(tag) or "").strip() for tag in tags)))


def _series_in(place: Path, files: Members) -> Series:
    """Return the images by series, without reports, structures and other objects without pixels."""
    headers = [(member, header_of(place, member, files)) for member in files]
    by_uid: Series = {}
    for member, header in headers:
        if header.get("Rows") and header.get("Columns"):
            by_uid.setdefault(str(header.get("SeriesInstanceUID", "")), []).append((member, header))
    if not by_uid:
        got = f"{place} holds {f'{len(headers)} DICOM files and no image' if headers else 'no DICOM file'}"
        raise UserError(got, "the slices of one CT series", "correct the path or export the series")
    given = [str(images[0][1].get("SeriesNumber")) for images in by_uid.values()]
    numbers = [number if re.fullmatch(r"\d{1,5}", number) else "" for number in given]
    keyed = {}
    for uid, number, images in zip(by_uid, numbers, by_uid.values(), strict=True):
        tail = hashlib.sha256(uid.encode()).hexdigest()[:6]
        keyed[number if number and numbers.count(number) == 1 else "-".join(filter(None, (number, tail)))] = images
    return dict(sorted(keyed.items()))


def _choose(path: Path, series: Series) -> list[Header]:
    """Return the series that a path names, or the only one that is a stack of slices."""
    place, key = split_key(path)
    listed = [_described(name, files) for name, files in series.items()]
    text = "; ".join(listed[:_MOST]) + (f"; and {len(listed) - _MOST} more" if len(listed) > _MOST else "")
    if key is not None and key not in series:
        raise UserError(f"{place} holds no series {key} (there are: {text})", "the key of a series", "correct the key")
    scans = [key] if key is not None else [name for name, files in series.items() if not _no_stack(files)]
    if len(scans) > 1:
        raise UserError(f"{place} holds {len(series)} DICOM series: {text}", "one series", f"choose one: {place}#{scans[0]}")
    chosen = series[scans[0]] if scans else next(iter(series.values()))
    if why := _no_stack(chosen):
        raise UserError(f"{path} holds only {why} ({text})", "a stack of CT slices", "export the original CT series")
    return chosen


def _no_stack(series: Sequence[Header]) -> str:
    """Describe why a series is no scan; empty when it may be one."""
    kinds = [str(header.get("ImageType")) for _, header in series]
    if all("LOCALIZER" in kind for kind in kinds):
        return "a localizer"
    if any("MOSAIC" in kind for kind in kinds):
        return "mosaics, all slices of a volume side by side in one image: dcm2niix takes them apart"
    if all(f"{header.get('SOPClassUID')}.".startswith(_CAPTURE) for _, header in series):
        return "secondary captures"
    if all(header.get("Modality") in DERIVED for _, header in series):
        return "doses, segmentations or other derived objects"
    return ""


def _described(key: str, series: Sequence[Header]) -> str:
    """Describe a series by its key, modality, number and size of slices: free text may name a patient."""
    header = series[0][1]
    frames = [str(each.get("NumberOfFrames") or 1) for _, each in series]
    count = sum(int(number) if number.isdecimal() else 1 for number in frames)
    return f"{key} ({_modality(header) or 'unknown'}, {count} slices of {header.Rows} x {header.Columns})"


def _modality(header: Dataset) -> str:
    """Return Modality, with what its values are where they are others than usual; empty where it is none that images have."""
    code, kind = str(header.get("Modality")), other_scale(header)
    return "" if code not in _MODALITIES else f"{code} with RescaleType {kind}" if kind else code  # anything could stand there


def _voxels(path: Path, place: Path, frames: Sequence[Frame], ct: bool) -> np.ndarray:
    """Read scaled voxels (columns, rows, slices), int16 when they are integers that fit, else float32; padding is air."""
    rows, columns = frames[0].size
    out: np.ndarray = np.empty((len(frames), rows, columns), dtype=np.int16)
    padding: list[tuple[int, np.ndarray]] = []
    lowest = np.inf
    by_member: dict[str, list[int]] = {}
    for z in sorted(range(len(frames)), key=lambda z: frames[z].index):
        by_member.setdefault(frames[z].member, []).append(z)
    with members(place) as files:
        for member, inside in by_member.items():
            stored = decoded(place, member, files, (rows, columns), lambda ds, pixels: (pixels, padded(ds, pixels)), len(inside))
            for z, (pixels, outside) in zip(inside, stored, strict=True):
                exact = pixels.astype(np.float64) * frames[z].slope + frames[z].inter
                if outside is not None:
                    padding.append((z, outside))
                    exact[outside] = 0 if outside.all() else exact[~outside].min()
                lowest = min(lowest, exact.min())
                require_finite(path, exact)
                if out.dtype == np.int16 and not fits_int16(exact):
                    out = out.astype(np.float32)
                out[z] = exact
    for z, outside in padding:
        out[z][outside] = AIR_HU if ct else lowest
    return out.T
