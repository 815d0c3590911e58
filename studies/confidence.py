"""The tables of docs/research/confidence.md: what the confidence of a mask and of its pixels is worth.

    python studies/confidence.py DATA WORK SET SEED...

For runs that `recipe.py final` left. The test fifth, all masks, those on normal images with an IoU of 0. Nothing is trained.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from runs import batches_of, workspace

from coinseg.masks.confidence import DOUBT
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


def main() -> None:
    """See the top of this file."""
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


if __name__ == "__main__":
    main()
