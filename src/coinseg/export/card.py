"""The model card of an exported run: what it was trained on, what it scored, where it fails; no path and no name of a patient."""

from collections.abc import Iterator, Mapping
from typing import Any

from coinseg.config.parsing import differences
from coinseg.config.schema import COUNTERFACTUAL, Settings

NAME = "MODEL_CARD.md"
SCORES = {
    "iou_mask_free": "IoU over abnormal images (the threshold saw no mask)",
    "iou_all_images": "IoU over all images",
    "dice_per_image": "Dice, mean of single abnormal images",
    "iou_oracle": "IoU at the threshold that is best for these very masks: **an upper bound, no score**",
    "auroc": "AUROC of the classifier, by image",
    "auroc_scans": "AUROC of the classifier, by scan",
    "normals_marked": "share of normal images in which something is marked",
    "abnormals_marked": "share of abnormal images in which something is marked",
    "flip_rate": "share of abnormal images that the counterfactual turns normal for the classifier",
}
"""Scores of the card, and what they mean."""
LIMITS = """\
- Research software, **not a medical device**. Never diagnose or treat with it.
- It knows data like those above and nothing else: another scanner, protocol, organ or population needs a run, or at least a
  check, of its own. `coinseg segment` refuses or doubts what is unlike the training.
- It marks what its classifier looks at. Large lesions tend to be marked in part, lesions of a few pixels are missed.
- Masks with a confidence below 0.5 (`doubtful` in the tables) are for a person to look at first.
- Weights may reveal something of the training data: share them as you would share these."""


def model_card(manifest: Mapping[str, Any], settings: Settings, kind: str) -> str:
    """The card as Markdown.

    Args:
        manifest: of the exported folder, see `folder.excerpt`.
        settings: of the run, without paths.
        kind: of the preparation: "hu", "percentile" or "8bit".
    """
    return "\n".join(_lines(manifest, settings, kind)) + "\n"


def _lines(manifest: Mapping[str, Any], settings: Settings, kind: str) -> Iterator[str]:
    values = {"hu": "CT in Hounsfield units", "8bit": "images of 8 bits"}.get(
        kind, "images or volumes, each scaled by its own percentiles"
    )
    method = "counterfactual inpainting (COIN)" if settings.method == COUNTERFACTUAL else settings.method
    student = "a student network that learnt from them" if settings.student.steps else "no student"
    yield from ("# Model card", "", f"**{manifest.get('verdict') or 'This run was not judged.'}**", "", "## What it is", "")
    yield f"Segmentation masks from image-level labels by {method}, with {student}; written by coinseg {manifest['coinseg']}."
    trained, when = (manifest.get(name) or "(not known)" for name in ("trained_with", "trained"))
    yield f"Trained with coinseg {trained} at {when}, seed {settings.seed}."
    yield ""
    yield f"It takes {values}, as square slices of {settings.data.size} pixels ({_region(settings)}; {settings.data.axis})."
    yield from ("", "    coinseg segment -i SCAN -o mask.nii.gz --model THIS_FOLDER", "", "## What it was trained on", "")
    yield from _data(manifest.get("data"), settings)
    yield from ("", "## Scores on held-out patients", "")
    yield from _scores(manifest.get("scores"))
    yield from ("", "## Limits", "", LIMITS, "", "## Settings that are not the defaults", "")
    changed = [f"- `{line}`" for line in differences(Settings(), settings) if not line.startswith("seed:")]
    yield from changed or ["None."]


def _region(settings: Settings) -> str:
    organ = ", ".join(settings.data.organ)
    return f"the region around {organ or 'the organ'}" if settings.data.roi != "none" else "whole images"


def _data(data: Mapping[str, Any] | None, settings: Settings) -> Iterator[str]:
    if not data:
        yield "Not known: the run has no manifest."
        return
    yield f"{data['cases']} cases of {data['patients']} patients ({data['layout']}), {data['slices']} slices;"
    yield f"{data['abnormal']} of the slices are abnormal or were taken for it."
    yield f"{data['patients_held_out']} patients were held out for the scores."
    source = "made from lesion masks" if data.get("labels_from_lesion_masks") else "not made from lesion masks"
    yield f"The image labels were {source}."
    if settings.student.reviewed:
        learnt = "; ".join(map(_learnt, (data.get("reviewed") or {}).items()))
        yield f"**The student also learnt masks that a person had reviewed{f' ({learnt})' if learnt else ''}**: its scores are"
        yield "not those of image labels alone."
    else:
        yield "No lesion mask was used for the training or the threshold."


def _learnt(counts: tuple[str, Mapping[str, Any]]) -> str:
    """How many reviewed masks taught a class, whose name is "" where there is one."""
    name, one = counts
    return f"{name + ': ' if name else ''}{one['slices']} slices of {one['cases']} cases"


def _scores(scores: Mapping[str, Any] | None) -> Iterator[str]:
    if not scores:
        yield "Not known: the run has no manifest, or several classes, whose scores are in its folder."
        return
    yield from ("| score | value |", "|---|---|")
    reasons = scores.get("null_because") or {}
    for name, meaning in SCORES.items():
        if (value := scores.get(name)) is not None:
            yield f"| {meaning} | {value:.3f} |"
        elif name in reasons:
            yield f"| {meaning} | not known: {' '.join(str(reasons[name]).split())} |"
    counts = {
        "slices_abnormal": "abnormal images",
        "slices_normal": "normal images",
        "slices_scored": "of the abnormal ones have a lesion mask",
    }
    yield from ("", "; ".join(f"{scores[name]} {words}" for name, words in counts.items() if scores.get(name) is not None) + ".")
