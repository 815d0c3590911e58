"""What only one command needs is an extra of the package: it is refused in one line where it is missing."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from coinseg.errors import UserError


@dataclass(frozen=True)
class Extra:
    """An extra: the modules that it brings, and what for."""

    modules: tuple[str, ...]
    what: str


EXTRAS = {
    "dicom": Extra(("pydicom", "highdicom", "openjpeg", "jpeg_ls", "gdcm"), "DICOM in and DICOM SEG out"),
}
"""By name; pyproject.toml says which packages have the modules."""


@contextmanager
def needs(name: str, what: str) -> Iterator[None]:
    """Raise `UserError` where a module of the extra `name` is missing in the block, for `what` somebody asked for."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRAS[name].modules:
            raise
        raise UserError(f"{what} needs {error.name}, which is not installed", f"the extra {name}",
                        f"pip install 'coinseg[{name}]'") from error  # fmt: skip
