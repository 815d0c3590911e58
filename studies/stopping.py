"""The table of "When to stop" in docs/research/results.md: does anything that needs no mask tell when COIN is at its best?

    python studies/stopping.py DATA WORK SET SEED...

f and COIN of 2000 steps, twice the default; the averaged generator is kept after every 250. Of each: what training images say without a mask and
the scores on the validation fifth. Of images labelled abnormal: how many flip, how many flip when the mask alone is pasted and when all but
the mask is, how well the masks of an image and its mirror image agree, how many can be trusted, how much is changed, which share of that is
inside the mask; of images labelled normal: how much less is changed, and what is marked. WORK/SET-SEED-stopping/stopping.json receives the rows.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recipe import workspace

from coinseg.data.slices.dataset import ScoredSlices, TrainingSlices
from coinseg.data.slices.intensity import signed
from coinseg.data.slices.split import VALIDATION
from coinseg.explain.counterfactual.generator import Generator
from coinseg.inference.scans import Run
from coinseg.masks.confidence import DOUBT
from coinseg.masks.decision_flip import pasted
from coinseg.metrics.overlap import mean_dice, pooled_iou, rank_correlation
from coinseg.runtime.files import write_json
from coinseg.runtime.stage import Stage

STEPS, EVERY, IMAGES = 2000, 250, 200


def keep_generators(folder: Path) -> None:
    """From now on every checkpoint leaves its averaged generator in `folder` as well."""
    save = Stage.save

    def saved(stage: Stage, step: int, setting: str, **state: Any) -> None:
        save(stage, step, setting, **state)
        if "kept" in state:
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(
                {k.removeprefix("module."): v for k, v in state["kept"].items() if k != "n_averaged"}, folder / f"{step}.pt"
            )

    Stage.save = saved  # type: ignore[method-assign]


def looked_at(run: Run, slices: TrainingSlices, scored: ScoredSlices) -> dict[str, float | None]:
    """A row of the table, of a run without student."""
    level = run.settings.classifier.threshold
    run.threshold = run.choose_threshold(slices).value
    abnormal = np.flatnonzero(slices.labels() == 1)
    members = np.sort(np.random.default_rng([run.settings.seed, 6]).permutation(abnormal)[:IMAGES])
    images = slices.batch(members).image
    made = run.marked(images)
    explained = made.explained
    painted, after = explained.painted()
    image, other = (x[:, 0].numpy() / 2 + 0.5 for x in (images, painted))
    called = (explained.probability >= level).numpy()
    flipped = called & (after < level).numpy()

    def turned(region: np.ndarray) -> float | None:
        pixels = torch.from_numpy(signed(pasted(image, other, region)[flipped]))[:, None]
        return float((run.probability(pixels) < level).float().mean()) if flipped.any() else None

    agreed = explained.agreement
    assert agreed is not None, "masks.hflip is off"
    row: dict[str, float | None] = {
        "flips": float(flipped.sum() / called.sum()),
        "mask_alone": turned(made.masks),
        "all_but_mask": turned(~made.masks),
        "mirror_agreement": float(agreed.numpy()[called].mean()),
        "trusted": float((made.confidence[called] >= DOUBT).mean()),
        "mean_change": float(explained.saliency.numpy()[called].mean()),
        "change_inside": float(
            (explained.saliency.numpy() * made.masks)[called].sum() / explained.saliency.numpy()[called].sum()
        ),
    }
    normal = np.flatnonzero(slices.labels() == 0)
    others = slices.batch(np.sort(np.random.default_rng([run.settings.seed, 7]).permutation(normal)[:IMAGES])).image
    unasked = run.explain(others, inpaint_all=True).saliency.numpy()
    row |= {
        "change_against_normals": float(explained.saliency.numpy()[called].mean() / unasked.mean()),
        "normals_marked": float(run.masks(others).mean()),
    }
    parts = [scored.scored(np.arange(i, min(i + 64, len(scored)))) for i in range(0, len(scored), 64)]
    masks = np.concatenate([run.masks(part.image) for part in parts])
    truth, label = (np.concatenate([getattr(part, name) for part in parts]) for name in ("truth", "label"))
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
        keep_generators(kept)
        space.start()
        run = space.run
        torch.save(run.generator.state_dict(), kept / f"{STEPS}.pt")  # type: ignore[union-attr]
        slices = TrainingSlices(space.store, settings.anomaly, seed)
        scored = ScoredSlices(space.store, settings.anomaly, seed, VALIDATION)
        rows: list[dict[str, Any]] = []
        for step in range(EVERY, STEPS + 1, EVERY):
            generator = Generator(settings.coin)
            generator.load_state_dict(torch.load(kept / f"{step}.pt", weights_only=True))
            rows.append({"steps": step} | looked_at(replace(run, generator=generator), slices, scored))
            print(name, seed, rows[-1], flush=True)
        iou = np.array([row["iou"] for row in rows])
        ranks = {
            key: rank_correlation(np.array([row[key] for row in rows]), iou)
            for key in rows[0]
            if key not in ("steps", "iou", "dice")
        }
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
