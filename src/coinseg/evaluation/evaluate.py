"""Scores on the held-out side: the only place where lesion masks meet predictions; what is counted is in `protocols.py`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from coinseg.config.schema import Settings
from coinseg.data.slices.dataset import ScoredSlices
from coinseg.masks.confidence import DOUBT, doubtful, of_pixels
from coinseg.masks.postprocess import levels_of, masks_of
from coinseg.masks.refine import channel_changes
from coinseg.metrics import overlap as metrics
from coinseg.runtime.files import clear, csv_text, require_room, write_text
from coinseg.runtime.records import sealed, write_record

from .audit import Ask, audit, mistakes
from .explained import Explain, Explained, explain_all, name_of, room_for
from .protocols import mask_free
from .verdict import judge, trusted
from .whole_images import WholeImages, labels_of_slices, whole_scores

EXAMPLES = 4  # Pictures of each kind: best, median, worst, normal
BYTES, BYTES_OF_CHANNEL = 14, 8  # Of the maps of a pixel that is scored, and for each of its channels in X and X_cf
NOTHING = "nothing to count over whole images"


@contextmanager
def _maps_in(folder: Path, slices: ScoredSlices) -> Iterator[Path]:
    """A folder for the maps of `slices`, removed at the end, and at the beginning where a killed process left it."""
    clear(folder)
    pixel = BYTES + BYTES_OF_CHANNEL * len(slices.store.channels)
    require_room(folder, pixel * len(slices) * slices.store.size**2, "the maps that are scored")
    try:
        yield folder
    finally:
        clear(folder)


def choose_examples(
    found: Explained,
    dices: Callable[[int], float | None],
    level: float = 0.5,
    patients: np.ndarray | None = None,
    sure: np.ndarray | None = None,
) -> list[tuple[str, int]]:
    """Positions of the pictures: best, median and worst by Dice among scored abnormal slices, doubtful masks, normals, errors.

    Without masks abnormal slices at even distances instead; without labels those with the highest f of the unlabelled slices.
    Best, median, worst and doubtful ones are of different patients as far as there are enough; of slices of one Dice those with
    the larger lesion count as worse.

    Args:
        found: the explained slices.
        dices: a position -> the Dice of its mask.
        level: from which f calls an image abnormal.
        patients: (n,), whose the slices are; each is its own without.
        sure: (n,), the confidence of the masks, NaN of empty ones; no doubtful ones without.
    """
    owners = np.arange(len(found.label)) if patients is None else patients

    def spread(indices: np.ndarray, count: int) -> np.ndarray:
        return indices[np.linspace(0, len(indices) - 1, count).astype(int)]

    scored = np.flatnonzero(found.known & found.truth.any((1, 2)))
    abnormal, normal, unknown = (np.flatnonzero(c) for c in (found.label == 1, found.normal, found.label < 0))
    groups: list[tuple[str, np.ndarray]] = []
    if len(scored):
        values = [dices(int(i)) or 0.0 for i in scored]
        order = scored[np.lexsort((-found.truth[scored].sum((1, 2)), values))]
        middle = order[max(0, len(order) // 2 - EXAMPLES // 2) :]
        groups += [(name, apart(of, owners)) for name, of in (("best", order[::-1]), ("median", middle), ("worst", order))]
    elif len(abnormal):
        groups.append(("abnormal", spread(abnormal, 2 * EXAMPLES)))
    elif len(unknown):
        groups.append(("unknown", unknown[np.argsort(-found.before[unknown], kind="stable")][: 2 * EXAMPLES]))
    if sure is not None:
        doubted = np.flatnonzero(np.isfinite(sure) & (np.nan_to_num(sure) < DOUBT))
        groups.append(("doubtful", apart(doubted[np.argsort(sure[doubted], kind="stable")], owners)))
    if len(normal):
        groups.append(("normal", spread(normal, EXAMPLES)))
    groups += zip(("missed", "alarm"), mistakes(found, level, EXAMPLES), strict=True)
    return [(group, int(i)) for group, indices in groups for i in indices]


def apart(order: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """The first `EXAMPLES` of an order, a second one of an owner only where there are not enough others."""
    _, first = np.unique(owners[order], return_index=True)
    once = np.isin(np.arange(len(order)), first)
    chosen = np.concatenate([np.flatnonzero(once), np.flatnonzero(~once)])[:EXAMPLES]
    return order[np.sort(chosen)]


def middle_distance(index: dict[str, np.ndarray], rows: np.ndarray) -> np.ndarray | None:
    """How far slices lie from the middle of the used slices of their scan, (n,) in [0, 1]; None where no case is a scan."""
    if not index["slice"].any():
        return None
    names, of = np.unique(index["series"], return_inverse=True)
    first, last = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    np.minimum.at(first, of, index["slice"])
    np.maximum.at(last, of, index["slice"])
    half, of = np.maximum((last - first) / 2, 0.5), of[rows]
    return np.abs(index["slice"][rows] - (first + last)[of] / 2) / half[of]


def _rows(
    found: Explained, predicted: np.ndarray, sure: np.ndarray, index: dict[str, np.ndarray], usable: bool,
    changes: dict[str, np.ndarray],
) -> list[list[Any]]:  # fmt: skip
    """slices.csv: a line of names, and one for each slice; all are doubtful where the run is not usable, foreign ones always.

    `changes` are further columns by channel, see `channel_changes`.
    """
    rows: list[list[Any]] = [[
        "case", "patient", "slice", "region", "label", "f", "f_counterfactual", "posterior", "mask_px", "confidence", "doubtful",
        "truth_px", "dice", *(f"change {name}" for name in changes),
    ]]  # fmt: skip
    for i, row in enumerate(found.rows):
        doubt, truth = doubtful(float(sure[i])), found.truth[i]
        rows.append([
            str(index["case"][row]), str(index["patient"][row]), index["slice"][row], index["region"][row],
            found.label[i] if found.label[i] >= 0 else "",
            *("" if values is None else f"{values[i]:.4f}" for values in (found.before, found.after, found.posterior)),
            int(predicted[i].sum()), "" if doubt is None else f"{sure[i]:.4f}",
            1 if not usable or found.is_foreign[i] else "" if doubt is None else int(doubt),
            *((int(truth.sum()), metrics.dice(predicted[i], truth)) if found.known[i] else ("", "")),
            *("" if np.isnan(values[i]) else f"{values[i]:.4f}" for values in changes.values()),
        ])  # fmt: skip
    return rows


def evaluate(
    slices: ScoredSlices, explain: Explain, threshold: float, settings: Settings, folder: Path,
    report: Callable[[int, int], None] = lambda done, total: None, ask: Ask | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Score one side of the split; leave slices.csv and examples.npz in `folder`, and with `ask` audit.json. Returns the scores.

    Args:
        slices: the side, with masks.
        explain: see `Explain`.
        threshold: on the maps, chosen without masks.
        settings: masks (how maps are cleaned), classifier and student are read.
        folder: receives the files.
        report: progress.
        ask: f, for the audit.
    """
    with _maps_in(folder / "maps", slices) as maps:
        found = explain_all(slices, explain, report, folder=maps)
        predicted = room_for("predicted", found.truth.shape, np.dtype(bool), maps)
        for block in metrics.blocks_of(np.arange(len(predicted))):
            predicted[block] = masks_of(found.refined[block], found.levels(threshold, block), settings.masks)
        audited = None
        if ask is not None:
            organs = slices.store.organs if slices.store.meta["has_organs"] else None
            position = middle_distance(slices.store.index, found.rows)
            audited = audit(found, predicted, position, organs, ask, settings.classifier.threshold)
            write_record(folder / "audit.json", audited)
        return _score(slices, found, predicted, threshold, settings, folder, audited)


