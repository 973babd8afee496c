"""Web: /metrics and /healthz, over HTTP or HTTPS, on a port of their own. They tell numbers, never names."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from parkfleet.controller.listeners import BindError
from parkfleet.controller.metrics import Metrics
from parkfleet.controller.server import ControllerServer
from parkfleet.protocols.address import split_address

#: Prometheus and a load balancer ask; somebody who opens more connections waits.
MAX_CONNECTIONS: Final = 50
#: A client may think for so long between two requests, and may finish its last when we stop. Seconds.
KEEP_ALIVE_S: Final = 15
STOP_S: Final = 1


def web_app(server: ControllerServer) -> Starlette:
    """The two pages of a controller."""
    metrics = Metrics(server)

    async def show_metrics(_: Request) -> Response:
        return PlainTextResponse(await metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def show_health(_: Request) -> Response:
        wrong = server.pulse.problems()
        return JSONResponse({"ok": not wrong, "problems": wrong}, status_code=503 if wrong else 200)

    return Starlette(routes=[Route("/metrics", show_metrics), Route("/healthz", show_health)])


class WebServer:
    """Serves an application while its block runs. Entering raises BindError; the application's faults stay its own.

    address is host:port, port 0 for any free one; with certificate and key (PEM files) it is HTTPS.
    """

    def __init__(self, app: Starlette, address: str, certificate: Path | None = None, key: Path | None = None) -> None:
        self._asked = address
        self.host, self.port = split_address(address)
        self.scheme = "https" if certificate else "http"
        self._config = uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=STOP_S,
            ssl_certfile=certificate,
            ssl_keyfile=key,
        )
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{self.scheme}://{self.host}:{self.port}"

    async def __aenter__(self) -> Self:
        listener = _listen(self._asked)
        try:
            self._config.load()
        except OSError as error:
            listener.close()
            raise BindError(f"cannot use the certificate for {self._asked}: {error}") from None
        self.port = listener.getsockname()[1]
        self._server = _Server(self._config)
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]), name="web server")
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None and self._task is not None
        self._server.should_exit = True
        await self._task


class _Server(uvicorn.Server):
    """One that leaves the signals to the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(address: str) -> socket.socket:
    host, port = split_address(address)
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), port))
        listener.listen(MAX_CONNECTIONS)  # now, so that who comes before the server is ready waits
    except OSError as error:
        listener.close()
        raise BindError(f"cannot listen on {address}: {error.strerror or error}") from None
    return listener
