"""The grid of a volume: canonical axes, spacing, the way there and back, and whether two grids are the same."""

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from coinseg.config.schema import Axis

TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # from LPS+ coordinates (DICOM, ITK) to RAS+ (NIfTI, coinseg), and back
MAX_SHIFT = 0.1  # voxels a mask may lie off its scan; float32 affines of one grid differ by less than a thousandth
_MAX_TURN = 0.5  # the same at the far corners for an affine stored as a quaternion, which rounds most close to half a turn
UNEVEN = 0.25  # slice distances that a DICOM slice may be off its even position; positions are often rounded to 0.1 mm
_ALIKE = 0.01  # share that the voxel sizes of pixdim and sform may differ
FLAT = b"one slice of unknown thickness"  # description in the header of such a grid and of masks on it
_MM = {1: 1000.0, 3: 0.001}  # millimetres in a metre and a micron, by NIfTI code; anything else counts as millimetres


@dataclass(frozen=True, eq=False)
class Geometry:
    """The grid of a file, with all that is needed to write onto it again."""

    affine: np.ndarray  # (4, 4), voxel indices in the order of the file to RAS+ coordinates in its unit (usually mm)
    shape: tuple[int, ...]  # as stored, trailing singletons included
    header: bytes  # the binary NIfTI header of the source; its sform, qform and their codes are kept

    @cached_property
    def _turn(self) -> np.ndarray:
        """nibabel orientation (3, 2) that takes the stored axes to left, posterior, superior."""
        return np.asarray(ornt_transform(io_orientation(self.affine), axcodes2ornt(("L", "P", "S"))))

    @property
    def canonical_shape(self) -> tuple[int, int, int]:
        """(slices, rows, columns)."""
        columns, rows, slices = (self.shape[axis] for axis in np.argsort(self._turn[:, 0]))
        return slices, rows, columns

    @property
    def canonical_affine(self) -> np.ndarray:
        """(4, 4): canonical (column, row, slice) indices to RAS+ coordinates in the unit of the file."""
        return np.asarray(self.affine @ inv_ornt_aff(self._turn, self.shape[:3]))

    @property
    def canonical_to_mm(self) -> np.ndarray:
        """(4, 4): canonical (column, row, slice) indices to RAS+ millimetres, whatever the unit of the file."""
        return np.asarray(np.diag([self.millimetres] * 3 + [1.0]) @ self.canonical_affine)

    @property
    def millimetres(self) -> float:
        """Millimetres in one unit of the affine."""
        return _MM.get(int(header_of(self.header)["xyzt_units"]) % 8, 1.0)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size (dz, dy, dx) in mm of the canonical grid."""
        dx, dy, dz = np.sqrt((self.canonical_to_mm[:3, :3] ** 2).sum(0))
        return float(dz), float(dy), float(dx)

    @property
    def two_sizes(self) -> str:
        """Which two voxel sizes the header gives, in words; "" where pixdim and sform agree to 1 %, or only one is there."""
        said, taken = np.abs(header_of(self.header)["pixdim"][1:4].astype(float)), np.sqrt((self.affine[:3, :3] ** 2).sum(0))
        if not (said > 0).all() or (said == 1).all() or np.abs(taken / said - 1).max() <= _ALIKE:
            return ""  # 1 x 1 x 1 is what pixdim has where nobody set it
        one, other = (" x ".join(f"{size * self.millimetres:.3g}" for size in sizes) for sizes in (said, taken))
        return f"its header gives two voxel sizes, {one} mm (pixdim) and {other} mm (sform), which is taken"

    @property
    def says_where(self) -> bool:
        """Whether the header says how the grid lies in the patient; NIfTI without sform and qform does not."""
        header = header_of(self.header)
        return int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0

    @property
    def flat(self) -> bool:
        """Whether it is one slice of unknown thickness, which has no volume."""
        return bytes(header_of(self.header)["descrip"]).rstrip(b"\0") == FLAT

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in millilitres, also where axes are not orthogonal."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) * self.millimetres**3 / 1000

    def to_canonical(self, stored: np.ndarray) -> np.ndarray:
        """Turn an array of `shape` as stored to (slices, rows, columns): a view, or a copy of a file without axial slices."""
        view = np.asarray(apply_orientation(stored.reshape(self.shape[:3], order="A"), self._turn).T)
        # Voxels of a slice that lie far apart are slow to read; a copy of what lies well would only cost memory.
        return view if abs(view.strides[0]) == max(map(abs, view.strides)) else np.ascontiguousarray(view)

    def to_source(self, canonical: np.ndarray) -> np.ndarray:
        """Turn (slices, rows, columns) to an array of `shape` in the order of the file; `ValueError` for another shape."""
        if canonical.shape != self.canonical_shape:
            raise ValueError(f"array of shape {canonical.shape} on a grid of {self.canonical_shape}")
        return self.in_stored_order(canonical).reshape(self.shape, order="A")

    def in_stored_order(self, canonical: np.ndarray) -> np.ndarray:
        """Turn the axes of (slices, rows, columns), of any lengths, to the order and direction of the file."""
        back = ornt_transform(axcodes2ornt(("L", "P", "S")), io_orientation(self.affine))
        return np.asarray(apply_orientation(canonical.T, back))

    @property
    def slices_of_file(self) -> tuple[Axis, range]:
        """The axis across which the slices of the file lie, and their `turned` indices in the order of the file."""
        across, direction = self._turn[2].astype(int)
        axes: tuple[Axis, ...] = ("sagittal", "coronal", "axial")
        return axes[across], range(self.shape[2])[::direction]


def header_of(block: bytes) -> nib.Nifti1Header:
    """Parse a binary NIfTI-1 or NIfTI-2 header."""
    kind = nib.Nifti2Header if len(block) == nib.Nifti2Header.template_dtype.itemsize else nib.Nifti1Header
    return kind(block, check=False)


def corners_apart(one: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the distance between the 8 corners of two grids: (8,), the largest along any axis, in voxels of the second.

    Args:
        one: affine (4, 4) of the first grid.
        other: affine (4, 4) of the second.
        shape: of both arrays.
    """
    corners = np.array([*product(*((0, side - 1) for side in shape[:3]), (1,))], dtype=np.float64).T
    return np.asarray(np.abs((np.linalg.inv(other) @ one @ corners - corners)[:3]).max(0))


def same_place(apart: np.ndarray, one: Geometry, other: Geometry) -> bool:
    """Return whether two grids are the same but for rounding; `apart` is their `corners_apart`."""
    headers = (header_of(one.header), header_of(other.header))
    quaternion = any(int(h["sform_code"]) == 0 and int(h["qform_code"]) > 0 for h in headers)
    return bool(apart.min() <= MAX_SHIFT and apart.max() <= (_MAX_TURN if quaternion else MAX_SHIFT))


def geometry_in_mm(affine: np.ndarray, shape: tuple[int, ...], description: bytes = b"") -> Geometry:
    """Return the grid of a file other than NIfTI, with a NIfTI header, from its affine (4, 4) to RAS+ mm."""
    header = nib.Nifti1Header() if max(shape) < 2**15 else nib.Nifti2Header()
    header.set_data_shape(shape)
    header.set_xyzt_units("mm")
    header["descrip"] = description
    header.set_qform(affine, code=1)  # The nearest rotation: ITK takes it where axes are not orthogonal, so it must be near.
    header.set_sform(affine, code=1)
    if corners_apart(header.get_qform(), affine, shape).max() > _MAX_TURN:
        header["qform_code"] = 0
    return Geometry(np.asarray(affine, dtype=np.float64), shape, header.binaryblock)
