"""Slice HMM: worked by hand, against enumeration, and where neighbours say nothing."""

from __future__ import annotations

import csv
import itertools
import json
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy.special import expit

import coinseg
from coinseg.config.schema import AnomalySettings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.readers.geometry import Geometry
from coinseg.data.slices.case import LoadedCase, load_case
from coinseg.data.slices.dataset import ScoredSlices, TrainingSlices
from coinseg.data.slices.split import VALIDATION
from coinseg.data.slices.store import prepare
from coinseg.errors import UserError
from coinseg.inference.predictor import Predictor
from coinseg.parts.slice_hmm import LEAST, TRUST, SliceHMM, are_transitions, chains, count_transitions, smooth
from coinseg.pipeline.mask_files import TOGETHER, MaskFiles, together
from coinseg.pipeline.run import Run, Workspace, masks_key, train
from coinseg.types import Case, MaskSource
from conftest import tiny_settings, write_images
from models import (
    Brightness,
    SamePixels,
    as_first_schema,
    explainer_of,
    hu,
    learn_from_few,
    learning_of,
    part_of,
    without,
)  # fmt: skip

STEPS = np.array([[0.9, 0.1], [0.3, 0.7]])  # a quarter of all slices are abnormal
SHARE = 0.25


def logit(p: np.ndarray | float) -> np.ndarray:
    return np.log(np.asarray(p) / (1 - np.asarray(p)))


def enumerated(logits: np.ndarray, places: np.ndarray) -> list[float]:
    """P(y_i | scan) by adding up all 2^n states of a chain."""
    found = []
    for i in range(len(logits)):
        odds = [0.0, 0.0]
        for states in itertools.product((0, 1), repeat=len(logits)):
            chance = SHARE if states[0] else 1 - SHARE
            for a, b, gap in zip(states, states[1:], np.diff(places), strict=False):
                chance *= np.linalg.matrix_power(STEPS, gap)[a, b]
            for j, state in enumerate(states):
                chance *= np.exp((logits[j] - logit(SHARE)) * (1 if j == i else TRUST)) ** state
            odds[states[i]] += chance
        found.append(float(np.log(odds[1] / odds[0])))
    return found


def test_it_is_the_sum_over_all_states() -> None:
    rng = np.random.default_rng(0)
    places = np.array([3, 4, 5, 8, 9])  # two are missing
    logits = rng.normal(0, 2, 5)
    said = smooth(logits, np.zeros(5), places, STEPS)
    assert said.tolist() == pytest.approx(enumerated(logits, places))


def test_order_does_not_matter_and_scans_do_not_meet() -> None:
    rng = np.random.default_rng(1)
    scans, places, logits = np.repeat(["a", "b"], 4), np.tile(np.arange(4), 2), rng.normal(0, 2, 8)
    whole = smooth(logits, scans, places, STEPS)
    mixed = rng.permutation(8)
    assert smooth(logits[mixed], scans[mixed], places[mixed], STEPS).tolist() == pytest.approx(whole[mixed].tolist())
    assert whole[:4].tolist() == pytest.approx(smooth(logits[:4], scans[:4], places[:4], STEPS).tolist())
    turned = smooth(logits, scans, -places, STEPS)  # a scan has no direction
    assert turned.tolist() == pytest.approx(whole.tolist())


def test_a_slice_alone_and_slices_that_know_nothing_of_each_other_stay_as_they_are() -> None:
    logits = np.array([-2.0, 0.5, 3.0])
    assert smooth(logits, np.arange(3), np.zeros(3, int), STEPS).tolist() == pytest.approx(logits.tolist())
    independent = np.array([[0.75, 0.25], [0.75, 0.25]])
    assert smooth(logits, np.zeros(3), np.arange(3), independent).tolist() == pytest.approx(logits.tolist())
    far = smooth(logits, np.zeros(3), np.array([0, 1000, 2000]), STEPS)
    assert far.tolist() == pytest.approx(logits.tolist())
    assert len(smooth(np.zeros(0), np.zeros(0), np.zeros(0, int), STEPS)) == 0


