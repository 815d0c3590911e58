"""What `coinseg segment` is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from coinseg.data.layouts.shared import stem_of
from coinseg.data.readers.image import is_image
from coinseg.evaluation.verdict import trusted
from coinseg.runtime.stage import Report, silent

from .manifest import verdict_of


def mask_name(path: Path) -> str:
    """The name of the mask of an input: .png for an image, .nii.gz for a volume of any format."""
    return f"{stem_of(path)}{'.png' if is_image(path) else '.nii.gz'}"


@dataclass(frozen=True)
class Request:
    """What is to be segmented, by the run in the folder `model`, and where the results go.

    `source` is a file, of which `out` is the mask, or a folder or table, and `out` a folder for the masks; a DICOM folder can be
    either. `organ` are masks of one scan, or one folder with those of the scans in a folder (`layouts.unlabelled`).
    `counterfactual` and `difference` (of one volume, in HU) and `confidence` (in percent) are written where a place is given.
    """

    source: Path
    out: Path
    model: Path
    organ: Sequence[Path] = ()
    overwrite: bool = False
    accelerator: str | None = None
    classifier: str | None = None
    counterfactual: Path | None = None
    difference: Path | None = None
    confidence: Path | None = None
    report: Report = silent
    command: str = ""

    @cached_property
    def trusted(self) -> bool:
        """Whether masks by the run may be called trusted."""
        return trusted(verdict_of(self.model))

    @property
    def is_table(self) -> bool:
        """Whether the source is a table of scans or images."""
        return self.source.suffix.lower() == ".csv" and self.source.is_file()

    def name_of(self, path: Path) -> Path:
        """An input by its path below the folder, or below that of the table."""
        return path.relative_to(self.source.parent if self.is_table else self.source)

    def target(self, path: Path) -> Path:
        """Where the mask of an input of a folder lies, below the output folder."""
        return self.name_of(path).parent / mask_name(path)
