"""Settings: frozen dataclasses, one per stage; every one can be set in YAML or on the command line.

A run is one `Settings`; nothing else in coinseg holds a default. How settings are read, named and compared, and the
presets, are in `settings.py`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Axis = Literal["axial", "coronal", "sagittal"]


@dataclass(frozen=True)
class DataSettings:
    """What is read and how it is turned into slices (thesis 3.6, 4).

    Args:
        layout: how the folder is arranged; "auto" looks and says what it found.
        organ: regions of interest: TotalSegmentator class names ("kidney_left"), labels of nnU-Net's or the
            Decathlon's dataset.json or of KiTS by name ("kidney"), or label values ("1") of an organ label map. In such data
            "kidney+malignant" is one region: a label map's kidney ends where its tumour begins.
        organ_from: another folder with the organ masks, arranged like the data (the thesis re-predicted its kidneys).
        lesion: names or label values of the lesion, as for organ; all of them together are the lesion. Used for scoring, and
            where slices have no image label for making one: nnU-Net and Decathlon data need it then, KiTS takes the tumour.
        study_type: TotalSegmentator scans are kept when study_type in meta.csv contains this word; "" keeps all.
        normal: folders of normal images, relative to the data, for the plain-folder layout.
        abnormal: folders of abnormal images, relative to the data, for the plain-folder layout.
        masks: folder of lesion masks for scoring, relative to the data; a mask has the name of its image.
        axis: volumes are cut into slices across this axis of the patient. Labels by slice number are those of axial slices.
        size: side of the prepared square slices in pixels.
        spacing: mm of the patient for each pixel of a prepared slice, which then shows size * spacing mm around the centre of the
            slice (roi "none") or of the organ, with air or black beyond the scan; a case whose organ is larger is left out.
            0 resizes the whole slice or region to the square, whatever its millimetres.
        roi: "none" keeps the whole slice, "organ" crops one square around all organ regions together, "each" one square
            around each region (left and right kidney), only for injected anomalies, whose labels belong to the crop.
        roi_margin: room around the organ region, as a fraction of the region's longer side; not read where spacing is set.
        min_organ_px: a slice is kept when its organ mask has at least this many native pixels.
        min_lesion_px: where image labels are made from lesion masks, a slice is abnormal when its lesion has more native
            pixels than this (0; the authors took 1000 at 512x512 for their hospital data).
            Given labels (tables, folders) always win over masks.
        small_lesions: what a slice with a smaller lesion is: "normal" on both sides of the split (as in the authors' runs), or
            "drop": left out of training, and abnormal on the held-out side, whatever the lesion's size.
        label_level: what the label 1 of a whole volume says: "slice", every slice of it is abnormal; "scan", some slice is, and
            training looks for those (docs/decisions/0004-hospital-data.md); "auto" is "scan" where no slice of the volume has a
            label of its own. A label 0 counts for every slice; images always have labels of their own.
        intensity: "hu" clips to the foreground fingerprint; "percentile" scales every image, or scan, by its own percentiles; "auto" takes
            "hu" for volumes with values below -100, as CT has them.
        validation: share of patients held out.
        stratify: what the split keeps alike on both sides: "labels", the share of abnormal slices of a patient, or
            "lesion_area", the lesion pixels of a patient in all (thesis 3.6.2; lesion masks are then used, to split only).
        split_by: "patient" draws the patients to hold out; "slice" splits inside patients when there is only one (scores are
            then optimistic); "hash" puts every patient by a hash of its id, for all seeds and settings alike, into the three
            fifths for training, a fifth to choose on, or a fifth for the last table alone.
        held_out: which fifth is held out where split_by is "hash": the other one takes no part at all.
    """

    layout: Literal["auto", "totalsegmentator", "nnunet", "decathlon", "kits", "folders", "csv", "dicom"] = "auto"
    organ: tuple[str, ...] = ()
    organ_from: str | None = None
    lesion: tuple[str, ...] = ()
    study_type: str = "abdomen"
    normal: tuple[str, ...] = ()
    abnormal: tuple[str, ...] = ()
    masks: str | None = None
    axis: Axis = "axial"
    size: int = 256
    spacing: float = 0.0
    roi: Literal["none", "organ", "each"] = "none"
    roi_margin: float = 0.15
    min_organ_px: int = 32
    min_lesion_px: int = 0
    small_lesions: Literal["normal", "drop"] = "normal"
    label_level: Literal["auto", "slice", "scan"] = "auto"
    intensity: Literal["auto", "hu", "percentile"] = "auto"
    validation: float = 0.2
    stratify: Literal["labels", "lesion_area"] = "labels"
    split_by: Literal["patient", "slice", "hash"] = "patient"
    held_out: Literal["validation", "test"] = "validation"


@dataclass(frozen=True)
class AnomalySettings:
    """The thesis' synthetic anomaly, injected into normal slices (thesis 3.6.3).

    Args:
        kind: "blob" injects a deformed Gaussian blob inside the organ, "none" uses the labels of the data.
        probability: share of slices that get one.
        template: side of the blob's square template in pixels of the prepared slice (20 at 256x256 in the thesis).
        sigma: standard deviation of the Gaussian on a [-1, 1] grid over the template.
        alpha: height of the blob on the [0, 1] image.
        level: the mask is where the deformed unit-height blob exceeds this.
        redraw: draw training anomalies afresh in every epoch; validation is always the same.
    """

    kind: Literal["none", "blob"] = "none"
    probability: float = 0.65
    template: int = 20
    sigma: float = 0.4
    alpha: float = 0.9
    level: float = 0.25
    redraw: bool = True


@dataclass(frozen=True)
class ClassifierSettings:
    """The classifier f (thesis 4): one logit, trained on image-level labels, frozen afterwards.

    Args:
        name: "local" (evidence place by place, three residual blocks), "small" (four, averaged over the image), "imagenet" (EfficientNet-Lite0,
            images enlarged), or any timm model ("resnet18", "tf_efficientnetv2_s").
        pooling: of "local": share of the places, those with the most evidence, that decide.
        weights: file of pretrained weights for a timm model; "timm" lets timm find its own; "imagenet" are those of "imagenet", installed with coinseg;
            null starts at random.
        steps: optimiser steps.
        batch: images per step.
        lr: learning rate of Adam.
        weight_decay: decoupled weight decay.
        flip: mirror augmentation, horizontal and vertical.
        shift: largest shift as a fraction of the side.
        scale: largest change of scale.
        rotate: largest rotation in degrees.
        blur: largest Gaussian blur (sigma, pixels) used as augmentation; 0 is off.
        noise: largest standard deviation of added Gaussian noise on the [-1, 1] image; 0 is off.
        balanced: draw normal and abnormal images equally often.
        threshold: an image is abnormal when f(X) >= threshold.
    """

    name: str = "local"
    pooling: float = 0.05
    weights: str | None = None
    steps: int = 3000
    batch: int = 16
    lr: float = 2e-3
    weight_decay: float = 1e-4
    flip: bool = True
    shift: float = 0.07
    scale: float = 0.1
    rotate: float = 10.0
    blur: float = 1.0
    noise: float = 0.05
    balanced: bool = True
    threshold: float = 0.5


@dataclass(frozen=True)
class CoinSettings:
    """The counterfactual method: COIN (thesis 3.2, 3.3), or Singla et al. (3.1) with two conditions or more.

    Args:
        conditions: 1 is COIN: every image is asked to look normal. N >= 2 is Singla et al.: [0, 1] is cut into N bins, the
            generator is told which bin f(X_cf) shall fall into, and it can remove an anomaly as well as add one.
        regions: what the reconstruction loss averages over: "none" all pixels alike (L_1), "organ" the organ and the
            background each on its own (CARL, 3.1.5). Never a lesion mask.
        width: channels at full resolution; doubles at every level of the encoder.
        depth: levels of the encoder and of the decoder, each halving or doubling the side.
        skips: skip connections, counted from the deepest (thesis Table 1); at most depth - 1.
        discriminator_width: channels of the discriminator's first block.
        discriminator_depth: residual blocks of the discriminator that halve the side.
        fusion: how the perturbation meets the image: "bounded" is exactly the identity at zero, "tanh" is the thesis'
            tanh(X + delta), "none" is no perturbation: the decoder paints the whole image, tanh(delta).
        adversarial: weight of the data consistency loss.
        classifier: weight of the classifier consistency loss.
        identity: weight of the forward self-consistency loss.
        cycle: weight of the cyclic self-consistency loss.
        tv: weight of total variation, computed on the difference scaled to 0-255.
        steps: discriminator steps; the generator is updated at every generator_every-th of them.
        generator_every: 5 in the authors' runs; 1 costs the least for each generator update.
        batch: images per step.
        lr: learning rate of both Adam optimisers.
        decay: let the learning rate rise over the first tenth and fall to 0 along half a cosine.
        beta1: first Adam coefficient.
        beta2: second Adam coefficient.
        ema: decay of the averaged generator that is kept; 0 keeps the last one.
    """

    conditions: int = 1
    regions: Literal["none", "organ"] = "none"
    width: int = 8
    depth: int = 4
    skips: int = 3
    discriminator_width: int = 8
    discriminator_depth: int = 4
    fusion: Literal["bounded", "tanh", "none"] = "bounded"
    adversarial: float = 1.0
    classifier: float = 5.0
    identity: float = 4.0
    cycle: float = 0.0
    tv: float = 0.005
    steps: int = 1000
    generator_every: int = 1
    batch: int = 8
    lr: float = 1e-3
    decay: bool = True
    beta1: float = 0.0
    beta2: float = 0.99
    ema: float = 0.99


@dataclass(frozen=True)
class AttributionSettings:
    """ScoreCAM, LayerCAM and their family, and RISE (thesis 3.5); they read f and train nothing.

    Args:
        layer: of f, for the CAMs: "last" as in the thesis, "best" the one whose maps hide and show the evidence best on
            training images (no mask is used), or a module's name.
        masks: random masks of RISE (6000 in the authors' runs).
        grid: cells of a RISE mask along each side (8 in the authors' runs, 7 in the paper).
        probability: share of RISE's cells that stay visible (0.1 in the authors' runs, 0.5 in the paper).
        batch: images per forward pass of f at most; on a CPU no more than its caches hold the features of.
    """

    layer: str = "last"
    masks: int = 1000
    grid: int = 8
    probability: float = 0.5
    batch: int = 128


@dataclass(frozen=True)
class MaskSettings:
    """From the difference |X - X_cf| to a mask (thesis 3.7, 4.2); no lesion mask is used here.

    Args:
        threshold: "auto" is "normals" for a counterfactual method and "otsu" for an attribution; "normals" takes the quantile of the difference over training images labelled normal;
            "otsu" splits the differences of training images labelled abnormal; "flip" is "normals", and in every image the geometric mean
            of the share of its peak and the level of the smallest region that turns f (`flip.py`); a number in (0, 1] is used as it is.
        quantile: the quantile for "normals".
        peak: a pixel must also exceed this share of the peak of its image's difference; 0 is off. Of what a student gives, this share is
            enough where the classifiers together call the image abnormal; elsewhere, and with 0, a half is required.
        flips: average the difference over the image and its mirror image.
        refine: "guided" smooths the difference along the edges of the image (guided filter) before the threshold.
        opening: side of the square of the morphological opening in pixels; 0 is off. This, closing and keep are for what a method finds; what
            a student draws is taken as it is (`student.as_drawn`).
        closing: side of the square of the morphological closing in pixels; 0 is off.
        keep: "largest" keeps the largest connected component (thesis), "all" every one of at least min_px.
        min_px: components smaller than this are dropped.
        min_ml: of a volume also 3-D components smaller than this are dropped, once its slices are together; 0 is off. Voxels that
            share a face, an edge or a corner are connected. Scores of slices are not touched by this and keep_3d.
        keep_3d: "largest" keeps the largest 3-D component of a volume, "all" every one of at least min_ml.
    """

    threshold: Literal["auto", "normals", "otsu", "flip"] | float = "auto"
    quantile: float = 0.98
    peak: float = 0.4
    flips: bool = True
    refine: Literal["none", "guided"] = "guided"
    opening: int = 3
    closing: int = 3
    keep: Literal["largest", "all"] = "largest"
    min_px: int = 4
    min_ml: float = 0.0
    keep_3d: Literal["largest", "all"] = "all"


@dataclass(frozen=True)
class StudentSettings:
    """The network that learns from the masks of a counterfactual method and draws the final ones (docs/decisions/0007-default-recipe.md).

    Args:
        steps: optimiser steps; 0 is no student, and masks are read from the difference alone.
        members: networks that are taught apart and asked together; every second one is taught drawn lesions as well.
        batch: images per step for each of them, half of them labelled normal.
        lr: learning rate of Adam.
        trust: only masks with at least this confidence are learnt from (`confidence.py`), so `masks.flips` must be on.
        band: pixels outside of the border of a mask that are left out of the lesson.
        teachers: pairs of classifier and generator it learns from, each trained from a seed of its own, as the first is.
        contrast: how much the image says about the border of the masks it learns from, against the difference (`contrast.py`); 0 leaves them as they are, bays too.
        per_image: share of log Dice that is taken in each image, where a small lesion counts as a large one does, and not over the batch; of the
            members that are taught no drawn lesions.
        drawn: share of the normal images of a batch that have a drawn lesion, which f takes for one (`drawn_lesions.py`), where they are taught; 0 draws none.
        opinion: steps of one more classifier, on features that ImageNet taught, which is asked with the teachers' f whether there is a lesion
            (`posterior.py`); 0 asks them alone.
        gate: images that are abnormal with a lower probability than this stay unmarked, as all classifiers say together, at the share
            of abnormal images there is (`posterior.py`); lower than `classifier.threshold`, because the student also sees what they doubt.
        neighbours: whether the slices before and behind are asked as well (`neighbours.py`), where slices were labelled one by one.
        novelty: in images that are called abnormal, wide regions unlike anything in normal images are inside too: unlike is what only 1 - novelty
            of the places of normal images are, compared with those of other patients (`novelty.py`); 0 is off.
    """

    steps: int = 600
    members: int = 2
    batch: int = 16
    lr: float = 1e-3
    trust: float = 0.5
    band: int = 0
    teachers: int = 2
    contrast: float = 1.0
    per_image: float = 0.5
    drawn: float = 0.5
    opinion: int = 600
    gate: float = 0.4
    neighbours: bool = True
    novelty: float = 0.999


@dataclass(frozen=True)
class EngineSettings:
    """Where and how it is computed; never part of what is computed, so it may differ on resuming.

    Args:
        accelerator: "auto", "cpu" or "cuda".
        precision: Lightning Fabric precision, such as "32-true" or "bf16-mixed".
        compile: compile the classifier and the generator with torch.compile.
        threads: CPU threads; 0 is what OMP_NUM_THREADS says, or without it the number that convolves quickest when it is tried; a
            run folder keeps the number it was begun with (threads.json), so that a resumed run rounds its sums alike.
        checkpoint_every: steps between checkpoints.
        sample_every: steps between sample pictures.
        tensorboard: write TensorBoard event files beside stats.jsonl.
    """

    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    precision: str = "32-true"
    compile: bool = False
    threads: int = 0
    checkpoint_every: int = 250
    sample_every: int = 250
    tensorboard: bool = True


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run.

    Args:
        seed: every random choice follows from it.
        method: "counterfactual" (COIN, or Singla et al. by coin.conditions), or an attribution: "scorecam", "layercam",
            another CAM by its name, "rise".
        data: what is read.
        anomaly: the synthetic anomaly.
        classifier: the classifier f.
        coin: counterfactual inpainting.
        attribution: CAMs and RISE.
        masks: from difference to mask.
        student: the network that learns from these masks.
        engine: where it is computed.
    """

    seed: int = 0
    method: str = "counterfactual"
    data: DataSettings = field(default_factory=DataSettings)
    anomaly: AnomalySettings = field(default_factory=AnomalySettings)
    classifier: ClassifierSettings = field(default_factory=ClassifierSettings)
    coin: CoinSettings = field(default_factory=CoinSettings)
    attribution: AttributionSettings = field(default_factory=AttributionSettings)
    masks: MaskSettings = field(default_factory=MaskSettings)
    student: StudentSettings = field(default_factory=StudentSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain nested dictionaries, ready for JSON or YAML."""
        return asdict(self)
