# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Whether an instance still has requests: by its own count, by its metrics, and by the connections on its port.

No one of them is enough. ``/load`` is exact, but 0 without ``--enable-server-load-tracking``; the gauges of
``/metrics`` lag by seconds; a connection may be idle, or hold a request that was not read yet. What cannot be asked
counts as busy.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import sys
import time
import typing as t
import urllib.parse
from dataclasses import dataclass

from ansible_collections.numapin.inference.plugins.module_utils import _readiness
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._host import Host

_POLL_SECONDS = 0.5
_ASK_SECONDS = 5.0
_NAMED_PEERS = 5
# include/net/tcp_states.h: established, and about to be.
_BUSY_STATES = ("01", "03")
# What moves while anything is computed: tokens when they are given, a prompt when all of it has been read, and while a
# long one is being read, part by part, the share of the cache that is in use. All are the engine's own, not the API
# server's: none of them moves because a request comes or its client gives up.
_PROGRESS = re.compile(
    r"^vllm:(?:prompt_tokens_total|generation_tokens_total|iteration_tokens_total_count|kv_cache_usage_perc)"
    r"(?:\{[^}]*\})? +([0-9.eE+-]+)",
    re.MULTILINE,
)
_GAUGE = re.compile(r"^vllm:num_requests_(running|waiting)(?:\{[^}]*\})? +([0-9.eE+-]+)", re.MULTILINE)


class TrafficError(NumapinError):
    """The question cannot be asked this way."""


@dataclass(frozen=True)
class Watched:
    """An instance and where it listens (``http://IP:PORT``)."""

    name: str
    url: str

    @property
    def port(self) -> int:
        return urllib.parse.urlsplit(self.url).port or 0


@dataclass(frozen=True)
class Traffic:
    """What one look found. Unknown is null: ``load`` by /load, ``running`` and ``waiting`` by /metrics.

    ``silent``: it listens, and leaves ``/health`` without an answer.
    """

    name: str
    serving: bool
    idle: bool
    detail: str
    connections: int = 0
    load: int | None = None
    running: int | None = None
    waiting: int | None = None
    silent: bool = False


def check_watched(instances: t.Sequence[Watched]) -> None:
    """Refuse what cannot be an instance; TrafficError."""
    for instance in instances:
        try:
            parts = urllib.parse.urlsplit(instance.url)
            good = parts.scheme == "http" and bool(parts.hostname) and bool(parts.port)
        except ValueError:
            good = False
        if not good:
            raise TrafficError(
                f"instance {instance.name!r}: url {instance.url!r} must be where it listens, such as http://192.0.2.11:8000"
            )


def wait_until_idle(
    instances: t.Sequence[Watched],
    host: Host,
    *,
    wait_seconds: float,
    quiet_seconds: float,
    ignored_peers: t.Collection[str] = (),
    clock: t.Callable[[], float] = time.monotonic,
    sleep: t.Callable[[float], None] = time.sleep,
) -> list[Traffic]:
    """Look until all have been idle for ``quiet_seconds`` without a break, or for ``wait_seconds``; the last look.

    An instance that is idle now but was not for long enough is not idle.
    """
    start = clock()
    since: dict[str, float] = {}
    while True:
        looked = clock()
        found = [look(instance, host, ignored_peers) for instance in instances]
        for traffic in found:
            if traffic.idle:
                since.setdefault(traffic.name, looked)
            else:
                since.pop(traffic.name, None)
        now = clock()
        quiet = {name for name, began in since.items() if now - began >= quiet_seconds}
        if len(quiet) == len(found) or now - start >= wait_seconds:
            return [
                traffic
                if not traffic.idle or traffic.name in quiet
                else Traffic(**{**vars(traffic), "idle": False, "detail": f"idle for less than {quiet_seconds:g} s"})
                for traffic in found
            ]
        sleep(_POLL_SECONDS)


