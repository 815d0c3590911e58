"""The server of the desk: addresses, and what they answer. Everything it is given is checked here or in the rooms behind."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from functools import wraps
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from coinseg.config.schema import Axis
from coinseg.errors import EXIT_DEFECT, UserError, exit_code, one_line
from coinseg.runtime.files import json_value

from .desk import Desk
from .exchange import export_reviewed
from .guard import Guard, Guarded
from .incoming import read_elsewhere, several_values
from .kept.schema import Busy

LOG = logging.getLogger(__name__)
PAGE = {
    "": "text/html", "desk.css": "text/css", "icon.svg": "image/svg+xml",
    **{f"{name}.js": "text/javascript" for name in ("desk", "dialogs", "server", "view", "draw", "mask", "queue", "solid")},
}  # fmt: skip
"""The files of the page by their address; nothing else is served from the disk."""
MOST_WORDS, MOST_STROKE, MOST_UPLOAD = 2**16, 2**25, 2**29
NAME = re.compile(r"[0-9A-Za-z-]{8,64}")
PLANES: dict[str, Axis] = {"axial": "axial", "coronal": "coronal", "sagittal": "sagittal"}
Answer = Callable[[Request], Awaitable[Response]]


def app_of(desk: Desk, guard: Guard) -> Starlette:
    """The application."""
    case = "/api/cases/{key}"
    routes = [
        Route("/", _page), Route("/page/{name}", _page), Route("/api/login", _login, methods=["POST"]),
        Route("/api/queue", _queue), Route("/api/summary", _summary), Route(case, _case),
        Route(f"{case}/ahead", _ahead, methods=["POST"]),
        Route(f"{case}/image/{{plane}}/{{index}}", _image),
        Route(f"{case}/layers/{{layer}}/{{plane}}/{{index}}", _layer),
        Route(f"{case}/solid", _solid),
        Route(f"{case}/strokes", _stroke, methods=["POST"]),
        Route(f"{case}/tool", _tool, methods=["POST"]),
        Route(f"{case}/undo", _undo, methods=["POST"]), Route(f"{case}/redo", _undo, methods=["POST"]),
        Route(f"{case}/decision", _decide, methods=["POST"]),
        Route(f"{case}/mask", _upload, methods=["POST"]),
        Route("/api/export/{kind}", _export, methods=["POST"]),
    ]  # fmt: skip
    app = Starlette(routes=routes, middleware=[Middleware(Guarded, guard=guard)], exception_handlers={Exception: _defect})
    app.state.desk, app.state.guard = desk, guard
    return app


def answered(work: Callable[[Request, bytes], Any], most: int = MOST_WORDS) -> Answer:
    """An address whose answer `work` makes of the request and its body, in a thread; what a user can mend is one line of JSON."""

    @wraps(work)
    async def answer(request: Request) -> Response:
        try:
            body = await _body(request, most)
            made = await run_in_threadpool(work, request, body)
            return made if isinstance(made, Response) else JSONResponse(made)
        except ClientDisconnect:
            return Response(status_code=499)
        except Busy as error:
            return JSONResponse({"error": one_line(error)}, 503)
        except (UserError, OSError, MemoryError) as error:
            if exit_code(error) == EXIT_DEFECT:
                raise
            return JSONResponse({"error": one_line(error)}, 400 if isinstance(error, UserError) else 503)

    return answer


async def _defect(request: Request, error: Exception) -> Response:
    """A defect of the desk: the traceback is for the terminal, the page gets one line."""
    LOG.error("the desk met a defect at %s", request.url.path, exc_info=error)
    return JSONResponse({"error": "the desk met a defect; the terminal has the details. What you drew before is kept."}, 500)


async def _body(request: Request, most: int) -> bytes:
    claimed = request.headers.get("content-length", "0")
    if not re.fullmatch("[0-9]{1,18}", claimed) or int(claimed) > most:
        raise UserError(f"a body of {claimed[:20]} bytes", f"{most} at most", "send less")
    whole = bytearray()
    async for part in request.stream():
        whole += part
        if len(whole) > most:
            raise UserError(f"a body of more than {most} bytes", f"{most} at most", "send less")
    return bytes(whole)


def _desk(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


def _reviewer(request: Request) -> str:
    """The name that the page sends with every request."""
    name = unquote(request.headers.get("x-reviewer", "")).strip()
    if not 1 <= len(name) <= 60 or not name.isprintable():
        raise UserError("a request without the name of a reviewer", "1 to 60 letters", "enter your name on the page")
    return name


def _plane(request: Request) -> Axis:
    plane = request.path_params.get("plane") or request.query_params.get("plane", "")
    if plane not in PLANES:
        raise UserError(f"the plane {plane[:20]!r}", f"one of {', '.join(PLANES)}", "load the page again")
    return PLANES[plane]


def _number(request: Request, name: str) -> int:
    text = str(request.path_params.get(name, request.query_params.get(name, "")))
    if not re.fullmatch(r"-?[0-9]{1,9}", text):
        raise UserError(f"{name} is {text[:20]!r}", "a whole number", "load the page again")
    return int(text)


def _words(body: bytes, kinds: dict[str, type]) -> dict[str, Any]:
    """An object of JSON with these names and kinds; others are left out."""
    try:
        found = json_value(body)
    except ValueError as error:
        raise UserError("a request that is no JSON", "what the page sends", "load the page again") from error
    number = lambda value, kind: kind is not bool and isinstance(value, int | float) and not isinstance(value, bool)
    fits = lambda value, kind: isinstance(value, kind) or (kind is float and number(value, kind))
    if not isinstance(found, dict) or not all(name in found and fits(found[name], kind) for name, kind in kinds.items()):
        raise UserError("a request without what it needs", f"{', '.join(kinds)}", "load the page again")
    if any(kind is int and (isinstance(found[name], bool) or abs(found[name]) > 10**9) for name, kind in kinds.items()):
        raise UserError("a request with a wrong number", "a whole number", "load the page again")
    return {name: found[name] for name in kinds}


def _named(name: str) -> str:
    if not NAME.fullmatch(name):
        raise UserError("a stroke without a name", "8 to 64 letters, digits or -", "load the page again")
    return name


# --- the page


async def _page(request: Request) -> Response:
    name = request.path_params.get("name", "")
    if name not in PAGE:
        return JSONResponse({"error": "there is no such page"}, 404)
    content = files("coinseg.review").joinpath("page", name or "index.html").read_bytes()
    return Response(content, media_type=PAGE[name])


def _login_with(request: Request, body: bytes) -> Any:
    return {"token": request.app.state.guard.login(_words(body, {"password": str})["password"])}


def _read_queue(request: Request, body: bytes) -> Any:
    desk = _desk(request)
    return desk.queue(_reviewer(request)) | {"kinds": desk.kinds(), "desk": desk.store.identity}


def _read_summary(request: Request, body: bytes) -> Any:
    return _desk(request).summary()


def _read_case(request: Request, body: bytes) -> Any:
    return _desk(request).case(request.path_params["key"], _reviewer(request))


def _read_ahead(request: Request, body: bytes) -> Any:
    _desk(request).ahead(request.path_params["key"])
    return {}


# --- slices


def _binary(values: np.ndarray) -> Response:
    """Bits of a mask, or little-endian numbers, row by row."""
    packed = np.packbits(values) if values.dtype == bool else np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return Response(packed.tobytes(), media_type="application/octet-stream", headers={"X-Type": str(values.dtype)})


def _read_image(request: Request, body: bytes) -> Any:
    at = request.path_params
    return _binary(_desk(request).views.image(at["key"], _plane(request), _number(request, "index")))


def _read_layer(request: Request, body: bytes) -> Any:
    at = request.path_params
    where = _plane(request), _number(request, "index")
    return _binary(_desk(request).layer(at["key"], _reviewer(request), at["layer"], *where))


def _read_solid(request: Request, body: bytes) -> Any:
    solid = _desk(request).solid(request.path_params["key"], _reviewer(request))
    shape = ",".join(map(str, solid.shape[1:]))
    return Response(solid.tobytes(), media_type="application/octet-stream", headers={"X-Shape": shape})


# --- changes


def _draw(request: Request, body: bytes) -> Any:
    rows, columns = _number(request, "rows"), _number(request, "columns")
    if not (0 < rows <= 2**15 and 0 < columns <= 2**15) or len(body) != -(-rows * columns // 8):
        raise UserError(f"a stroke of {len(body)} bytes for {rows} x {columns} pixels", "a bit for each", "load the page again")
    drawn = np.unpackbits(np.frombuffer(body, np.uint8), count=rows * columns).astype(bool).reshape(rows, columns)
    tool, value = request.query_params.get("tool", "")[:20], _number(request, "value")
    corner = _number(request, "top"), _number(request, "left")
    where = (request.path_params["key"], _reviewer(request), _plane(request), _number(request, "index"))
    name = _named(request.query_params.get("name", ""))
    gesture = _named(request.query_params.get("gesture", name))
    return _desk(request).editor.stroke(*where, corner, drawn, value > 0, tool, name, gesture)


def _use(request: Request, body: bytes) -> Any:
    kinds = {"tool": str, "plane": str, "index": int, "whole": bool, "row": int, "column": int, "amount": float, "name": str}
    words = _words(body, kinds | {"first": int, "last": int})
    if words["plane"] not in PLANES:
        raise UserError(f"the plane {words['plane'][:20]!r}", f"one of {', '.join(PLANES)}", "load the page again")
    _named(words["name"])
    return _desk(request).editor.tool(request.path_params["key"], _reviewer(request), words)


def _take_back(request: Request, body: bytes) -> Any:
    return _desk(request).editor.undo(request.path_params["key"], _reviewer(request), request.url.path.endswith("/redo"))


def _decide_on(request: Request, body: bytes) -> Any:
    words = _words(body, {"state": str, "comment": str, "seconds": float, "edits": int})
    seconds = max(0.0, min(3600.0, float(words["seconds"])))
    key, edits = request.path_params["key"], words["edits"]
    return _desk(request).editor.decide(key, _reviewer(request), words["state"], words["comment"], seconds, edits)


def _take_mask(request: Request, body: bytes) -> Any:
    desk, key, reviewer = _desk(request), request.path_params["key"], _reviewer(request)
    draft = desk.views.draft(key)
    ends = (".nii.gz", ".nii", ".nrrd", ".mha") if draft.record.volume else (".png",)
    given = "".join(c for c in request.query_params.get("file", "").lower() if c.isprintable())[-60:]
    if (end := next((end for end in ends if given.endswith(end)), None)) is None:
        raise UserError(f"the file {given[-40:]!r}", f"a name that ends in {' or '.join(ends)}", "choose another file")
    with TemporaryDirectory() as folder:
        (file := Path(folder) / f"mask{end}").write_bytes(body)
        try:
            mask = read_elsewhere(file, draft, desk.views.opened(key).shape)
            note = several_values(file, draft)
        except UserError as error:  # it names the file by its place here, which means nothing to who sent it
            got, required, do = (text.replace(str(file), given) for text in (error.got, error.required, error.do))
            raise UserError(got, required, do) from error
    return desk.editor.replace(key, reviewer, mask, "file", _named(request.query_params.get("name", ""))) | {"note": note}


def _write_out(request: Request, body: bytes) -> Any:
    desk, kind = _desk(request), request.path_params["kind"]
    out = desk.new_export(kind)
    written = export_reviewed(desk.source, desk.store, kind, out)
    return {"cases": written.cases, "left_out": written.left_out, "folder": str(out)}


_login, _queue, _summary, _case = answered(_login_with), answered(_read_queue), answered(_read_summary), answered(_read_case)
_ahead, _image, _layer, _solid = answered(_read_ahead), answered(_read_image), answered(_read_layer), answered(_read_solid)
_stroke, _tool, _undo, _decide = answered(_draw, MOST_STROKE), answered(_use), answered(_take_back), answered(_decide_on)
_upload, _export = answered(_take_mask, MOST_UPLOAD), answered(_write_out)
