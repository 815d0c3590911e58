"""Masks that a person reviewed: only those of training cases are learnt from, in the place of pseudo-masks, and it is said."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from coinseg.config.schema import Settings
from coinseg.data.readers.paths import sha256_of
from coinseg.data.slices.crop import Box
from coinseg.data.slices.split import LEFT_OUT, TRAINING, VALIDATION
from coinseg.data.slices.student_data import IGNORED, PseudoMasks, ReviewedMasks, reviewed_masks, target_of
from coinseg.data.slices.twins import pixels_in
from coinseg.errors import UserError
from coinseg.pipeline.job import Job
from coinseg.pipeline.reviews import Learnt, ids_of, reviewed_of
from coinseg.pipeline.run import Workspace, job_of, prepare_slices, train
from coinseg.runtime.records import write_record
from coinseg.training import instance_selection as witnesses
from coinseg.training.keys import stage_key
from coinseg.training.pseudo_masks import REVIEWED, collect_pseudo_masks, most_masks, with_reviewed
from coinseg.training.student import Taught, _known
from conftest import tiny_settings, write_images
from examples import SLICES, scans


@dataclass(frozen=True)
class Decided:
    case: str
    mask: np.ndarray
    class_name: str = ""
    sha256: str | None = None
    model_class: str = ""
    time: str = ""
    pixels: str | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.mask.shape  # type: ignore[return-value]


def decided(root: Path, case: str, inside: bool = True) -> Decided:
    """The true mask of a case as a reviewer's, or nothing."""
    path = root / "masks" / f"{case.partition('__')[2]}.png"
    true = np.asarray(Image.open(path)) > 0
    return Decided(case, (true & inside)[None])


def workspace(tmp_path: Path, reviews: tuple[Decided, ...] = (), root: Path | None = None) -> Workspace:
    base = tiny_settings()
    student = replace(base.student, steps=2, trust=0.0, teachers=1, imagenet_steps=0, patchcore_quantile=0.0, reviewed="reviews")
    return Workspace(root or write_images(tmp_path / "data"), tmp_path / "out", replace(base, student=student), reviews=reviews)


def test_reviewed_masks_are_cut_as_their_slices_were_and_held_out_cases_are_left_out(tmp_path: Path) -> None:
    work = workspace(tmp_path)
    store = job_of(replace(work, settings=tiny_settings())).store
    index = store.index
    abnormal = [str(case) for case in index["case"] if case.startswith("abnormal")]
    reviews = [decided(work.data, case) for case in abnormal]
    found = reviewed_masks([*reviews, Decided("somebody", np.zeros((1, 4, 4), bool))], store, "axial")
    training = {str(case) for case in index["case"][index["split"] == TRAINING]} & set(abnormal)
    assert found.cases == len(training) == len(found.rows)
    assert found.held_out == len(abnormal) - len(training) > 0
    assert found.unknown == 1
    np.testing.assert_array_equal(found.targets, store.truth()[found.rows])
    first = min(training)
    last = reviewed_masks([decided(work.data, first), decided(work.data, first, inside=False)], store, "axial")
    assert (last.cases, len(last.rows), last.targets.any()) == (1, 1, False)
    later, sooner = decided(work.data, first), decided(work.data, first, inside=False)
    copies = [replace(later, time="2024-05-07T07:08:09+00:00"), replace(sooner, time="2024-05-06T07:08:09+00:00")]
    assert reviewed_masks(copies, store, "axial").targets.any()
    with pytest.raises(UserError, match=r"reviewed mask of .* has 0 slices.*required: the masks of these data"):
        reviewed_masks([Decided(first, np.zeros((0, 4, 4), bool))], store, "axial")


