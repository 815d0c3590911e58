"""Read the tags of one DICOM file, and tell plain images, slices and other objects apart; used by the other `dicom` modules.

Tags that nobody needs are passed over where they are wrong. What pydicom says of a wrong one is not repeated: it quotes values.
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from pydicom import Dataset, config, dcmread
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from coinseg.errors import UserError

from .paths import Kind, Members, kind_of, members, public_name
from .voxels import broken, muted

_NEEDED = (
    "SOPClassUID", "SeriesInstanceUID", "Modality", "ImageType", "Rows", "Columns", "SamplesPerPixel",
    "PhotometricInterpretation", "BitsAllocated", "NumberOfFrames", "ImageOrientationPatient", "ImagePositionPatient",
    "PixelSpacing", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
_PASSED_OVER = ("SeriesNumber", "SliceThickness", "SpacingBetweenSlices", "PatientID", "StudyInstanceUID", "AccessionNumber")
# A text or number may stand under another type of text or number: it is the same to whoever reads it.
_PLAIN = {
    *("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UT"),
    *("FD", "FL", "SL", "SS", "UL", "US"),
}
# Beginnings of the SOP classes of CT, MR and PET images, enhanced ones too, compared after adding a dot.
_SLICES = ("1.2.840.10008.5.1.4.1.1.2.", "1.2.840.10008.5.1.4.1.1.4.", "1.2.840.10008.5.1.4.1.1.128.")
_IN_SPACE = ("CT", "MR", "PT", "NM")  # modalities of slices; one without its place in the patient is broken, and no plain image
DERIVED = ("RTDOSE", "RTIMAGE", "SEG", "PR", "SR", "KO", "DOC")  # modalities of objects that come with scans and are no scans
_DEFLATED = b"1.2.840.10008.1.2.1.99"


@contextmanager
def silent() -> Iterator[None]:
    """Keep pydicom from checking values that are not used and from quoting them in warnings."""
    with muted(config.logger), warnings.catch_warnings(), config.disable_value_validation():
        warnings.simplefilter("ignore")
        yield


def broken_member(place: Path, member: str, why: str) -> UserError:
    """Return the error for one DICOM file of a scan."""
    return broken(place if place.name == member else f"{place}: {public_name(member)}", why, "DICOM file")


def header_of(place: Path, member: str, files: Members) -> Dataset:
    """Read the tags that are used, of one file; `UserError` when it cannot be used."""
    header = _tags(place, member, files, specific_tags=[*_NEEDED, *_PASSED_OVER])
    with silent():
        sound = _is_sound(header)
    if not sound:
        raise broken_member(place, member, "its tags are cut off or it is no DICOM")
    return header


def whole_header_of(place: Path, member: str, files: Members) -> Dataset:
    """Read all tags of one file that can be read, without its pixels; `filename` is the name of the file."""
    header = _tags(place, member, files)
    header.filename = Path(member).name
    return header


def read_object(file: IO[bytes]) -> Dataset:
    """Read a whole object; one without file meta information says by its form how it is encoded, as before DICOM had that."""
    dataset = dcmread(file, force=True)
    if not dataset.file_meta.get("TransferSyntaxUID"):
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


def _tags(place: Path, member: str, files: Members, **options: Any) -> Dataset:
    try:
        with files[member]() as file, silent():
            deflated = _DEFLATED in file.read(1024)
            file.seek(0)
            header = Dataset() if deflated else dcmread(file, stop_before_pixels=True, force=True, **options)
            _decode(header)
    except Exception as error:  # pydicom and zipfile raise almost anything on bad bytes, with values in it.
        raise broken_member(place, member, type(error).__name__) from None
    if deflated:
        raise broken_member(place, member, "its tags are deflated, which could unpack to any size")
    return header


def _decode(dataset: Dataset) -> None:
    """Decode all values, also in sequences; one that cannot be decoded is dropped, or raises where it is needed."""
    for tag in list(dataset.keys()):
        try:
            items = dataset[tag].value if dataset[tag].VR == "SQ" else ()
        except Exception:
            if keyword_for_tag(tag) in _NEEDED:
                raise
            del dataset[tag]
            continue
        for item in items:
            _decode(item)


def _is_sound(header: Dataset) -> bool:
    """Return whether there is a SOP class, tags that are needed have their types (others are dropped), and a slice has a size."""
    sort = str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID") or "")
    cut_off = f"{sort}.".startswith(_SLICES) and not (header.get("Rows") and header.get("Columns"))
    for tag, kind in [(element.tag, element.VR) for element in header]:
        if kind != (right := dictionary_VR(tag)) and not {kind, right} <= _PLAIN:
            if keyword_for_tag(tag) in _NEEDED:
                return False
            del header[tag]
    return bool(re.fullmatch(r"[\d.]+", sort)) and not cut_off


def is_ct(header: Dataset) -> bool:
    """Return whether the values of an object are Hounsfield units."""
    return header.get("Modality") == "CT"


def is_picture(header: Dataset) -> bool:
    """Return whether an object is a plain image: X-ray, mammography, ultrasound, a photograph; it lies nowhere in the patient."""
    sort, modality = f"{header.get('SOPClassUID')}.", header.get("Modality")
    placed = header.get("ImageOrientationPatient") and header.get("ImagePositionPatient")
    if placed or "PerFrameFunctionalGroupsSequence" in header or modality in (*_IN_SPACE, *DERIVED) or sort.startswith(_SLICES):
        return False
    return bool(header.get("Rows") and header.get("Columns"))


def kind_of_file(path: Path) -> Kind:
    """Return what `paths.kind_of` says of a DICOM file; whoever reads an unreadable one says why."""
    facts = path.stat()
    return _kind(path.absolute(), facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=2**17)
def _kind(path: Path, changed: int, size: int) -> Kind:
    """The size and the time of change are there for the cache: a file is read again when it is another one."""
    try:
        with members(path) as files:
            header = header_of(path, path.name, files)
    except UserError:
        return "volume"
    if not (header.get("Rows") and header.get("Columns")) or header.get("Modality") in DERIVED:
        return "other"
    if is_picture(header):
        return "image"
    return "slice" if _is_axial(header.get("ImageOrientationPatient")) else "volume"


def _is_axial(orientation: Sequence[Any] | None) -> bool:
    try:
        across, down = np.array([float(value) for value in orientation or ()]).reshape(2, 3)
    except (TypeError, ValueError):
        return False
    return int(np.abs(np.cross(across, down)).argmax()) == 2


def studies_in(folder: Path) -> set[str]:
    """Return the UIDs of the studies whose slices lie in a folder itself; they may be counted but never shown."""
    found = set()
    for path in (path for path in folder.iterdir() if not path.name.startswith(".") and kind_of(path) in ("slice", "volume")):
        try:
            with members(path) as files:
                found.add(str(header_of(path, path.name, files).get("StudyInstanceUID") or ""))
        except UserError:
            continue
    return found
