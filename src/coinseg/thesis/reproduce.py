"""`coinseg reproduce`: train and score every row of a table of the thesis under both protocols, for every seed.

OUT/seed0 has slices and the classifier, which all rows of a seed share, and rows/<row>/ with coin/, row.json and examples.npz; in
OUT are table1.{md,csv,json,tex} and figures/. A finished row is kept; an interrupted one goes on from its last checkpoint.
"""

import re
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from coinseg.config.reading import refuse
from coinseg.config.rules import of_side, of_tables
from coinseg.config.schema import Settings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.phantom.cohort import PhantomSettings
from coinseg.data.slices.dataset import ScoredBatch, ScoredSlices, TrainingSlices
from coinseg.data.slices.split import VALIDATION
from coinseg.data.slices.store import SliceStore, prepare
from coinseg.errors import UserError
from coinseg.evaluation.explained import Explained, explain_all
from coinseg.evaluation.protocols import gated, mask_free, thesis_masks, thesis_protocol
from coinseg.explain.attribution.cam import KINDS
from coinseg.explain.attribution.layers import candidate_layers
from coinseg.explain.counterfactual import singla
from coinseg.explain.registry import COUNTERFACTUAL
from coinseg.inference.explainer import Explainer
from coinseg.masks.postprocess import masks_of
from coinseg.metrics import frechet as realism
from coinseg.runtime.devices import choose_device, images_to, to_device
from coinseg.runtime.files import key_of
from coinseg.runtime.records import read_record, write_record
from coinseg.runtime.stage import Report, Stage, silent
from coinseg.training.classifier import train_classifier
from coinseg.training.coin import choose_layer, train_coin
from coinseg.training.instance_selection import select_instances
from coinseg.training.keys import result_key
from coinseg.types import Explanation, Maps

from .figures import Examples, both_directions, save_examples
from .results import COLUMNS, draw, notes_of, record_of
from .rows import TABLES, Row, Scale, settings_of
from .tables import write_table

PHANTOM = PhantomSettings(patients=24, slices=24, size=256, lesions="none")  # The cohort that is generated when no data are given
FORMAT = 2
ROW = {"key": str, "row": str, "settings": dict, "replica": dict, "honest": dict, "threshold": float, "scoring_s": float}
"""What every row.json has, and of which kind."""
EXAMPLES = 6  # Number of slices in the figures: abnormal ones, sampled with the seed, the same for every method


@dataclass(frozen=True)
class Job:
    """The arguments of `coinseg reproduce`."""

    data: Path  # the data set
    out: Path  # output folder
    settings: Settings  # those of the scale with the user's changes; their seed is not used
    scale: Scale  # selects the changes of Singla et al
    seeds: int  # number of seeds; each has its own split, classifier and generators
    slices: int  # largest number of held-out slices to score, sampled with the seed, the same for every method; 0 is all
    fid: str | None  # Inception weights for FID: a file, "download", or None for no FID
    fid_features: int  # width of the Inception features
    overwrite: bool = True  # whether results of data that have changed since may be replaced