def test_where_most_slices_are_abnormal_the_share_is_not_counted() -> None:
    mostly = STEPS[::-1, ::-1]  # three quarters are abnormal
    logits, places, scan = np.array([0.3, -1.0, 2.0]), np.arange(3), np.zeros(3, int)
    found = smooth(logits, scan, places, mostly)
    # With normal and abnormal exchanged it is the chain of `enumerated`, which counts the share in what it takes and gives.
    assert (logit(SHARE) - found).tolist() == pytest.approx(enumerated(logit(SHARE) - logits, places))
    assert smooth(logits[:1], scan[:1], places[:1], mostly) == pytest.approx(logits[:1])


def test_doubt_between_two_that_are_sure_becomes_theirs() -> None:
    scans, places = np.zeros(3), np.arange(3)
    assert smooth(logit(np.array([0.99, 0.4, 0.99])), scans, places, STEPS)[1] > logit(0.6)
    assert smooth(logit(np.array([0.01, 0.4, 0.01])), scans, places, STEPS)[1] < logit(0.3)


def test_what_follows_what_is_counted_in_labels_of_neighbours_alone() -> None:
    # Scan a: n n a a; scan b: a n, then one is missing, a; so pairs nn 1, na 1, aa 1, an 1.
    scans, places = np.array(list("aaaabbb")), np.array([0, 1, 2, 3, 5, 6, 8])
    labels = np.array([0, 0, 1, 1, 1, 0, 1])
    assert count_transitions(labels, scans, places) is None  # four pairs are too few
    many = np.concatenate([scans] + [np.char.add(scans, str(i)) for i in range(LEAST)])
    found = count_transitions(np.tile(labels, LEAST + 1), many, np.tile(places, LEAST + 1))
    n = LEAST + 1
    pair = 2 * n + 1  # both directions, and one more
    assert found is not None
    assert found.tolist() == pytest.approx(np.array([[pair, pair], [pair, pair]]) / (2 * pair))
    assert count_transitions(np.tile(np.where(labels == 1, -1, labels), n), many, np.tile(places, n)) is None
    assert [c.tolist() for c in chains(scans[::-1], places[::-1])] == [[6, 5, 4, 3], [2, 1, 0]]


def test_transitions_are_two_rows_of_two_probabilities_that_add_up_to_one() -> None:
    assert are_transitions([[0.9, 0.1], [0.3, 0.7]])
    for rows in (
        [[0.9, 0.3], [0.1, 0.7]], [[0.9, 0.2], [0.3, 0.7]], [[0.9, 0.1], [0.3, 0.8]], [[1.0, 0.0], [0.3, 0.7]],
        [[1.1, -0.1], [0.3, 0.7]], [[0.9, 0.1]], [[0.9, 0.1], [0.3, 0.7], [0.5, 0.5]], [[0.9, 0.1, 0.0], [0.3, 0.7, 0.0]],
        [[1.8, 0.2], [0.6, 1.4]], None, "ab",
    ):  # fmt: skip
        assert not are_transitions(rows), rows


@pytest.mark.parametrize(
    ("kind", "weak", "learnt"), [("none", False, True), ("none", True, False), ("blob", False, False), ("blob", True, False)]
)
def test_transitions_are_learnt_where_every_slice_has_a_label_of_its_own(kind: str, weak: bool, learnt: bool) -> None:
    scans, places, labels = np.repeat(np.arange(6), 5), np.tile(np.arange(5), 6), np.tile([0, 0, 1, 1, 0], 6)
    store = SimpleNamespace(chains=lambda rows: (scans[rows], places[rows]))
    slices: Any = SimpleNamespace(
        anomaly=AnomalySettings(kind=kind), weak=lambda: np.arange(30) == (3 if weak else 99), labels=lambda: labels,  # type: ignore[arg-type]
        store=store, rows=np.arange(30),
    )  # fmt: skip
    part = SliceHMM.fit(learning_of(slices, tiny_settings()))
    assert (part is not None) is learnt
    if part is not None:  # of each scan nn 1, na 1, aa 1, an 1
        assert part.transitions.tolist() == [[0.5, 0.5], [0.5, 0.5]]


