"""What a command of a run folder prints when it is done."""

from pathlib import Path
from typing import Any

from coinseg.errors import plain


def print_scores(work: Any, trained: Any) -> None:
    from coinseg.pipeline.classes import evaluate_all, verdict_of_all

    for name, scores in evaluate_all(trained).items():
        print(f"{name}: {_line(scores)}" if name else _line(scores))
    print(f"{verdict_of_all(trained)}\nscores in {work.root / ('evaluation' if '' in trained else 'classes')}")


def print_facts(what: str, folder: Path, facts: str) -> None:
    from coinseg.runtime.stage import Stage

    print(f"{what} in {folder}: {_line(Stage(folder, '').facts(**{facts: dict})[facts])}")


def _line(values: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v:.3f}" for k, v in values.items() if isinstance(v, float) and k != "seconds")


def _print_classes(classes: dict[str, Any]) -> None:
    """A line for each class; all of its scores are in its own manifest."""
    shown = {"iou_mask_free": "IoU", "iou_all_images": "over all images", "dice_per_image": "Dice", "auroc": "AUROC of f"}
    for name, one in classes.items():
        values = ((title, one["scores"][score]) for score, title in shown.items())
        line = ", ".join(f"{title} {'none' if value is None else f'{value:.3f}'}" for title, value in values)
        print(f"  {plain(name)}: {line}, of {one['scores']['slices_scored']} images with it")


def _print_one(scores: dict[str, Any]) -> None:
    """A line for each score, and over how many images."""
    from coinseg.pipeline.run_manifest import SCORES

    abnormal, normal = f"   (over {scores['slices_scored']} abnormal images", f" and {scores['slices_normal']} normal ones)"
    over = {
        "iou_mask_free": f"{abnormal})", "iou_all_images": abnormal + normal,
        "iou_oracle": f"{abnormal}; tuned on the masks it is scored with)", "dice_per_image": f"{abnormal}, each by itself)",
    }  # fmt: skip
    optional = [name for name in ("auroc_scans", "posterior_auroc") if scores[name] is not None]  # of images there are none
    for name in (*SCORES, *optional):
        shown = f"none ({scores['null_because'][name]})" if scores[name] is None else f"{scores[name]:.3f}"
        print(f"  {name:<20} {shown}{over.get(name, '') if scores[name] is not None else ''}")


def print_summary(root: Path, contents: dict[str, Any], page: Path) -> None:
    scores, data = contents["scores"], contents["data"]
    print(f"\n{plain(contents['verdict'])}")
    tiles = f" ({data['tiles']} of them tiles of larger ones)" if data.get("tiles") else ""
    print(f"{data['slices']} slices{tiles} of {data['patients']} patients, {data['patients_held_out']} held out")
    _print_classes(contents["classes"]) if "classes" in contents else _print_one(scores)
    print("  " + ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in contents["timings_s"].items()))
    for warning in contents["warnings"][:10]:
        print(f"  warning: {plain(warning)}")
    count, names = contents["outputs"]["mask_count"], contents.get("classes")
    what, sure = (
        (f"{count} of {len(names)} classes, as label maps", "classes/NAME/confidence") if names else (count, "confidence")
    )
    print(f"masks     {root / 'masks'} ({what}), how far to trust each pixel in {root / sure}")
    if (root / "cases.html").is_file():
        print(f"cases     {root / 'cases.html'}: look through the masks and decide; in which order, {root / 'review.csv'} says")
    print(f"manifest  {root / 'manifest.json'}\nreport    {page}")
