"""The figures of docs/research/results.md: every set, three seeds, the default recipe of `coinseg run`.

Only the image size is chosen per set.

    python studies/recipe.py data DATA WORK          the tables of the magnetic tiles, by tile and by photograph, and the phantom
    python studies/recipe.py train DATA WORK SET SEED... f and COIN
    python studies/recipe.py student DATA WORK SET SEED... the student
    python studies/recipe.py score DATA WORK SET SEED... the student, and scores on the validation fifth
    python studies/recipe.py final DATA WORK SET SEED... the same runs, read on the test fifth
    python studies/recipe.py ceiling DATA WORK SET SEED...    the student's network taught the true masks, read on the test fifth
    python studies/recipe.py cysts DATA WORK phantom SEED...    the phantom's cysts once more (`final` counts them too)
    python studies/recipe.py attributions DATA WORK SET SEED...     LayerCAM, ScoreCAM and RISE at their best thresholds
    python studies/recipe.py pictures DATA WORK SET SEED FILE       best, median, worst, normal, missed and false alarm, as PNG
    python studies/recipe.py table WORK FILE             everything that is there, as JSON and on the screen

DATA has the folders lgg-flair-2d, msd-liver-ct-2d and magnetic-tile, WORK receives everything. A run that was killed goes on.
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from runs import (
    DEFECTS,
    SETS,
    at_one_size,
    batches_of,
    coin_alone,
    evidence,
    held_out,
    rebuilt,
    scored,
    without_student,
    workspace,
)
from torch import Tensor, nn

from coinseg.data.slices.dataset import ScoredSlices, TrainingSlices
from coinseg.data.slices.intensity import signed
from coinseg.evaluation.evaluate import evaluate
from coinseg.evaluation.explained import explain_all
from coinseg.evaluation.protocols import sweep
from coinseg.explain.attribution import candidate_layers
from coinseg.inference.predictor import Predictor
from coinseg.pipeline.recipe import train_pair
from coinseg.pipeline.run import Run, job_of, train
from coinseg.report.page import examples_figure
from coinseg.runtime.files import read_json, write_json
from coinseg.training.student import Lesson, train_student

STEPS = (
    "COIN", "COIN, refined", "student, one size, each slice alone", "student, one size", "student", "ceiling",
    "ceiling, no classifier asked",
)  # fmt: skip
KEPT = ("iou_mask_free", "iou_oracle", "dice_per_image", "false_positive_area", "auroc")
AUDITED = ("COIN, refined", "student")
"""Steps whose flips and shortcuts are asked for (audit.json)."""


def tiles(source: Path, out: Path, classes: tuple[str, ...], alone: bool = False) -> None:
    """A table of the tiles. Photographs of one tile (numbers within 100 of each other) are one patient, or each is (`alone`)."""
    rows: list[list[str]] = [["file", "label", "patient", "mask"]]
    for kind in ("Free", *classes):
        files = sorted((source / "images" / kind).glob("*.jpg"), key=lambda p: (_number(p), p.name))
        tile, last = -1, -1000
        for file in files:
            tile, last = tile + (_number(file) - last > 100), _number(file)
            mask = "" if kind == "Free" else f"masks/{kind}/{file.stem}.png"
            rows.append([f"images/{kind}/{file.name}", str(int(kind != "Free")), f"{kind}-{file.stem if alone else tile}", mask])
    out.mkdir(parents=True, exist_ok=True)
    for part in ("images", "masks"):
        if not (out / part).exists():
            (out / part).symlink_to((source / part).resolve())
    with (out / "labels.csv").open("w", newline="") as file_:
        csv.writer(file_).writerows(rows)


def _number(file: Path) -> int:
    return int(re.findall(r"num_(\d+)", file.name)[0])


def data(source: Path, work: Path) -> None:
    """Everything that is not in DATA already."""
    tiles(source / "magnetic-tile", work / "data" / "tiles", DEFECTS)
    tiles(source / "magnetic-tile", work / "data" / "photographs", DEFECTS, alone=True)
    for kind in DEFECTS:
        tiles(source / "magnetic-tile", work / "data" / kind, (kind,))
    phantom = work / "data" / "phantom"
    if not phantom.exists():
        subprocess.run(
            [sys.executable, "-m", "coinseg", "phantom", str(phantom), "--patients", "300", "--slices", "20", "--size", "192",
             "--lesions", "masses"], check=True,
        )  # fmt: skip


# --- what is scored -----------------------------------------------------------------------------------------------


def steps_of(run: Run) -> dict[str, Predictor]:
    """f and COIN alone, with its masks cleaned, and with the student.

    Where too few masks can be trusted there is no student, and "COIN, refined" is the final row.
    """
    predictor, settings = run.predictor, run.work.settings
    training = TrainingSlices(run.store, settings.anomaly, settings.seed)
    plain = coin_alone(predictor, training, refine="none", hflip=False, peak=0.0)
    steps = {"COIN": plain, "COIN, refined": without_student(predictor)}
    if predictor.student is not None:
        one_size = at_one_size(predictor)
        alone = rebuilt(one_size, ["slice_hmm"])
        steps |= {"student, one size, each slice alone": alone, "student, one size": one_size, "student": predictor}
    return steps


def ceilings(run: Run) -> dict[str, Predictor]:
    """The student that was taught the true masks, asked as the student is, and about every image."""
    taught, settings = rebuilt(run.predictor, ["patchcore"], student=ceiling(run)), run.predictor.settings
    masks, student = replace(settings.masks, peak=0.0), replace(settings.student, gate=0.0)
    everywhere = replace(settings, masks=masks, student=student)
    return {"ceiling": taught, "ceiling, no classifier asked": taught.with_settings(everywhere)}


def asking(run: Predictor) -> Callable[[np.ndarray], np.ndarray]:
    """f(X) of images in [0, 1], (B, S, S) -> (B,)."""
    return lambda unit: run.probability(torch.from_numpy(signed(unit))).numpy()


def score(source: Path, work: Path, name: str, seed: int, fifth: str, true: bool = False) -> None:
    """The steps of a set on one fifth (`steps_of`), or those of the ceiling (`true`).

    The networks are those of the run on the three training fifths, whichever fifth is scored.
    """
    trained = workspace(source, work, name, seed, "test")
    trained.start()
    run, slices = train(trained), held_out(source, work, name, seed, fifth)
    if slices.store.window != run.store.window:
        raise SystemExit("the two fifths were prepared with different windows")
    for step, one in (ceilings(run) if true else steps_of(run)).items():
        file = trained.root / fifth / step / "scores.json"
        if not file.exists():
            settings = replace(one.settings, masks=one.segmenter.cleaning)
            ask = asking(one) if step in AUDITED else None
            write_json(file, evaluate(slices, evidence(one, slices), one.segmenter.level, settings, file.parent, ask=ask))
        scores = read_json(file)
        print(name, seed, fifth, step, {key: scores[key] for key in KEPT}, flush=True)


def cysts(source: Path, work: Path, seed: int, fifth: str) -> dict[str, float]:
    """The phantom's benign cysts: in which share of the slices that have one it is marked; all, and those labelled normal."""
    run = train(workspace(source, work, "phantom", seed, "test"))
    space = workspace(source, work, "phantom", seed, fifth)
    data = replace(space.settings.data, lesion=("kidney_cyst",))
    slices = scored(replace(space, root=run.work.root / f"cysts-{fifth}", settings=replace(space.settings, data=data)))
    rows: list[tuple[str, bool, bool]] = []
    scores_of = run.predictor.scores_of(slices)
    for batch in batches_of(slices)[0]:
        masks = run.predictor.segment_images(batch.image, scores_of(batch.rows)).masks
        touched, has_cyst = (masks & batch.truth).any((1, 2)), batch.truth.any((1, 2))
        patients, normal = slices.store.index["patient"][batch.rows], slices.store.index["label"][batch.rows] == 0
        rows += [(str(patients[i]), bool(normal[i]), bool(touched[i])) for i in np.flatnonzero(has_cyst)]
    counts: dict[str, float] = {}
    for name, some in (("all", rows), ("labelled_normal", [row for row in rows if row[1]])):
        marked = {patient: any(t for p, _, t in some if p == patient) for patient, _, _ in some}
        counts[f"slices_{name}"], counts[f"slices_{name}_marked"] = len(some), float(np.mean([t for _, _, t in some]))
        counts[f"patients_{name}"], counts[f"patients_{name}_marked"] = len(marked), float(np.mean(list(marked.values())))
    return counts