@dataclass
class Seed:
    """One seed of a job: its slices, its classifier, its rows."""

    job: Job  # the arguments of the command
    number: int  # the seed
    report: Report = silent  # progress

    def __post_init__(self) -> None:
        self.settings = replace(self.job.settings, seed=self.number)
        self.root = self.job.out / f"seed{self.number}"
        refuse([*of_tables(self.settings), *of_side(self.settings.data.side, self.settings.coin)])
        cohort = read_layout(self.job.data, self.settings.data, one_class=self.settings.anomaly.kind != "none")
        prepared = prepare(cohort, self.settings, self.root / "slices", self._step("prepare"), self.job.overwrite)
        if len(prepared.channels) > 1:
            got = f"images of {len(prepared.channels)} channels, and those of the thesis are grey"
            raise UserError(got, "grey images for its tables", "set data.channels to grey")
        self.store: SliceStore = select_instances(prepared, self.settings, self.root / "witnesses", self._named("witnesses"))
        self.f = train_classifier(self.store, self.settings, self.root / "classifier", self._named("classifier"))
        self.slices = ScoredSlices(self.store, self.settings.anomaly, self.number, VALIDATION)
        order = np.random.default_rng([self.number, 6]).permutation(len(self.slices))
        self._rows: dict[str, dict[str, tuple[Row, Settings]]] = {}
        self.members = np.sort(order[: self.job.slices or None])

    def _named(self, what: str) -> Report:
        name = f"seed {self.number}, {what}"
        return lambda stage, *progress: self.report(stage if stage.startswith("warning") else name, *progress)

    def _step(self, what: str) -> Any:
        return lambda done, total: self.report(f"seed {self.number}, {what}", done, total, {})

    def rows_of(self, table: str) -> dict[str, tuple[Row, Settings]]:
        """The rows of a table with their settings; "each" becomes one row for each layer of f."""
        if table in self._rows:
            return self._rows[table]
        rows = self._rows[table] = {}
        for name, row in TABLES[table].items():
            settings = settings_of(row, self.settings, self.job.scale)
            if settings.coin.regions == "organ" and not self.store.meta["has_organs"]:
                continue  # rows with CARL need regions
            if row.layer != "each":
                rows[name] = (row, settings if settings.method == COUNTERFACTUAL else self._with_layer(settings))
                continue
            for layer in self.layers():
                each = replace(settings, attribution=replace(settings.attribution, layer=layer))
                rows[name.replace("each", layer)] = (replace(row, title=f"layer {layer}"), each)
        return rows

    def _with_layer(self, settings: Settings) -> Settings:
        """The settings of an attribution with its layer by name, so that "last" and "best" share the result of that layer."""
        if settings.method not in KINDS:
            return settings
        layer = choose_layer(self.store, self.f, settings, self.root / "rows" / f"{settings.method}-best")
        if settings.attribution.layer == "last":
            layer = self.layers()[-1]
        return replace(settings, attribution=replace(settings.attribution, layer=layer or settings.attribution.layer))

    def layers(self) -> list[str]:
        """The layers of f that have class activation maps."""
        return candidate_layers(self.f, self.slices.batch(np.arange(1)).image)

    def place_of(self, name: str, settings: Settings) -> Path:
        """The folder of a row: that of the first row with the same settings in any table."""
        same = (other for table in TABLES for other, (_, theirs) in self.rows_of(table).items() if theirs == settings)
        name = next(same, name)
        return self.root / "rows" / re.sub(r"[^\w.]+", "-", name).strip("-")

    def row(self, name: str, settings: Settings) -> dict[str, Any]:
        """The contents of row.json of a row, computed unless it exists with the same key."""
        folder = self.place_of(name, settings)
        key = key_of([
            FORMAT, result_key(self.store, settings, self.f), self.job.slices, self.job.fid, self.job.fid_features, settings.seed,
        ])  # fmt: skip
        if (folder / "row.json").exists() and (stored := read_record(folder / "row.json", ROW))["key"] == key:
            return dict(stored)
        (folder / "row.json").unlink(missing_ok=True)  # the files written beside it must never belong to another row
        generator = None
        if settings.method == COUNTERFACTUAL:
            generator = train_coin(self.store, self.f, settings, folder / "coin", self._named(name))
        result = {"key": key, "row": name, "settings": asdict(settings), **self._score(name, settings, generator, folder)}
        if generator is not None:
            result["training_s"] = Stage(folder / "coin", "").facts()["seconds"]
        write_record(folder / "row.json", result)
        return result

    def _score(self, name: str, settings: Settings, generator: nn.Module | None, folder: Path) -> dict[str, Any]:
        explainer = Explainer(settings, self.f, generator, choose_device(settings.engine))
        began = time.perf_counter()
        threshold = explainer.choose_threshold(TrainingSlices(self.store, settings.anomaly, settings.seed))
        found = explain_all(self.slices, lambda batch: explained(explainer, batch), self._step(f"{name}, scores"), self.members)
        kept = gated(found, settings.classifier.threshold)
        masks = masks_of(kept.refined, threshold.value, settings.masks)
        scores = {"replica": thesis_protocol(found), "honest": mask_free(kept, masks, threshold.value, settings)}
        for protocol, value in self._realism(found, kept, settings.classifier.threshold).items():
            scores[protocol] |= value
        cut = scores["replica"]["threshold"]
        thesis = thesis_masks(found.saliency, 1.0 if cut is None else cut, found.counterfactual is not None)
        self._save_examples(found, masks, thesis, folder)
        facts = {"threshold": threshold.value, "rule": threshold.rule, "layer": settings.attribution.layer}
        return {**scores, **facts, "scoring_s": round(time.perf_counter() - began, 2)}

    def _realism(self, found: Explained, kept: Explained, level: float) -> dict[str, dict[str, float | None]]:
        """FID and fd_f in both protocols; nothing for an attribution."""
        if found.counterfactual is None or kept.counterfactual is None:
            return {}
        called = kept.abnormal & (kept.before >= level)
        scores: dict[str, dict[str, float | None]] = {}
        honest = (kept.image[kept.normal, 0], kept.counterfactual[called, 0])
        for protocol, (real, fake) in {"replica": (found.image[:, 0], found.counterfactual[:, 0]), "honest": honest}.items():
            scores[protocol] = {"fd_f": realism.classifier_distance(self.f, as_images(real), as_images(fake))}
            if self.job.fid:
                scores[protocol]["fid"] = realism.fid(real, fake, self.job.fid_features, self.job.fid)
        return scores

    def _save_examples(self, found: Explained, honest_masks: np.ndarray, thesis: np.ndarray, folder: Path) -> None:
        abnormal = np.flatnonzero((found.label == 1) & found.known & found.truth.any((1, 2)))
        chosen = np.sort(np.random.default_rng([self.number, 7]).permutation(abnormal)[:EXAMPLES])
        if not len(chosen):
            return
        cases, numbers = self.store.index["case"], self.store.index["slice"]
        names = [f"{cases[row]}, slice {numbers[row]}" for row in found.rows[chosen]]
        save_examples(folder / "examples.npz", Examples(
            np.array(names), found.image[chosen, 0], found.truth[chosen], found.saliency[chosen], thesis[chosen],
            honest_masks[chosen], found.before[chosen],
            None if found.counterfactual is None else np.clip(found.counterfactual[chosen, 0], 0, 1),
            None if found.after is None else found.after[chosen],
        ))  # fmt: skip

    def both_directions(self, name: str, settings: Settings, folder: Path) -> list[Path]:
        """Draw Singla et al. on an abnormal and a normal image into `folder`: the anomaly removed, and one added (thesis 3.1)."""
        generator = train_coin(self.store, self.f, settings, self.place_of(name, settings) / "coin")
        device = choose_device(settings.engine)
        to_device(generator, device)
        labels, paths = self.slices.labels(), []
        for label, word in ((1, "abnormal"), (0, "normal")):
            members = np.random.default_rng([self.number, 8]).permutation(np.flatnonzero(labels == label))[:1]
            if not len(members):
                continue
            x = images_to(device, self.slices.batch(members).image)
            removed, added = singla.directions(x, generator, self.f, settings.coin.conditions)
            (without, f_without), (more, f_more) = removed.painted(), added.painted()
            images = [np.clip(t[0, 0].cpu().numpy() / 2 + 0.5, 0, 1) for t in (x, without, more)]
            values = [float(f[0]) for f in (removed.probability, f_without, f_more)]
            path = folder / f"both-directions-{word}.png"
            paths.append(both_directions(path, f"labelled {word}", images, values))
        return paths


