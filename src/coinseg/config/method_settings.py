"""Settings of the method: classifier, counterfactual or attribution, masks and student."""

# A declaration reads as one paragraph: one argument a line would hide the meaning.
# fmt: off
from dataclasses import dataclass
from typing import Literal

from .declare import BATCH, FACTOR, PIXELS, SHARE, SIDE, STEPS, Range, described, setting


@described
@dataclass(frozen=True)
class ClassifierSettings:
    """The classifier f (thesis 4): one logit, trained on image-level labels, frozen afterwards."""

    name: str = setting("local", """"local" (evidence place by place, three residual blocks), "small" (four, averaged over the
        image), "imagenet" (EfficientNet-Lite0, images enlarged), or any timm model ("resnet18", "tf_efficientnetv2_s").""")
    pooling: float = setting(0.05, """of "local": share of the places, those with the most evidence, that
        decide.""", Range(0, 1, "share", above=True))
    weights: str | None = setting(None, """file of pretrained weights for a timm model; "timm" lets timm find its own; "imagenet"
        are those of "imagenet", installed with coinseg; null starts at random.""")
    steps: int = setting(3000, "optimiser steps.", STEPS)
    batch: int = setting(16, "images per step.", BATCH)
    lr: float = setting(2e-3, "learning rate of Adam.", FACTOR)
    beta1: float = setting(0.9, "first Adam coefficient.", Range(0, 0.9999))
    beta2: float = setting(0.999, "second Adam coefficient.", Range(0, 0.999999))
    weight_decay: float = setting(1e-4, "decoupled weight decay.", FACTOR)
    flip: bool = setting(True, "mirror augmentation, horizontal and vertical.")
    shift: float = setting(0.07, "largest shift as a fraction of the side.", SHARE)
    scale: float = setting(0.1, "largest change of scale.", Range(0, 0.99))
    rotate: float = setting(10.0, "largest rotation in degrees.", Range(0, 360, "degrees"))
    blur: float = setting(1.0, "largest Gaussian blur (sigma, pixels) used as augmentation; 0 is off.", Range(0, 100, "px"))
    noise: float = setting(0.05, "largest sigma of added Gaussian noise on the [-1, 1] image; 0 is off.", Range(0, 100))
    balanced: bool = setting(True, "draw normal and abnormal images equally often.")
    threshold: float = setting(0.5, "an image is abnormal when f(X) >= threshold.", SHARE)