def attributions(source: Path, work: Path, name: str, seed: int, fifth: str) -> None:
    """LayerCAM and ScoreCAM at the last layer of each side of f (`candidate_layers`), and RISE: IoU at the best threshold."""
    run = train(workspace(source, work, name, seed, "test"))
    predictor, slices = run.predictor, held_out(source, work, name, seed, fifth)
    layers = candidate_layers(predictor.f, slices.batch(np.arange(1)).image)
    rows = {}
    for method, layer in [*((m, x) for m in ("layercam", "scorecam") for x in layers), ("rise", "last")]:
        for refined in ("none", "guided"):
            settings = replace(
                predictor.settings, method=method, attribution=replace(predictor.settings.attribution, layer=layer),
                masks=replace(predictor.settings.masks, refine=refined, hflip=False),
            )  # fmt: skip
            explainer = replace(predictor.explainer, settings=settings, generator=None)
            one = Predictor.of(explainer, predictor.preparation, predictor.threshold)
            found = explain_all(slices, evidence(one, slices), lambda done, total: None)
            best = sweep(found.refined, found.truth, 0.5, settings, np.flatnonzero(found.abnormal & found.known))
            rows[f"{method} {layer} {refined}"] = best
            print(name, seed, fifth, method, layer, refined, best, flush=True)
    write_json(run.work.root / fifth / "attributions.json", rows)


