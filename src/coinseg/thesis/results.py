"""From the rows of `reproduce` to records, notes and figures of a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .figures import Examples, compare, figure5, figure9, figure10, load_examples
from .rows import ORDERINGS, TABLES, Row
from .tables import Columns, orderings

Result = Mapping[str, Any]  # The contents of a row.json
SIZES = ("tiny", "small", "medium", "large")
COLUMNS: Columns = {
    "iou": ("IoU", "up", ".3f"),
    "iou_oracle": ("IoU, oracle threshold", "up", ".3f"),
    "dice": ("Dice per image", "up", ".3f"),
    "hd95_px": ("HD95 (px)", "down", ".1f"),
    "auprc": ("pixel AUPRC", "up", ".3f"),
    "false_positive_area": ("area marked on normals", "down", ".4f"),
    "lesions_touched": ("lesions touched", "up", ".2f"),
    **{f"found_{size}": (f"found, {size}", "up", ".2f") for size in SIZES},
    "cv": ("CV", "up", ".3f"),
    "flip_rate": ("flip rate", "up", ".3f"),
    "fid": ("FID", "down", ".3f"),
    "fd_f": ("fd_f", "down", ".2f"),
}
_NAMES = {"iou_mask_free": "iou", "dice_per_image": "dice"}


def scores_of(result: Result, protocol: str) -> dict[str, float | None]:
    """The scores of one seed that have a column."""
    scores = {_NAMES.get(name, name): value for name, value in result[protocol].items()}
    for size, group in zip(SIZES, scores.pop("lesions_by_size", None) or [], strict=False):
        scores[f"found_{size}"] = group["found"] / group["lesions"] if group["lesions"] else None
    return {name: scores[name] for name in COLUMNS if name in scores}


def record_of(name: str, row: Row, results: Sequence[Result], protocol: str, data: str, kind: str) -> dict[str, Any]:
    """One record of `tables`: the scores of a row on a data set under a protocol, one value for each seed.

    Args:
        name, row: name and definition of the row.
        results: of each seed.
        protocol: "replica" (that of the thesis) or "honest" (mask-free).
        data: name of the data set.
        kind: "synthetic" or "real"; selects the figures of the thesis, which belong to "replica".
    """
    each = [scores_of(result, protocol) for result in results]
    figures = row.thesis.get(kind, ()) if protocol == "replica" else ()
    thesis = {score: value for score, value in zip(("fid", "cv", "iou"), figures, strict=False) if value is not None}
    changes = ", ".join(f"{key} {value}" for key, value in row.coin.items())
    layers = sorted({str(r["layer"]) for r in results}) if row.method not in ("counterfactual", "rise") else []
    return {
        "method": name, "title": row.title, "protocol": protocol, "set": data, "seeds": len(results),
        "settings": ("Singla et al., " if row.singla else "") + changes + (f"layer {' / '.join(layers)}" if layers else ""),
        "scores": {score: [one.get(score) for one in each] for score in COLUMNS if any(score in one for one in each)},
        "thesis": thesis, "seconds": [result.get("training_s", 0.0) + result["scoring_s"] for result in results],
    }  # fmt: skip


def notes_of(facts: Mapping[str, Any], table: str, records: Sequence[Mapping[str, Any]], missing: Sequence[str]) -> list[str]:
    """Notes under a table: protocols, scores, scale, and which orderings of the thesis hold.

    Args:
        facts: scale, size, steps, slices, seeds.
        table: its name.
        records: of the table.
        missing: rows left out.
    """
    notes = [
        "replica: the protocol of the thesis. IoU pooled over the slices labelled abnormal, at the threshold that is best on "
        "these very masks (an oracle), cleaned for counterfactual methods only.",
        "honest: thresholds from training images without any mask, the same post-processing for every method, every abnormal "
        "slice, images f calls normal left unmarked; the column 'oracle' tunes on the masks it is scored with.",
        "FID: on the Inception features of --fid-features (768, as in the authors' runs; the thesis says 2048). replica: of all "
        "slices and their counterfactuals, so that images which hardly change pull it to 0; honest: of normal images and the "
        "counterfactuals of abnormal ones. Compare within a column, over the same number of slices.",
        "fd_f is the Frechet distance on the features of f itself. It is not FID and does not compare with it.",
        "found: lesions of which at least a tenth is marked; tiny, small, medium, large: below 0.1 %, 0.5 %, 2 % of the image, "
        "above.",
        f"scale {facts['scale']}: slices of {facts['size']} x {facts['size']}, {facts['steps']} steps of each generator, "
        f"at most {facts['slices'] or 'all'} held-out slices, {facts['seeds']} seeds, each with its own split by patient.",
    ]
    if missing:
        notes.append(f"{', '.join(missing)}: left out, because CARL needs organ masks and the data have none.")
    for order in orderings(records, "iou", ORDERINGS[table]):
        verdict, seeds = "holds" if order["holds"] else "does not hold", f"in {order['seeds_held']} of {order['seeds']} seeds"
        if order["holds"] is not None:
            notes.append(f"{order['protocol']}: {order['statement']}: {verdict} (IoU {order['by']:+.3f}; {seeds}).")
    return notes


def draw(rows: Mapping[str, Path], table: str, folder: Path, injected: bool) -> list[Path]:
    """Draw the figures of the thesis that belong to a table, from the examples of one seed; returns their paths.

    Args:
        rows: name of a row -> its folder.
        table: its name.
        folder: receives the figures.
        injected: whether the anomalies are synthetic, for figure 5.
    """
    examples = {name: load_examples(place / "examples.npz") for name, place in rows.items() if (place / "examples.npz").exists()}
    if not examples:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    first = next(iter(examples.values()))
    drawn = [figure5(folder / "figure5.png", first.image, first.truth)] if table == "table1" and injected else []
    comparisons = {
        "figure6": (("A", "B"), "Without and with perturbation"),
        "figure7": (("B", "F"), "Without and with skip connections"),
        "figure8": (("G", "COIN"), "Singla et al. with perturbation and skips, and COIN"),
    }
    for stem, (names, title) in comparisons.items() if table == "table1" else ():
        if all(name in examples for name in names):
            drawn.append(compare(folder / f"{stem}.png", [(name, examples[name]) for name in names], title, "replica"))
    if table == "table2":
        shown = [(name, some(each, 3)) for name, each in examples.items() if name in TABLES[table]]
        drawn += [figure9(folder / f"figure9-{protocol}.png", shown, protocol) for protocol in ("replica", "honest")]
        drawn.append(figure10(folder / "figure10.png", examples["COIN"], "honest"))
    return drawn


def some(examples: Examples, count: int) -> Examples:
    """The first `count` slices."""
    arrays: dict[str, Any] = {name: None if value is None else value[:count] for name, value in vars(examples).items()}
    return Examples(**arrays)
