"""The table by patient of a report, from evaluation/slices.csv: numbered, the worst first; names stay in the files."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from typing import Any


def patients_of(slices: Path) -> list[dict[str, Any]]:
    """A row for each held-out patient, the lowest mean Dice first, those without one last, by the share marked in error.

    Args:
        slices: evaluation/slices.csv; no rows where it is missing or broken.

    Returns:
        number (from 1 in the order of the file), case (the id of the first one), images, abnormal, normal; dice (mean, None
        without a mask to score), lowest, found (share of scored lesions that are touched), marked (share of normal images that
        are marked), doubtful (masks in doubt), masks.
    """
    found: dict[str, list[dict[str, str]]] = defaultdict(list)
    try:
        with slices.open(newline="", encoding="utf-8", errors="replace") as file:
            for row in csv.DictReader(file):
                found[row["patient"]].append(row)
        rows = [_row(number, rows) for number, rows in enumerate(found.values(), 1)]
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return []
    return sorted(rows, key=lambda row: (row["dice"] is None, row["dice"] or 0.0, -(row["marked"] or 0.0), row["number"]))


def _row(number: int, rows: list[dict[str, str]]) -> dict[str, Any]:
    scored = [row for row in rows if row["dice"] and int(row["truth_px"] or 0) > 0]
    dice = [float(row["dice"]) for row in scored]
    # As in `protocols`: what has a lesion is not normal, whatever its label.
    ill = [row["label"] == "1" or int(row["truth_px"] or 0) > 0 for row in rows]
    normal = [row for row, has in zip(rows, ill, strict=True) if row["label"] == "0" and not has]
    marked = [row for row in normal if int(row["mask_px"]) > 0]
    masks = [row for row in rows if int(row["mask_px"]) > 0]
    return {
        "number": number, "case": rows[0]["case"].removeprefix("'"), "images": len(rows),
        "abnormal": sum(ill), "normal": len(normal),
        "dice": sum(dice) / len(dice) if dice else None, "lowest": min(dice, default=None),
        "found": sum(value > 0 for value in dice) / len(dice) if dice else None,
        "marked": len(marked) / len(normal) if normal else None,
        "doubtful": sum(row["doubtful"] == "1" for row in masks), "masks": len(masks),
    }  # fmt: skip
