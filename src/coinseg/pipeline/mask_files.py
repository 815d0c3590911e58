"""The masks of a finished run as files: of the user's own cases in their own geometry, or of injected slices as pictures.

Several processes share the cases; what is there already is not made again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from coinseg.data.readers.image import write_image_map, write_image_mask
from coinseg.data.slices.case import load_case, require_there
from coinseg.data.slices.channels import as_bytes
from coinseg.data.slices.dataset import ScoredSlices
from coinseg.errors import UserError
from coinseg.inference.predictor import Predictor
from coinseg.inference.scans import Segmentation
from coinseg.inference.sources import require_kind
from coinseg.inference.table import JSON, highest, measure, told
from coinseg.masks.confidence import of_scan, percent
from coinseg.runtime.devices import CHUNK
from coinseg.runtime.files import discard, write_text, written_aside
from coinseg.runtime.ledger import require_own
from coinseg.runtime.process_group import current
from coinseg.types import Case

TOGETHER = 32  # plain images segmented together, or more where a series has more
Row = dict[str, Any]


@dataclass(frozen=True)
class MaskFiles:
    """Writes masks of `predictor` to `folder`; `report` is told how many of how many are done.

    `confidences` is the folder for the confidence of each of their pixels, in percent, under the same names.
    """

    predictor: Predictor
    folder: Path
    confidences: Path
    report: Callable[[int, int], None]

    def begin(self, key: str) -> None:
        """Write the key of the masks into the folder; masks of another key are removed, and their confidences."""
        begin(self.folder, self.confidences, key)
        self.confidences.mkdir(exist_ok=True)

    def of_cases(self, cases: Sequence[Case], wanted: Callable[[Case], bool] = lambda case: True) -> list[Row]:
        """Masks of the `wanted` cases: NIfTI on the grid of the scan, PNG of the size of the image; a row of the table for each.

        Images of one series are segmented together, because they are neighbours.

        Raises:
            UserError: a file is gone that was there when the case was prepared.
        """
        scans = {case.series for case in cases if wanted(case)} - {None}
        asked = [case for case in cases if wanted(case) or case.series in scans]
        most = 1 if self.predictor.settings.data.tile else TOGETHER  # an image in tiles is as many as there are
        rows = self._in_groups(together(asked, most), lambda group: self._cases([asked[i] for i in group], wanted))
        order = {case.id: i for i, case in enumerate(asked)}
        return sorted(rows, key=lambda row: order[row["case"]])

    def of_slices(self, slices: ScoredSlices) -> list[Row]:
        """PNG of slices, image and mask: where anomalies were injected the user's own scans have none."""
        parts = [list(range(i, min(i + CHUNK, len(slices)))) for i in range(0, len(slices), CHUNK)]
        return self._in_groups(parts, lambda group: self._slices(slices, group))

    def _in_groups(self, groups: Sequence[list[int]], write: Callable[[list[int]], list[Row]]) -> list[Row]:
        """The rows that `write` gives for groups of indices, in order; processes share the groups."""
        own, ends = {}, np.cumsum([len(group) for group in groups])
        for number in current().here.share(range(len(groups))):
            self.report(int(ends[number]) - len(groups[number]), int(ends[-1]))
            own[number] = write(groups[number])
        rows = {number: group for part in current().all_gather(own) for number, group in part.items()}
        return [row for number in sorted(rows) for row in rows[number]]

    def _cases(self, cases: list[Case], wanted: Callable[[Case], bool]) -> list[Row]:
        rows: list[Row] = []
        for case, segmentation in zip(*segmented(self.predictor, cases), strict=True):
            if not wanted(case):
                continue
            out = self.folder / f"{case.id}{'.nii.gz' if case.volume else '.png'}"
            confidence = self.confidences / out.name
            if out.exists() and confidence.exists():
                require_own(out)
            else:
                segmentation.write_confidence(confidence, overwrite=True)
                segmentation.write(out, overwrite=True)
            row = {"case": case.id, "mask": out.name} | segmentation.row(self.predictor.settings.data.axis)
            rows.append(row | measure(segmentation.mask, segmentation.geometry))
        return rows

    def _slices(self, slices: ScoredSlices, group: list[int]) -> list[Row]:
        rows: list[Row] = []
        batch = slices.scored(np.array(group))
        segmented_images = self.predictor.segment_images(batch.image)
        image_score = segmented_images.maps.image_score
        for i, (row, image, mask) in enumerate(zip(batch.rows, batch.image.numpy(), segmented_images.masks, strict=True)):
            name = "_".join(str(slices.store.index[c][row]) for c in ("case", "slice", "region"))
            confidences = percent(segmented_images.pixel_confidence[i])
            write_image_map(self.confidences / f"{name}_mask.png", confidences, overwrite=True)
            write_image_mask(self.folder / f"{name}_mask.png", mask, overwrite=True)
            with written_aside(self.folder / f"{name}_image.png") as part:
                Image.fromarray(as_bytes(image / 2 + 0.5)).save(part)
            confidence = of_scan(segmented_images.confidence[i : i + 1], mask.sum(keepdims=True)[0])
            posterior = None if image_score is None else highest(image_score[i : i + 1])
            facts = told(highest(segmented_images.scores.probability[i : i + 1]), posterior, confidence)
            rows.append({"case": name, "mask": f"{name}_mask.png"} | facts | measure(mask[None], None))
        return rows


def begin(folder: Path, confidences: Path, key: str) -> None:
    """Write the key of masks into their folder; those of another key, and their confidences, are removed."""
    marker = folder / "key.txt"
    if folder.exists() and (not marker.is_file() or marker.read_bytes() != key.encode()):
        # The table first: what is left of the others must not pass for all of them.
        discard(folder / JSON, confidences, folder)
    write_text(marker, key)


def together(cases: Sequence[Case], most: int = TOGETHER) -> list[list[int]]:
    """Groups of case indices that are segmented together: each volume alone, plain images in whole series, `most` or more."""
    series: dict[tuple[bool, str], list[int]] = {}
    for i, case in enumerate(cases):
        if not case.volume:
            series.setdefault((case.series is None, case.series or case.id), []).append(i)
    groups: list[list[int]] = []
    for members in series.values():
        if not groups or len(groups[-1]) >= most:
            groups.append([])
        groups[-1] += members
    return [[i] for i, case in enumerate(cases) if case.volume] + groups


def segmented(predictor: Predictor, cases: list[Case]) -> tuple[list[Case], list[Segmentation]]:
    """Segment cases together; those that cannot be read or cut are left out (they were reported when they were prepared).

    Raises:
        UserError: a file is gone that was there then.
    """
    loaded = []
    for case in cases:
        try:
            content = load_case(case, with_lesion=False, channels=predictor.preparation.channels)
            content.require_fits(predictor.settings.data)
            require_kind(predictor, content, case.id)
        except UserError as error:
            require_there(case, error)
            continue
        loaded.append((case, content))
    return [case for case, _ in loaded], predictor.segment_cases([content for _, content in loaded])
