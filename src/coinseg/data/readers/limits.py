"""The largest sizes that a file may have or claim; above them it counts as corrupt or hostile.

Each is far above what scanners make (a CT of 3000 slices of 512 x 512 takes 1.5 GiB) and below what a bad header can claim.
"""

MAX_BYTES = 8 * 2**30  # bytes of the voxels of one volume, and of an unpacked archive
MAX_PIXELS = 2**28  # pixels of one image or one slice: 16384 x 16384
DENSE_PIXELS, DENSE_LIMIT = 2**26, 100  # an image of more pixels has a byte on the disk for so many at most
MAX_ELEMENTS = 125_000  # elements and items in the tags of one DICOM file; an enhanced CT of 2000 frames has 120,000
MAX_FILES = 50_000  # files in one folder or archive of a scan
MAX_TABLE = 2**26  # bytes of a table or a dataset.json: a million rows of 60; in memory at worst forty times as much
MAX_BEHIND = 2**24  # bytes between the header of a NIfTI file and its voxels (extensions), and behind its last voxel
DEFLATE_LIMIT = 1100  # Deflate cannot shrink data by more than 1032 : 1; a smaller file cannot hold what its header claims
ARCHIVE_LIMIT, ARCHIVE_FREE = 100, 2**28  # the largest ratio of an archive that unpacks to more bytes than the second number
