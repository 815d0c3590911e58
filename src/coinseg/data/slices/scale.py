"""What a grey value means: Hounsfield units, or units of the scan itself. Every scan is asked where it is read.

CT in Hounsfield units has air at -1000, fat at -100 and soft tissue around 40. The same CT stored with +1024, as 0..1 or as
0..255, and MR, also with a few negative values, differ from that in what `not_hu` looks at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from coinseg.config.schema import DataSettings
from coinseg.data.layouts.shared import few
from coinseg.data.readers.paths import parts_of
from coinseg.data.readers.volume import read_volume
from coinseg.errors import UserError
from coinseg.types import Cohort, Scan

from .intensity import BODY_HU, HU_MAX, HU_MIN, LOW_PERCENTILE

FAT_HU = -100  # fat and air are below; there is some around every organ
PADDING_HU = -1150  # what lies below air was filled in
AIRY_HU = -200  # between padding and this there is air, lung or the border of the body
DENSE_HU = 600  # nine tenths of a body without its air are below
HALF_HU = 300  # half of any body is below
APART_HU = 200  # what the lowest values, or the body, of scans of one cohort may lie apart
UNSAID = ("", "OT")  # Modality of DICOM that says nothing: none, and "other"
FEW = 0.01  # share of voxels that says nothing
VOXELS = 2**18  # of a scan that are looked at, evenly spread; all count for the lowest value
ASKED = 5  # scans, at most, that decide for a cohort what its values mean; all are asked where they are read


def spread(scan: Scan) -> np.ndarray:
    """Return at most about `VOXELS` values of a scan, evenly spread, as float32 (n,)."""
    step = max(1, round((scan.size / VOXELS) ** (1 / scan.ndim)))
    return scan[(slice(None, None, step),) * scan.ndim].astype(np.float32).ravel()


@dataclass(frozen=True)
class Greys:
    """What the grey values of a scan are.

    Args:
        not_hu: see `not_hu`.
        lowest: percentile `LOW_PERCENTILE`.
        body: median of what is above `BODY_HU`; NaN where nothing is.
    """

    not_hu: str
    lowest: float
    body: float

    @classmethod
    def of(cls, scan: Scan, modality: str = "") -> "Greys":
        """Look at a scan once."""
        values = spread(scan)
        inside = values[values > BODY_HU]
        body = float(np.median(inside)) if len(inside) else float("nan")
        return cls(not_hu(scan, modality), float(np.percentile(values, LOW_PERCENTILE)), body)


def not_hu(scan: Scan, modality: str = "") -> str:
    """Say why the values of a scan are no Hounsfield units; "" where they may be. `modality` is what DICOM says, "" unknown."""
    if modality not in UNSAID and modality != "CT":
        return f"its DICOM Modality is {modality}"
    if scan.min() >= FAT_HU:
        return f"no value is below {FAT_HU}"
    values = spread(scan)
    inside = values[values > BODY_HU]
    if len(inside) < FEW / 2 * len(values):
        return f"hardly a value is above {BODY_HU}"
    if (beyond := float((inside > HU_MAX).mean())) > FEW:
        return f"{beyond:.0%} of its values are above {HU_MAX}"
    if np.median(inside) > HALF_HU:
        return f"half of its body is above {HALF_HU}"
    airy = float(((values >= PADDING_HU) & (values < AIRY_HU)).mean())
    if airy < FEW and np.quantile(inside, 0.9) > DENSE_HU:
        return f"hardly a value is that of air and a tenth is above {DENSE_HU}"
    return ""


@lru_cache(maxsize=4096)
def _asked(path: Path, stamp: tuple[tuple[str, int, int], ...]) -> Greys | None:
    try:
        volume = read_volume(path)
    except UserError:
        return None  # reported when it is prepared
    return Greys.of(volume.scan, volume.modality)


def ask(scans: Sequence[Path], most: int) -> dict[Path, Greys]:
    """Return the grey values of `most` scans, evenly spread over those given, that can be read; each is read once."""
    chosen = [scans[i] for i in np.unique(np.linspace(0, len(scans) - 1, min(most, len(scans))).astype(int))]
    stamps = [tuple((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in parts_of(path)) for path in chosen]
    said = {path: _asked(path, stamp) for path, stamp in zip(chosen, stamps, strict=True)}
    return {path: greys for path, greys in said.items() if greys is not None}


def kind_of_intensity(cohort: Cohort, settings: DataSettings) -> str:
    """Return "hu", "percentile" or "8bit"; "auto" is HU where all are volumes and most of `ASKED` may be in HU."""
    volumes = all(case.volume for case in cohort.cases)
    if settings.intensity == "hu" and not volumes:
        got = "data.intensity is hu and the data are plain images"
        raise UserError(got, "CT volumes for hu", "set data.intensity to percentile")
    if settings.intensity == "8bit" and any(case.volume for case in cohort.cases):
        raise UserError("data.intensity is 8bit and the data are volumes", "plain images", "set data.intensity to auto")
    if settings.intensity != "auto":
        return settings.intensity
    said = [greys.not_hu for greys in ask([case.image for case in cohort.cases], ASKED).values()] if volumes else ["plain images"]
    return "hu" if sum(map(bool, said)) * 2 < max(len(said), 1) else "percentile"


def said_of_intensity(kind: str, settings: DataSettings, scans: Mapping[Path, Greys]) -> list[str]:
    """Return problem lines about scans whose values mean something else than those of the others.

    Args:
        kind: what `kind_of_intensity` returned.
        settings: intensity is read.
        scans: the grey values of each scan that was read, by its file.
    """
    lines, hu, auto = [], kind == "hu", settings.intensity == "auto"
    foreign = [path for path, greys in scans.items() if bool(greys.not_hu) == hu]
    if not hu and auto and len(foreign) < len(scans):
        why = next(greys.not_hu for greys in scans.values() if greys.not_hu)
        line = f"taken for MR or the like, each scan scaled by its own percentiles: {why}, "
        lines.append(f"{line}so they are no CT in Hounsfield units (--data.intensity hu: CT all the same)")
    if foreign and (hu or len(foreign) < len(scans)):
        what = f"not in Hounsfield units ({scans[foreign[0]].not_hu})" if hu else "in Hounsfield units and the others are not"
        then = "" if not hu else ", left out: convert them" if auto else ", used as they are (data.intensity hu)"
        lines.append(f"{len(foreign)} of {len(scans)} scans are {what}{then}: {_named(foreign)}")
    alike = {path: greys for path, greys in scans.items() if not greys.not_hu}
    return lines + (_said_of_hu(alike) if hu and alike else [])


def _said_of_hu(scans: Mapping[Path, Greys]) -> list[str]:
    """Return problem lines about scans that may be in Hounsfield units and are not like the others."""
    found = np.array([(max(greys.lowest, HU_MIN), greys.body) for greys in scans.values()])  # padding counts as air
    usual = np.median(found, axis=0)
    apart = (np.abs(found - usual) > APART_HU).any(axis=1)
    if not apart.any():
        return []
    low, body = found[apart][0]
    return [
        f"{apart.sum()} of {len(found)} scans are unlike the others in their values (lowest around {low:.0f} and body "
        f"{body:.0f}, the others {usual[0]:.0f} and {usual[1]:.0f}): are they CT in Hounsfield units, and not cut to a window? "
        f"{_named([path for path, odd in zip(scans, apart, strict=True) if odd])}"
    ]


def _named(paths: Sequence[Path]) -> str:
    return few(("/".join(path.parts[-2:]) for path in paths), 5)
