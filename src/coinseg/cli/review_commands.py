"""The commands of the desk: looking at masks in the browser, and what was decided to and from other programs."""

from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from uuid import uuid4

from coinseg.errors import UserError, plain
from coinseg.runtime.locks import claimed, require_apart

from .command import DATA_OF_RUN, OWN_CLASSIFIER, Argument, Call, arg, command, flag, path

KINDS = ("masks", "dicom-seg", "rtstruct", "nnunet", "prompts", "csv")
SOURCE: tuple[Argument, ...] = (
    path("out", help="a run folder, or the masks `segment` wrote for a folder of scans"),
    DATA_OF_RUN,
    path("--scans", required=False, help="the scans of the masks, if they were moved"),
    path("--confidence", required=False, help="the folder that `segment --confidence` wrote"),
    path("--reviews", required=False, help="folder of what is decided; OUT/review without"),
)


@command("look at masks in the browser: accept, correct, reject", "coinseg review out/run", (
    *SOURCE,
    arg("--port", type=int, default=None, help="of this machine; the first free one from 8642 on without"),
    flag("--no-browser", "print the address, open nothing"),
    arg("--host", default="127.0.0.1", help="the address to listen on; one that others can reach needs --password"),
    path("--password", required=False, help="a file whose first line is asked for on the page"),
    arg("--second", type=float, default=0.0, help="share of the cases that get a second opinion, 0 to 1"),
    arg("--budget", "--review.budget", type=int, default=0, help="only so many cases, those most worth a minute; 0 is all"),
    OWN_CLASSIFIER,
))  # fmt: skip
def review(
    call: Call, out: Path, port: int | None, no_browser: bool, host: str, password: Path | None, second: float, budget: int,
    classifier: str | None, **place: Any,
) -> None:  # fmt: skip
    """Serve the desk until Ctrl-C."""
    serve, desk = _parts()
    if not 0 <= second <= 1 or budget < 0 or not (port is None or 0 <= port < 2**16):
        got = f"--second {second:g}, --budget {budget}, --port {port}"
        raise UserError(got, "a share from 0 to 1, a number of cases, a port below 65536", "mend them")
    source, reviews = _source(call, out, **place)
    secret = None if password is None else _first_line(password)
    with desk.desk_on(source, reviews, desk.Rules(second, budget, classifier)) as opened:
        serve.serve(opened, host, port, secret, not no_browser, lambda line: print(line, flush=True))


@command("write reviewed masks for other programs", "coinseg review-export out/run masks -o out/reviewed", (
    SOURCE[0],
    arg("kind", choices=list(KINDS), help="masks: NIfTI or PNG; prompts: boxes and points as JSON; csv: only the decisions"),
    path("-o", "--out-folder", help="the folder to write"),
    *SOURCE[1:],
    flag("--overwrite", "replace an earlier export"),
))  # fmt: skip
def review_export(call: Call, out: Path, kind: str, out_folder: Path, overwrite: bool, **place: Any) -> None:
    """Write the accepted, corrected and rejected cases; a desk may be open meanwhile."""
    from coinseg.review.exchange import export_reviewed
    from coinseg.review.kept.store import Store

    source, reviews = _source(call, out, **place)
    require_apart([out_folder], [draft.image for draft in source.drafts])
    store = Store(reviews, write=False)
    try:
        written = export_reviewed(source, store, kind, out_folder, overwrite)
    finally:
        store.close()
    print(f"{written.cases} reviewed cases written to {out_folder}")
    for line in written.left_out:
        print(plain(f"  left out: {line}"))


@command("write one HTML file in which masks are looked at and decided without a server",
    "coinseg review-page out/run -o cases.html", (
    SOURCE[0],
    path("-o", "--out-file", help="the file to write; it can be sent to who decides"),
    *SOURCE[1:4],
    arg("--cases", "--budget", "--review.budget", type=int, default=100, help="how many at most, those most worth a minute"),
    arg("--megabytes", type=float, default=5.0, help="about how large the file may be; of long scans it has fewer slices then"),
    OWN_CLASSIFIER,
    flag("--overwrite", "replace an earlier file"),
))  # fmt: skip
def review_page(
    call: Call, out: Path, out_file: Path, cases: int, megabytes: float, classifier: str | None, overwrite: bool, **place: Any
) -> None:
    """Write the case pages of a run, or of masks of `segment`."""
    from coinseg.review.explanations import Explanations
    from coinseg.review.offline import Limits, write_case_pages
    from coinseg.review.views import axis_of

    if cases < 1 or not 0 < megabytes <= 2000:
        raise UserError(f"--cases {cases}, --megabytes {megabytes:g}", "one case or more, up to 2000 MB", "mend them")
    source, _ = _source(call, out, reviews=None, **place)
    require_apart([out_file], [draft.image for draft in source.drafts])
    with ExitStack() as stack:
        claim = stack.enter_context(claimed(out_file, overwrite=overwrite))
        if out_file.is_dir() or not claim.may_replace(out_file):
            raise UserError(f"{out_file} already exists", "a new file", "choose another name, or give --overwrite")
        model = stack.enter_context(closing(Explanations(source.model, classifier))) if source.model else None
        explain = (lambda draft, index: model.of_slice(draft.case, index, draft.class_name)) if model else None
        report = lambda done, total: call.report("pages", done, total, {})
        written = write_case_pages(out_file, source, explain, axis_of(source), Limits(cases, megabytes), report)
    print(f"{written.cases} cases in {out_file}, {out_file.stat().st_size / 1e6:.1f} MB; review-import takes decisions back")
    for line in written.left_out:
        print(plain(f"  left out: {line}"))
    if why := "the run that made the masks is not there" if model is None else next(iter(written.unexplained.values()), ""):
        print(plain(f"  without a counterfactual: {written.cases if model is None else len(written.unexplained)} cases ({why})"))