@described
@dataclass(frozen=True)
class CoinSettings:
    """The counterfactual method: COIN (thesis 3.2, 3.3), or Singla et al. (3.1) with two conditions or more."""

    conditions: int = setting(1, """1 is COIN: every image is asked to look normal. N >= 2 is Singla et al.: [0, 1] is cut into N
        bins, the generator is told which bin f(X_cf) shall fall into, and it can also add an anomaly.""", Range(1, 1000))
    regions: Literal["none", "organ"] = setting("none", """what the reconstruction loss averages over: "none" all pixels alike
        (L_1), "organ" the organ and the background each on its own (CARL, 3.1.5). Never a lesion mask.""")
    width: int = setting(8, "channels at full resolution; doubles at every level of the encoder.", Range(1, 2048))
    depth: int = setting(4, "levels of the encoder and of the decoder, each halving or doubling the side.", Range(1, 12))
    skips: int = setting(3, "skip connections, counted from the deepest (thesis Table 1); at most depth - 1.", Range(0, 12))
    discriminator_width: int = setting(8, "channels of the discriminator's first block.", Range(1, 2048))
    discriminator_depth: int = setting(4, "residual blocks of the discriminator that halve the side.", Range(1, 12))
    late_widening: bool = setting(False, """the encoder's first block keeps the stem's channels, so that it and its skips are
        half as wide at every side; the decoder stays as it is. True in the authors' networks.""")
    pooling: Literal["last", "first"] = setting("last", """where a block of the encoder halves the side: after its last
        convolution, or before its first one as in the authors' networks.""")
    upsampling: Literal["nearest", "bilinear"] = setting("nearest", """how a block of the decoder doubles the side; "bilinear"
        (corners on corners) in the authors' runs on TUH.""")
    stem: Literal["linear", "relu_norm"] = setting("linear", """what follows the encoder's first convolution: nothing, or ReLU and
        batch normalisation as in the authors' networks.""")
    bias: bool = setting(True, "whether the convolutions of the generator's stem and blocks have a bias; false in theirs.")
    spectral_shortcuts: bool = setting(False, """spectral normalisation of the generator's 1x1 shortcuts; true in the authors'
        networks, but not on TUH.""")
    zero_start: bool = setting(True, """the generator's last convolution starts at 0, so that training starts from "change
        nothing"; false in theirs.""")
    spectral: bool = setting(True, "spectral normalisation of the discriminator.")
    spectral_embedding: bool = setting(True, "also of its embedding of the condition; false in the authors' networks.")
    identity_shortcut: bool = setting(False, """whether the discriminator's last block adds its input itself, and not a 1x1
        convolution of it; true in the authors' networks.""")
    last_block: bool = setting(True, """whether the discriminator ends with a block that keeps the side; false in the
        authors' runs on TUH, which have five blocks.""")
    informed: bool = setting(False, """the discriminator is also told which bin f(X) falls into, of a counterfactual "normal", as
        in the authors' runs of COIN, so that it compares with normal images; COIN of one class only.""")
    fusion: Literal["bounded", "tanh", "none"] = setting("bounded", """how the perturbation meets the image: "bounded" is exactly
        the identity at zero, "tanh" is the thesis' tanh(X + delta), with "none" the image is tanh(delta).""")
    adversarial: float = setting(1.0, "weight of the data consistency loss.", FACTOR)
    classifier: float = setting(5.0, "weight of the classifier consistency loss.", FACTOR)
    keep_normal: bool = setting(False, """what that loss asks of images that f calls normal: f(X) as in the authors' runs, or 0 as
        of all the others. COIN only; the posterior that Singla et al. ask for follows f(X) anyway.""")
    identity: float = setting(4.0, """weight of the forward self-consistency loss; 2 in the authors' runs on synthetic anomalies,
        which had the term twice.""", FACTOR)
    cycle: float = setting(0.0, "weight of the cyclic self-consistency loss.", FACTOR)
    tv: float = setting(0.005, "weight of total variation, computed on the difference scaled to 0-255.", FACTOR)
    steps: int = setting(1000, "discriminator steps; the generator is updated at every generator_every-th of them.", STEPS)
    generator_every: int = setting(1, "5 in the authors' runs; 1 costs the least for each generator update.", STEPS)
    batch: int = setting(8, "images per step.", BATCH)
    balanced: bool = setting(True, "draw normal and abnormal images equally often; not where anomalies are injected.")
    hflip: bool = setting(True, "mirror half of the images of a batch left-right.")
    lr: float = setting(1e-3, "learning rate of both Adam optimisers.", FACTOR)
    decay: bool = setting(True, "let the learning rate rise over the first tenth and fall to 0 along half a cosine.")
    beta1: float = setting(0.0, "first Adam coefficient.", Range(0, 0.9999))
    beta2: float = setting(0.99, "second Adam coefficient.", Range(0, 0.999999))
    ema: float = setting(0.99, "decay of the averaged generator that is kept; 0 keeps the last one.", Range(0, 0.999999))


@described
@dataclass(frozen=True)
class AttributionSettings:
    """ScoreCAM, LayerCAM and their family, and RISE (thesis 3.5); they read f and train nothing."""

    layer: str = setting("last", """of f, for the CAMs: "last" as in the thesis, "best" the one whose maps hide and show the
        evidence best on training images (no mask is used), or a module's name.""")
    masks: int = setting(1000, "random masks of RISE (6000 in the authors' runs).", Range(1, 10**6))
    grid: int = setting(8, "cells of a RISE mask along each side (8 in the authors' runs, 7 in the paper).", Range(1, 256))
    probability: float = setting(0.5, """share of RISE's cells that stay visible (0.1 in the authors' runs, 0.5 in the
        paper).""", Range(0, 1, "share", above=True))
    hidden: Literal["black", "grey"] = setting("black", """what ScoreCAM and RISE put in the place of what they hide: black, or
        mid-grey as in the authors' runs.""")
    weigh: Literal["logit", "probability"] = setting("logit", """what of f ScoreCAM weighs channels by: its logit, or f itself as
        in the authors' runs.""")
    batch: int = setting(128, "images per forward pass of f at most; fewer on a CPU, by its caches.", BATCH)