def flat(images: np.ndarray) -> np.ndarray:
    """Images (n, C, S, S), those of one channel as (n, S, S)."""
    return images[:, 0] if images.shape[1] == 1 else images


def _score(
    slices: ScoredSlices, found: Explained, predicted: np.ndarray, threshold: float, settings: Settings, folder: Path,
    audited: dict[str, Any] | None,
) -> dict[str, Any]:  # fmt: skip
    scores = mask_free(found, predicted, threshold, settings)
    sure = found.confidence(predicted)
    index = slices.store.index
    tiled = bool(settings.data.tile and (index["region"][found.rows] >= 0).any())
    whole = WholeImages(found, predicted, index, threshold, settings) if tiled else None
    # The label of a scan is given, whatever its masks say; where anomalies are injected they decide.
    given = np.maximum(found.label, index["label"][found.rows])
    series = index["series"][found.rows]
    scores |= metrics.scan_scores(found.before, given, series)
    ill = {name for name, label in zip(series, given, strict=True) if label > 0}
    scores |= {"scans_abnormal": len(ill), "scans_normal": len(set(series)) - len(ill)}
    if scores["auroc_scans"] is None:
        single = len(set(series)) == len(found.rows)
        reason = "every image is a scan of its own" if single else "only one class of scans is held out"
        scores["null_because"]["auroc_scans"] = reason
    # Of several channels: which of them the counterfactual changes where something is marked.
    by_channel: dict[str, np.ndarray] = {}
    if len(slices.store.channels) > 1 and found.counterfactual is not None:
        changes = channel_changes(found.image, found.counterfactual, predicted)
        by_channel = dict(zip(slices.store.channels, changes.T, strict=True))
        known = {name: values[np.isfinite(values)] for name, values in by_channel.items()}
        scores["change_by_channel"] = {name: float(values.mean()) if len(values) else None for name, values in known.items()}
    if whole is not None:
        of_images, summary, dices = whole_scores(whole, labels_of_slices(found.label, index, found.rows))
        scores |= of_images
        scores["null_because"] |= {name: NOTHING for name, value in of_images.items() if value is None}
        scores["null_because"] = {name: why for name, why in scores["null_because"].items() if scores[name] is None}
        owners, members = index["patient"][summary.rows], whole.members()
        confidence = whole.confidence(members)
        chosen = choose_examples(summary, lambda i: dices[i], settings.classifier.threshold, owners, confidence)
        shown = whole.pictures([members[i] for _, i in chosen])
    else:
        summary = found
        dice_of = lambda i: metrics.dice(predicted[i], found.truth[i])
        chosen = choose_examples(found, dice_of, settings.classifier.threshold, index["patient"][found.rows], sure)
        shown = _pictures(found, predicted, [i for _, i in chosen], threshold, settings)
    rows = _rows(found, predicted, sure, index, trusted(judge(scores, audited)), by_channel)
    write_text(folder / "slices.csv", csv_text(rows))
    _write_examples(folder, chosen, summary, shown, [name_of(index, summary.rows[i], tiled) for _, i in chosen])
    return scores


