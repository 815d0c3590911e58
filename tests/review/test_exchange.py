"""What leaves the desk lies where it was drawn: every export gives the drawn voxels back, in the geometry of its source."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from desks import DICOM, FRAME, SHAPE, made_scan, masks_folder, stored
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from skimage.draw import polygon2mask

from coinseg.cli import review_commands
from coinseg.cli.main import main
from coinseg.data.readers.dicom import read_series
from coinseg.data.readers.paths import sha256_of
from coinseg.data.readers.volume import read_geometry, read_mask, read_volume, write_mask, write_scan
from coinseg.errors import UserError
from coinseg.export.dicom_seg import frames_of, write_dicom_seg
from coinseg.export.nnunet import NAME, cases_in, write_nnunet
from coinseg.review.desk import Desk, Rules, desk_on
from coinseg.review.exchange import KINDS, export_reviewed
from coinseg.review.incoming import masks_by_name
from coinseg.review.kept.store import Store
from coinseg.review.rtstruct import outlines, write_rtstruct
from coinseg.review.sources import read_source, sequences_of_model
from coinseg.types import MaskSource
from writers import ORIENTATIONS, PLAIN, affine_of, make_run, write_nifti, write_series


@contextmanager
def desk_of(masks: Path) -> Iterator[Desk]:
    with desk_on(read_source(masks), None, Rules()) as desk:
        yield desk


def drawn(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """A mask as a hand would never draw it: holes, corners that touch, pixels on the border."""
    rng = np.random.default_rng(seed)
    mask = made_scan(seed)[1] if shape == SHAPE else np.zeros(shape, bool)
    mask ^= rng.random(shape) < 0.02
    mask[-1, 0, 0] = mask[0, -1, -1] = True
    return mask


def correct(desk: Desk) -> dict[str, np.ndarray]:
    """Draw a mask for every case, and accept it."""
    masks = {}
    for i, draft in enumerate(desk.source.drafts):
        shape = desk.views.opened(draft.key).shape
        masks[draft.record.id] = drawn(i, shape)
        state = desk.editor.replace(draft.key, "ann", masks[draft.record.id], "brush", f"k{i}")
        assert desk.editor.decide(draft.key, "ann", "accepted", "", 1, state["edits"]) == {"state": "corrected"}
    return masks


def filled(points: list[list[float]], dataset: pydicom.Dataset) -> np.ndarray:
    """Rasterise one contour in millimetres on its image, by pixel centres (even-odd)."""
    turn = np.array(dataset.ImageOrientationPatient, float).reshape(2, 3)
    apart = np.array(points) - np.array(dataset.ImagePositionPatient, float)
    down, across = (float(v) for v in dataset.PixelSpacing)
    assert np.abs(apart @ np.cross(*turn)).max() < 1e-3  # in the plane of its image
    corners = np.stack([apart @ turn[1] / down, apart @ turn[0] / across], 1)
    return polygon2mask((int(dataset.Rows), int(dataset.Columns)), corners)


@given(st.integers(0, 2**16), st.tuples(st.integers(1, 12), st.integers(1, 12)), st.floats(0.1, 0.9))
@settings(max_examples=60, deadline=None)
def test_outlines_filled_again_are_the_mask(seed: int, shape: tuple[int, int], share: float) -> None:
    mask = np.random.default_rng(seed).random(shape) < share
    whole = np.zeros(shape, bool)
    for ring in outlines(mask):
        whole ^= polygon2mask(shape, ring)
    np.testing.assert_array_equal(whole, mask)


def test_a_hole_is_keyed_into_its_outline() -> None:
    mask = np.ones((9, 9), bool)
    mask[2:7, 2:7] = False
    mask[4, 4] = True  # an island in the hole
    rings = outlines(mask)
    assert len(rings) == 2
    whole = np.logical_or.reduce([polygon2mask(mask.shape, ring) for ring in rings])
    np.testing.assert_array_equal(whole, mask)


def test_volumes_and_pictures_come_back_as_they_were_drawn(tmp_path: Path) -> None:
    masks_folder(tmp_path, cases=2, images=2, colour=True)
    with desk_of(tmp_path / "masks") as desk:
        wanted = correct(desk)
        written = export_reviewed(desk.source, desk.store, "masks", tmp_path / "out")
    assert (written.cases, written.left_out) == (4, [])
    for case, mask in wanted.items():
        scan = tmp_path / "scans" / case
        if case.endswith(".png"):
            with Image.open(tmp_path / "out" / case) as image:
                np.testing.assert_array_equal(np.asarray(image), mask[0] * np.uint8(255))
            continue
        geometry = read_geometry(scan)
        out = tmp_path / "out" / case
        np.testing.assert_array_equal(read_mask(MaskSource(out), geometry), mask)
        assert read_geometry(out).affine.tolist() == geometry.affine.tolist()
    assert json.loads((tmp_path / "out" / "reviewed.json").read_text())["cases"] == 4


@pytest.mark.parametrize("order", ORIENTATIONS[::7])
def test_masks_of_every_orientation_lie_on_their_scans(tmp_path: Path, order: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """A voxel drawn where the scan is brightest is written where the file is brightest."""
    affine = affine_of(*order, (0.8, 0.7, 2.5), 0.1)
    voxels = np.random.default_rng(0).permutation(4 * 5 * 6).reshape(4, 5, 6).astype(np.int16)
    file = write_nifti(tmp_path / "scan.nii.gz", voxels, affine)
    volume = read_volume(file)
    mask = volume.scan > 100
    write_mask(tmp_path / "mask.nii.gz", mask, volume.geometry)
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "mask.nii.gz").dataobj) > 0, voxels > 100)


def test_dicom_seg_and_rtstruct_lie_on_their_series(tmp_path: Path) -> None:
    masks_folder(tmp_path, cases=2, dicom=True)
    with desk_of(tmp_path / "masks") as desk:
        wanted = correct(desk)
        for kind in ("dicom-seg", "rtstruct"):
            assert export_reviewed(desk.source, desk.store, kind, tmp_path / kind).left_out == []
    for case, mask in wanted.items():
        series = tmp_path / "scans" / case
        datasets = {ds.SOPInstanceUID: ds for ds in read_series(series)}
        frames = frames_of(mask, read_geometry(series).canonical_affine, list(datasets.values()))
        planes = dict(zip(datasets, frames, strict=True))

        seg = pydicom.dcmread(tmp_path / "dicom-seg" / f"{case}.dcm")
        assert seg.SegmentSequence[0].SegmentAlgorithmType == "SEMIAUTOMATIC"
        found = {uid: np.zeros(plane.shape, bool) for uid, plane in planes.items()}
        for group, frame in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True):
            found[group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID] |= frame > 0
        assert all((found[uid] == planes[uid]).all() for uid in planes)

        contours = pydicom.dcmread(tmp_path / "rtstruct" / f"{case}.dcm")
        first = next(iter(datasets.values()))
        assert (contours.PatientID, contours.StudyInstanceUID) == (first.PatientID, first.StudyInstanceUID)
        found = {uid: np.zeros(plane.shape, bool) for uid, plane in planes.items()}
        for contour in contours.ROIContourSequence[0].ContourSequence:
            uid = contour.ContourImageSequence[0].ReferencedSOPInstanceUID
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            assert contour.NumberOfContourPoints == len(points)
            found[uid] ^= filled(points.tolist(), datasets[uid])
        assert all((found[uid] == planes[uid]).all() for uid in planes)


@pytest.mark.parametrize(
    ("character_set", "name", "kept"),
    [(None, "Doe^A", "ISO_IR 192"), ("ISO_IR 192", "M\u00fcller^A", "ISO_IR 192"), ("ISO_IR 100", "M\u00fcller^A", "")],
)
def test_names_of_classes_are_not_written_as_question_marks(
    tmp_path: Path, character_set: str | None, name: str, kept: str
) -> None:  # fmt: skip
    """Two classes would be one: in a series without a character set, or with another one than their letters are of."""
    tags = FRAME | {"PatientName": name} | ({"SpecificCharacterSet": character_set} if character_set else {})
    scan, ball = made_scan(5)
    place = write_series(tmp_path / "scan", scan.transpose(2, 1, 0), DICOM, **tags)
    series, affine, label = read_series(place), read_geometry(place).canonical_affine, "\u75c5\u5909"
    out, seg = tmp_path / "rt.dcm", tmp_path / "seg.dcm"
    if not kept:
        for write in (
            lambda: write_rtstruct(ball, series, out, affine, label),
            lambda: write_dicom_seg({label: ball}, series, seg, affine),
        ):
            with pytest.raises(
                UserError, match="and a series whose names have the character set ISO_IR 100; required: letters of"
            ):
                write()
        return
    write_rtstruct(ball, series, out, affine, label)
    write_dicom_seg({label: ball}, series, seg, affine)
    found, segments = pydicom.dcmread(out), pydicom.dcmread(seg)
    assert (found.StructureSetROISequence[0].ROIName, segments.SegmentSequence[0].SegmentLabel) == (label, label)
    assert {str(one.PatientName) for one in (found, segments)} == {name}
    assert {one.SpecificCharacterSet for one in (found, segments)} == {kept}


def test_a_series_that_can_carry_nothing_costs_the_others_nothing(tmp_path: Path) -> None:
    masks = masks_folder(tmp_path, cases=3, dicom=True)
    for file in (tmp_path / "scans" / "s01").iterdir():
        image = pydicom.dcmread(file)
        del image.FrameOfReferenceUID
        image.save_as(file)
    index = json.loads((masks / "index.json").read_text())
    index["masks"][1]["sha256"] = sha256_of(tmp_path / "scans" / "s01")
    (masks / "index.json").write_text(json.dumps(index))
    with desk_of(masks) as desk:
        correct(desk)
        for kind in ("dicom-seg", "rtstruct"):
            written = export_reviewed(desk.source, desk.store, kind, tmp_path / kind)
            assert [path.name for path in sorted((tmp_path / kind).glob("*.dcm"))] == ["s00.dcm", "s02.dcm"]
            assert (written.cases, len(written.left_out)) == (2, 1)
            assert written.left_out[0].startswith("s01: the series cannot carry ")


def test_a_long_outline_is_read_as_numbers(tmp_path: Path) -> None:
    """Decimal strings of more than 64 KB have no type of their own in a file with explicit ones."""
    series = write_series(tmp_path / "scan", np.zeros((120, 120, 1), np.int16), **FRAME)
    comb = np.zeros((1, 120, 120), bool)
    comb[0, 10:110, 10:110:2] = comb[0, 10, 10:110] = True
    assert write_rtstruct(comb, read_series(series), tmp_path / "r.dcm", read_geometry(series).canonical_to_mm) == 1
    contour = pydicom.dcmread(tmp_path / "r.dcm").ROIContourSequence[0].ContourSequence[0]
    text = "\\".join(map(str, contour.ContourData))
    assert len(text) > 2**16
    assert contour["ContourData"].VR == "DS"
    assert b"UN\0\0" not in (tmp_path / "r.dcm").read_bytes()


def test_an_oblique_series_has_its_contours_in_its_planes(tmp_path: Path) -> None:
    scan, ball = made_scan(0)
    affine = affine_of((0, 1, 2), (-1, -1, 1), (0.8, 0.7, 2.5), 0.2)
    series = write_series(tmp_path / "series", stored(scan, affine), affine, **FRAME)
    geometry, datasets = read_geometry(series), read_series(series)
    write_rtstruct(ball, datasets, tmp_path / "r.dcm", geometry.canonical_affine)
    frames = frames_of(ball, geometry.canonical_affine, datasets)
    found = {ds.SOPInstanceUID: np.zeros(frames.shape[1:], bool) for ds in datasets}
    by_uid = {ds.SOPInstanceUID: ds for ds in datasets}
    for contour in pydicom.dcmread(tmp_path / "r.dcm").ROIContourSequence[0].ContourSequence:
        uid = contour.ContourImageSequence[0].ReferencedSOPInstanceUID
        found[uid] ^= filled(np.array(contour.ContourData, float).reshape(-1, 3).tolist(), by_uid[uid])
    assert all((found[ds.SOPInstanceUID] == frame).all() for ds, frame in zip(datasets, frames, strict=True))
    with pytest.raises(UserError, match="exists"):
        write_rtstruct(ball, datasets, tmp_path / "r.dcm", geometry.canonical_affine)
    del datasets[0].FrameOfReferenceUID
    with pytest.raises(UserError, match="it has no FrameOfReferenceUID"):
        write_rtstruct(ball, datasets, tmp_path / "s.dcm", geometry.canonical_affine)


def test_nnunet_prompts_and_the_table(tmp_path: Path) -> None:
    masks_folder(tmp_path, cases=2, images=1)
    with desk_of(tmp_path / "masks") as desk:
        wanted = correct(desk)
        assert export_reviewed(desk.source, desk.store, "nnunet", tmp_path / "Dataset101_x").left_out == [
            "p00: a plain image beside volumes"
        ]
        export_reviewed(desk.source, desk.store, "prompts", tmp_path / "prompts")
        export_reviewed(desk.source, desk.store, "csv", tmp_path / "csv")
    for case in ("s00", "s01"):
        labels = read_volume(tmp_path / "Dataset101_x" / "labelsTr" / f"{case}.nii.gz").scan
        np.testing.assert_array_equal(labels, wanted[f"{case}.nii.gz"].astype(np.int16))
        scan = read_volume(tmp_path / "Dataset101_x" / "imagesTr" / f"{case}_0000.nii.gz").scan
        np.testing.assert_array_equal(scan, read_volume(tmp_path / "scans" / f"{case}.nii.gz").scan)
    for row in json.loads((tmp_path / "prompts" / "prompts.json").read_text())["cases"]:
        mask = wanted[row["case"]]
        assert sum(len(one["objects"]) for one in row["slices"]) > 0
        for one in row["slices"]:
            plane = mask[one["slice"]]
            assert sum(thing["pixels"] for thing in one["objects"]) == plane.sum()
            assert all(plane[tuple(thing["point"])] for thing in one["objects"])
    with (tmp_path / "csv" / "decisions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["case"]: (row["reviewer"], row["state"], int(row["pixels"])) for row in rows} == {
        case: ("ann", "corrected", int(mask.sum())) for case, mask in wanted.items()
    }


@pytest.mark.parametrize("colour", [False, True], ids=["grey", "colour"])
def test_plain_images_go_to_nnunet_as_well(tmp_path: Path, colour: bool) -> None:
    masks_folder(tmp_path, cases=0, images=2, colour=colour)
    with desk_of(tmp_path / "masks") as desk:
        assert "nnunet" in desk.kinds()
        for draft, state in zip(desk.source.drafts, ("accepted", "rejected"), strict=True):
            desk.case(draft.key, "ann")
            desk.editor.decide(draft.key, "ann", state, "", 1.0, 0)
        assert export_reviewed(desk.source, desk.store, "nnunet", tmp_path / "Dataset101_x").cases == 2
    labels = [np.asarray(Image.open(tmp_path / "Dataset101_x" / "labelsTr" / f"p0{i}.png")) for i in range(2)]
    wanted = np.zeros((50, 64), np.uint8)
    wanted[10:25, 20:40] = 1
    np.testing.assert_array_equal(labels[0], wanted)
    assert not labels[1].any()
    about = json.loads((tmp_path / "Dataset101_x" / "dataset.json").read_text())
    assert (about["file_ending"], about["numTraining"]) == (".png", 2)
    picture = np.asarray(Image.open(tmp_path / "Dataset101_x" / "imagesTr" / "p00_0000.png"))
    np.testing.assert_array_equal(picture, np.asarray(Image.open(tmp_path / "scans" / "p00.png")))


def test_a_mask_that_fills_the_border_is_not_turned_inside_out_for_nnunet(tmp_path: Path) -> None:
    """A mask from elsewhere that is white all around is dark on light; one that was drawn here is as it was drawn."""
    masks_folder(tmp_path, cases=0, images=1)
    wanted = np.ones((1, 50, 64), bool)
    wanted[0, 20:30, 20:40] = False
    with desk_of(tmp_path / "masks") as desk:
        (draft,) = desk.source.drafts
        state = desk.editor.replace(draft.key, "ann", wanted, "brush", "k0")
        desk.editor.decide(draft.key, "ann", "accepted", "", 1.0, state["edits"])
        export_reviewed(desk.source, desk.store, "nnunet", tmp_path / "Dataset101_x")
        export_reviewed(desk.source, desk.store, "masks", tmp_path / "out")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "Dataset101_x" / "labelsTr" / "p00.png")), wanted[0])
    cases, _ = cases_in(tmp_path / "scans", tmp_path / "out")
    write_nnunet(tmp_path / "Dataset102_x", cases)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "Dataset102_x" / "labelsTr" / "p00.png")), wanted[0])


def test_every_sequence_of_a_reviewed_scan_is_a_channel_of_nnunet(tmp_path: Path) -> None:
    """Of a run, whose layout knows the sequences; beside masks of `segment` nobody knows them, and that is said."""
    masks_folder(tmp_path, cases=1)
    with desk_of(tmp_path / "masks") as desk:
        correct(desk)
        (draft,) = desk.source.drafts
        assert draft.case is not None
        geometry = read_geometry(draft.image)
        other = write_nifti(tmp_path / "t2.nii.gz", np.ones(geometry.shape, np.int16), geometry.affine)
        source = replace(desk.source, sequences=("flair", "t2"))
        with pytest.raises(UserError, match=r"several sequences: flair, t2; required: the review of a run"):
            export_reviewed(source, desk.store, "nnunet", tmp_path / "Dataset103_x")
        drafts = (replace(draft, case=replace(draft.case, others=(other,))),)
        export_reviewed(replace(source, drafts=drafts), desk.store, "nnunet", tmp_path / "Dataset103_x")
    about = json.loads((tmp_path / "Dataset103_x" / "dataset.json").read_text())
    assert about["channel_names"] == {"0": "flair", "1": "t2"}
    assert (read_volume(tmp_path / "Dataset103_x" / "imagesTr" / "s00_0001.nii.gz").scan == 1).all()


@pytest.mark.parametrize(("kind", "name"), [("hu", "CT"), ("percentile", "scan")])
def test_scans_that_are_no_ct_are_not_called_ct_in_nnunet(tmp_path: Path, kind: str, name: str) -> None:
    """nnU-Net goes by that name: it clips CT to the range of the lesions, and takes MR by its mean and deviation."""
    masks_folder(tmp_path, cases=1)
    make_run(tmp_path / "model", kind=kind)
    with desk_of(tmp_path / "masks") as desk:
        correct(desk)
        export_reviewed(desk.source, desk.store, "nnunet", tmp_path / "Dataset104_x")
    assert json.loads((tmp_path / "Dataset104_x" / "dataset.json").read_text())["channel_names"] == {"0": name}


def test_a_source_knows_the_sequences_of_its_model(tmp_path: Path) -> None:
    assert sequences_of_model(make_run(tmp_path / "two", kind="percentile", channels=("flair", "t2"))) == ("flair", "t2")
    assert sequences_of_model(make_run(tmp_path / "colour", kind="percentile", channels=("red", "green", "blue"))) == ()
    assert sequences_of_model(make_run(tmp_path / "grey")) == sequences_of_model(None) == ()


def test_what_cannot_be_written_is_left_out_with_a_line(tmp_path: Path) -> None:
    masks_folder(tmp_path, cases=1, images=1)
    with desk_of(tmp_path / "masks") as desk:
        with pytest.raises(UserError, match="no case was accepted"):
            export_reviewed(desk.source, desk.store, "masks", tmp_path / "out")
        correct(desk)
        with pytest.raises(UserError, match="no reviewed case can be written as rtstruct"):
            export_reviewed(desk.source, desk.store, "rtstruct", tmp_path / "out")
        assert not (tmp_path / "out").exists()
        assert desk.kinds() == ["masks", "nnunet", "prompts", "csv"]
        assert [desk.new_export(kind).name for kind in ("masks", "nnunet")] == ["masks-1", "Dataset101_reviewed"]
        desk.new_export("nnunet").mkdir(parents=True)
        assert NAME.fullmatch(desk.new_export("nnunet").name)
        export_reviewed(desk.source, desk.store, "masks", tmp_path / "out")
        with pytest.raises(UserError, match="exists"):
            export_reviewed(desk.source, desk.store, "masks", tmp_path / "out")
        export_reviewed(desk.source, desk.store, "masks", tmp_path / "out", overwrite=True)
        (tmp_path / "scans" / "s00.nii.gz").rename(tmp_path / "elsewhere.nii.gz")
        with pytest.raises(UserError, match=r"s00\.nii\.gz is gone"):
            export_reviewed(desk.source, desk.store, "masks", tmp_path / "out2")


def test_a_scan_that_was_exchanged_does_not_take_over_what_was_accepted(tmp_path: Path) -> None:
    """Other scans under the names of reviewed ones, segmented again into the same folder."""
    masks, names = masks_folder(tmp_path, cases=2), ("s00", "s01")
    with desk_of(masks) as desk:
        for draft in desk.source.drafts[:1]:
            desk.editor.decide(draft.key, "ann", "accepted", "", 1, 0)
        desk.editor.mask(desk.source.drafts[1].key, "ann")  # looked at
    index = json.loads((masks / "index.json").read_text())
    for name, row in zip(names, index["masks"], strict=True):
        scan, ball = made_scan(77)
        (file := tmp_path / "scans" / f"{name}.nii.gz").unlink()
        write_nifti(file, stored(scan, PLAIN), PLAIN)
        write_mask(masks / f"{name}.nii.gz", ball, read_geometry(file), overwrite=True)
        row["sha256"] = sha256_of(file)
    (masks / "index.json").write_text(json.dumps(index))
    store = Store(masks / "review", write=False)
    with pytest.raises(UserError, match=r"no reviewed case can be written as masks \(s00.nii.gz: it was another scan"):
        export_reviewed(read_source(masks), store, "masks", tmp_path / "out")
    store.close()
    with desk_of(masks) as desk:
        assert {row["state"] for row in desk.queue("ann")["cases"]} == {"open"}
        for draft in desk.source.drafts:
            np.testing.assert_array_equal(desk.editor.mask(draft.key, "ann"), made_scan(77)[1])
        assert [one.case.split(" (")[0] for one in desk.store.reviewed()] == ["s00.nii.gz"]


def test_an_image_of_another_size_than_was_reviewed_is_one_line(tmp_path: Path) -> None:
    """A run keeps no SHA-256 of its images."""
    masks, scans = masks_folder(tmp_path, cases=1, images=1), tmp_path / "scans"
    index = json.loads((masks / "index.json").read_text())
    for row in index["masks"]:
        del row["sha256"]
    (masks / "index.json").write_text(json.dumps(index))
    with desk_on(read_source(masks, scans=scans), None, Rules()) as desk:
        for draft in desk.source.drafts:
            desk.editor.decide(draft.key, "ann", "accepted", "", 1, 0)
        write_nifti(scans / "s00.nii.gz", stored(made_scan(1, (13, 40, 48))[0], PLAIN), PLAIN)
        done = export_reviewed(desk.source, desk.store, "masks", tmp_path / "other")
        assert (done.cases, done.left_out) == (1, ["s00.nii.gz: it was another scan that was reviewed"])
        desk.store._connection.execute("DELETE FROM facts WHERE name LIKE 'pixels %'")  # as it was before they were kept
        with pytest.raises(UserError, match=r"s00.nii.gz has shape \(13, 40, 48\) and its reviewed mask \(12, 40, 48\)"):
            export_reviewed(desk.source, desk.store, "masks", tmp_path / "out")
        write_nifti(scans / "s00.nii.gz", stored(made_scan(1)[0], PLAIN), PLAIN)
        Image.fromarray(np.zeros((30, 20), np.uint8)).save(scans / "p00.png")
        with pytest.raises(UserError, match=r"p00.png has shape \(1, 30, 20\) and its reviewed mask \(1, 50, 64\)"):
            export_reviewed(desk.source, desk.store, "prompts", tmp_path / "out")


def test_a_multi_frame_image_does_not_stop_the_export_of_the_series_beside_it(tmp_path: Path) -> None:
    masks = masks_folder(tmp_path, cases=2, dicom=True)
    with desk_of(masks) as desk:
        correct(desk)
        one = next((tmp_path / "scans" / "s01").iterdir())
        whole = pydicom.dcmread(one)
        whole.NumberOfFrames = 2  # as an enhanced image says it
        series = {desk.source.drafts[1].image: [whole]}
        read = lambda path: series.get(path) or read_series(path)
        for kind in ("dicom-seg", "rtstruct"):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("coinseg.data.readers.dicom.read_series", read)
                written = export_reviewed(desk.source, desk.store, kind, tmp_path / kind)
            assert (written.cases, written.left_out) == (1, ["s01: its source is a multi-frame image"])


def test_a_strangers_database_cannot_have_files_read(tmp_path: Path) -> None:
    """What the store says of where a scan is, is not followed."""
    masks_folder(tmp_path, cases=1)
    with desk_of(tmp_path / "masks") as desk:
        correct(desk)
        secret = write_nifti(tmp_path / "secret.nii.gz", np.ones((3, 3, 3), np.int16))
        desk.store._connection.execute("UPDATE cases SET image = ?", [str(secret)])
        export_reviewed(desk.source, desk.store, "nnunet", tmp_path / "Dataset102_x")
    assert read_volume(tmp_path / "Dataset102_x" / "imagesTr" / "s00_0000.nii.gz").scan.shape == SHAPE


def test_masks_of_other_programs_come_back_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks_folder(tmp_path, cases=3, images=1)
    with desk_of(tmp_path / "masks") as desk:
        wanted = correct(desk)
        export_reviewed(desk.source, desk.store, "masks", tmp_path / "out")
    shutil.rmtree(tmp_path / "masks" / "review")
    (tmp_path / "out" / "s01.nii.gz").rename(tmp_path / "out" / "unknown.nii.gz")
    write_nifti(tmp_path / "out" / "s02.nii.gz", np.zeros((3, 3, 3), np.uint8))
    (tmp_path / "out" / "s00.gif").write_bytes(b"GIF89a")
    words = ["review-import", str(tmp_path / "masks"), str(tmp_path / "out"), "--reviewer"]
    assert main([*words, "a\tb"]) == main([*words, "x" * 61]) == main([*words, " "]) == 2
    assert capsys.readouterr().err.count("a name of 1 to 60 letters; mend --reviewer") == 2
    assert main([*words, " itk ", "--accept"]) == 0
    said = capsys.readouterr().out
    assert "2 masks taken and accepted for itk" in said
    assert "unknown.nii.gz: the name of no case" in said
    assert "s02.nii.gz: mask" in said
    assert "left out: 1 files not read, for their ending: 1 x .gif" in said
    assert main(["review-export", str(tmp_path / "masks"), "masks", "-o", str(tmp_path / "again")]) == 0
    geometry = read_geometry(tmp_path / "scans" / "s00.nii.gz")
    np.testing.assert_array_equal(read_mask(MaskSource(tmp_path / "again" / "s00.nii.gz"), geometry), wanted["s00.nii.gz"])
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == [
        "decisions.csv",
        "p00.png",
        "reviewed.json",
        "s00.nii.gz",
    ]


def test_inverted_masks_of_other_programs_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks_folder(tmp_path, cases=1, images=1)
    (tmp_path / "in").mkdir()
    geometry = read_geometry(tmp_path / "scans" / "s00.nii.gz")
    write_mask(tmp_path / "in" / "s00.nii.gz", ~read_mask(MaskSource(tmp_path / "masks" / "s00.nii.gz"), geometry), geometry)
    with Image.open(tmp_path / "masks" / "p00.png") as mask:
        Image.fromarray(255 - np.asarray(mask)).save(tmp_path / "in" / "p00.png")
    assert main(["review-import", str(tmp_path / "masks"), str(tmp_path / "in"), "--reviewer", "itk", "--accept"]) == 2
    said = capsys.readouterr()
    assert said.out.count("and what it does not mark is rather the lesion; required: the lesion alone; invert it") == 2
    assert "no mask in" in said.err


@pytest.mark.parametrize("folder", ["scans", "confidence"])
def test_scans_and_maps_are_no_masks_though_they_have_their_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: str
) -> None:  # fmt: skip
    """Everything above 0 would be the lesion, and was accepted with --accept."""
    masks_folder(tmp_path, cases=2, images=1)
    shutil.copytree(tmp_path / folder, place := tmp_path / "copy")
    other = read_volume(place / "s01.nii.gz")  # as another program writes it
    levels = (np.arange(other.scan.size) % 101).astype(np.uint8).reshape(other.scan.shape)
    write_scan(place / "s01.nii.gz", other.scan if folder == "scans" else levels, other.geometry, overwrite=True)
    words = ["review-import", str(tmp_path / "masks"), str(place), "--reviewer", "itk", "--accept"]
    assert main([*words, "--confidence", str(tmp_path / "confidence")]) == 2
    said = capsys.readouterr().out
    what = folder.removesuffix("s")
    assert said.count(f"is the {what} itself; required: a mask of it; choose the folder or file of the mask") == 2
    assert "different values, as scans and maps have; required: a mask, which has 32 at most" in said
    assert Store(tmp_path / "masks" / "review", write=False).decisions() == []


@pytest.mark.parametrize("as_what", ["png", "jpg", "grey", "stretched"])
def test_a_picture_that_was_saved_anew_is_no_mask(tmp_path: Path, capsys: pytest.CaptureFixture[str], as_what: str) -> None:
    """Only the same bytes were the scan: a copy was cut half way, and accepted."""
    masks_folder(tmp_path, cases=0, images=1, colour=True)
    (place := tmp_path / "in").mkdir()
    with Image.open(tmp_path / "scans" / "p00.png") as picture:
        pixels = np.asarray(picture)
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    shown = {"grey": grey, "stretched": (grey * 0.7 + 20).astype(np.uint8)}.get(as_what, pixels)
    name = "p00.jpg" if as_what == "jpg" else "p00.png"
    Image.fromarray(shown).save(place / name, **({"quality": 85} if as_what == "jpg" else {"compress_level": 1}))
    assert main(["review-import", str(tmp_path / "masks"), str(place), "--reviewer", "itk", "--accept"]) == 2
    assert f"{name} is the scan itself; required: a mask of it" in capsys.readouterr().out
    soft = np.zeros((50, 64), np.uint8)
    soft[10:25, 20:40] = 255
    Image.fromarray(soft).filter(ImageFilter.GaussianBlur(2)).save(place / name)  # a mask with as many grey values
    assert main(["review-import", str(tmp_path / "masks"), str(place), "--reviewer", "itk", "--accept"]) == 0
    assert "note" not in capsys.readouterr().out


def test_a_mask_of_several_values_is_taken_whole_and_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The pixels that nnU-Net is told to ignore have a value of their own, and became lesion without a word."""
    masks_folder(tmp_path, cases=2, images=2)
    (place := tmp_path / "in").mkdir()
    for name in ("s00", "s01"):
        draft = read_volume(tmp_path / "masks" / f"{name}.nii.gz")
        labels = draft.scan.astype(np.uint8)
        labels[:, :3] = 2 if name == "s00" else 0
        write_scan(place / f"{name}.nii.gz", labels, draft.geometry)
    levels = np.zeros((50, 64), np.uint8)
    levels[10:25, 20:40], levels[30:40, 20:40] = 1, 3
    Image.fromarray(levels).save(place / "p00.png")
    Image.fromarray((levels > 0).astype(np.uint8) * 255).save(place / "p01.png")
    assert main(["review-import", str(tmp_path / "masks"), str(place), "--reviewer", "itk"]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if "note" in line]
    assert notes == [
        "  note: p00.png: the values 1, 3 all count as inside",
        "  note: s00.nii.gz: the values 1, 2 all count as inside",
    ]


