"""What `coinseg segment` is asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from coinseg.data.layouts.shared import stem_of
from coinseg.data.readers.image import is_image
from coinseg.data.readers.paths import split_key
from coinseg.data.readers.volume import WRITTEN
from coinseg.errors import UserError
from coinseg.runtime.files import LOCK
from coinseg.runtime.report import Report, silent


def mask_name(path: Path) -> str:
    """The name of the mask of an input: .png for an image, .nii.gz for a volume of any format."""
    return f"{stem_of(path)}{'.png' if is_image(path) else '.nii.gz'}"


@dataclass(frozen=True)
class Request:
    """What is to be segmented, by the run in the folder `model`, and where the results go.

    `source` is a file, of which `out` is the mask, or a folder or table, and `out` a folder for the masks; a DICOM folder can be
    either. `organ` are masks of one scan, or one folder with those of the scans in a folder (`layouts.unlabelled`).
    `engine` are settings of the engine in the place of those of the run.
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
    engine: Mapping[str, Any] = field(default_factory=dict)
    report: Report = silent
    command: str = ""
    class_name: str = ""

    @cached_property
    def trusted(self) -> bool:
        """Whether masks by the run may be called trusted; of one class of several its own masks."""
        from coinseg.evaluation.verdict import trusted

        from .manifest import verdict_of  # it imports torch

        return trusted(verdict_of(self.model, self.class_name))

    @property
    def to_file(self) -> bool:
        """Whether the source is one scan or image, and `out` its mask."""
        path, key = split_key(self.source)
        return (path.is_file() and not self.is_table) or key is not None or self.out.name.lower().endswith(WRITTEN)

    def require_there(self) -> None:
        """Raise `UserError` where an input is missing or an output is there; it costs nothing and is asked first."""
        place = split_key(self.source)[0]
        if not (place.is_file() or place.is_dir()):
            what = "is a pipe or a device" if place.exists() else "does not exist"
            raise UserError(f"{self.source} {what}", "a volume, an image or a folder", "mend -i")
        if not (self.model / "model.json").exists():
            do = "train first, or mend --model"
            raise UserError(f"{self.model} has no model.json", "the output folder of a finished `coinseg run`", do)
        for organ in self.organ:
            if not organ.exists():
                raise UserError(f"{organ} does not exist", "organ masks", "mend --organ")
        if (
            self.to_file
            and self.out.is_file()
            and not self.overwrite
            and not self.out.with_name(f"{LOCK}-{self.out.name}").exists()
        ):
            raise UserError(f"{self.out} exists", "a new file", "choose another name or give --overwrite")

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
