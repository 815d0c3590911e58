"""Checks of NRRD and MetaImage files that ITK leaves out: lengths of lists, voxels in other files, checksums; used by `itk`."""

import re
import zlib
from pathlib import Path

from coinseg.errors import UserError

from .limits import MAX_BEHIND
from .paths import voxel_file
from .voxels import broken, require_three

_HEADER, _BLOCK = 2**16, 2**20
_LINE = 2000  # characters in a line of a MetaImage header
_FIELD, _PAIR = 500, 2**14  # characters in a line of a NRRD header: of a field, and of a key := value (notes of programs)
_VECTORS = ("DimSize", "ElementSpacing", "ElementSize", "Offset", "Position", "Origin", "CenterOfRotation")
_MATRICES = ("TransformMatrix", "Rotation", "Orientation")
_TO_INTENSITY = {"ElementToIntensityFunctionSlope": 1.0, "ElementToIntensityFunctionOffset": 0.0}
_UNITS = {"m": 1000.0, "cm": 10.0, "um": 0.001, "\N{MICRO SIGN}m": 0.001, "microns": 0.001}
_UNITS_OF_NRRD, _UNIT_OF_META = rb"(?im)^(?:space )?units: *([^\r\n]*)", rb"(?m)^DistanceUnits *= *([^\r\n]*)"
_NRRD, _META = re.compile(rb"(?s).*?\r?\n\r?\n"), re.compile(rb"(?sm).*?^ElementDataFile[^\n]*\n")  # a header to its end
WHAT = "NRRD or MetaImage file"


def check_header(path: Path) -> None:
    """Raise `UserError` unless ITK can read the header of a .nrrd, .mha or .mhd safely."""
    (_check_nrrd if path.suffix.lower() == ".nrrd" else _check_meta)(path, _start(path))


def millimetres(path: Path) -> float:
    """Return the millimetres in the unit that a header gives all axes, which ITK does not look at; 1 where it gives none."""
    nrrd, start = path.suffix.lower() == ".nrrd", _start(path)
    head = (_NRRD if nrrd else _META).match(start)
    found = re.search(_UNITS_OF_NRRD if nrrd else _UNIT_OF_META, head[0] if head else start)
    text = found[1].decode("utf-8", "replace") if found else ""
    units = set(re.findall(r'"\s*([^"]*?)\s*"', text)) if nrrd else {text.strip()}
    return _UNITS.get(units.pop(), 1.0) if len(units) == 1 else 1.0


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEADER)


def check_voxels(path: Path, claimed: int) -> None:
    """Raise `UserError` when voxels are fewer than the `claimed` bytes, or compressed ones do not fit these or their checksum."""
    start = _start(path)
    if path.suffix.lower() == ".nrrd":
        head = _NRRD.match(start)
        if head and re.search(rb"(?im)^encoding: *(gz|gzip)\s*$", head[0]):
            _inflate(path, path, head.end(), 31, claimed)
    elif head := _META.match(start):
        local = path.suffix.lower() == ".mha"
        file, offset = (path, head.end()) if local else (voxel_file(path), 0)
        if re.search(rb"(?im)^CompressedData *= *true", head[0]):
            _inflate(path, file, offset, 15, claimed)
        elif not re.search(rb"(?im)^BinaryData *= *false", head[0]) and file.stat().st_size < offset + claimed:
            raise broken(path, "its voxels are cut off", WHAT)  # MetaIO calls that "Success"


def _inflate(path: Path, file: Path, offset: int, window: int, claimed: int) -> None:
    """Unpack a deflate stream that begins at `offset` up to the checksum at its end."""
    stream, size = zlib.decompressobj(window), 0
    try:
        with file.open("rb") as packed:
            packed.seek(offset)
            while not stream.eof and (block := stream.unconsumed_tail or packed.read(_BLOCK)):
                size += len(stream.decompress(block, _BLOCK))
                if size > claimed + MAX_BEHIND:
                    raise broken(path, "its voxels unpack to more bytes than its header claims", WHAT)
    except (OSError, zlib.error) as error:
        raise broken(path, error, WHAT) from error
    if not stream.eof:
        raise broken(path, "its compressed voxels are cut off", WHAT)


def _check_nrrd(path: Path, start: bytes) -> None:
    head = re.match(rb"(?s)NRRD000\d.*?\r?\n\r?\n", start)
    if head is None:
        raise broken(path, "it has no NRRD header", WHAT)
    # teem, ITK's reader of NRRD, writes a long value over the end of its message about it.
    if any(len(line) > (_PAIR if b":=" in line else _FIELD) for line in head[0].split(b"\n")):
        raise broken(path, "its header has lines of absurd length", WHAT)
    if re.search(rb"(?im)^\s*data ?file:", head[0]):
        raise UserError(f"{path} is a header without its voxels", "one .nrrd file", "save it again as .nrrd")


def _check_meta(path: Path, start: bytes) -> None:
    fields: dict[str, str] = {}
    for line in start.split(b"\n"):
        name, equals, value = (part.strip() for part in line.decode("latin-1").partition("="))
        if "ElementDataFile" in fields or not equals or len(line) > _LINE or not name.isidentifier() or name in fields:
            break
        fields[name] = value
    sides, dims = fields.get("NDims", ""), fields.get("DimSize", "").split()
    lengths = [(name, 1) for name in _VECTORS] + [(name, 2) for name in _MATRICES]
    wrong = [n for n, power in lengths if n in fields and len(fields[n].split()) != len(dims) ** power]
    first = next((name for name in fields if name in (*_VECTORS, *_MATRICES, "NDims")), "")
    if "ElementDataFile" not in fields or not dims or sides != str(len(dims)) or wrong or first != "NDims":
        raise broken(path, f"its header has a wrong {wrong[0]}" if wrong else "it has no MetaImage header", WHAT)
    if not all(re.fullmatch(r"[1-9]\d{0,9}", side) for side in dims):
        raise broken(path, "its header has a wrong DimSize", WHAT)
    require_three(path, tuple(int(side) for side in dims))
    for name, usual in _TO_INTENSITY.items():  # ITK reads the numbers as they are
        if name in fields and _number(fields[name]) != usual:
            got = f"{path} has {name} {fields[name][:20]}: its numbers are not yet the values"
            raise UserError(got, "voxels that are the values themselves", "apply it, and save the scan without it")
    local = path.suffix.lower() == ".mha" and fields["ElementDataFile"].lower() == "local"
    if not local and not (path.suffix.lower() == ".mhd" and voxel_file(path).is_file() and voxel_file(path) != path):
        required = "a .mha, or a .mhd with one file beside it"
        raise UserError(f"{path} has its voxels elsewhere or nowhere", required, "save it as .mha")


def _number(text: str) -> float | None:
    """Return the number that a field is; None where it is none."""
    try:
        return float(text)
    except ValueError:
        return None