def test_names_that_fit_two_cases_are_not_guessed(tmp_path: Path) -> None:
    masks_folder(tmp_path, cases=1, images=0)
    drafts = read_source(tmp_path / "masks").drafts
    (tmp_path / "in").mkdir()
    for name in ("s00.nii.gz", "s00.nrrd"):
        shutil.copy(tmp_path / "masks" / "s00.nii.gz", tmp_path / "in" / name)
    found, problems = masks_by_name(tmp_path / "in", drafts)
    assert (len(found), problems) == (1, ["s00.nrrd: s00.nii.gz is a mask of the same case"])
    other = replace(drafts[0], record=replace(drafts[0].record, id="s00.mha"))
    found, problems = masks_by_name(tmp_path / "in", [drafts[0], other])
    assert (found, len(problems)) == ([], 2)


def test_masks_of_cases_whose_names_clash_as_files_come_back_to_their_own(tmp_path: Path) -> None:
    masks = masks_folder(tmp_path, cases=0, images=2)
    index = json.loads((masks / "index.json").read_text())
    for row, name in zip(index["masks"], ("a b.png", "a_b.png"), strict=True):
        (tmp_path / "scans" / row["case"]).rename(tmp_path / "scans" / name)
        row["case"] = name
    (masks / "index.json").write_text(json.dumps(index))
    with desk_of(masks) as desk:
        wanted = correct(desk)
        export_reviewed(desk.source, desk.store, "masks", tmp_path / "out")
        found, problems = masks_by_name(tmp_path / "out", desk.source.drafts)
    assert problems == []
    for draft, file in found:
        with Image.open(file) as image:
            np.testing.assert_array_equal(np.asarray(image) > 0, wanted[draft.record.id][0])
    assert len(found) == 2


def test_kinds_of_the_command_are_those_of_the_room() -> None:
    assert tuple(KINDS) == review_commands.KINDS