def ceiling(run: Run) -> nn.Module:
    """The student's network, taught the true masks of the same images for the same time; what no weak method has."""
    settings = run.work.settings
    slices = ScoredSlices(run.store, settings.anomaly, settings.seed)
    true: dict[bytes, np.ndarray] = {}
    for batch in batches_of(slices)[0]:
        true |= {image.numpy().tobytes(): mask for image, mask in zip(batch.image, batch.truth, strict=True)}

    def masks(images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        return np.stack([true[image.numpy().tobytes()] for image in images]), np.ones(len(images))

    plain = replace(settings, student=replace(settings.student, synthetic_lesions=0.0))
    student = train_student([Lesson(slices, masks)], plain, "truth", run.work.root / "ceiling")[0]
    if student is None:
        raise SystemExit("too few masks for the ceiling")
    return student


def minutes(run: Path, step: str) -> dict[str, float]:
    """How long the stages of a step took on one core, in minutes."""
    found = {stage: _minutes(run / stage) for stage in ["classifier", "coin", *(["student"] if step == "student" else [])]}
    if step == "student" and (run / "novelty" / "stage.json").exists():
        found["novelty"] = _minutes(run / "novelty")
    if step == "student" and (run / "opinion").exists():
        found["opinion"] = _minutes(run / "opinion" / "classifier")
    if step == "student":
        found |= {f"{stage.parent.name} {stage.name}": _minutes(stage) for stage in sorted(run.glob("teacher-*/*"))}
    return found | {"all": round(sum(found.values()), 1)}


def _minutes(stage: Path) -> float:
    return round(read_json(stage / "stage.json")["seconds"] / 60, 1)


def table(work: Path, out: Path) -> None:
    """studies/recipe.json: a row for every set, fifth and step, over the seeds there are; the same as a table on the screen."""
    rows: list[dict[str, Any]] = []
    for name in SETS:
        for fifth in ("validation", "test"):
            for step in STEPS:
                seeds = [k for k in range(3) if (work / f"{name}-{k}" / fifth / step / "scores.json").exists()]
                if not seeds:
                    continue
                runs = [work / f"{name}-{k}" for k in seeds]
                made = [read_json(run / fifth / step / "scores.json") for run in runs]
                row: dict[str, Any] = {
                    "set": name,
                    "fifth": fifth,
                    "step": step,
                    "seeds": seeds,
                    "size": SETS[name]["data"]["size"],
                }
                row["masks_used"] = step.startswith("ceiling")
                row["scores"] = {key: [m[key] for m in made] for key in KEPT}
                row["mean"] = {key: round(float(np.mean(values)), 6) for key, values in row["scores"].items()}
                row["lesions_by_size"] = [m["lesions_by_size"] for m in made]
                if step in AUDITED:
                    files = [run / fifth / step / "audit.json" for run in runs]
                    row["flips"] = [read_json(file)["flips"] for file in files if file.exists()]
                if step == "ceiling":
                    row["minutes"] = [{"all": _minutes(run / "ceiling")} for run in runs]
                elif not row["masks_used"]:
                    row["minutes"] = [minutes(run, step.split(",")[0] if "student" in step else step) for run in runs]
                if step == "student" and name == "phantom" and all((run / fifth / "cysts.json").exists() for run in runs):
                    row["cysts"] = [read_json(run / fifth / "cysts.json") for run in runs]
                if step == "student" and all((run / fifth / "attributions.json").exists() for run in runs):
                    row["attributions_oracle"] = [read_json(run / fifth / "attributions.json") for run in runs]
                if name in ("tiles", "photographs"):
                    row["by_defect"] = [by_defect(run / fifth / step / "slices.csv") for run in runs]
                rows.append(row)
    for row in rows:
        best = [r for r in rows if (r["set"], r["fifth"], r["step"]) == (row["set"], row["fifth"], "ceiling")]
        if best and not row["masks_used"]:  # of the same seeds
            of = dict(zip(best[0]["seeds"], best[0]["scores"]["iou_mask_free"], strict=True))
            own = [score for k, score in zip(row["seeds"], row["scores"]["iou_mask_free"], strict=True) if k in of]
            if len(own) == len(of):
                row["share_of_ceiling"] = round(float(np.mean(own) / np.mean(list(of.values()))), 3)
        iou, mean = row["scores"]["iou_mask_free"], row["mean"]
        print(
            f"| {row['set']} | {row['fifth']} | {row['step']} | "
            f"{mean['iou_mask_free']:.3f} ({', '.join(f'{v:.3f}' for v in iou)}) | {mean['iou_oracle']:.3f} | "
            f"{mean['dice_per_image']:.3f} | {100 * mean['false_positive_area']:.3f} % | {mean['auroc']:.3f} | "
            f"{row.get('share_of_ceiling', '')} | {'; '.join(str(m['all']) for m in row.get('minutes', []))} |"
        )
    write_json(out, rows)


def by_defect(slices: Path) -> dict[str, dict[str, float]]:
    """Pooled IoU and mean Dice of each defect, and of Break and Fray together, from slices.csv of the tiles together."""
    with slices.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["label"] == "1" and row["dice"]]
    found = {}
    for kinds in (*((kind,) for kind in DEFECTS), ("Break", "Fray")):
        own = [row for row in rows if row["patient"].split("-")[0] in kinds]
        dice = np.array([float(row["dice"]) for row in own])
        areas = np.array([float(row["mask_px"]) + float(row["truth_px"]) for row in own])
        both = dice * areas / 2  # Dice is twice what both share over the sum of their areas
        found[" + ".join(kinds)] = {
            "images": len(own), "iou": round(float(both.sum() / max(areas.sum() - both.sum(), 1)), 4),
            "dice": round(float(dice.mean()), 4),
        }  # fmt: skip
    return found


def main() -> None:
    """See the top of this file."""
    command, source, work = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if command == "data":
        return data(source, work)
    if command == "table":
        return table(source, work)
    if command == "pictures":
        examples = work / f"{sys.argv[4]}-{sys.argv[5]}" / "test" / "student" / "examples.npz"
        return examples_figure(examples, Path(sys.argv[6]), rows=6)
    for seed in map(int, sys.argv[5:]):
        space = workspace(source, work, sys.argv[4], seed, "test")
        if command == "train":
            space.start()
            train_pair(job_of(space))
        elif command == "student":
            print(train(space).predictor.student is not None)
        elif command in ("score", "final", "ceiling"):
            fifth = "validation" if command == "score" else "test"
            score(source, work, sys.argv[4], seed, fifth, command == "ceiling")
            if sys.argv[4] == "phantom" and command != "ceiling":
                made = cysts(source, work, seed, fifth)
                write_json(space.root / fifth / "cysts.json", made)
                print(made)
        elif command == "cysts":
            write_json(space.root / "test" / "cysts.json", made := cysts(source, work, seed, "test"))
            print(made)
        elif command == "attributions":
            attributions(source, work, sys.argv[4], seed, "test")


if __name__ == "__main__":
    main()
