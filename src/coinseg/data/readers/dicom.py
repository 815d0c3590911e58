"""Find the DICOM series of a folder or a .zip, choose one, and read it in Hounsfield units; used through `volume`.

pydicom decodes with its plugins GDCM (JPEG), pylibjpeg-openjpeg (JPEG 2000) and pyjpegls (JPEG-LS). No message has data of the
patient: descriptions of series lose words of the name and id and long numbers, and messages of decoders are not repeated.
"""

import hashlib
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from pydicom import Dataset, config, dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.pixels import iter_pixels
from pydicom.uid import JPEG2000, JPEG2000Lossless, JPEGLSLossless, JPEGLSNearLossless, RLELossless

from coinseg.errors import UserError

from .dicom_frames import require_honest
from .dicom_stack import Frame, Header, stack_of
from .limits import MAX_ELEMENTS
from .paths import Members, members, public_name, split_key
from .voxels import Opened, broken, fits_int16, muted

_TAGS = [
    "SOPClassUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality", "ImageType", "Rows", "Columns",
    "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "NumberOfFrames", "ImageOrientationPatient",
    "ImagePositionPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices", "RescaleSlope", "RescaleIntercept",
    "ModalityLUTSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "PatientID", "PatientName",
    "StudyInstanceUID", "AccessionNumber",
]  # fmt: skip
_CAPTURE = "1.2.840.10008.5.1.4.1.1.7."  # beginning of the SOP classes of secondary captures, compared after adding a dot
# The same for CT, MR and PET images, enhanced ones too; such a file without a size is cut off.
_SLICES = ("1.2.840.10008.5.1.4.1.1.2.", "1.2.840.10008.5.1.4.1.1.4.", "1.2.840.10008.5.1.4.1.1.128.")
_DERIVED = ("RTDOSE", "RTIMAGE", "SEG", "PR", "SR", "KO", "DOC")  # modalities of objects that come with scans and are no scans
# On bad bytes other plugins for RLE panic and for JPEG-LS end the process; those for JPEG 2000 fail on signed streams.
_PLUGINS = {
    RLELossless: "pydicom", JPEG2000: "pylibjpeg", JPEG2000Lossless: "pylibjpeg",
    JPEGLSLossless: "pyjpegls", JPEGLSNearLossless: "pyjpegls",
}  # fmt: skip
_ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")  # how an item of a sequence begins, in either byte order
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_SALT = "coinseg patient "
_MOST = 8
Numbered = tuple[int, Frame]  # a frame and its place in the stack
Series = dict[str, list[Header]]  # the files of every series, by its key


def open_series(path: Path) -> Opened:
    """Read the headers of the only DICOM series of a folder, archive or file, or of the one that a `#KEY` names.

    `UserError` for no series or several, broken files, unsafe archives, colour, or slices that are no even, straight stack.
    """
    place, _ = split_key(path)
    with members(place) as files:
        chosen = _choose(path, _series_in(place, files))
    frames, geometry = stack_of(path, chosen)
    return Opened(geometry, lambda: _voxels(path, place, frames), _modality(chosen[0][1]))


def patient_of(path: Path, default: str) -> str:
    """Return a hash of PatientID, which somebody who has the ids can compute too; `default` without a PatientID."""
    place, key = split_key(path)
    try:
        with members(place) as files:
            chosen = [header for _, header in _choose(path, _series_in(place, files))] if key is not None else None
            headers = chosen or (_header(place, member, files) for member in files)
            known = next(filter(None, (str(header.get("PatientID") or "").strip() for header in headers)), "")
    except UserError:
        return default  # reading the scan raises the error
    return f"patient-{hashlib.sha256((_SALT + known).encode()).hexdigest()[:12]}" if known else default


def identifiers_of(path: Path) -> frozenset[str]:
    """Return what a table may name a scan by: the UIDs of study and series, AccessionNumber and PatientID of its first file.

    They may be compared but never shown; empty for a scan that cannot be read.
    """
    place, _ = split_key(path)
    try:
        with members(place) as files:
            header = _header(place, min(files), files)
    except (UserError, ValueError):
        return frozenset()
    tags = ("StudyInstanceUID", "SeriesInstanceUID", "AccessionNumber", "PatientID")
    return frozenset(filter(None, (str(header.get(tag) or "").strip() for tag in tags)))


@contextmanager
def silent() -> Iterator[None]:
    """Keep pydicom from checking values that are not used and from quoting them in warnings."""
    with muted(config.logger), warnings.catch_warnings(), config.disable_value_validation():
        warnings.simplefilter("ignore")
        yield


def read_header(path: Path) -> Dataset | None:
    """Read all tags of a DICOM file without its pixels; None for other files and for deflated tags."""
    try:
        with path.open("rb") as file, silent():
            if (header := _tags_of(file)) is not None:
                header.filename = path.name
            return header
    except Exception:  # pydicom raises almost anything on bad bytes
        return None


