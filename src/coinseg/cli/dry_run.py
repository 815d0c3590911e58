"""`--dry-run`: what would be read, made and written, and how long it would take on this machine; a run says the latter too."""

from coinseg.config.parsing import asks_opinion, teacher_folders
from coinseg.data.slices.case import labelled_per_scan
from coinseg.data.slices.sizes import native_shapes, proposal
from coinseg.errors import UserError
from coinseg.pipeline.countdown import Countdown
from coinseg.pipeline.counts import searched
from coinseg.pipeline.forecast import forecast, worth
from coinseg.pipeline.job import has_student
from coinseg.pipeline.run import Workspace

from .inspect import per_scan_rule
from .progress import ConsoleReport, in_words, title
from .talk import SAID

LEAST = 0.02  # share of the time of the run below which a stage is not named


def time_of(seconds: dict[str, float]) -> str:
    """The whole time in words, and that of the stages that take most of it."""
    total = sum(seconds.values())
    parts = [f"{title(stage)} {in_words(part)}" for stage, part in seconds.items() if part > LEAST * total]
    return f"about {in_words(total)} here, while the machine is as busy as now: {', '.join(parts)}"


def describe(work: Workspace) -> str:
    """A summary in lines; raises `UserError` for anything that would stop the run."""
    settings, cohort = work.settings, work.cohort
    needed = work.check()
    labels, source = [case.label for case in cohort.cases], cohort.label_source
    level = settings.data.label_level if settings.anomaly.kind == "none" else "slice"
    per_scan = sum(labelled_per_scan(case, level) for case in cohort.cases)
    tiles = f", tiles of {settings.data.tile} pixels of larger ones" if settings.data.tile else ""
    student = has_student(settings)
    outputs = {
        "slices": True, "witnesses": searched(work), "classifier": True, "coin": True,
        "teacher-N": student and bool(teacher_folders(settings)), "student": student,
        "opinion": student and asks_opinion(settings), "evaluation": True, "masks": True, "manifest.json": True,
        "report.html": True, "cases.html": True,
    }  # fmt: skip
    steps = {"f": settings.classifier.steps, "COIN": settings.coin.steps, "the student": settings.student.steps if student else 0}
    patients, unknown = len({case.patient for case in cohort.cases}), labels.count(None)
    lines = [
        f"data       {work.data}: layout {cohort.layout}, {len(cohort.cases)} cases of {patients} patients",
        f"labels     {labels.count(0)} normal, {labels.count(1)} abnormal, {unknown} by slice or from elsewhere ({source})",
        *([f"per scan   {per_scan_rule(per_scan)}"] if per_scan else []),
        f"anomalies  {settings.anomaly.kind}",
        f"slices     {settings.data.side} x {settings.data.side}{tiles}, at most {needed / 1e9:.2f} GB in {work.root / 'slices'}",
        f"steps      {', '.join(f'{count} of {name}' for name, count in steps.items() if count)}",
        f"time       {time_of(forecast(work))}",
        f"would write {work.root}/{{{', '.join(name for name, is_written in outputs.items() if is_written)}}}",
    ]
    lines += [f"note       {line}" for line in proposal(native_shapes(cohort, settings), settings)]
    return "\n".join(lines + [f"note       {problem}" for problem in cohort.problems])


def foretell(work: Workspace, report: ConsoleReport) -> None:
    """Let the progress say when a run ends, where it is a long one; that nobody knows is no reason not to begin it."""
    if not worth(work.settings):
        return
    report("timing", 0, 1, {})
    try:
        report.left = Countdown(forecast(work, work.root))
    except (UserError, RuntimeError, MemoryError) as error:
        SAID.warning("no estimate of the time: %s", error)