@command("take masks that were corrected elsewhere, by file name, or the decisions of a review.csv",
    "coinseg review-import out/run corrected --reviewer ann --accept", (
    SOURCE[0],
    path("masks", help="a folder of masks, named as the masks, the scans or an export; or review.csv of the case pages"),
    arg("--reviewer", default=None, help="who corrected them; of a review.csv, who decided the lines without a name"),
    flag("--accept", "they are decided with that; without, they are looked at on the desk"),
    *SOURCE[1:],
))  # fmt: skip
def review_import(call: Call, out: Path, masks: Path, reviewer: str | None, accept: bool, **place: Any) -> None:
    """Take the masks of a folder as a stroke each, which can be undone on the desk, or the decisions of a table."""
    from coinseg.review import desk
    from coinseg.review.decisions import MOST_NAME
    from coinseg.review.incoming import import_masks

    source, reviews = _source(call, out, **place)
    if masks.is_file():
        _import_decisions(desk, source, reviews, masks, reviewer)
        return
    if not masks.is_dir():
        raise UserError(f"{masks} is not there", "a folder of masks, or a review.csv", "correct the path")
    who = (reviewer or "").strip()  # as the page takes names: under another one nobody would find the masks
    if not who:
        raise UserError("nobody is named", "who corrected the masks", "give --reviewer NAME")
    if len(who) > MOST_NAME or not who.isprintable():
        raise UserError(f"--reviewer {who[:20]!r}", f"a name of 1 to {MOST_NAME} letters", "mend --reviewer")
    with desk.desk_on(source, reviews, desk.Rules()) as opened:
        taken, problems, notes = import_masks(opened, masks, who, accept, lambda: uuid4().hex)
    print(f"{taken} masks taken{' and accepted' if accept else ''} for {plain(who)}")
    for line in notes:
        print(plain(f"  note: {line}"))
    for line in problems:
        print(plain(f"  left out: {line}"))
    if problems and not taken:
        raise UserError(f"no mask in {masks} could be taken", "masks by the names of the cases, on their grids", "mend them")


def _import_decisions(desk: Any, source: Any, reviews: Path, file: Path, reviewer: str | None) -> None:
    from coinseg.review.decisions import import_decisions

    with desk.desk_on(source, reviews, desk.Rules()) as opened:
        done = import_decisions(opened, file, reviewer)
    print(f"{done.taken} decisions taken, {done.known} were there already")
    for line in done.left_out:
        print(plain(f"  left out: {line}"))
    if done.left_out and not done.taken + done.known:
        raise UserError(
            f"no decision of {file} could be taken", "decisions about the masks that are there", "see the lines above"
        )


def _parts() -> tuple[Any, Any]:
    """The modules of the server and the desk; `UserError` where the extra is not installed."""
    try:
        from coinseg.review import desk, serve
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise UserError(f"{error.name} is not installed", "the extra review", "pip install 'coinseg[review]'") from error
    return serve, desk


def _source(
    call: Call, out: Path, data_path: Path | None, scans: Path | None, confidence: Path | None, reviews: Path | None
) -> tuple[Any, Path]:
    from coinseg.data.layouts.shared import few
    from coinseg.review.kept.records import FOLDER
    from coinseg.review.sources import read_source

    source = read_source(out, data_path, scans, confidence, call.words.split())
    if source.missing:
        print(plain(f"{len(source.missing)} cases of {out} have a mask and are not among its data: {few(source.missing, 5)}"))
    return source, reviews or out / FOLDER


def _first_line(file: Path) -> str:
    if not file.is_file() or file.stat().st_size > 4096:
        raise UserError(f"{file} is no file of a password", "a file with the password in its first line", "mend --password")
    return (file.read_text(encoding="utf-8", errors="replace").splitlines() or [""])[0].strip()