def explained(explainer: Explainer, batch: ScoredBatch) -> tuple[Explanation, Maps]:
    """Explain every image; an attribution, which takes long, only where one of the protocols looks at it."""
    level = explainer.settings.classifier.threshold
    if explainer.settings.method == COUNTERFACTUAL:
        explanation, wanted = explainer.explain(batch.image, inpaint_all=True), np.ones(len(batch.image), bool)
    else:
        probability = explainer.probability(batch.image)
        wanted = (batch.label == 1) | (probability >= level).numpy()
        saliency = torch.zeros(batch.truth.shape)
        if wanted.any():
            saliency[torch.from_numpy(wanted)] = explainer.saliency(batch.image[wanted])
        explanation = Explanation(probability, saliency)
    return explanation, Maps(explainer.differences(batch.image, wanted, explanation.saliency).mean)


def as_images(pixels: np.ndarray) -> torch.Tensor:
    """(n, S, S) in [0, 1] -> (n, 1, S, S) in [-1, 1]."""
    return torch.from_numpy(pixels.astype(np.float32) * 2 - 1)[:, None]


def on_phantom(settings: Settings) -> Settings:
    """The settings for the default data: synthetic blobs in the kidneys of the phantom cohort."""
    data = replace(settings.data, organ=("kidney_left", "kidney_right"), roi="each")
    return replace(settings, data=data, anomaly=replace(settings.anomaly, kind="blob"))


def reproduce(job: Job, table: str, name: str, report: Report = silent) -> tuple[list[Path], list[dict[str, Any]]]:
    """Run every row of a table for every seed and write table and figures; returns their files and the records (see `tables`).

    `UserError` where data or settings cannot be used, or the Inception weights of FID are not there.

    Args:
        job: see `Job`.
        table: "table1", "table2" or "table3".
        name: of the data set, for the title.
        report: progress.
    """
    if job.fid:
        realism.inception(job.fid_features, job.fid)  # refused now, not after hours
    seeds = [Seed(job, number, report) for number in range(job.seeds)]
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in seeds:
        for row, (_, settings) in seed.rows_of(table).items():
            results.setdefault(row, []).append(seed.row(row, settings))
    rows = seeds[0].rows_of(table)
    injected = job.settings.anomaly.kind != "none"
    kind, protocols = "synthetic" if injected else "real", ("replica", "honest")
    records = [record_of(row, rows[row][0], each, p, name, kind) for p in protocols for row, each in results.items()]
    steps, size = job.settings.coin.steps, job.settings.data.side
    facts = {"scale": job.scale, "size": size, "steps": steps, "slices": job.slices, "seeds": job.seeds}
    notes = notes_of(facts, table, records, [row for row in TABLES[table] if row not in rows and "each" not in row])
    title = f"{table.capitalize()[:-1]} {table[-1]} of the thesis on {name}"
    files = write_table(job.out, table, title, records, COLUMNS, notes)
    places = {row: seeds[0].place_of(row, settings) for row, (_, settings) in rows.items()}
    pictures = draw(places, table, job.out / "figures", injected)
    if table == "table1" and "G" in rows:
        pictures += seeds[0].both_directions("G", rows["G"][1], job.out / "figures")
    return files + pictures, records