def _pictures(
    found: Explained, predicted: np.ndarray, positions: list[int], threshold: float, settings: Settings
) -> dict[str, np.ndarray]:  # fmt: skip
    """What the examples show, see `WholeImages.pictures`."""
    levels = levels_of(found.refined[positions], found.levels(threshold, positions), settings.masks.peak)
    shown = {name: getattr(found, name)[positions] for name in ("image", "saliency", "refined", "truth")}
    shown |= {} if found.counterfactual is None else {"counterfactual": found.counterfactual[positions]}
    sure = of_pixels(found.refined[positions], levels)
    return shown | {"mask": predicted[positions], "sure": sure, "confidence": found.confidence(predicted)[positions]}


def _write_examples(
    folder: Path, chosen: list[tuple[str, int]], found: Explained, shown: dict[str, np.ndarray], names: list[str]
) -> None:  # fmt: skip
    """Write examples.npz: the pictures `shown` of slices `chosen`, which are described in `found` by their positions."""
    positions = [i for _, i in chosen]
    # An attribution has no counterfactual: NaN, which the report leaves out.
    painted = shown.get("counterfactual", np.full_like(shown["image"], np.nan))
    after = np.full_like(found.before, np.nan) if found.after is None else found.after
    # A student's map is a probability; beside its masks the difference of the method itself is shown.
    difference = shown["refined" if found.posterior is None else "saliency"]
    with sealed(folder / "examples.npz") as part:
        np.savez_compressed(
            part, group=np.array([group for group, _ in chosen], dtype=str),
            name=np.array(names, dtype=str),
            image=flat(shown["image"]).astype(np.float16), counterfactual=flat(painted).astype(np.float16),
            difference=difference.astype(np.float16), mask=shown["mask"], truth=shown["truth"],
            known=found.known[positions], before=found.before[positions], after=after[positions], confidence=shown["confidence"],
            sure=shown["sure"].astype(np.float16),
        )  # fmt: skip
