"""Start the server on a port of this machine, print its address, and stop when it is told to."""

from __future__ import annotations

import logging
import socket
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import uvicorn

from coinseg.data.layouts.shared import few
from coinseg.errors import UserError

from .desk import Desk
from .guard import Guard
from .server import app_of

HOST, PORT, PORTS = "127.0.0.1", 8642, 10
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    desk: Desk, host: str = HOST, port: int | None = None, password: str | None = None, browser: bool = True,
    say: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """Serve a desk until Ctrl-C.

    Args:
        desk: what is shown.
        host: the address it listens on; one that other machines can reach needs a `password`.
        port: None takes the first free one from `PORT` on.
        password: asked for on the page, in place of the token in the address.
        browser: open the page.
        say: prints a line.

    Raises:
        UserError: the port is taken, or the host cannot be listened on.
    """
    alone = host in LOOPBACK
    guard = Guard((), password) if not alone else None  # refused before anything is opened
    config, bound = _bound(host, port)
    number = int(bound.getsockname()[1])
    if guard is None:
        guard = Guard(tuple(f"{name}:{number}" for name in ("127.0.0.1", "localhost", "[::1]")), password)
    config.app = app_of(desk, guard)
    desk.begin()
    address = f"http://{f'[{host}]' if ':' in host else host}:{number}/" + ("" if password else f"#token={guard.token}")
    say(f"the desk is at {address}")
    say("whoever has this address can see and decide the cases; Ctrl-C ends it, everything decided is kept")
    if cases := desk.exchanged:
        say(f"{few(cases, 5)}: another scan than before, and so open again; what was decided of the former one is kept with it")
    if not alone:
        say("warning: other machines can reach it, and what they send is not encrypted: use it in a network you trust")
    if browser:
        threading.Timer(0.3, _show, [address]).start()
    server = uvicorn.Server(config)
    with suppress(KeyboardInterrupt):
        server.run(sockets=[bound])


def _bound(host: str, port: int | None) -> tuple[uvicorn.Config, Any]:
    """The configuration of a server, and the socket on which it will listen."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    for number in [port] if port is not None else range(PORT, PORT + PORTS):
        config = uvicorn.Config(
            "", host, number, log_level="critical", access_log=False, server_header=False, ws="none", lifespan="off",
            timeout_graceful_shutdown=2, timeout_keep_alive=30,
        )  # fmt: skip
        with suppress(SystemExit):  # uvicorn ends the program where it cannot have a port
            bound = config.bind_socket()
            # Else head and body of a short answer are two packets, and the second waits 40 ms for word of the first.
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return config, bound
    taken = f"port {port}" if port is not None else f"ports {PORT} to {PORT + PORTS - 1}"
    raise UserError(f"{taken} of {host} cannot be had", "a free port", "choose another --port, or stop the desk that is open")


def _show(address: str) -> None:
    with suppress(webbrowser.Error):
        webbrowser.open(address)
