"""Names of MR sequences and the like in file names: x_flair.nii.gz and x_t2.nii.gz are two channels of the scan x."""

SEQUENCES = (
    "flair", "t1", "t1n", "t1w", "t1pre", "t1ce", "t1c", "t1gd", "t1post", "t2", "t2w", "t2f", "t2star", "pd", "pdw", "dwi",
    "adc", "swi", "dir", "mprage", "space", "ct", "pet", "suv",
)  # fmt: skip
"""In lower case."""


def is_sequence(name: str) -> bool:
    """Return whether this is the name of a sequence, in any capitals."""
    return name.lower() in SEQUENCES
