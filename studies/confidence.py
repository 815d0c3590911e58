"""The tables of docs/research/confidence.md: what the confidence of a mask and of its pixels is worth.

    python studies/confidence.py DATA WORK SET SEED...             runs that `recipe.py final` left, test fifth
    python studies/confidence.py opinions DATA WORK SET SEED...    runs of `board.py` and `learning_curve.py`, validation fifth

All masks, those on normal images with an IoU of 0. Nothing is trained.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from board import sides
from runs import batches_of, without_student, workspace

from coinseg import load
from coinseg.data.slices.dataset import ScoredSlices
from coinseg.inference.predictor import Predictor
from coinseg.masks.confidence import DOUBT, agreement, expected_dice
from coinseg.metrics.overlap import pooled_iou, rank_correlation, risk_area
from coinseg.pipeline.run import Run, train

BINS = np.array([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
COVERAGES = (0.25, 0.5, 0.75, 1.0)


def measured(run: Run) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence and IoU of masks that are not empty, (n,) each; of their pixels, (3, m), confidence, that of the mask, truth."""
    slices = run.held_out()
    scores_of = run.predictor.scores_of(slices)
    of_mask: list[tuple[float, float]] = []
    of_pixel: list[np.ndarray] = []
    for batch in batches_of(slices)[0]:
        s = run.predictor.segment_images(batch.image, scores_of(batch.rows))
        for mask, truth, confidence, sure in zip(s.masks, batch.truth, s.confidence, s.pixel_confidence, strict=True):
            if mask.any():
                of_mask.append((confidence, pooled_iou(mask, truth) or 0.0))
                of_pixel.append(np.stack([sure[mask], np.full(mask.sum(), confidence), truth[mask]]))
    confidences, overlaps = np.array(of_mask).T
    return confidences, overlaps, np.concatenate(of_pixel, axis=1)


def opinions(run: Predictor, slices: ScoredSlices) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The IoU of masks that are not empty, (n,), and what could be said of them, (n,) each in [0, 1]."""
    scores_of, alone = run.scores_of(slices), without_student(run)
    found: list[np.ndarray] = []
    for batch in batches_of(slices)[0]:
        scores = scores_of(batch.rows)
        s = run.segment_images(batch.image, scores)
        if s.maps.mirrored is None:
            raise SystemExit("the run does not ask mirror images")
        difference = alone.segment_images(batch.image, scores).masks
        known = [scores.probability, s.maps.mirrored, expected_dice(s.pixel_confidence, s.masks), agreement(s.masks, difference)]
        truth = [pooled_iou(mask, truth) or 0.0 for mask, truth in zip(s.masks, batch.truth, strict=True)]
        found.append(np.stack([np.array(truth), *known])[:, s.masks.any((1, 2))])
    overlap, f, mirrored, pixels, difference = np.concatenate(found, axis=1)
    return overlap, {
        "f, mirror image": f * mirrored, "f, pixels": f * pixels, "f, difference": f * difference,
        "f, mean of the three": f * (mirrored + pixels + difference) / 3,
        "f, geometric mean of the three": f * np.cbrt(mirrored * pixels * difference),
    }  # fmt: skip


def compare_opinions(source: Path, work: Path, name: str, seeds: list[int]) -> None:
    """Print what each way to say it is worth, for the masks of a run and for those of its difference."""
    for seed in seeds:
        space = workspace(source, work, name, seed, "test")
        run = load(space.root)
        if not isinstance(run, Predictor):
            raise SystemExit("a run of several classes")
        ((_, slices),) = sides(space, "validation")
        for kind, one in (("student", run), ("difference", without_student(run)))[not run.has_student :]:
            overlap, ways = opinions(one, slices)
            print(f"{name}, seed {seed}, masks of the {kind}: {len(overlap)}, mean IoU {overlap.mean():.2f}")
            for way, sure in ways.items():
                trusted, rank = sure >= DOUBT, rank_correlation(sure, overlap) or float("nan")
                means = [float(overlap[part].mean()) if part.any() else float("nan") for part in (trusted, ~trusted)]
                print(
                    f"  {way:30} rank correlation {rank:.2f}; trusted {means[0]:.2f}, doubtful {means[1]:.2f} "
                    f"({(~trusted).mean():.0%}); risk over coverage {risk_area(sure, overlap):.2f}"
                )


def main() -> None:
    """See the top of this file."""
    if sys.argv[1] == "opinions":
        return compare_opinions(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], [int(seed) for seed in sys.argv[5:]])
    source, work, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    for seed in map(int, sys.argv[4:]):
        confidence, overlap, (sure, of_image, true) = measured(train(workspace(source, work, name, seed, "test")))
        order = np.argsort(-confidence, kind="stable")
        kept = {share: float(overlap[order[: max(1, round(share * len(order)))]].mean()) for share in COVERAGES}
        trusted = confidence >= DOUBT
        means = [float(overlap[part].mean()) if part.any() else float("nan") for part in (trusted, ~trusted)]
        rank, area = rank_correlation(confidence, overlap) or float("nan"), risk_area(confidence, overlap)
        print(
            f"{name}, seed {seed}: {len(overlap)} masks; rank correlation {rank:.2f}; trusted {means[0]:.2f}, "
            f"doubtful {means[1]:.2f} ({(~trusted).mean():.0%}); risk over coverage {area:.2f}"
        )
        print("  mean IoU of the surest", {f"{share:.0%}": round(value, 3) for share, value in kept.items()})
        for what, value in (("pixel", sure), ("mask", of_image), ("pixel x mask", sure * of_image)):
            parts = np.digitize(value, np.quantile(value, [0.25, 0.5, 0.75]))
            shares = [round(float(true[parts == k].mean()), 2) for k in range(4) if (parts == k).any()]
            print(f"  share of marked pixels inside a lesion, by quarters of the confidence of the {what}: {shares}")
        bins = np.digitize(np.clip(sure, 0.5, 0.999), BINS) - 1
        print(
            "  and by the confidence of the pixel",
            {
                f"{BINS[k]:.1f}": (round(float((bins == k).mean()), 3), round(float(true[bins == k].mean()), 2))
                for k in range(5)
                if (bins == k).any()
            },
        )
    return None


if __name__ == "__main__":
    main()
