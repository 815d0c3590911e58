"""The commands of a run folder: each trains what it needs of the stages before it, and says what it left there."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from coinseg.config.parsing import PRESETS
from coinseg.config.reading import refuse
from coinseg.config.rules import of_extras, of_tables
from coinseg.config.schema import Settings
from coinseg.errors import UserError
from coinseg.runtime.files import discard, write_json
from coinseg.runtime.ledger import require_own
from coinseg.runtime.locks import locked, recorded

from .command import DATA, DATA_OF_RUN, Argument, Call, arg, command, flag, path
from .sizes import sized, within
from .summary import print_facts, print_scores, print_summary

SHOWN = ("report.html", "manifest.json", "cases.html")
OUTPUTS = (*SHOWN, "review.csv", "masks", "confidence", "evaluation", "classes")
"""What people look at in a run folder, and may have changed: it is replaced only as it was written, or with --overwrite."""
OVERWRITE = flag("--overwrite", "redo what other settings than before make stale")
SHARED = (
    OVERWRITE,
    flag("--dry-run", "check data, settings and disk, estimate the time, do nothing"),
    arg("--preset", choices=list(PRESETS), default="default", help="settings to start from"),
)
BUDGET = arg("--budget", type=str, default=None, help="about how long it may take (20m, 2h); size and recipe are chosen for it")
NEW = (DATA, path("-o", "--out", help="output folder, outside the data"), BUDGET, *SHARED)
FOLDER = (path("out", help="the run folder"), DATA_OF_RUN, *SHARED)


@command(
    "the whole path: data in, masks and a report out; the same command resumes",
    "coinseg run my_images -o out/run", NEW, Settings,
)  # fmt: skip
def run(call: Call, **place: Any) -> None:
    """Train everything, score it, write the masks and the report."""
    _in_folder(call, "run", None, **place)


@command("read a data set and cut it into slices", "coinseg prepare my_images -o out/run", NEW, Settings)
def prepare(call: Call, **place: Any) -> None:
    """Prepare the slices."""
    _in_folder(call, "prepare", lambda work, store: print(f"{len(store)} slices in {work.root / 'slices'}"), **place)


@command("train the classifier f of a run folder", "coinseg train-classifier out/run", FOLDER, Settings)
def train_classifier(call: Call, **place: Any) -> None:
    """Train the classifier."""
    _in_folder(call, "train-classifier", lambda work, _: print_facts("classifier", work.root / "classifier", "scores"), **place)


@command("train the generator of a run folder against its classifier", "coinseg train-coin out/run", FOLDER, Settings)
def train_coin(call: Call, **place: Any) -> None:
    """Train the generator."""
    _in_folder(call, "train-coin", lambda work, _: print_facts("generator", work.root / "coin", "health"), **place)


@command("score a run folder on its held-out patients", "coinseg evaluate out/run", FOLDER, Settings)
def evaluate(call: Call, **place: Any) -> None:
    """Score the run."""
    _in_folder(call, "evaluate", print_scores, **place)


@command("write masks, manifest.json and report.html of a run folder", "coinseg report out/run", FOLDER, Settings)
def report(call: Call, **place: Any) -> None:
    """Write masks and report."""
    _in_folder(call, "report", None, **place)


def _reproduce_arguments() -> Sequence[Argument]:
    from coinseg.thesis.rows import SCALES, TABLES

    return (
        arg("table", choices=list(TABLES), help="which table of the thesis"),
        path("--data-path", required=False, help="--data PATH: the data, as for run; a phantom cohort is made without"),
        path("-o", "--out", help="output folder, shared by the three tables"),
        arg("--scale", choices=list(SCALES), default="small", help="small for two CPU cores, paper for a GPU"),
        arg("--seeds", type=int, default=3, help="how many; each has its own split, classifier and generators"),
        arg("--name", default=None, help="of the data set, for the tables"),
        arg("--slices", type=int, default=0, help="held-out slices scored at most, the same for every method; 0 is all"),
        arg("--fid", default=None, help='Inception weights for FID: a file, or "download"; no FID without'),
        arg("--fid-features", type=int, default=768, help="width of the Inception features: 64, 192, 768 (authors) or 2048"),
        OVERWRITE,
    )


@command(
    "a table of the thesis: every row trained and scored, in the thesis' protocol and an honest one",
    "coinseg reproduce table2 --data my_images -o out/tables --seeds 3", _reproduce_arguments, Settings,
)  # fmt: skip
def reproduce(call: Call, table: str, data_path: Path | None, out: Path, **more: Any) -> None:
    """Train and score the rows of a table; `more` are the other arguments of the command line by name."""
    from coinseg.pipeline import run_folder
    from coinseg.runtime.process_group import rank_info
    from coinseg.thesis import reproduce as tables
    from coinseg.thesis.tables import KINDS

    if (count := rank_info().count) > 1:
        raise UserError(f"reproduce was started as {count} processes", "one", "start it without torchrun or srun")
    settings, seeds, slices, overwrite = call.settings, more["seeds"], more["slices"], more["overwrite"]
    refuse([*of_tables(settings), *of_extras(settings)])
    if data_path is None:
        settings = tables.on_phantom(settings)
    if seeds < 1 or slices < 0:
        raise UserError(f"--seeds {seeds}, --slices {slices}", "1 seed or more, 0 slices or more", "mend them")
    place = (out, settings, overwrite, shlex.split(call.words))
    data, files = run_folder.resolve(data_path or out / "phantom", *place), [f"{table}.{kind}" for kind in KINDS]
    with locked(out), recorded(out, ["figures", *files], overwrite):
        run_folder.resolve(data, *place)  # once more: another process may have made it since
        for file in files:
            require_own(out / file)
        run_folder.write_settings(data, out, settings)
        if data_path is None:
            from coinseg.data.phantom.cohort import write_cohort

            write_cohort(data, tables.PHANTOM, 0, lambda done, total: call.report("phantom", done, total, {}))
        job = tables.Job(data, out, settings, more["scale"], seeds, slices, more["fid"], more["fid_features"], overwrite)
        written, records = tables.reproduce(job, table, more["name"] or data.name, call.report)
    for record in records:
        ious = [iou for iou in record["scores"].get("iou", []) if iou is not None]
        shown = f"{sum(ious) / len(ious):.3f}" if ious else "none"
        print(f"  {record['protocol']:<8} {record['method']:<28} IoU {shown}")
    print("\n".join(map(str, written)))


def _in_folder(
    call: Call, name: str, tell: Callable[[Any, Any], None] | None, out: Path, overwrite: bool, dry_run: bool, preset: str,
    data_path: Path | None = None, budget: str | None = None,
) -> None:  # fmt: skip
    """Do the stages of a command, alone or as one of several processes; `tell` prints the result of `_work`, None writes it.

    The preset is in the settings already; without data_path the data are those that the run folder was made with.
    """
    call = call if budget is None else within(call, budget)
    from coinseg.data.layouts.shared import require_there
    from coinseg.pipeline import run_folder
    from coinseg.runtime.process_group import process_group, rank_info
    from coinseg.runtime.report import silent

    refuse(of_extras(call.settings))
    here, words = rank_info(), shlex.split(call.words)
    if here.count == 1:  # of several, all must meet before one of them may fail
        run_folder.require_place(data_path, out)
        require_there(data_path or run_folder.data_of(out, words))
        call = sized(call, data_path, out, words)
        require_there(run_folder.resolve(data_path, out, call.settings, overwrite, words))

    from coinseg.pipeline.run import Workspace  # imports torch, which takes seconds

    from .dry_run import describe, foretell

    if dry_run:
        if here.is_main:
            call = sized(call, data_path, out, words)
            data = run_folder.resolve(data_path, out, call.settings, overwrite, words)
            print(describe(Workspace(data, out, call.settings, call.report, _reviews(call.settings))))
        return
    with process_group(here) as others:
        if not here.is_main:
            data, settings = others.broadcast((Path(), call.settings))
            with recorded(out, OUTPUTS, overwrite, here.rank):
                _work(Workspace(data, out, settings, silent, _reviews(settings)), name)
            return
        call = sized(call, data_path, out, words)
        place = (data_path, out, call.settings, overwrite, words)
        work = Workspace(run_folder.resolve(*place), out, call.settings, call.report, _reviews(call.settings))
        with locked(out), recorded(out, OUTPUTS, overwrite):
            run_folder.resolve(*place)  # once more: another process may have made the folder since
            if tell is None:
                for file in SHOWN:
                    require_own(out / file)
            work.start(overwrite)
            if name == "run" and here.count == 1:
                foretell(work, call.report)
            others.broadcast((work.data, call.settings))
            if tell is None:
                _write_report(work, name, call.words)
            else:
                tell(work, _work(work, name))


def _reviews(settings: Any) -> Sequence[Any]:
    """The cases that a person decided on, where `student.reviewed` names a folder of `coinseg review`."""
    if settings.student.reviewed is None:
        return ()
    from coinseg.review.kept.store import reviewed

    return reviewed(Path(settings.student.reviewed))


def _work(work: Any, name: str) -> Any:
    """Train what a command needs, in every process; of `run` and `report` the first process scores and all write the masks."""
    from coinseg.pipeline import classes, recipe
    from coinseg.pipeline import run as stages
    from coinseg.runtime.process_group import current

    if name == "prepare":
        return stages.prepare_slices(work)
    if name in ("train-classifier", "train-coin"):
        return recipe.train_pair(stages.job_of(work), until="classifier" if name == "train-classifier" else "coin")
    trained = stages.train_classes(work)
    if name == "evaluate":
        return trained
    scores = classes.evaluate_all(trained) if current().here.is_main else {}
    return trained, scores, classes.write_all_masks(trained)


def _write_report(work: Any, name: str, words: str) -> None:
    """Train, score, write masks, report and manifest, and print a summary; while a run goes on there is no manifest."""
    from coinseg.pipeline import classes, manifest
    from coinseg.pipeline.native import native_slices
    from coinseg.report.page import write_reports

    from .case_pages import write_pages

    discard(work.root / manifest.MANIFEST)
    try:
        trained, scores, masks = _work(work, name)
        manifests = classes.build_manifests(trained, scores, masks, words)
        moved, deviations = classes.moved(trained), classes.deviations(trained)
        contents = classes.together(work.root, manifests, moved, deviations, classes.counts_of_all(trained))
        write_pages(work, trained, work.report)
        page = write_reports(work.root, contents, manifests, {name: native_slices(one) for name, one in trained.items()})
        classes.write_own(work.root, manifests)
        write_json(work.root / manifest.MANIFEST, contents)  # last: where it says done, everything is there
    except BaseException as error:
        manifest.write_failed(work.root, work.settings, words, error)
        raise
    print_summary(work.root, contents, page)
