"""Settings of the data: what is read, how it becomes slices, and the synthetic anomaly."""

# A declaration reads as one paragraph: one argument a line would hide the meaning.
# fmt: off
# ruff: noqa: RUF009
from dataclasses import dataclass
from typing import Literal

from .declare import PIXELS, SHARE, Range, described, setting

Axis = Literal["axial", "coronal", "sagittal"]


@described
@dataclass(frozen=True)
class DataSettings:
    """What is read and how it is turned into slices (thesis 3.6, 4)."""

    layout: Literal["auto", "totalsegmentator", "nnunet", "decathlon", "kits", "folders", "csv", "dicom", "sequences"] = setting(
        "auto", """how the folder is arranged; "auto" looks and says what it found.""")
    organ: tuple[str, ...] = setting((), """regions of interest: TotalSegmentator class names ("kidney_left"), labels of nnU-Net's
        or the Decathlon's dataset.json or of KiTS by name ("kidney"), or label values ("1") of an organ label map. In such data
        "kidney+malignant" is one region: a label map's kidney ends where its tumour begins.""")
    organ_from: str | None = setting(None, "another folder with the organ masks, arranged like the data.")
    lesion: tuple[str, ...] = setting((), """names or label values of the lesion, as for organ; together they are the lesion. For
        scoring, and to label slices without an image label: nnU-Net and Decathlon data need it then, KiTS takes the tumour.""")
    study_type: str = setting("abdomen", """keep TotalSegmentator scans with this word in study_type of meta.csv; "" is all.""")
    normal: tuple[str, ...] = setting((), "folders of normal images, relative to the data, for the plain-folder layout.")
    abnormal: tuple[str, ...] = setting((), "folders of abnormal images, relative to the data, for the plain-folder layout.")
    classes: tuple[str, ...] = setting((), """names of several classes, which one image may have together: columns of 0 and 1 of a
        table, folders, or lesion labels by name or value as for lesion. Empty is one class, unless the data name several.""")
    masks: str | None = setting(None, "folder of lesion masks for scoring, relative to the data, named like their images.")
    axis: Axis = setting("axial", "volumes are cut into slices across this axis. Labels by slice number are of axial slices.")
    channels: Literal["auto", "grey", "rgb"] = setting("auto", """"rgb" reads plain images in colour, "grey" as luminance; "auto"
        is "rgb" where most images are in colour. Several sequences of one scan are channels, of which "grey" takes the first.""")
    size: int | Literal["auto"] = setting(96, """side of the prepared square slices in pixels; "auto" is chosen from native
        sizes, device, memory and data.minutes, and the number is kept in the run.""", Range(1, 1024, "px"))
    minutes: int = setting(60, """how long a training may take, about; with data.size auto, size and recipe are chosen for
        it.""", Range(1, 10**6, "min"))
    tile: int | Literal["auto"] = setting(0, """images, and slices of volumes, that are larger than this are cut into overlapping
        square tiles of this side in their own pixels, each resized to data.size; training looks for the abnormal tiles of
        abnormal images, and masks are joined (docs/decisions/0010-any-size.md). "auto" is data.size, more where there would be
        too many; 0 is off.""", Range(0, 16384, "px"))
    spacing: float = setting(0.0, """mm of the patient for each pixel of a prepared slice, which then shows size * spacing mm
        around the centre of the slice (roi "none") or of the organ, with air or black beyond the scan; a case whose organ is
        larger is left out. 0 resizes the whole slice or region to the square, whatever its millimetres.""", Range(0, 100, "mm"))
    roi: Literal["none", "organ", "each"] = setting("none", """"none" keeps the whole slice, "organ" crops one square around all
        organ regions together, "each" one square around each region (left and right kidney), only for injected anomalies, whose
        labels belong to the crop.""")
    roi_margin: float = setting(0.15, """room around the organ, as a fraction of its longer side; unused with
        spacing.""", Range(0, 10))
    min_organ_px: int = setting(32, "a slice is kept when its organ mask has at least this many native pixels.", PIXELS)
    min_lesion_px: int = setting(0, """where image labels are made from lesion masks, a slice is abnormal when its lesion has more
        native pixels than this (0; the authors took 1000 at 512x512 for hospital data). Given labels win over masks.""", PIXELS)
    small_lesions: Literal["normal", "drop"] = setting("normal", """what a slice with a smaller lesion is: "normal" on both sides
        of the split (as in the authors' runs), or "drop": left out of training, and abnormal on the held-out side.""")
    label_level: Literal["auto", "slice", "scan"] = setting("auto", """what the label 1 of a whole volume says: "slice", every
        slice of it is abnormal; "scan", some slice is, and training looks for those (docs/decisions/0004-hospital-data.md);
        "auto" is "scan" where no slice of the volume has a label. A label 0 counts for every slice; images have their own. Of
        data.tile likewise: with "slice" every tile of an abnormal image counts as abnormal, else some tile does.""")
    intensity: Literal["auto", "hu", "percentile", "8bit"] = setting("auto", """"hu" clips to the foreground fingerprint;
        "percentile" scales every image, or scan, by its own percentiles, so that a bright lesion darkens what is beside it;
        "8bit" scales plain images alike, from 0 to 255; "auto" takes "hu" for volumes with the values of CT (some below
        -100, half of the body below 300), and "percentile" for the others.""")
    validation: float = setting(0.2, "share of patients held out.", SHARE)
    stratify: Literal["labels", "lesion_area"] = setting("labels", """what the split keeps alike on both sides: "labels", the
        share of abnormal slices of a patient, or "lesion_area", the lesion pixels of a patient in all (thesis 3.6.2; lesion masks
        are then used, to split only).""")
    split_by: Literal["patient", "slice", "hash"] = setting("patient", """"patient" draws the patients to hold out; "slice" splits
        inside patients when there is only one (scores are then optimistic); "hash" puts every patient by a hash of its id, for
        all seeds and settings alike, into the three fifths for training, a fifth to choose on, or a fifth for the last table.""")
    held_out: Literal["validation", "test"] = setting("validation", """fifth held out by split_by "hash"; the other is unused.""")

    @property
    def side(self) -> int:
        """data.size as a number; `ValueError` while it is "auto" (`data.slices.sizes` chooses it)."""
        return int(self.size)

    @property
    def tile_side(self) -> int:
        """Side of a tile in native pixels, 0 without tiles; `ValueError` while it is "auto"."""
        return int(self.tile)


@described
@dataclass(frozen=True)
class AnomalySettings:
    """The thesis' synthetic anomaly, injected into normal slices (thesis 3.6.3)."""

    kind: Literal["none", "blob"] = setting("none", """"blob" injects a deformed Gaussian blob, "none" uses labels of the
        data.""")
    probability: float = setting(0.65, "share of slices that get one.", SHARE)
    template: int = setting(20, "side of the blob's square template (thesis: 20 at 256x256).", Range(1, 8192, "px"))
    sigma: float = setting(0.4, "standard deviation of the Gaussian on a [-1, 1] grid over the template.", Range(0.001, 100))
    alpha: float = setting(0.9, "height of the blob on the [0, 1] image.", Range(-100, 100))
    level: float = setting(0.25, "the mask is where the deformed unit-height blob exceeds this.", Range(-100, 100))
    redraw: bool = setting(True, "draw training anomalies afresh in every epoch; validation is always the same.")
