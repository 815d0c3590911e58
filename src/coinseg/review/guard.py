"""Who may ask the server: this machine with the token of the address, or whoever knows the password; no page but its own."""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coinseg.errors import UserError

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}  # fmt: skip
"""Of every answer: nothing is loaded from elsewhere, shown in another page, or kept by the browser."""
LEAST_PASSWORD, TRIES, PAUSE_S = 10, 5, 60.0
OPENED = "open the address that `coinseg review` printed"


@dataclass
class Guard:
    """What a request must bring.

    Args:
        hosts: names and ports under which the server may be asked; () for any, which then needs a password.
        password: asked for instead of the token in the address; None where it only listens on this machine.
    """

    hosts: Sequence[str]
    password: str | None = None
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    _failed: list[float] = field(default_factory=list, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        if self.password is not None and len(self.password) < LEAST_PASSWORD:
            got = f"a password of {len(self.password)} characters"
            raise UserError(got, f"{LEAST_PASSWORD} or more", "choose a longer one")
        if not self.hosts and self.password is None:
            raise UserError("a desk that other machines can reach", "a password", "give --password FILE, or leave --host out")

    def refusal(self, headers: Headers, path: str) -> tuple[int, str] | None:
        """Why a request is refused, and the status of the answer; None for one that may go on."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.hosts and host not in self.hosts:
            return 421, f"this desk is not {host[:100]!r}; {OPENED}"
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            return 403, "a page from elsewhere may not ask this desk"
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return 403, "a page from elsewhere may not ask this desk"
        if not path.startswith("/api/") or path == "/api/login":
            return None
        words = headers.get("authorization", "").split(" ")
        if len(words) != 2 or words[0] != "Bearer" or not hmac.compare_digest(words[1].encode(), self.token.encode()):
            return 401, f"the token is missing or not that of this start; {OPENED}"
        return None

    def login(self, given: str) -> str:
        """The token for a password; `UserError` for a wrong one, and for any after too many wrong ones."""
        with self._lock:
            now = time.monotonic()
            self._failed = [when for when in self._failed if now - when < PAUSE_S]
            if len(self._failed) >= TRIES:
                raise UserError(f"{TRIES} wrong passwords within a minute", "a pause", "wait a minute")
            if self.password is None or not hmac.compare_digest(given.encode(), self.password.encode()):
                self._failed.append(now)
                raise UserError("the password is wrong", "the one the desk was started with", "ask whoever started it")
            return self.token


class Guarded:
    """ASGI middleware: asks the guard, and puts `HEADERS` on every answer."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self.app, self.guard = app, guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            return await (self.app(scope, receive, send) if scope["type"] == "lifespan" else _nothing())

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        if refused := self.guard.refusal(Headers(scope=scope), scope["path"]):
            status, why = refused
            return await JSONResponse({"error": why, "login": self.guard.password is not None}, status)(
                scope, receive, with_headers
            )
        await self.app(scope, receive, with_headers)


async def _nothing() -> None:
    """A web socket is not answered."""