class _Few:
    """A file that is read at most so many times: pydicom reads every element, and every item of a sequence, for itself."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.left = file, 2 * MAX_ELEMENTS

    def read(self, size: int = -1) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise ValueError("more elements than a file has")
        return self.file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def _tags_of(file: IO[bytes], **options: Any) -> Dataset | None:
    """Read the tags without pixels, None where they are deflated; every value is decoded here, so bad ones raise here."""
    if _DEFLATED in file.read(1024):
        return None
    file.seek(0)
    header = dcmread(_Few(file), stop_before_pixels=True, **options)  # type: ignore[arg-type]
    values = [element.value for element in header.values() if isinstance(element, RawDataElement)]
    if sum(value.count(item) for value in values if isinstance(value, bytes) for item in _ITEMS) > MAX_ELEMENTS:
        raise ValueError("more items than a file has")
    list(header.iterall())
    return header


def _broken(place: Path, member: str, why: str) -> UserError:
    return broken(place if place.name == member else f"{place}: {public_name(member)}", why, "DICOM file")


def _header(place: Path, member: str, files: Members) -> Dataset:
    """Read the tags of `_TAGS` of one file; `UserError` when it cannot be used."""
    try:
        with files[member]() as file, silent():
            header = _tags_of(file, force=True, specific_tags=list(_TAGS))
            sound = header is None or _is_sound(header)
    except Exception as error:  # pydicom and zipfile raise almost anything on bad bytes, with values in it.
        raise _broken(place, member, type(error).__name__) from None
    if header is None or not sound:
        deflated = "its tags are deflated, which could unpack to any size"
        raise _broken(place, member, deflated if header is None else "its tags are cut off or it is no DICOM")
    return header


def _is_sound(header: Dataset) -> bool:
    """Return whether the object has a SOP class, its tags have their types, and a slice has a size."""
    sort = str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID") or "")
    cut_off = f"{sort}.".startswith(_SLICES) and not (header.get("Rows") and header.get("Columns"))
    return bool(sort) and not cut_off and all(dictionary_VR(element.tag) == element.VR for element in header)


def _series_in(place: Path, files: Members) -> Series:
    """Return the images by series, without reports, structures and other objects without pixels."""
    headers = [(member, _header(place, member, files)) for member in files]
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
    if all("LOCALIZER" in (header.get("ImageType") or []) for _, header in series):
        return "a localizer"
    if all(f"{header.get('SOPClassUID')}.".startswith(_CAPTURE) for _, header in series):
        return "secondary captures"
    if all(header.get("Modality") in _DERIVED for _, header in series):
        return "doses, segmentations or other derived objects"
    return ""


def _described(key: str, series: Sequence[Header]) -> str:
    """Describe a series: key, modality, number of slices, and the part of its description that is not private."""
    header = series[0][1]
    frames = [str(each.get("NumberOfFrames") or 1) for _, each in series]
    count = sum(int(number) if number.isdecimal() else 1 for number in frames)
    private = [w.lower() for tag in ("PatientName", "PatientID") for w in re.findall(r"[^\W_]+", str(header.get(tag) or ""))]
    words = re.findall(r"[\w.,+/-]+", str(header.get("SeriesDescription") or ""))
    safe = [w for w in words if not any(p in w.lower() for p in private) and len(re.findall(r"\d", w)) < 5]
    facts = [_modality(header) or "unknown", f"{count} slices", " ".join(safe)[:32].strip()]
    return f"{key} ({', '.join(fact for fact in facts if fact)})"


def _modality(header: Dataset) -> str:
    """Return Modality; empty where it is no code, because anything could stand there."""
    code = str(header.get("Modality") or "")
    return code if re.fullmatch(r"[A-Z]{2,8}", code) else ""


def _voxels(path: Path, place: Path, frames: Sequence[Frame]) -> np.ndarray:
    """Read scaled voxels (columns, rows, slices), int16 when they are integers that fit, else float32."""
    rows, columns = frames[0].size
    out: np.ndarray = np.empty((len(frames), rows, columns), dtype=np.int16)
    by_member: dict[str, list[Numbered]] = {}
    for z, frame in enumerate(frames):
        by_member.setdefault(frame.member, []).append((z, frame))
    with members(place) as files:
        for member, wanted in by_member.items():
            for (z, frame), pixels in _decoded(place, member, files, wanted):
                exact = pixels.astype(np.float64) * frame.slope + frame.inter
                if not np.isfinite(exact).all():
                    raise UserError(f"{path} holds NaN or infinite voxels", "finite values", "leave the series out")
                if out.dtype == np.int16 and not fits_int16(exact):
                    out = out.astype(np.float32)
                out[z] = exact
    return out.T


def _decoded(place: Path, member: str, files: Members, wanted: Sequence[Numbered]) -> Iterator[tuple[Numbered, np.ndarray]]:
    """Yield the frames of one file as stored, with their place in the stack."""
    if member not in files:
        raise _broken(place, member, "it is gone")
    inside = sorted(wanted, key=lambda item: item[1].index)
    try:
        with files[member]() as file, silent():
            dataset = dcmread(_Few(file), force=True)  # type: ignore[arg-type]
            plugin = _PLUGINS.get(dataset.file_meta.get("TransferSyntaxUID"), "")
            require_honest(dataset)
            frames = [np.asarray(pixels) for pixels in iter_pixels(dataset, raw=True, decoding_plugin=plugin)]
        matching = len(frames) == len(inside) and all(pixels.shape == inside[0][1].size for pixels in frames)
    except Exception as error:  # Every plugin raises its own exceptions.
        raise _broken(place, member, f"{type(error).__name__} while its pixels were decoded") from None
    if not matching:
        raise _broken(place, member, "its pixels do not have the size its tags say")
    yield from zip(inside, frames, strict=True)