def test_a_reviewed_mask_stands_in_the_place_of_the_pseudo_mask_and_an_empty_one_is_normal(tmp_path: Path) -> None:
    slices = job_of(replace(workspace(tmp_path), settings=tiny_settings())).slices
    labels, side = slices.labels(), slices.store.size
    normal, abnormal = (np.flatnonzero(labels == label) for label in (0, 1))
    drawn = np.zeros((2, side, side), np.uint8)
    drawn[0] = 1
    reviewed = ReviewedMasks(slices.rows[[normal[0], abnormal[1]]], drawn, 2, 0)  # a lesion nobody knew of, and a wrong label
    asked: list[int] = []

    def masks(images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        asked.append(len(images))
        return np.ones((len(images), side, side), bool), np.ones(len(images))

    pseudo = collect_pseudo_masks(slices, masks, tiny_settings().student, reviewed)
    assert sum(asked) == len(abnormal) - 1
    found = with_reviewed(pseudo, slices, reviewed)
    assert found.indices.tolist() == [one for one in abnormal if one != abnormal[1]] + [normal[0]] * REVIEWED
    assert found.targets[1:].all()
    assert found.normals.tolist() == normal[1:].tolist() + [abnormal[1]] * REVIEWED
    assert with_reviewed(pseudo, slices, None) is pseudo
    assert most_masks(slices, None) == len(abnormal)
    assert most_masks(slices, reviewed) == len(abnormal) - 1 + REVIEWED


@pytest.mark.slow
def test_a_run_with_reviews_says_that_it_is_not_mask_free_and_learns_other_masks_anew(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    for place in ("training.pseudo_masks", "training.student", "pipeline.recipe"):
        monkeypatch.setattr(f"coinseg.{place}.LEAST", 1)
    root = write_images(tmp_path / "data")
    names = sorted(f"abnormal__{path.stem}" for path in (root / "abnormal").glob("*.png"))
    work = workspace(tmp_path, tuple(decided(root, name) for name in names), root)
    work.start()
    first = train(work)
    (line,) = first.reviews.said()
    assert line.startswith("not mask-free: the student learnt")
    assert "; cases reviewed and not learnt from: " in line
    again = train(replace(work, reviews=tuple(decided(root, name, inside=False) for name in names)))
    assert first.key != again.key
    assert train(work).key == first.key


def test_reviews_of_other_data_or_held_out_cases_are_refused(tmp_path: Path) -> None:
    work = workspace(tmp_path, (Decided("somebody", np.zeros((1, 4, 4), bool)),))
    with pytest.raises(UserError, match=r"reviews has 1 decided cases, and none of them is of these data; required"):
        work.check()
    assert reviewed_of(work.reviews, tiny_settings(), None, {}) == ()  # type: ignore[arg-type]
    store = job_of(replace(work, settings=tiny_settings())).store
    held_out = str(store.index["case"][store.index["split"] == VALIDATION][0])
    held = replace(work, reviews=(Decided(held_out, np.zeros((1, 40, 44), bool)),))
    held.check()
    with pytest.raises(UserError, match=r"none of them is a training case of these data \(1 held out\); required"):
        job_of(held)


def test_a_reviewed_mask_of_another_size_is_of_another_image(tmp_path: Path) -> None:
    """The images were saved again with more pixels: a mask would be cut where nothing of it lies."""
    work = workspace(tmp_path)
    review = decided(work.data, next(case.id for case in work.cohort.cases if case.label == 1))
    replace(work, reviews=(review,)).check()
    path = next(case.image for case in work.cohort.cases if case.id == review.case)
    Image.open(path).resize((88, 80)).save(path)
    with pytest.raises(
        UserError, match=r"mask of abnormal__i01 has 1 x 40 x 44 and its case 1 x 80 x 88 .*the masks of these data"
    ):
        replace(work, reviews=(review,)).check()


def test_a_reviewed_mask_of_other_pixels_is_of_another_image(tmp_path: Path) -> None:
    """Reviews of a run on other data with the same names and sizes were learnt."""
    work = workspace(tmp_path)
    case = next(case for case in work.cohort.cases if case.label == 1)
    review = replace(decided(work.data, case.id), pixels=pixels_in(case.image, False))
    replace(work, reviews=(review,)).check()
    Image.open(case.image).save(case.image, compress_level=1)  # another file of the same pixels
    replace(work, reviews=(review,)).check()
    Image.fromarray(np.fliplr(np.asarray(Image.open(case.image)))).save(case.image)
    with pytest.raises(
        UserError, match=r"mask of abnormal__i01 was drawn on other pixels than .*i01\.png has; required: the masks"
    ):
        replace(work, reviews=(review,)).check()
    case.image.write_bytes(b"")
    replace(work, reviews=(review,)).check()  # what cannot be read is said where it is prepared


def test_a_lesion_smaller_than_a_prepared_pixel_is_not_taught_as_nothing(tmp_path: Path) -> None:
    """Less than half of each pixel was inside, so a slice in which a person drew a lesion was learnt as a normal one."""
    work = workspace(tmp_path)
    settings = replace(tiny_settings(), data=replace(tiny_settings().data, size=16))
    store = job_of(replace(work, settings=settings)).store
    row = int(np.flatnonzero((store.index["split"] == TRAINING) & (store.index["label"] == 1))[0])
    dot = np.zeros((1, 40, 44), bool)
    dot[0, 21, 30] = True
    found = reviewed_masks([Decided(str(store.index["case"][row]), dot)], store, "axial")
    assert found.rows.tolist() == [row]
    assert np.argwhere(found.targets[0]).tolist() == [[8, 11]]  # 21.5 of 40 rows, 30.5 of 44 columns
    left = Box(0, 0, 40, 22)
    assert not target_of(dot[0], left, 16).any()  # it lies beyond the box
    np.testing.assert_array_equal(target_of(dot[0], right := Box(0, 22, 40, 22), 40), right.resize_mask(dot[0], 40))
    assert not target_of(np.zeros((40, 44), bool), left, 16).any()


def test_reviews_without_a_student_are_refused_before_any_work(tmp_path: Path) -> None:
    work = workspace(tmp_path)
    for student in ({"steps": 0}, {}):
        settings = replace(work.settings, student=replace(work.settings.student, **student))
        settings = settings if student else replace(settings, method="rise")
        with pytest.raises(
            UserError, match=r"student\.reviewed is reviews and no student is trained; required: a student, which"
        ):
            replace(work, settings=settings).check()


def write_two_classes(root: Path) -> Path:
    """16 images of 8 patients: even numbers have a dot (rows 2 to 5), the first half has a bar (rows 10 to 13)."""
    rng, rows = np.random.default_rng(0), ["file,patient,dot,bar"]
    (root / "images").mkdir(parents=True)
    for i in range(16):
        image = rng.integers(90, 110, (16, 16), dtype=np.uint8)
        Image.fromarray(image).save(root / "images" / f"{i:02d}.png")
        rows.append(f"images/{i:02d}.png,p{i // 2},{1 - i % 2},{int(i < 8)}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


def marked(name: str, number: int, top: int) -> Decided:
    """A reviewed mask of a class: four rows from `top` on, nothing where that is negative."""
    mask = np.zeros((1, 16, 16), bool)
    mask[0, top : top + 4] = top >= 0
    return Decided(f"{name}/{number:02d}", mask, name)


def two_classes(reviewed: str | None = "reviews", asked: tuple[str, ...] = ()) -> Settings:
    base = tiny_settings()
    student = replace(base.student, steps=2, teachers=1, imagenet_steps=0, reviewed=reviewed)
    return replace(base, student=student, data=replace(base.data, size=16, classes=asked, validation=0.25))


def of_two_classes(tmp_path: Path, *reviews: Decided) -> Workspace:
    """The workspace of images with a dot, a bar, both or none, and of what was reviewed of them."""
    data = tmp_path / "data"
    return Workspace(data if data.exists() else write_two_classes(data), tmp_path / "out", two_classes(), reviews=reviews)


def numbers_of(job: Job) -> list[int]:
    """The images of the training side."""
    return sorted(int(case) for case in job.store.index["case"][job.store.index["split"] == TRAINING])


def test_every_class_learns_the_masks_reviewed_for_it_and_no_other(tmp_path: Path) -> None:
    dots, bars = (
        [marked("dot", i, 2) for i in range(0, 16, 2)],
        [marked("bar", i, 10 if i < 8 else -1) for i in (*range(8), 9, 15)],
    )
    work = of_two_classes(tmp_path, *dots, *bars)
    job = job_of(work)
    training = set(numbers_of(job))
    numbers = (set(range(0, 16, 2)), {*range(8), 9, 15})
    assert 0 < len(training & numbers[1]) < 10
    for one, top, mine in zip(job.classes, (2, 10), numbers, strict=True):
        (found,) = one.reviewed
        cases = [int(case) for case in one.store.index["case"][found.rows]]
        assert set(cases) == mine & training
        assert (found.cases, found.held_out, found.unknown) == (len(cases), len(mine - training), 0)
        for number, target in zip(cases, found.targets, strict=True):
            wanted = np.zeros((16, 16), np.uint8)
            wanted[top : top + 4] = number not in (9, 15)
            np.testing.assert_array_equal(target, wanted)
    assert job.reviewed == tuple(one.reviewed[0] for one in job.classes)
    other = job_of(replace(work, reviews=(*dots, *(replace(one, mask=one.mask[:, ::-1]) for one in bars))))
    assert (
        len({job.key("k"), other.key("k"), replace(job, reviewed=()).key("k"), replace(job, reviewed=job.reviewed[:1]).key("k")})
        == 4
    )
    assert replace(job, reviewed=()).key("k") == "k"


def test_a_slice_reviewed_for_one_class_says_nothing_of_the_other(tmp_path: Path) -> None:
    """Of four training images the first two are labelled with a dot: a person marked one, and saw nothing in the other."""
    even = [i for i in numbers_of(job_of(replace(of_two_classes(tmp_path), settings=two_classes(reviewed=None)))) if i % 2 == 0]
    with_bar, without = [i for i in even if i < 8], [i for i in even if i >= 8]
    drawn, empty, unseen = with_bar[0], with_bar[1], without[0]
    job = job_of(of_two_classes(tmp_path, marked("dot", drawn, 2), marked("dot", empty, -1)))
    taught = []
    for one in job.classes:
        normals = np.flatnonzero(one.store.index["label"][one.slices.rows] == 0)
        pseudo = PseudoMasks(np.zeros(0, np.int64), np.zeros((0, 16, 16), np.uint8), normals)
        slices, without = one.taught_slices, ~np.isin(one.slices.rows[normals], one.reviewed[0].rows)
        pseudo = replace(pseudo, normals=normals[without])
        taught.append(Taught(slices, with_reviewed(pseudo, slices, one.reviewed[0]), None))
    rows = np.array([np.flatnonzero(job.store.index["case"] == f"{i:02d}")[0] for i in (drawn, empty, unseen, unseen + 1)])
    dot, bar = (_known(one, rows) for one in taught)
    wanted = np.zeros((16, 16), np.uint8)
    wanted[2:6] = 1
    np.testing.assert_array_equal(dot[0], wanted)
    assert [set(np.unique(target)) for target in dot[1:]] == [{0}, {IGNORED}, {0}]  # seen empty, nobody looked, labelled without
    assert [set(np.unique(target)) for target in bar] == [{IGNORED}, {IGNORED}, {0}, {0}]  # what its labels say


def test_one_class_of_several_is_named_and_reviews_of_other_data_are_refused(tmp_path: Path) -> None:
    work = of_two_classes(tmp_path, marked("bar", 0, 10), marked("bar", 1, 10), marked("bar", 9, -1), marked("dot", 2, 2))
    (found,) = job_of(replace(work, settings=two_classes(asked=("Bar",)), root=tmp_path / "bar")).reviewed
    assert found.cases + found.held_out == 3
    assert found.unknown == 1  # that of the other class
    assert found.cases == found.targets[:, 10].any(1).sum() + (~found.targets.any((1, 2))).sum()
    wrong = replace(work, reviews=tuple(replace(one, case=f"rust{one.case[3:]}", class_name="rust") for one in work.reviews))
    with pytest.raises(UserError, match=r"4 decided cases.*\(they are of the classes rust, the data of the classes dot, bar\)"):
        wrong.check()
    plain = replace(work, reviews=(Decided("00", np.zeros((1, 16, 16), bool)),))
    with pytest.raises(UserError, match=r"\(they are of one class without a name, the data of the classes dot, bar\)"):
        plain.check()
    one_class = workspace(tmp_path / "one", (marked("bar", 0, 10),))
    with pytest.raises(UserError, match=r"of the classes bar, the data of one class without a name.*or name the class with data"):
        one_class.check()


def test_reviews_of_another_class_are_refused_before_any_work(tmp_path: Path) -> None:
    """Two runs on one class each of the same data call their cases by the same names."""
    mask = np.zeros((1, 16, 16), bool)
    work = replace(
        of_two_classes(tmp_path, *(Decided(f"{i:02d}", mask, model_class="Bar") for i in range(8))), root=tmp_path / "one"
    )
    replace(work, settings=two_classes(asked=("bar",))).check()
    with pytest.raises(
        UserError, match=r"has reviews of masks of Bar, and data.classes is dot; required: reviews of masks of the"
    ):
        replace(work, settings=two_classes(asked=("dot",))).check()


def of_scans(tmp_path: Path, *reviews: Decided) -> Workspace:
    """The workspace of ten scans with a label each, in whose abnormal ones the search has selected slice 2 and no other."""
    data, base = tmp_path / "data", tiny_settings()
    student = replace(base.student, steps=2, trust=0.0, teachers=1, imagenet_steps=0, reviewed="reviews" if reviews else None)
    settings = replace(base, student=student, data=replace(base.data, validation=0.4))
    work = Workspace(data if data.exists() else scans(data, 10, masks=True), tmp_path / "out", settings, reviews=reviews)
    store = prepare_slices(work)
    training = store.index["case"][store.index["split"] == TRAINING]
    constants = {"quantile": witnesses.QUANTILE, "fold_steps": witnesses.FOLD_STEPS, "rounds": witnesses.ROUNDS}
    key = stage_key("instances", settings, contents=store.meta["contents"], **constants)
    picked = {case: [2] for case in np.unique(training[store.index["weak"][store.index["split"] == TRAINING] == 1]).tolist()}
    found = {"key": key, "quantile": 0.95, "scans": len(picked), "weak": SLICES * len(picked), "kept": len(picked)}
    (work.root / "witnesses").mkdir(exist_ok=True)
    write_record(work.root / "witnesses" / "witnesses.json", {**found, "slices": picked, "seconds": 0.0})
    return work


def sides_of(work: Workspace) -> tuple[list[str], str]:
    """The abnormal scans of the training side, and one that is held out."""
    index = prepare_slices(work).index
    training, held = (
        np.unique(index["case"][(index["split"] == side) & (index["weak"] == 1)]) for side in (TRAINING, VALIDATION)
    )
    return training.tolist(), str(held[0])


def test_a_slice_that_the_search_left_out_teaches_where_a_person_looked_at_it(tmp_path: Path) -> None:
    (drawn, rejected, unseen), held_out = sides_of(of_scans(tmp_path))
    mask = np.zeros((SLICES, 36, 36), bool)
    mask[:2, 9:18, 9:18] = True
    work = of_scans(tmp_path, *(Decided(case, mask & (case != rejected)) for case in (drawn, rejected, held_out)))
    job, plain = job_of(work), job_of(of_scans(tmp_path))
    index, (found,) = job.store.index, job.reviewed
    left_out = index["split"] == LEFT_OUT
    assert left_out.sum() == 3 * (SLICES - 1)
    np.testing.assert_array_equal(index["split"], plain.store.index["split"])  # nothing but the student learns from them
    assert job.store.meta["contents"] == plain.store.meta["contents"]
    assert (found.cases, found.held_out, found.unknown, len(found.rows)) == (2, 1, 0, 2 * SLICES)
    slices = job.taught_slices
    assert set(slices.rows) == set(plain.slices.rows) | set(np.flatnonzero(left_out & np.isin(index["case"], [drawn, rejected])))
    masks = lambda images: (np.ones((len(images), slices.store.size, slices.store.size), bool), np.ones(len(images)))
    lessons = with_reviewed(collect_pseudo_masks(slices, masks, work.settings.student, found), slices, found)
    place = lambda indices: Counter((index["case"][row], int(index["slice"][row])) for row in slices.rows[indices].tolist())
    assert place(lessons.indices) == {(drawn, 0): REVIEWED, (drawn, 1): REVIEWED, (unseen, 2): 1}
    empty = {one: count for one, count in place(lessons.normals).items() if one[0] in (drawn, rejected)}
    assert empty == dict.fromkeys([*((drawn, i) for i in range(2, SLICES)), *((rejected, i) for i in range(SLICES))], REVIEWED)
    of_drawn = index["case"][slices.rows[lessons.indices]] == drawn
    assert (lessons.targets[of_drawn].mean((1, 2)) == (9 / 36) ** 2).all()


@pytest.mark.slow
def test_a_run_says_how_many_slices_only_reviewed_masks_teach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("training.pseudo_masks", "training.student", "pipeline.recipe"):
        monkeypatch.setattr(f"coinseg.{place}.LEAST", 1)
    (drawn, *_), _ = sides_of(of_scans(tmp_path))
    mask = np.zeros((SLICES, 36, 36), bool)
    mask[:2, 9:18, 9:18] = True
    run = train(of_scans(tmp_path, Decided(drawn, mask)))
    assert run.reviews.counts() == {"cases": 1, "slices": SLICES, "marked": 2, "left_out": SLICES - 1, "not_learnt": 0}
    assert f"of 1 cases reviewed (student.reviewed), of which {SLICES - 1} teach nothing else" in run.reviews.said()[0]


def test_reviews_of_masks_of_segment_are_of_the_cases_with_the_same_bytes(tmp_path: Path) -> None:
    (drawn, other, _), held_out = sides_of(of_scans(tmp_path))
    mask = np.zeros((SLICES, 36, 36), bool)
    mask[0] = True

    def of(case: str, shape: int = 36) -> Decided:
        return Decided(f"new/{case}.nii.gz", mask[:, :shape], sha256=sha256_of(tmp_path / "data" / f"{case}.nii.gz"))

    gone = Decided(f"{other}.nii.gz", mask, sha256="0" * 64)
    work = of_scans(tmp_path, of(drawn), of(held_out), gone, Decided(other, mask, sha256="1" * 64))
    work.check()
    (found,) = job_of(work).reviewed
    assert (found.cases, found.held_out, found.unknown) == (1, 1, 2)
    assert set(job_of(work).store.index["case"][found.rows]) == {drawn}
    assert ids_of([of(drawn, 35)], work.cohort) == {}  # a mask of another size is of another scan
    assert ids_of([], work.cohort) == {}
    with pytest.raises(
        UserError, match=r"none of them is of these data \(masks of `segment`: 2, and no scan of these data has the"
    ):
        replace(work, reviews=(gone, gone)).check()
    with pytest.raises(UserError, match=r"is a training case of these data \(1 held out, 1 not among these data or classes\)"):
        job_of(of_scans(tmp_path, of(held_out), gone))


def test_what_is_said_of_reviewed_masks() -> None:
    targets = np.zeros((3, 4, 4), np.uint8)
    targets[0] = 1
    some, none = ReviewedMasks(np.arange(3), targets, 2, 1, 4), ReviewedMasks(np.zeros(0, int), targets[:0], 0, 0)
    assert Learnt().said() == []
    assert Learnt().counts() is None
    assert Learnt(some, "", True).said() == [
        "not mask-free: the student learnt 3 slices of 2 cases reviewed (student.reviewed); cases reviewed and not learnt from: "
        "1 held out, 4 not among these data or classes"
    ]
    assert "(student.reviewed), of which 2 teach nothing else; cases" in Learnt(some, "", True, 2).said()[0]
    assert Learnt(some, "", True).counts() == {"cases": 2, "slices": 3, "marked": 1, "left_out": 0, "not_learnt": 5}
    assert "2 cases reviewed for bar (student.reviewed)" in Learnt(some, "bar", True).said()[0]
    (line,) = Learnt(none, "dot", True).said()
    assert line == "not mask-free: the student, which all classes share, learnt no mask reviewed for dot (student.reviewed)"
    assert Learnt(some, "bar", False).said() == [
        "nothing was learnt from student.reviewed for bar: too few masks are trusted for a student"
    ]
    assert Learnt(some, "bar", False).counts() is None
