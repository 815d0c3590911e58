"""The largest sizes that a file may have or claim; above them it counts as corrupt or hostile.

Each is far above what scanners make (a CT of 3000 slices of 512 x 512 has 0.8e9 voxels: 1.5 GiB as int16, 3 GiB as float32) and
far below what a header of a few bytes can claim.
"""

MAX_BYTES = 8 * 2**30
"""Bytes of the voxels of one volume, and of an unpacked archive."""
MAX_PIXELS = 2**28
"""Pixels of one image or one slice: 16384 x 16384."""
MAX_FILES = 50_000
"""Files in one folder or archive of a scan."""
MAX_TABLE = 2**26
"""Bytes of a table or a dataset.json: a million rows of 60. In memory they take forty times as much at worst."""
MAX_BEHIND = 2**24
"""Bytes between the header of a NIfTI file and its voxels (extensions), and behind its last voxel."""
DEFLATE_LIMIT = 1100
"""Deflate cannot shrink data by more than 1032 : 1; a smaller file cannot hold what its header claims."""
ARCHIVE_LIMIT, ARCHIVE_FREE = 100, 2**28
"""The largest ratio of an archive that unpacks to more bytes than the second number; real slices shrink to a half or a tenth."""