@described
@dataclass(frozen=True)
class MaskSettings:
    """From the difference |X - X_cf| to a mask (thesis 3.7, 4.2); no lesion mask is used here."""

    threshold: Literal["auto", "normals", "otsu", "decision_flip"] | float = setting("auto", """"auto" is "normals" for a
        counterfactual method and "otsu" for an attribution; "normals" takes the quantile of the difference over training images
        labelled normal; "otsu" splits the differences of training images labelled abnormal; "decision_flip" is "normals", and in
        every image the geometric mean of the share of its peak and the level of the smallest region that turns f
        (`masks/decision_flip.py`); a number in (0, 1] is used as it is.""", Range(0, 1, above=True))
    quantile: float = setting(0.98, """the quantile for "normals".""", SHARE)
    peak: float = setting(0.4, """a pixel must also exceed this share of the peak of its image's difference; 0 is off. Of what a
        student gives, this share is enough where the classifiers call the image abnormal; else, and with 0, a half.""", SHARE)
    hflip: bool = setting(True, "average the difference over the image and its mirror image.")
    refine: Literal["none", "guided"] = setting("guided", """"guided" is a guided filter by the image before the threshold.""")
    opening: int = setting(0, """side of the square of the morphological opening in pixels, 3 in the thesis; 0 is off. This,
        closing and keep are for what a method finds; what a student draws is taken as it is (`masks/student_maps.py`).""", SIDE)
    closing: int = setting(3, "side of the square of the morphological closing in pixels; 0 is off.", SIDE)
    keep: Literal["seeds", "largest", "all"] = setting("seeds", """components of at least min_px that are kept: "seeds" those that
        reach 0.7 of their image's highest value (`postprocess.with_seeds`), the "largest" (thesis), or "all".""")
    min_px: int = setting(4, "components smaller than this are dropped.", PIXELS)
    min_ml: float = setting(0.0, """of a volume also 3-D components smaller than this are dropped, once its slices are together; 0
        is off. Voxels that share a face, edge or corner are connected. Scores of slices do not change.""", Range(0, 1e6, "ml"))
    keep_3d: Literal["largest", "all"] = setting("all", """"largest" 3-D component of a volume, or "all" of at least min_ml.""")


@described
@dataclass(frozen=True)
class StudentSettings:
    """The network that learns from a method's masks and draws the final ones (docs/decisions/0007-default-recipe.md)."""

    steps: int = setting(600, "optimiser steps; 0 is no student: masks come from the difference alone.", Range(0, 10**9, "steps"))
    networks: int = setting(2, """networks whose probabilities are averaged. The first one learns in all steps; the others begin
        as copies of it after two thirds of them, and every second one is also trained on synthetic lesions.""", Range(1, 16))
    batch: int = setting(16, "images per step for each of them, half of them labelled normal.", Range(2, 8192, "images"))
    lr: float = setting(1e-3, "learning rate of Adam.", FACTOR)
    trust: float = setting(0.5, "lowest confidence of a pseudo-mask that is learnt from (`masks/confidence.py`).", SHARE)
    reviewed: str | None = setting(None, """folder of `coinseg review` with masks that a person accepted, corrected or rejected:
        the student learns those of training cases beside the pseudo-masks. Such a run is not mask-free, and says so.""")
    band: int = setting(0, "width of a band around a pseudo-mask whose pixels are left out of the loss.", SIDE)
    parts: Literal["evidence", "masks"] = setting("evidence", """parts of a difference that are in a pseudo-mask: "evidence" those
        that f has local evidence for, opened by 3 pixels or not, whichever holds more of f's decision for its size
        (`masks/evidence.py`); "masks" what masks.keep and masks.opening say, as always where f has no local evidence.""")
    teachers: int = setting(2, "classifier-generator pairs that make the pseudo-masks, each from its own seed.", Range(1, 100))
    border_weight: float = setting(1.0, """weight of the image, against the difference, for the border of a pseudo-mask
        (`masks/border.py`); 0 leaves the pseudo-masks as they are, concavities included.""", FACTOR)
    per_image: float = setting(0.5, """share of the log Dice loss that is taken in each image, where a small lesion counts as much
        as a large one, and not over the batch; not of networks that are trained on synthetic lesions.""", SHARE)
    synthetic_lesions: float = setting(0.5, """share of the normal images of a batch that get a synthetic lesion, which f takes
        for one (`parts/synthetic_lesions.py`), for the networks that are trained on them; 0 makes none.""", SHARE)
    imagenet_steps: int = setting(600, """steps of one more classifier, on ImageNet features, which joins the ensemble that gives
        the image score (`inference/image_score.py`); 0 leaves it out.""", Range(0, 10**9, "steps"))
    gate: float = setting(0.4, """images whose ensemble probability is below this get an empty mask (`inference/image_score.py`);
        lower than `classifier.threshold`, because the student also sees images that the classifiers doubt.""", SHARE)
    slice_hmm: bool = setting(True, "smooth image scores over the slices of a scan with labels by slice (`parts/slice_hmm.py`).")
    patchcore_quantile: float = setting(0.999, """quantile of nearest-neighbour distances among normal patches of different
        patients above which a patch is anomalous; wide anomalous regions are added to the masks of abnormal images
        (`parts/patchcore.py`); 0 is off.""", SHARE)
