"""The table of "When to stop" in docs/research/results.md: does anything that needs no mask tell when COIN is at its best?

    python studies/stopping.py DATA WORK SET SEED...

f and COIN of 2000 steps, twice the default; the averaged generator is kept after every 250. Of each: what training
images say without a mask, and the scores on the validation fifth. Of images labelled abnormal: how many flip, how many
flip when the mask alone is pasted and when all but the mask is, how well the masks of an image and its mirror image
agree, how many can be trusted, how much is changed, which share of that is inside the mask; of images labelled normal:
how much less is changed, and what is marked. WORK/SET-SEED-stopping/stopping.json receives the rows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from runs import batches_of, workspace

from coinseg.data.slices.dataset import ScoredSlices, TrainingSlices
from coinseg.data.slices.intensity import signed
from coinseg.explain.counterfactual.generator import Generator
from coinseg.inference.explainer import Explainer
from coinseg.inference.predictor import Predictor, Preparation
from coinseg.masks.confidence import DOUBT
from coinseg.masks.decision_flip import pasted
from coinseg.metrics.overlap import mean_dice, pooled_iou, rank_correlation
from coinseg.pipeline.run import train
from coinseg.runtime.files import write_json
from coinseg.runtime.stage import Stage

STEPS, EVERY, IMAGES = 2000, 250, 200


@contextmanager
def keep_generators(folder: Path) -> Iterator[None]:
    """Meanwhile every checkpoint leaves its averaged generator in `folder` as well."""
    save = Stage.save

    def saved(stage: Stage, step: int, setting: str, **state: Any) -> None:
        save(stage, step, setting, **state)
        if "kept" in state:
            weights = {k.removeprefix("module."): v for k, v in state["kept"].items() if k != "n_averaged"}
            torch.save(weights, folder / f"{step}.pt")

    folder.mkdir(parents=True, exist_ok=True)
    Stage.save = saved  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Stage.save = save  # type: ignore[method-assign]


def looked_at(
    explainer: Explainer, preparation: Preparation, slices: TrainingSlices, scored: ScoredSlices
) -> dict[str, float | None]:
    """A row of the table, of f and a generator."""
    run = Predictor.of(explainer, preparation, explainer.choose_threshold(slices).value)
    level = run.settings.classifier.threshold
    abnormal = np.flatnonzero(slices.labels() == 1)
    members = np.sort(np.random.default_rng([run.settings.seed, 6]).permutation(abnormal)[:IMAGES])
    images = slices.batch(members).image
    explained, segmented = run.explain(images), run.segment_images(images)
    painted, after = explained.painted()
    image, other = (x.numpy() / 2 + 0.5 for x in (images, painted))
    called = (explained.probability >= level).numpy()
    flipped = called & (after < level).numpy()

    def turned(region: np.ndarray) -> float | None:
        pixels = torch.from_numpy(signed(pasted(image, other, region)[flipped]))
        return float((run.probability(pixels) < level).float().mean()) if flipped.any() else None

    agreed, saliency = segmented.maps.agreement, explained.saliency.numpy()
    assert agreed is not None, "masks.hflip is off"
    row: dict[str, float | None] = {
        "flips": float(flipped.sum() / called.sum()),
        "mask_alone": turned(segmented.masks),
        "all_but_mask": turned(~segmented.masks),
        "mirror_agreement": float(agreed[called].mean()),
        "trusted": float((segmented.confidence[called] >= DOUBT).mean()),
        "mean_change": float(saliency[called].mean()),
        "change_inside": float((saliency * segmented.masks)[called].sum() / saliency[called].sum()),
    }
    normal = np.flatnonzero(slices.labels() == 0)
    others = slices.batch(np.sort(np.random.default_rng([run.settings.seed, 7]).permutation(normal)[:IMAGES])).image
    unasked = run.explain(others, inpaint_all=True).saliency.numpy()
    row |= {
        "change_against_normals": float(saliency[called].mean() / unasked.mean()),
        "normals_marked": float(run.masks(others).mean()),
    }
    batches, truth, label = batches_of(scored)
    masks = np.concatenate([run.masks(batch.image) for batch in batches])
    ill, well = label == 1, (label == 0) & ~truth.any((1, 2))
    return row | {
        "iou": pooled_iou(masks[ill], truth[ill]),
        "dice": mean_dice(masks[ill], truth[ill]),
        "false_positive_area": float(masks[well].mean()),
    }


def main() -> None:
    """See the top of this file."""
    source, work, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    for seed in map(int, sys.argv[4:]):
        space = workspace(source, work, name, seed, "validation")
        settings = replace(
            space.settings,
            coin=replace(space.settings.coin, steps=STEPS),
            student=replace(space.settings.student, steps=0),
            engine=replace(space.settings.engine, checkpoint_every=EVERY),
        )
        space = replace(space, root=work / f"{name}-{seed}-stopping", settings=settings)
        kept = space.root / "generators"
        space.start()
        with keep_generators(kept):
            run = train(space)
        explainer = run.predictor.explainer
        torch.save(explainer.generator.state_dict(), kept / f"{STEPS}.pt")  # type: ignore[union-attr]
        slices, scored = TrainingSlices(run.store, settings.anomaly, seed), run.held_out()
        rows: list[dict[str, Any]] = []
        for step in range(EVERY, STEPS + 1, EVERY):
            generator = Generator(settings.coin)
            generator.load_state_dict(torch.load(kept / f"{step}.pt", weights_only=True))
            one = replace(explainer, generator=generator)
            rows.append({"steps": step} | looked_at(one, run.predictor.preparation, slices, scored))
            print(name, seed, rows[-1], flush=True)
        iou = np.array([row["iou"] for row in rows])
        columns = {key: [row[key] for row in rows] for key in rows[0] if key not in ("steps", "iou", "dice")}
        ranks = {key: None if None in values else rank_correlation(np.array(values), iou) for key, values in columns.items()}
        best = max(rows, key=lambda row: row["mirror_agreement"])
        found = {
            "rows": rows,
            "rank_correlation_with_iou": ranks,
            "by_agreement": best["iou"],
            "best": float(iou.max()),
            "last": rows[-1]["iou"],
        }
        write_json(space.root / "stopping.json", found)
        print(name, seed, {key: value for key, value in found.items() if key != "rows"}, flush=True)


if __name__ == "__main__":
    main()
