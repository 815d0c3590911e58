"""What a finished run gets for people to look at beside its report: the case pages, and the table of what to look at first."""

from pathlib import Path
from typing import Any

from coinseg.errors import UserError, plain
from coinseg.runtime.files import clear, key_of, write_text
from coinseg.runtime.ledger import require_own

PAGE, TABLE = "cases.html", "review.csv"
FORMAT = 2  # of the case pages; raised where an older page has less


def write_pages(work: Any, trained: Any, report: Any) -> None:
    """Write cases.html and review.csv of a run, of several classes each case once a class; a page of these masks is kept.

    A table that somebody filled in is not replaced. Where no case has a mask there is neither.
    """
    from coinseg.review.decisions import decision_table
    from coinseg.review.explanations import maps_of_slice
    from coinseg.review.offline import is_of, ranked, write_case_pages
    from coinseg.review.sources import read_source

    page, table = work.root / PAGE, work.root / TABLE
    try:
        source = read_source(work.root, work.data)
    except UserError:  # every case is labelled normal
        clear(page)
        return
    predictors = {name: run.predictor for name, run in trained.items()}
    turns_off = all(predictor.is_counterfactual for predictor in predictors.values())
    key = key_of([FORMAT, (work.root / "masks" / "index.json").read_text(encoding="utf-8")])
    if not is_of(page, key):
        explain = lambda draft, index: maps_of_slice(predictors[draft.class_name], draft.case, index)
        written = write_case_pages(
            page, source, explain if turns_off else None, work.settings.data.axis,
            report=lambda done, total: report("pages", done, total, {}), key=key,
        )  # fmt: skip
        for line in written.left_out:
            report(f"warning: not on the case pages: {plain(line)}", 0, 0, {})
        if 0 < written.cases == len(written.unexplained):
            why = plain(next(iter(written.unexplained.values())))
            report(f"warning: no counterfactual is on the case pages: {why}", 0, 0, {})
    if _is_free(table):
        write_text(table, decision_table(source, ranked(source)))


def _is_free(file: Path) -> bool:
    try:
        require_own(file)
    except UserError:
        return False
    return True
