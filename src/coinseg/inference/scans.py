"""A trained run asked about scans and image files. The three lines of a notebook end here; `saved.py` reads it from its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from coinseg.config.schema import Axis
from coinseg.data.readers.axes import require_volumes, turned
from coinseg.data.readers.image import is_image, write_image_map, write_image_mask
from coinseg.data.readers.volume import Geometry, read_geometry, write_mask, write_scan
from coinseg.data.slices.case import LoadedCase, cut_pixels, encoder, load_case
from coinseg.data.slices.crop import Cut
from coinseg.data.slices.intensity import signed
from coinseg.errors import UserError
from coinseg.masks.confidence import of_scan
from coinseg.masks.postprocess import clean_volume
from coinseg.runtime.devices import CHUNK
from coinseg.types import Case, MaskSource

from .maps import ConfidenceMap, NativeMaps
from .predictor import Inference
from .table import highest, told


@dataclass(frozen=True)
class Segmentation:
    """The mask of one case on its own grid.

    Args:
        mask: canonical (slices, H, W) bool, whatever axis it was found along; one slice for a plain image.
        probability: f(X) of every slice looked at, NaN where none was, (slices along `data.axis`,).
        confidence: how far to trust the mask of a slice, in [0, 1] (`confidence.py`); NaN where there is none or it was not looked
            at, and everywhere without `masks.flips`.
        posterior: what says which slices are marked (`posterior.py`), (slices along `data.axis`,); NaN where none was looked at, and
            everywhere without a student, where f says it.
        sure: how far to trust each voxel of the mask (`confidence.of_pixels`).
        maps: counterfactual and difference in HU, where they were asked for.
    """

    mask: np.ndarray
    probability: np.ndarray
    confidence: np.ndarray
    posterior: np.ndarray
    sure: ConfidenceMap
    maps: NativeMaps | None = None

    def told(self, axis: Axis) -> dict[str, float | bool | None]:
        """What `scan_table` says of it, its slices along `axis`: `scan_table.told` of the whole mask."""
        sure = of_scan(self.confidence, turned(self.mask, axis).sum((1, 2)))
        return told(highest(self.probability), highest(self.posterior), sure)


class Run(Inference):
    """A run that segments files: their slices are cut as those of the training were, and masks come back on the grid of the file."""

    def segment_cases(self, cases: Sequence[LoadedCase], maps: bool = False) -> list[Segmentation]:
        """Segment loaded cases together: their slices share the batches, and those of one series are neighbours; `maps` as in `segment`.

        A student is not asked whether there is a lesion where somebody has said so: a slice that was labelled is marked, or left
        empty, as its label says, and asked where (docs/decisions/0029-given.md).
        """
        if maps:
            self.require_maps()
        size, axis = self.settings.data.size, self.settings.data.axis
        slots: list[tuple[int, Cut]] = []
        pixels: list[np.ndarray] = []
        given: list[int | None] = []
        found: list[Segmentation] = []
        for i, case in enumerate(cases):
            encoded, scan = encoder(case.scan, self.kind), turned(case.scan, axis)
            used = list(case.cuts(self.settings.data))
            given += [case.given(cut.index, self.settings.data.label_level, len(used)) for cut in used]
            for cut in used:
                slots.append((i, cut))
                pixels.append(cut_pixels(encoded(scan[cut.index]), cut.box, size, self.kind))
            painted = NativeMaps(case.scan, axis, self.window) if maps else None
            unknown = np.full(len(scan), np.nan)
            sure = ConfidenceMap(case.scan.shape, axis)
            found.append(Segmentation(np.zeros(case.scan.shape, bool), unknown, unknown.copy(), unknown.copy(), sure, painted))
        posterior = self._posterior_of(cases, slots, pixels)
        known = torch.tensor([{None: np.nan, 0: -1.0, 1: 1.0}[label] for label in given])  # below any gate, above any gate
        asked = None if posterior is None else torch.where(known.isnan(), posterior, known)
        said = np.full(len(slots), np.nan) if posterior is None else posterior.numpy()
        for start in range(0, len(slots), CHUNK):
            part = slice(start, start + CHUNK)
            images = self._images(pixels[part])
            of = self.marked(images, None if asked is None else asked[part])
            probability = of.explained.probability.numpy()
            for (i, cut), mask, p, q, c, sure in zip(
                slots[part], of.masks, probability, said[part], of.confidence, of.sure, strict=True
            ):
                found[i].sure.add(cut, sure)
                native = turned(found[i].mask, axis)[cut.index]
                native |= cut.box.paste_mask(mask, (native.shape[0], native.shape[1]))
                found[i].probability[cut.index] = np.fmax(found[i].probability[cut.index], p)
                found[i].posterior[cut.index] = np.fmax(found[i].posterior[cut.index], q)
                # Of two regions of a slice the less certain one counts.
                found[i].confidence[cut.index] = np.fmin(found[i].confidence[cut.index], c)
            # What a student gives is a probability, not a difference.
            shown = of.refined if self.student is None or not maps else self.differences(images)[1]
            for j, (i, cut) in enumerate(slots[part]) if maps else ():
                change = ((of.explained.painted()[0][j, 0] - images[j, 0]) / 2).numpy()
                cast(NativeMaps, found[i].maps).add(cut, change, shown[j])
        return [
            one
            if case.geometry is None
            else replace(one, mask=clean_volume(one.mask, case.geometry.voxel_ml, self.settings.masks))
            for case, one in zip(cases, found, strict=True)
        ]

    def _images(self, pixels: Sequence[np.ndarray]) -> Tensor:
        """Prepared slices (S, S) as images (B, 1, S, S) in [-1, 1]."""
        return torch.from_numpy(signed(self.window.unit(np.stack(pixels))))[:, None]

    def _posterior_of(
        self, cases: Sequence[LoadedCase], slots: Sequence[tuple[int, Cut]], pixels: Sequence[np.ndarray]
    ) -> Tensor | None:
        """The posterior of every prepared slice, (n,), its neighbours in its case or series asked as well; None without a student."""
        if self.student is None or not slots:
            return None
        said = [self.logits(self._images(pixels[start : start + CHUNK])) for start in range(0, len(pixels), CHUNK)]
        listed = [case.case if case.case and case.case.series else None for case in cases]
        of = [((one.series if (one := listed[i]) else i), cut.region) for i, cut in slots]
        number = {chain: n for n, chain in enumerate(dict.fromkeys(of))}
        places = [one.place if (one := listed[i]) else cut.index for i, cut in slots]
        return self.along_scans(np.concatenate(said), np.array([number[chain] for chain in of]), np.array(places))

    def segment(self, path: str | Path, organ: Sequence[MaskSource] = (), maps: bool = False) -> Segmentation:
        """Segment one volume (NIfTI, NRRD, MetaImage, a DICOM folder or .zip) or image file.

        Args:
            path: the scan or image; never modified.
            organ: organ masks on the same grid; required where the run was trained on an organ region.
            maps: also paint the counterfactual and the difference, in HU; only for a counterfactual method on HU.

        Raises:
            UserError: the file or a mask cannot be read, or an organ mask is required.
        """
        return self.segment_cases([self.load(Path(path), organ)], maps)[0]

    def load(self, path: Path, organ: Sequence[MaskSource] = ()) -> LoadedCase:
        """Read one volume or image as this run needs it."""
        if self.settings.data.roi != "none" and not organ:
            raise UserError(
                f"no organ mask for {path} and the run was trained on the region around the organ (data.roi {self.settings.data.roi})",
                "the organ mask of the scan",
                "give it with --organ",
            )
        if self.kind == "hu" and is_image(path):
            raise UserError(
                f"{path} is a plain image and the run was trained on Hounsfield units", "a CT volume", "give the scan"
            )
        if is_image(path):
            require_volumes(f"{path} is a plain image", self.settings.data)
        return load_case(Case(path.name, path.name, path, volume=not is_image(path), organ=tuple(organ)), with_lesion=False)

    def segment_file(self, path: Path, out: Path, organ: Sequence[MaskSource] = (), overwrite: bool = False) -> Segmentation:
        """Segment one file and write the mask: on the scan's own grid (.nii.gz, .nrrd, .mha), or a PNG of the image's size."""
        found = self.segment(path, organ)
        write_segmentation(found, path, out, overwrite)
        return found

    def require_maps(self) -> None:
        """Raise `UserError` where there is no counterfactual in Hounsfield units."""
        if self.generator is None or self.kind != "hu":
            what = f"method {self.settings.method}" if self.generator is None else f"intensity {self.kind}"
            raise UserError(f"the run has {what}", "a counterfactual method on Hounsfield units", "ask for the mask alone")


def write_segmentation(
    found: Segmentation, source: Path, out: Path, overwrite: bool = False, geometry: Geometry | None = None
) -> None:
    """Write a mask in the shape its source has."""
    if is_image(source):
        write_image_mask(out, found.mask[0], overwrite)
    else:
        write_mask(out, found.mask, geometry or read_geometry(source), overwrite)


def write_confidence(
    found: Segmentation, source: Path, out: Path, overwrite: bool = False, geometry: Geometry | None = None
) -> None:
    """Write how far to trust each voxel of a mask, in percent, in the shape its source has."""
    if is_image(source):
        write_image_map(out, np.asarray(found.sure.percent)[0], overwrite)
    else:
        write_scan(out, found.sure.percent, geometry or read_geometry(source), overwrite)