def look(instance: Watched, host: Host, ignored_peers: t.Collection[str] = ()) -> Traffic:
    """One look at one instance."""
    # First, because the questions below are connections as well.
    peers = connected_peers(host, instance.port)
    name, connections = instance.name, len(peers)
    status, text = _readiness.request(instance.url.rstrip("/") + "/health", None, None, _ASK_SECONDS)
    if status == 0 and text == "refused":
        busy = f"it does not listen, but {connections} connections are open" if connections else "it does not listen"
        return Traffic(name, False, not connections, busy, connections)
    if status != 200:
        said = f"/health answers {status}" if status else f"/health does not answer: {text}"
        why = f"nothing is known of its requests, {said}"
        return Traffic(name, False, False, why, connections, silent=text == "timeout")
    load, (running, waiting) = _load(instance.url), _gauges(instance.url)
    unknown = [
        what
        for what, value in (("/load", load), ("running requests", running), ("waiting requests", waiting))
        if value is None
    ]
    parts = [f"it does not tell {', '.join(unknown)}"] if unknown else []
    parts += [f"{load} by /load"] if load else []
    parts += [f"{running} running, {waiting} waiting by /metrics"] if running or waiting else []
    # Only in this case: without the counts, a connection is all that is known.
    if not parts:
        peers = [peer for peer in peers if peer not in ignored_peers]
        connections = len(peers)
    if connections:
        named = sorted(set(peers))
        more = ", …" if len(named) > _NAMED_PEERS else ""
        parts.append(f"{connections} connections from {', '.join(named[:_NAMED_PEERS])}{more}")
    return Traffic(name, True, not parts, "; ".join(parts) or "idle", connections, load, running, waiting)


def find_stalled(
    instances: t.Sequence[Watched],
    host: Host,
    found: t.Sequence[Traffic],
    *,
    stalled_seconds: float,
    clock: t.Callable[[], float] = time.monotonic,
    sleep: t.Callable[[float], None] = time.sleep,
) -> tuple[list[Traffic], list[str]]:
    """What ``found`` is by now, and the names of those that hang.

    Hanging is to have requests in flight and compute nothing for any of them for ``stalled_seconds`` – ``/health`` is
    the API server's, and answers all the same when the engine behind it hangs – or to listen and leave ``/health``
    without an answer for as long. Whose counters cannot be read does not hang.
    """
    places = {instance.name: instance for instance in instances}
    known = {traffic.name: traffic for traffic in found}
    watched: dict[str, tuple[float, ...] | None] = {}
    for name, traffic in known.items():
        if traffic.silent:
            watched[name] = None
        elif traffic.serving and (traffic.load or traffic.running or traffic.waiting):
            seen = progress(places[name].url)
            if seen is not None:
                watched[name] = seen
    start = clock()
    while watched and clock() - start < stalled_seconds:
        sleep(_POLL_SECONDS)
        for name, before in list(watched.items()):
            url = places[name].url
            if before is None:
                known[name] = look(places[name], host)
                moved = not known[name].silent
            else:
                moved = progress(url) != before or (_load(url) == 0 and _gauges(url) == (0, 0))
            if moved:
                watched.pop(name)
    return list(known.values()), list(watched)


def summary(found: t.Sequence[Traffic]) -> str:
    """One line for people who wait."""
    busy = [f"{traffic.name}: {traffic.detail}" for traffic in found if not traffic.idle]
    return "; ".join(busy) or "nothing is in flight"


def connected_peers(host: Host, port: int) -> list[str]:
    """Addresses at the other end of the connections that are established to ``port`` on this host, one for each."""
    peers: list[str] = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in (host.read_text(table) or "").splitlines()[1:]:
            words = line.split()
            if len(words) < 4 or words[3] not in _BUSY_STATES:
                continue
            try:
                if int(words[1].rpartition(":")[2], 16) == port:
                    peers.append(_address(words[2].rpartition(":")[0]))
            except (ValueError, struct.error):
                continue
    return peers


def _address(text: str) -> str:
    """As people write it: the kernel prints 32-bit words in the machine's own byte order."""
    order = "<" if sys.byteorder == "little" else ">"
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    packed = b"".join(struct.pack(order + "I", word) for word in words)
    if len(packed) == 16 and packed[:12] == b"\0" * 10 + b"\xff\xff":
        packed = packed[12:]
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def _load(url: str) -> int | None:
    status, text = _readiness.request(url.rstrip("/") + "/load", None, None, _ASK_SECONDS)
    try:
        return int(json.loads(text)["server_load"]) if status == 200 else None
    except (ValueError, KeyError, TypeError):
        return None


def progress(url: str) -> tuple[float, ...] | None:
    """How far its engine has come since it was started; equal twice: it computed nothing in between.

    Nothing when it does not say.
    """
    status, text = _readiness.request(url.rstrip("/") + "/metrics", None, None, _ASK_SECONDS)
    values = _PROGRESS.findall(text) if status == 200 else []
    return tuple(map(float, values)) or None


def _gauges(url: str) -> tuple[int | None, int | None]:
    status, text = _readiness.request(url.rstrip("/") + "/metrics", None, None, _ASK_SECONDS)
    sums: dict[str, float] = {}
    if status == 200:
        for gauge, value in _GAUGE.findall(text):
            sums[gauge] = sums.get(gauge, 0) + float(value)
    running, waiting = (None if gauge not in sums else int(sums[gauge]) for gauge in ("running", "waiting"))
    return running, waiting
