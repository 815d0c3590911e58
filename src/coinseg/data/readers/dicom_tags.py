"""Read the tags of one DICOM file, and tell plain images, slices and other objects apart; used by the other `dicom` modules.

Tags that nobody needs are passed over where they are wrong. What pydicom says of a wrong one is not repeated: it quotes values.
"""

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from pydicom import Dataset, config, dcmread
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from coinseg.errors import UserError, muted

from .limits import MAX_ELEMENTS
from .paths import Kind, Members, members, public_name
from .voxels import broken

_NEEDED = (
    "SOPClassUID", "SeriesInstanceUID", "Modality", "ImageType", "Rows", "Columns", "SamplesPerPixel",
    "PhotometricInterpretation", "BitsAllocated", "NumberOfFrames", "ImageOrientationPatient", "ImagePositionPatient",
    "PixelSpacing", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
_PASSED_OVER = (
    "SeriesNumber", "SliceThickness", "SpacingBetweenSlices", "PatientID", "StudyInstanceUID", "AccessionNumber",
    "InstanceNumber", "SOPInstanceUID", "RescaleType",
)  # fmt: skip
# Texts are the same to whoever reads them under another type of text, and as the numbers they stand for.
_TEXTS = {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UT"}
_NUMBERS = {"FD", "FL", "SL", "SS", "UL", "US"}
# Beginnings of the SOP classes of CT, MR and PET images, enhanced ones too, compared after adding a dot.
_SLICES = ("1.2.840.10008.5.1.4.1.1.2.", "1.2.840.10008.5.1.4.1.1.4.", "1.2.840.10008.5.1.4.1.1.128.")
_IN_SPACE = ("CT", "MR", "PT", "NM")  # modalities of slices; one without its place in the patient is broken, and no plain image
DERIVED = ("RTDOSE", "RTIMAGE", "SEG", "PR", "SR", "KO", "DOC")  # modalities of objects that come with scans and are no scans
_OTHER_SCALES = ("OD", "MGML", "Z_EFF", "ED", "EDW", "PCT", "HU_MOD")  # DICOM PS3.3 C.11.1.1.2: densities, atomic numbers, ...
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")  # how an item of a sequence begins, in either byte order


@contextmanager
def silent() -> Iterator[None]:
    """Keep pydicom from checking values that are not used and from quoting them in warnings."""
    with muted(config.logger), warnings.catch_warnings(), config.disable_value_validation():
        warnings.simplefilter("ignore")
        yield


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


def broken_member(place: Path, member: str, why: str) -> UserError:
    """Return the error for one DICOM file of a scan."""
    return broken(place if place.name == member else f"{place}: {public_name(member)}", why, "DICOM file")


def tags_of(
    place: Path, member: str, files: Members, sound: Callable[[Dataset], bool] = lambda header: True, **options: Any
) -> Dataset:
    """Read all tags of one file that can be read, without its pixels; `UserError` where a needed one cannot, or not `sound`."""
    try:
        with files[member]() as file, silent():
            deflated = _DEFLATED in file.read(1024)
            file.seek(0)
            few = cast(Any, _Few(file))  # of a file it has what pydicom uses
            header = Dataset() if deflated else dcmread(few, stop_before_pixels=True, force=True, **options)
            _require_few_items(header)
            _decode(header)
            whole = deflated or sound(header)
    except Exception as error:  # pydicom and zipfile raise almost anything on bad bytes, with values in it.
        raise broken_member(place, member, type(error).__name__) from None
    if deflated:
        raise broken_member(place, member, "its tags are deflated, which could unpack to any size")
    if not whole:
        raise broken_member(place, member, "its tags are cut off or it is no DICOM")
    return header


def header_of(place: Path, member: str, files: Members) -> Dataset:
    """Read the tags that are used, of one file; `UserError` when it cannot be used."""
    return tags_of(place, member, files, _is_sound, specific_tags=[*_NEEDED, *_PASSED_OVER])


def read_object(file: IO[bytes]) -> Dataset:
    """Read a whole object; where no file meta information says how it is encoded, its form does."""
    dataset = dcmread(_Few(file), force=True)  # type: ignore[arg-type]
    if not dataset.file_meta.get("TransferSyntaxUID"):
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


def _require_few_items(header: Dataset) -> None:
    """Raise `ValueError` where sequences that are not decoded yet have more items than a file has."""
    values = [element.value for element in header.values() if isinstance(element, RawDataElement)]
    if sum(value.count(item) for value in values if isinstance(value, bytes) for item in _ITEMS) > MAX_ELEMENTS:
        raise ValueError("more items than a file has")


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
        right = dictionary_VR(tag)
        if kind != right and not (right in _TEXTS and kind in _TEXTS | _NUMBERS):
            if keyword_for_tag(tag) in _NEEDED:
                return False
            del header[tag]
    return bool(re.fullmatch(r"[\d.]+", sort)) and not cut_off


def is_ct(header: Dataset) -> bool:
    """Return whether the values of an object are Hounsfield units."""
    return header.get("Modality") == "CT" and not other_scale(header)


def other_scale(header: Dataset) -> str:
    """Return what values are where that is no Hounsfield unit, as dual-energy CT says it in RescaleType; "" otherwise.

    An enhanced object says it for all of its frames or for each of them, of which the first is asked.
    """
    groups = [group for name in _GROUPS for group in (header.get(name) or [])[:1]]
    values = [item for group in groups for item in group.get("PixelValueTransformationSequence") or []]
    kinds = [str(tags.get("RescaleType") or "") for tags in (header, *values) if isinstance(tags, Dataset)]
    return next((kind for kind in kinds if kind in _OTHER_SCALES), "")


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
    modality, turn = header.get("Modality"), header.get("ImageOrientationPatient")
    if not (header.get("Rows") and header.get("Columns")) or modality in DERIVED:
        return "other"
    in_space = (turn and header.get("ImagePositionPatient")) or "PerFrameFunctionalGroupsSequence" in header
    if not in_space and modality not in _IN_SPACE and not f"{header.get('SOPClassUID')}.".startswith(_SLICES):
        return "image"
    with suppress(TypeError, ValueError):  # no six numbers
        across, down = np.array([float(value) for value in turn or ()]).reshape(2, 3)
        return "slice" if np.abs(np.cross(across, down)).argmax() == 2 else "volume"
    return "volume"
