"""The verdict on a run: one line from its scores on held-out patients, of lesion masks only where there are some.

NOT USABLE where one measure fails, DOUBTFUL where one is poor, NOT JUDGED where too little is held out to say more, else OK. The
bounds are round numbers, chosen so that what is known to be useless fails (a classifier that guesses, masks that miss) and the
runs of README do not (AUROC 0.90 and more, IoU 0.39 and more; the mask alone turns f in 69 % on LGG and 43 % on the phantom).
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

OK, DOUBTFUL, NOT_USABLE, NOT_JUDGED = "OK", "DOUBTFUL", "NOT USABLE", "NOT JUDGED"
LEAST, ENOUGH = 3, 5  # images: fewer say nothing bad either; with fewer abnormal or normal ones a run is never OK
CHANCE = 1.64  # standard deviations of the AUROC of guessing (Mann, Whitney 1947): 1 guess in 20 lies higher
AUROC = (0.6, 0.7)  # of f; below the first a run fails, below the second it is poor. 0.5 is guessing
TURNED = (0.1, 0.5)  # share of the images called abnormal that the counterfactual turns
ALONE = (0.2, 0.4)  # share of these that turn with the mask alone
OVERLAP = (0.1, 0.3)  # IoU and Dice
MARKED = (0.0, 0.25)  # share of the abnormal images in which something is marked; at most the first fails
NORMALS = (0.25, 0.5)  # the same of normal images: from the first a run is poor, from the second it fails

Finding = tuple[str, str]  # (NOT_USABLE, DOUBTFUL or OK, what was found in words)


def judge(scores: Mapping[str, Any], audit: Mapping[str, Any] | None) -> str:
    """The verdict in one line, "STATE: what was found; ...", the worst of it first.

    Args:
        scores: as in scores.json; None for what could not be scored.
        audit: as in audit.json; None where there is none.
    """
    overlap, flips = list(_of_overlap(scores)), list(_of_flips(scores, (audit or {}).get("flips") or {}))
    if scores.get("iou_mask_free") is not None and [state for state, _ in overlap] == [OK]:
        # What turns f stands for masks that nobody has: where they are there, and fit, it can only cast doubt.
        flips = [(DOUBTFUL if state == NOT_USABLE else state, words) for state, words in flips]
    found = [*_of_f(scores), *_of_marks(scores), *flips, *overlap]
    states = {state for state, _ in found}
    lacking = list(_lacking(scores))
    state = next((s for s in (NOT_USABLE, DOUBTFUL) if s in states), NOT_JUDGED if lacking else OK)
    bad = [words for worst in (NOT_USABLE, DOUBTFUL) for s, words in found if s == worst]
    good = [words for s, words in found if s == OK]
    return f"{state}: {'; '.join(bad or [*lacking, *good])}"


def of_classes(verdicts: Mapping[str, str]) -> str:
    """The verdict on a run of several classes by their verdicts: "STATE: class: what was found" of the worst, else OK in all."""
    for state in (NOT_USABLE, DOUBTFUL, NOT_JUDGED):
        for name, said in verdicts.items():
            if said.startswith(state):
                return f"{state}: {name}: {said.removeprefix(f'{state}: ')}"
    return f"{OK} in all {len(verdicts)} classes"


def trusted(verdict: str | None) -> bool:
    """Whether masks of a run may be called trusted; none of a run that is not usable. None, of an older run, says nothing."""
    return verdict is None or not verdict.startswith(NOT_USABLE)


def standing(verdict: str | None) -> str:
    """What is said of a mask of a run that is not doubtful itself: "trusted" only where enough is held out to judge the run."""
    if verdict is not None and verdict.startswith(NOT_JUDGED):
        return "not doubtful, and not called trusted: the run is not judged"
    return "trusted" if trusted(verdict) else "not trusted: the run is not usable"


def _labelled(scores: Mapping[str, Any]) -> tuple[float | None, int, int, str]:
    """The AUROC of f, and over how many abnormal and normal held-out "images", or "scans" where only these have labels."""
    of_scans = scores.get("auroc") is None and scores.get("auroc_scans") is not None
    auroc, counts, what = ("auroc_scans", "scans", "scans") if of_scans else ("auroc", "slices", "images")
    abnormal, normal = (scores.get(f"{counts}_{side}") or 0 for side in ("abnormal", "normal"))
    return scores.get(auroc), abnormal, normal, what


def _lacking(scores: Mapping[str, Any]) -> Iterator[str]:
    """Why too little is held out to call a run good."""
    auroc, abnormal, normal, what = _labelled(scores)
    if auroc is None or min(abnormal, normal) < ENOUGH:
        yield f"only {abnormal} abnormal and {normal} normal {what} are held out, and {ENOUGH} of each are needed to judge"
    elif auroc < 0.5 + CHANCE * math.sqrt((abnormal + normal + 1) / (12 * abnormal * normal)):
        yield f"guessing may reach an AUROC of {auroc:.2f} on only {abnormal} abnormal and {normal} normal {what}"


def _level(value: float, bounds: tuple[float, float]) -> str:
    return NOT_USABLE if value < bounds[0] else DOUBTFUL if value < bounds[1] else OK


def _of_f(scores: Mapping[str, Any]) -> Iterator[Finding]:
    """How well f tells normal from abnormal."""
    auroc, abnormal, normal, what = _labelled(scores)
    if auroc is None or min(abnormal, normal) < LEAST:
        return
    state = _level(auroc, AUROC)
    words = {NOT_USABLE: "hardly better than guessing", DOUBTFUL: "weak", OK: "sound"}[state]
    words = "worse than guessing" if auroc < 0.5 else words
    yield state, f"the classifier is {words} (AUROC {auroc:.2f} on {abnormal} abnormal and {normal} normal held-out {what})"


def _of_marks(scores: Mapping[str, Any]) -> Iterator[Finding]:
    """How many normal and abnormal images are marked."""
    share, count = scores.get("normals_marked"), scores.get("slices_normal") or 0
    if share is not None and count >= LEAST:
        state = NOT_USABLE if share >= NORMALS[1] else DOUBTFUL if share >= NORMALS[0] else OK
        yield state, f"something is marked in {share:.0%} of {count} normal images"
    share, count = scores.get("abnormals_marked"), scores.get("slices_abnormal") or 0
    if share is not None and count >= LEAST and share < MARKED[1]:
        yield (DOUBTFUL if share > MARKED[0] else NOT_USABLE), f"something is marked in {share:.0%} of {count} abnormal images"


def _of_flips(scores: Mapping[str, Any], flips: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether the counterfactual turns f, and whether what is marked does."""
    turned, alone, count = scores.get("flip_rate"), flips.get("mask_alone"), int(flips.get("flipped_images") or 0)
    if turned is not None and _level(turned, TURNED) != OK and max(count, scores.get("slices_abnormal") or 0) >= LEAST:
        yield _level(turned, TURNED), f"the counterfactual turns f in {turned:.0%} of the images it calls abnormal"
    if alone is not None and count >= LEAST:
        yield _level(alone, ALONE), f"the mask alone turns f in {alone:.0%} of {count} images"


def _of_overlap(scores: Mapping[str, Any]) -> Iterator[Finding]:
    """How well masks and lesions overlap, where there are lesion masks."""
    iou, dice, count = scores.get("iou_mask_free"), scores.get("dice_per_image"), scores.get("slices_scored") or 0
    if iou is None:
        yield OK, "no masks to score with"
    elif count >= LEAST:
        words = f"IoU {iou:.2f} and mean Dice {dice or 0:.2f} over {count} abnormal images with masks"
        yield _level(min(iou, dice or 0.0), OVERLAP), words