def table(root: Path) -> Path:
    """The images of `write_images` as slices of six scans, alternately normal and abnormal."""
    write_images(root, masks=False)
    files = sorted(root.glob("*normal/*.png"), key=lambda file: file.name)
    with (root / "labels.csv").open("w", newline="") as file:
        rows = [(f.relative_to(root), int(f.parent.name == "abnormal"), f"p{i // 4}", i % 4) for i, f in enumerate(files)]
        csv.writer(file).writerows([("file", "label", "patient", "slice"), *rows])
    return root / "labels.csv"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on them with a student, where every image is called abnormal."""
    settings, root = tiny_settings(), tmp_path_factory.mktemp("neighbours")
    settings = replace(
        settings,
        classifier=replace(settings.classifier, threshold=0.0),
        student=replace(settings.student, steps=2, trust=0.0, imagenet_steps=0),
    )
    with pytest.MonkeyPatch.context() as patch:
        learn_from_few(patch)
        patch.setattr("coinseg.parts.slice_hmm.LEAST", 1)
        work = Workspace(table(root / "data"), root / "out", settings)
        work.start()
        return train(work)


def test_a_run_learns_from_its_labels_how_slices_follow_each_other(trained: Run) -> None:
    store, settings = trained.store, trained.work.settings
    slices = TrainingSlices(store, settings.anomaly, 0)
    pairs = 3 * len(set(store.index["patient"][slices.rows]))  # each of another class than the one before
    expected = np.array([[1, pairs + 1], [pairs + 1, 1]]) / (pairs + 2)
    assert part_of(trained.predictor, SliceHMM).transitions.tolist() == pytest.approx(expected)
    injected = TrainingSlices(store, AnomalySettings(kind="blob"), 0)
    assert SliceHMM.fit(learning_of(injected, settings)) is None  # drawn slice by slice
    weak = store.with_sides(store.index["split"])
    weak.index = weak.index | {"weak": weak.index["label"]}
    whole = TrainingSlices(weak, settings.anomaly, 0)
    assert SliceHMM.fit(learning_of(whole, settings)) is None  # labels of whole scans


def test_it_is_kept_with_the_run_and_a_wrong_one_is_refused(trained: Run) -> None:
    file = trained.work.root / "model.json"
    model = json.loads(file.read_text())
    first, transitions = as_first_schema(model), part_of(trained.predictor, SliceHMM).transitions.tolist()
    try:
        for kept in (model, first):
            file.write_text(json.dumps(kept))
            assert part_of(coinseg.load(file.parent), SliceHMM).transitions.tolist() == transitions
        for wrong in (
            [[0.5, 0.5]], [[0.5, 0.5], [1.0, 0.0]], [[0.5, 0.6], [0.5, 0.5]], [[0.5], [0.5, 0.5]], "steps", [["a", "b"]] * 2, [],
        ):  # fmt: skip
            file.write_text(json.dumps(first | {"steps": wrong}))
            with pytest.raises(UserError, match="has a wrong steps"):
                coinseg.load(file.parent)
            for state in ({"transitions": wrong}, {}):
                file.write_text(json.dumps(model | {"parts": model["parts"] | {"slice_hmm": state}}))
                with pytest.raises(UserError, match="has wrong transitions"):
                    coinseg.load(file.parent)
        file.write_text(json.dumps({name: value for name, value in first.items() if name != "steps"}))
        assert part_of(coinseg.load(file.parent), SliceHMM) is None  # a run from before
    finally:
        file.write_text(json.dumps(model))


def test_evaluation_and_segmentation_ask_the_neighbours_alike(trained: Run) -> None:
    run, store = coinseg.load(trained.work.root), trained.store
    slices = ScoredSlices(store, trained.work.settings.anomaly, 0, VALIDATION)
    batch = slices.scored(np.arange(len(slices)))
    index = {name: values[batch.rows] for name, values in store.index.items()}
    logits = run.logits(batch.image)[:, 1].astype(np.float64)
    by_hand = expit(smooth(logits, index["series"], index["slice"], part_of(run, SliceHMM).transitions))
    np.testing.assert_allclose(run.scores_of(slices)(batch.rows).ensemble, by_hand, rtol=1e-5)
    assert not np.allclose(by_hand, expit(logits), atol=1e-3)
    # The gate parts the slices of the held-out scan; together they are asked along it, one by one each by itself.
    settings = replace(run.settings, student=replace(run.settings.student, gate=float(np.median(by_hand))))
    run = run.with_settings(settings)
    every = trained.work.cohort.cases
    cases = [replace(case, label=None) for case in every if case.id in set(index["case"])]  # as new ones are
    loaded = [load_case(case) for case in cases]
    expected = {str(case): p >= settings.student.gate for case, p in zip(index["case"], by_hand, strict=True)}
    assert [bool(one.mask.any()) for one in run.segment_cases(loaded)] == [expected[case.id] for case in cases]
    told = [one.row(settings.data.axis)["highest_posterior"] for one in run.segment_cases(loaded)]
    assert told == pytest.approx([dict(zip(index["case"], by_hand, strict=True))[case.id] for case in cases], abs=1e-4)
    alone = [run.segment_cases([one])[0].mask for one in loaded]
    bare = without(run, SliceHMM)
    assert all(np.array_equal(a, b.mask) for a, b in zip(alone, bare.segment_cases(loaded), strict=True))
    np.testing.assert_allclose(bare.scores_of(slices)(batch.rows).ensemble, expit(logits), rtol=1e-5)


def test_slices_of_volumes_and_of_regions_are_asked_along_them() -> None:
    settings = tiny_settings()
    settings = replace(settings, data=replace(settings.data, roi="each", size=16), masks=replace(settings.masks, hflip=False))
    levels = np.array([-60.0, 40.0, -60.0, 140.0, 40.0])  # HU of the slices, in a window of -160 to 240
    scan = np.broadcast_to(levels[:, None, None], (5, 40, 40)).copy()
    left, right = np.zeros(scan.shape, bool), np.zeros(scan.shape, bool)
    left[:, 4:12, 4:12], right[1:3, 24:36, 24:36] = True, True
    case = LoadedCase(scan, (left, right), None, Geometry(np.eye(4), (40, 40, 5), nib.Nifti1Header().binaryblock))
    explainer, preparation = explainer_of(settings, Brightness(), SamePixels(-1.0)), hu(-160.0, 240.0, organs=True)
    run = Predictor.of(explainer, preparation, 0.05, SamePixels(9.0), parts=[SliceHMM(STEPS)])
    said = 8 * (2 * (levels + 160) / 400 - 1)
    of_left = expit(smooth(said, np.zeros(5), np.arange(5), STEPS))
    of_right = expit(smooth(said[1:3], np.zeros(2), np.arange(2), STEPS))
    expected = np.fmax(of_left, [0, *of_right, 0, 0])  # of two regions of a slice the more abnormal one counts
    first, second = run.segment_cases([case, case])  # the slices of one do not ask those of the other
    np.testing.assert_allclose(first.image_score, expected, atol=1e-6)
    np.testing.assert_array_equal(first.image_score, second.image_score)
    assert first.mask.any((1, 2)).tolist() == (expected >= settings.student.gate).tolist()
    np.testing.assert_allclose(without(run, SliceHMM).segment_cases([case])[0].image_score, expit(said), atol=1e-6)
    assert np.isnan(Predictor.of(explainer, preparation, 0.05).segment_cases([case])[0].image_score).all()


def test_what_somebody_has_labelled_is_marked_or_left_empty_as_the_label_says() -> None:
    settings = tiny_settings()
    settings = replace(settings, masks=replace(settings.masks, hflip=False))
    scan = np.broadcast_to(np.array([-150.0, -150.0, 230.0, 230.0])[:, None, None], (4, 32, 32)).copy()
    explainer, preparation = explainer_of(settings, Brightness(), SamePixels(-1.0)), hu(-160.0, 240.0)
    run = Predictor.of(explainer, preparation, 0.05, SamePixels(9.0))

    def marked(**labels: Any) -> list[bool]:
        case = Case("a", "a", Path("a"), volume=True, **labels)
        grid = Geometry(np.eye(4), (32, 32, 4), nib.Nifti1Header().binaryblock)
        found = run.segment_cases([LoadedCase(scan, (), None, grid, case)])[0]
        np.testing.assert_allclose(
            found.image_score, expit(8 * (2 * (scan[:, 0, 0] + 160) / 400 - 1)), atol=1e-6
        )  # as they say it
        return found.mask.any((1, 2)).tolist()

    assert marked() == [False, False, True, True]
    everyone = replace(run.settings, student=replace(run.settings.student, gate=0.0))
    run = run.with_settings(everyone)
    assert marked(slice_labels={0: 0, 2: 0}) == [False, True, False, True]  # what is labelled normal is empty whatever the gate
    run = run.with_settings(settings)
    assert marked(slice_labels={0: 1, 2: 0}) == [True, False, False, True]
    assert marked(label=0, slice_labels={1: 1}) == [False, True, False, False]
    assert marked(label=0) == [False] * 4
    assert marked(label=1) == [False, False, True, True]  # which of them nobody has said
    assert marked(label=1, lesion=(MaskSource(Path("truth.nii.gz")),)) == [False, False, True, True]
    image = LoadedCase(scan[:1], (), None, None, Case("b", "b", Path("b"), volume=False, label=1))
    assert run.segment_cases([image])[0].mask.any()
    alone = Predictor.of(explainer, preparation, 0.05)  # f decides there, because what it calls normal has no counterfactual
    assert not alone.segment_cases([image])[0].mask.any()


def test_images_of_one_scan_are_segmented_together() -> None:
    def case(name: str, series: str | None, place: int = 0, volume: bool = False) -> Case:
        return Case(name, name, Path(name), volume, series=series, place=place)

    alone = [case(f"i{i}", None) for i in range(TOGETHER + 1)]
    assert [len(group) for group in together(alone)] == [TOGETHER, 1]
    # Slices of p before and behind another image, and more of them than go together.
    scan = [case(f"p{i}", "p", i) for i in range(TOGETHER)]
    assert together([*scan[:3], alone[0], *scan[3:]]) == [[0, 1, 2, *range(4, TOGETHER + 1)], [3]]
    assert together([case("p", None), case("a", "p", 1), case("b", "p", 2)]) == [[0, 1, 2]]
    assert together([case("v", None, volume=True), case("w", None, volume=True)]) == [[0], [1]]
    assert together([scan[0], case("v", None, volume=True), scan[1]]) == [[1], [0, 2]]


def test_the_masks_of_a_run_ask_whole_scans_and_are_written_of_those_that_have_one(trained: Run, tmp_path: Path) -> None:
    """A slice nobody labelled, among slices labelled normal, is asked with them as it is when it is scored."""
    run, every = trained.predictor, trained.work.cohort.cases
    asked: list[list[str]] = []

    class Watched(Predictor):
        def segment_cases(self, cases: Any, maps: bool = False) -> Any:
            asked.append([case.case.id for case in cases])
            return super().segment_cases(cases, maps)

    watched = Watched(**{field.name: getattr(run, field.name) for field in fields(Predictor)})
    cases = [replace(c, label=None if c is every[0] else 0) for c in every if c.patient == every[0].patient]
    alone = replace(every[-1], label=0, series=None)
    rows = MaskFiles(watched, tmp_path, tmp_path / "sure", lambda done, total: None).of_cases(
        [*cases, alone], lambda case: case.label != 0
    )
    assert asked == [[case.id for case in cases]]
    assert [row["case"] for row in rows] == [cases[0].id]
    assert sorted(file.name for file in tmp_path.glob("*.png")) == [f"{cases[0].id}.png"]
    expected = run.segment_cases([load_case(case) for case in cases])[0].row("axial")["highest_posterior"]
    assert rows[0]["highest_posterior"] == expected


def test_masks_depend_on_the_labels_that_were_given(trained: Run) -> None:
    work = trained.work
    again = replace(trained, work=Workspace(work.data, work.root, work.settings))
    assert masks_key(again) == masks_key(trained)
    again = replace(trained, work=Workspace(work.data, work.root, work.settings))
    again.work.cohort = replace(work.cohort, cases=tuple(replace(case, label=None) for case in work.cohort.cases))
    assert masks_key(again) != masks_key(trained)  # also where lesion masks say the same as the labels did


def test_an_image_of_no_scan_is_no_neighbour_of_a_scan_of_its_name(tmp_path: Path) -> None:
    write_images(tmp_path, masks=False)
    rows = ["file,label,patient,slice", "normal/i00.png,0,p,0", "abnormal/i01.png,1,p,1", "abnormal/i03.png,1,q,"]
    (tmp_path / "p.png").write_bytes((tmp_path / "normal" / "i02.png").read_bytes())
    (tmp_path / "labels.csv").write_text("\n".join([*rows, "p.png,0,q,"]))
    settings = tiny_settings()
    store = prepare(read_layout(tmp_path / "labels.csv", settings.data), settings, tmp_path / "slices")
    scans = dict(zip(store.index["case"].tolist(), store.chains(np.arange(len(store)))[0].tolist(), strict=True))
    assert len(set(scans.values())) == 3
