# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which request runs, at what pace, and how it ends. The text is the same for every request of a length.

A generation ends with ``length`` or ``stop``; with ``abort`` when the server stops without waiting; in EngineDead when
EngineCore is gone; and in ClientGone, silently, when whoever asked has left.
"""

from __future__ import annotations

import os
import select
import threading
import time

from vllm.double.metrics import Metrics
from vllm.double.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    import typing as t

WORDS = [
    "one",
    "instance",
    "per",
    "node",
    ",",
    "its",
    "threads",
    ",",
    "its",
    "memory",
    "and",
    "its",
    "interrupts",
    "beside",
    "it",
    ",",
    "and",
    "nothing",
    "crosses",
    "the",
    "bridge",
    ".",
]
# Where an answer ends by itself, unless it was told to ignore that.
NATURAL_TOKENS = 200
DEAD_MESSAGE = "EngineCore encountered an issue. See stack trace (above) for the root cause."
# What vLLM's tokenizer pool says once the server is told to stop: the API server takes no new request from then on.
STOPPING_MESSAGE = "cannot schedule new futures after shutdown"
BUSY_MESSAGE = (
    "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."
)


class EngineDead(Exception):
    """EngineCore is gone."""


class EngineBusy(Exception):
    """More requests than ``--max-num-queued-reqs`` allows."""


class EngineStopping(Exception):
    """The server was told to stop and takes no new request."""


class ClientGone(Exception):
    """The connection of the one who asked is closed."""


class Generation:
    """One request: ``produced`` tokens so far, and how it ended."""

    def __init__(self, engine: Engine, prompt_tokens: int, max_tokens: int, finish: str) -> None:
        self.prompt_tokens = prompt_tokens
        self.max_tokens = max_tokens
        self.produced = 0
        self.finish_reason: str | None = None
        self._finish = finish
        self._engine = engine

    def text(self, start: int, end: int) -> str:
        """The words of the tokens from ``start`` to before ``end``."""
        return "".join(f" {WORDS[number % len(WORDS)]}" for number in range(start, end))

    def steps(self, client: socket.socket | None) -> t.Generator[int, None, None]:
        """Yield how many tokens are new, as they come; 0 only at an abort. Ends when ``finish_reason`` is set."""
        return self._engine.run(self, self._finish, client)


class Engine:
    """The part of the API server that knows all requests."""

    def __init__(self, settings: Settings, metrics: Metrics, max_running: int, max_unfinished: int | None) -> None:
        self._settings = settings
        self._metrics = metrics
        self._max_running = max_running
        self._max_unfinished = max_unfinished
        self._change = threading.Condition()
        # The part of the server, who knows the processes.
        self.on_fault: t.Callable[[str], None] = lambda _fault: None
        self._running = 0
        self._waiting = 0
        self._begun = 0
        self._stopping = False
        self._aborting = False
        self.dead = False
        # Readable (at its end) from an abort or the engine's death on: wakes whoever waits for the next token.
        self._wake, self._alarm = os.pipe()
        self._alarm_open = True

    # The requests' side

    def check_admission(self) -> None:
        """EngineDead, EngineBusy; what vLLM looks at before it reads the prompt."""
        with self._change:
            if self.dead:
                raise EngineDead(DEAD_MESSAGE)
            if self._max_unfinished is not None and self._running + self._waiting + 1 > self._max_unfinished:
                self._metrics.rejected()
                raise EngineBusy(BUSY_MESSAGE)

    def check_tokenizer(self) -> None:
        """EngineStopping once the server was told to stop."""
        if self._stopping:
            raise EngineStopping(STOPPING_MESSAGE)

    def generation(self, prompt_tokens: int, max_tokens: int, min_tokens: int, ignore_eos: bool) -> Generation:
        """A request that has not begun."""
        natural = max(NATURAL_TOKENS, min_tokens)
        if ignore_eos or max_tokens <= natural:
            return Generation(self, prompt_tokens, max_tokens, "length")
        return Generation(self, prompt_tokens, natural, "stop")

    def run(self, generation: Generation, finish: str, client: socket.socket | None) -> t.Generator[int, None, None]:
        """See Generation.steps."""
        arrived = time.monotonic()
        number = self._enter()
        scheduled = time.monotonic()
        try:
            self._fault(number)
            for new in self._paced(generation, client, hang=self._hangs(number)):
                if not generation.produced and new:
                    self._metrics.first_token(generation.prompt_tokens, time.monotonic() - arrived)
                generation.produced += new
                self._metrics.tokens(new)
                if generation.produced == generation.max_tokens:
                    generation.finish_reason = finish
                elif not new:
                    generation.finish_reason = "abort"
                if generation.finish_reason:
                    seconds = (scheduled - arrived, time.monotonic() - arrived)
                    self._metrics.finished(
                        generation.finish_reason, generation.prompt_tokens, generation.produced, seconds
                    )
                yield new
        finally:
            self._leave()

    def _enter(self) -> int:
        """Wait for a place; the number of the request among those that began."""
        with self._change:
            self._waiting += 1
            self._note()
            while self._running >= self._max_running and not (self.dead or self._aborting):
                self._change.wait()
            self._waiting -= 1
            self._running += 1
            self._begun += 1
            self._note()
            return self._begun

    def _leave(self) -> None:
        with self._change:
            self._running -= 1
            self._note()
            self._change.notify_all()

    def _note(self) -> None:
        self._metrics.requests(self._running, self._waiting)

    def _paced(self, generation: Generation, client: socket.socket | None, hang: bool) -> t.Iterator[int]:
        """Numbers of new tokens at the set pace; tokens that are late come together, as vLLM's do. 0 is an abort."""
        pace, start = self._settings.tokens_per_second, time.monotonic()
        waiter = _Waiter(self._wake, client)
        while generation.produced < generation.max_tokens:
            if self.dead:
                raise EngineDead(DEAD_MESSAGE)
            if self._aborting:
                yield 0
                return
            now = time.monotonic()
            due = generation.produced + 1 if not pace else int((now - start) * pace)
            if hang:
                waiter.wait(None)
            elif due > generation.produced:
                yield min(due, generation.max_tokens) - generation.produced
            else:
                waiter.wait(start + (generation.produced + 1) / pace - now)

    def _hangs(self, number: int) -> bool:
        return self._settings.fault == "hang-after" and number > self._settings.fault_after

    def _fault(self, number: int) -> None:
        if self._settings.fault in ("die-after", "engine-dies-after") and number == max(self._settings.fault_after, 1):
            self.on_fault(self._settings.fault)

    # The server's side

    def unfinished(self) -> int:
        return self._running + self._waiting

    def stop_admitting(self) -> None:
        """From now on new requests are refused; those that run go on."""
        self._stopping = True

    def drain(self, seconds: float) -> bool:
        """Wait until nothing runs; false when the time was not enough."""
        end = time.monotonic() + seconds
        with self._change:
            while self._running + self._waiting and not self.dead:
                left = end - time.monotonic()
                if left <= 0:
                    return False
                self._change.wait(left)
        return True

    def abort(self) -> None:
        """End every request now, with the finish reason ``abort``."""
        self._aborting = True
        self._wake_all()

    def die(self) -> None:
        """EngineCore is gone: every request ends in EngineDead."""
        self.dead = True
        self._wake_all()

    def _wake_all(self) -> None:
        with self._change:
            if self._alarm_open:
                os.close(self._alarm)
                self._alarm_open = False
            self._change.notify_all()


class _Waiter:
    """Sleep that ends early at the engine's alarm, and in ClientGone when the client has left."""

    def __init__(self, wake: int, client: socket.socket | None) -> None:
        self._poll = select.poll()
        self._poll.register(wake, select.POLLIN)
        self._wake = wake
        self._client = client
        if client is not None:
            self._poll.register(client, select.POLLIN)

    def wait(self, seconds: float | None) -> None:
        milliseconds = None if seconds is None else max(seconds, 0) * 1000
        for descriptor, _event in self._poll.poll(milliseconds):
            if descriptor != self._wake and self._client is not None:
                self._look_at_client()

    def _look_at_client(self) -> None:
        import socket

        assert self._client is not None
        try:
            gone = not self._client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            gone = True
        if gone:
            raise ClientGone
        # It sends the next request ahead of the answer: there is nothing more to learn from it for now.
        self._poll.unregister(self._client)
        self._client = None
