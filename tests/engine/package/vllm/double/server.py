# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Connections, signals, and the end: vLLM's shutdown as measured, and what it does when EngineCore is gone."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import threading
import time

from vllm.double.api import Api
from vllm.double.engine import ClientGone, Engine
from vllm.double.http import BadRequest, Connection
from vllm.double.log import log, write
from vllm.double.processes import EngineProcess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vllm.double.http import Request

# vLLM looks for a dead engine every so often.
WATCHDOG_SECONDS = 5.0
_BACKLOG = 2048
_STACK_BYTES = 512 * 1024


def listening_socket(host: str, port: int) -> socket.socket:
    """Bind now, so that a port that is taken is told before anything is loaded; it listens later. OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    return listener


class Server:
    """The API server from the first connection to the exit status."""

    def __init__(
        self,
        listener: socket.socket,
        api: Api,
        engine: Engine,
        process: EngineProcess,
        *,
        keep_alive_seconds: float,
        shutdown_timeout: float,
        access_log: bool,
    ) -> None:
        self._listener = listener
        self._api = api
        self._engine = engine
        self._process = process
        self._keep_alive_seconds = keep_alive_seconds
        self._shutdown_timeout = shutdown_timeout
        self._access_log = access_log
        self._connections: set[Connection] = set()
        self._lock = threading.Lock()
        self._wake, self._alarm = os.pipe()
        self._stop_asked = False
        self._child_ended = False
        self._closing = False
        self._watchdog: float | None = None
        api.on_engine_dead = self._close
        engine.on_fault = self._on_fault

    def serve(self) -> int:
        """Accept until the end; the exit status, which is 0 even after an engine's death, as vLLM's is."""
        os.set_blocking(self._alarm, False)
        signal.set_wakeup_fd(self._alarm, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGCHLD, self._on_child)
        self._child_ended = True  # it may have ended before anybody watched
        threading.stack_size(_STACK_BYTES)
        self._listener.listen(_BACKLOG)
        self._listener.setblocking(False)
        started = time.monotonic()
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while not self._closing:
            for descriptor, _event in poll.poll(self._milliseconds_to_watchdog()):
                if descriptor == self._wake:
                    os.read(self._wake, 4096)
                else:
                    self._accept()
            self._look_around(started)
        self._end()
        return 0

    # Signals only leave a note: the loop does the work.

    def _on_stop(self, *_signal: object) -> None:
        self._stop_asked = True

    def _on_child(self, *_signal: object) -> None:
        self._child_ended = True

    def _ring(self) -> None:
        os.write(self._alarm, b"!")

    def _look_around(self, started: float) -> None:
        if self._stop_asked:
            self._stop_asked = False
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            threading.Thread(target=self._stop, daemon=True).start()
        if self._child_ended:
            self._child_ended = False
            self._look_at_engine(started)
        if self._watchdog is not None and time.monotonic() >= self._watchdog:
            self._closing = True

    def _look_at_engine(self, started: float) -> None:
        if self._process.collect() is None or self._engine.dead:
            return
        log("APIServer", "WARNING", "core_client.py:817", "[shutdown] MPClient: engine core exited unexpectedly")
        self._engine.die()
        passed = time.monotonic() - started
        self._watchdog = started + (passed // WATCHDOG_SECONDS + 1) * WATCHDOG_SECONDS

    def _milliseconds_to_watchdog(self) -> float | None:
        return None if self._watchdog is None else max(self._watchdog - time.monotonic(), 0) * 1000 + 1

    def _close(self) -> None:
        """Listen no more and end when the open connections have."""
        self._closing = True
        self._ring()

    def _on_fault(self, fault: str) -> None:
        os.kill(os.getpid() if fault == "die-after" else self._process.pid, signal.SIGKILL)

    # Connections

    def _accept(self) -> None:
        try:
            client, address = self._listener.accept()
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ECONNABORTED, errno.EINTR):
                log("APIServer", "ERROR", "launcher.py:139", f"Error accepting a connection: {error}")
                time.sleep(0.1)
            return
        client.setblocking(True)
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        connection = Connection(client, f"{host}:{address[1]}")
        with self._lock:
            self._connections.add(connection)
        threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: Connection) -> None:
        """All requests of one connection."""
        seconds: float | None = None
        try:
            while not self._closing:
                request = self._next_request(connection, seconds)
                if request is None:
                    break
                status = self._api.handle(request, connection)
                self._tell(connection, request, status)
                if not request.keep_alive:
                    break
                seconds = self._keep_alive_seconds
        except (OSError, ClientGone):
            pass
        except Exception as error:
            log("APIServer", "ERROR", "httptools_impl.py:421", f"{type(error).__name__}: {error}")
            raise
        finally:
            connection.socket.close()
            with self._lock:
                self._connections.discard(connection)

    def _next_request(self, connection: Connection, seconds: float | None) -> Request | None:
        try:
            return connection.read_request(seconds)
        except (BadRequest, ValueError):
            self._refuse(connection)
            return None

    def _refuse(self, connection: Connection) -> None:
        headers = {"content-type": "text/plain; charset=utf-8"}
        with contextlib.suppress(OSError):
            connection.answer(None, 400, b"Invalid HTTP request received.", headers)

    def _tell(self, connection: Connection, request: Request, status: int) -> None:
        if self._access_log:
            where = f"{request.method} {request.target} HTTP/{'1.1' if request.is_http_1_1 else '1.0'}"
            write(f'INFO:     {connection.peer} - "{where}" {status}\n')

    # The end

    def _stop(self) -> None:
        """After the first SIGTERM or SIGINT; later ones change nothing."""
        timeout = self._shutdown_timeout
        mode = "drain" if timeout else "abort"
        say = f"[shutdown] API server: stopping engine client mode={mode} timeout={timeout:g}s"
        log("APIServer", "INFO", "launcher.py:272", say)
        self._engine.stop_admitting()
        if not timeout:
            self._engine.abort()
        elif not self._engine.drain(timeout):
            # Not measured: what vLLM 0.32's sources say of requests that are not done in time.
            log("APIServer", "WARNING", "utils.py:648", "[shutdown] Process manager: force killing remaining processes")
            self._engine.die()
        self._process.stop()
        self._close()

    def _end(self) -> None:
        """Let the answers that are under way reach their clients; close what is idle."""
        log("APIServer", "INFO", "launcher.py:298", "[shutdown] API server: shutting down FastAPI HTTP server")
        self._listener.close()
        while True:
            with self._lock:
                left = list(self._connections)
            if not left:
                break
            for connection in left:
                if connection.idle:
                    _shut(connection.socket)
            time.sleep(0.02)
        signal.set_wakeup_fd(-1)
        self._process.stop()


def _shut(client: socket.socket) -> None:
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)
