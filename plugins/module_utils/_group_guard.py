# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Keeps the members of an instance over several hosts together: all of them run, or none does.

vLLM does not see the loss of another host: its leader goes on answering /health when a follower is gone, and a follower
waits for a lost leader for ever (seen with 0.32). So every member's unit runs this program, which runs vLLM:

    group_guard.py GROUP.json -- COMMAND...

The leader's guard listens at the private address; those of the followers connect and tell who they are. When all are
there, all start vLLM, and say every second that they live. When a vLLM ends, a connection breaks, or nothing is heard
for ``lost_seconds``, the guard that sees it kills its own vLLM and ends, so that the others' connections break; systemd
starts every one of them again, and they meet anew. Nothing secret is said, and nothing that is said is run.

The file stands for itself, in Python 3.9 without anything else: it is copied to the host as it is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
import typing as t

_LINE_BYTES = 4096
_TICK_SECONDS = 1.0
_HELLO_SECONDS = 10.0
_SOCKET_SECONDS = 5.0


class LostError(Exception):
    """The group cannot go on; the text names the host and the reason."""


@dataclasses.dataclass(frozen=True)
class Group:
    """What all members know of their group; the leader is the first of ``members``, ``rank`` is the own place there.

    ``fingerprint`` is that of what has to be the same on all of them: with different ones they do not start together.
    """

    name: str
    rank: int
    members: tuple[tuple[str, str], ...]  # (host, IP address)
    port: int
    fingerprint: str
    join_seconds: float
    lost_seconds: float

    @classmethod
    def read(cls, path: str) -> Group:
        with open(path, encoding="utf-8") as handle:
            given = json.load(handle)
        members = tuple((str(member["host"]), str(member["address"])) for member in given["members"])
        return cls(
            name=str(given["name"]),
            rank=int(given["rank"]),
            members=members,
            port=int(given["guard_port"]),
            fingerprint=str(given["fingerprint"]),
            join_seconds=float(given["join_seconds"]),
            lost_seconds=float(given["lost_seconds"]),
        )

    def label(self, rank: int) -> str:
        host, address = self.members[rank]
        return f"{'the leader' if rank == 0 else 'follower'} {host} ({address})"


def say(text: str) -> None:
    """Into the journal, and as what ``systemctl status`` shows."""
    sys.stderr.write(f"numapin-group: {text}\n")
    sys.stderr.flush()
    where = os.environ.get("NOTIFY_SOCKET")
    if where:
        address = "\0" + where[1:] if where.startswith("@") else where
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(f"STATUS={text}".encode(), address)


class Peer:
    """A connection to another member: lines of JSON, and when something was heard last."""

    def __init__(self, connection: socket.socket, rank: int) -> None:
        connection.settimeout(_SOCKET_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = connection
        self.rank = rank
        self.heard = time.monotonic()
        self._rest = b""

    def send(self, **message: t.Any) -> None:
        """Raises OSError where the connection is broken."""
        self.connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, t.Any]] | None:
        """What has arrived; ``None`` at the end. Raises OSError, and ValueError for what is no line."""
        data = self.connection.recv(_LINE_BYTES)
        if not data:
            return None
        self.heard = time.monotonic()
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LINE_BYTES:
            raise ValueError("too long a line")
        messages = [json.loads(line) for line in lines]
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError("no message")
        return messages

    def close(self) -> None:
        self.connection.close()


class Guard:
    """One run of a member: meet the others, run vLLM, end with the first that ends."""

    def __init__(self, group: Group, command: t.Sequence[str]) -> None:
        self.group = group
        self.command = list(command)
        self.process: subprocess.Popen[bytes] | None = None
        self.stopping = False

    def run(self) -> int:
        """The exit status: 0 after it was told to stop, else 1."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        peers: list[Peer] = []
        try:
            peers = self._meet_followers() if self.group.rank == 0 else [self._meet_leader()]
            say(f"all {len(self.group.members)} members are there: starting vLLM")
            self._start()
            for peer in peers:
                peer.send(go=True)
            return self._watch(peers)
        except LostError as lost:
            say(str(lost))
            self._tell(peers, str(lost))
            return 0 if self.stopping else 1
        except OSError as error:
            say(f"the connection to another member broke: {error}")
            return 0 if self.stopping else 1
        finally:
            self._kill()
            for peer in peers:
                peer.close()

    def _stop(self, _number: int, _frame: object) -> None:
        self.stopping = True
        # The API server finishes its answers; a follower's workers are needed as long as the leader has some.
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def _tell(self, peers: t.Sequence[Peer], why: str) -> None:
        for peer in peers:
            with contextlib.suppress(OSError):
                peer.send(end=f"{self.group.members[self.group.rank][0]}: {why}")

    # Before vLLM runs

    def _meet_followers(self) -> list[Peer]:
        """Wait until every follower is connected; nobody else is let in."""
        group = self.group
        family = socket.AF_INET6 if ":" in group.members[0][1] else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as listening, selectors.DefaultSelector() as waiting:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listening.bind((group.members[0][1], group.port))
            except OSError as error:
                raise LostError(f"cannot listen at {group.members[0][1]} port {group.port}: {error}") from error
            listening.listen(16)
            listening.settimeout(_SOCKET_SECONDS)
            waiting.register(listening, selectors.EVENT_READ)
            there: dict[int, Peer] = {}
            told: dict[int, str] = {}
            deadline = time.monotonic() + group.join_seconds
            next_tick = 0.0
            try:
                while len(there) < len(group.members) - 1:
                    if self.stopping:
                        raise LostError("told to stop")
                    now = time.monotonic()
                    missing = [rank for rank in range(1, len(group.members)) if rank not in there]
                    if now > deadline:
                        why = "; ".join(f"{group.label(rank)}: {told.get(rank, 'never connected')}" for rank in missing)
                        raise LostError(f"not all members came within {group.join_seconds:g} s: {why}")
                    if now >= next_tick:
                        next_tick = now + _TICK_SECONDS
                        say_once(f"waiting for {', '.join(group.label(rank) for rank in missing)}")
                        for rank, peer in list(there.items()):
                            try:
                                peer.send(wait=True)
                            except OSError:
                                _drop(there, rank, waiting)
                    for key, _events in waiting.select(_TICK_SECONDS):
                        if key.fileobj is listening:
                            self._let_in(listening, there, told, waiting)
                        elif _is_gone(key.data):
                            told[key.data.rank] = "connected, and went away again"
                            _drop(there, key.data.rank, waiting)
            except BaseException:
                for peer in there.values():
                    peer.close()
                raise
            return [there[rank] for rank in sorted(there)]

    def _let_in(
        self, listening: socket.socket, there: dict[int, Peer], told: dict[int, str], waiting: selectors.BaseSelector
    ) -> None:
        group = self.group
        try:
            connection, address = listening.accept()
        except OSError:
            return
        ranks = [rank for rank in range(1, len(group.members)) if group.members[rank][1] == address[0]]
        if not ranks:
            say_once(f"refused a connection from {address[0]}, which is no member")
            connection.close()
            return
        peer = Peer(connection, ranks[0])
        fault = ""
        try:
            hello = _hello(peer)
            if (hello.get("group"), hello.get("rank")) != (group.name, ranks[0]):
                fault = f"it is not number {ranks[0]} of {group.name}"
            elif hello.get("fingerprint") != group.fingerprint:
                fault = "it has another configuration than the leader: run the play on all hosts of the group"
            if fault:
                peer.send(refused=fault)
        except (OSError, ValueError) as error:
            fault = f"it said nothing of use: {error}"
        if fault:
            told[ranks[0]] = fault
            say_once(f"{group.label(ranks[0])} is not let in: {fault}")
            peer.close()
            return
        _drop(there, peer.rank, waiting)
        there[peer.rank] = peer
        waiting.register(connection, selectors.EVENT_READ, peer)
        say(f"{group.label(peer.rank)} is there")

    def _meet_leader(self) -> Peer:
        """Wait until the leader is there and says that all are."""
        group = self.group
        deadline = time.monotonic() + group.join_seconds
        why = ""
        while True:
            if self.stopping:
                raise LostError("told to stop")
            if time.monotonic() > deadline:
                raise LostError(f"{group.label(0)} was not there within {group.join_seconds:g} s: {why}")
            peer = None
            try:
                peer = Peer(
                    socket.create_connection(
                        (group.members[0][1], group.port), _SOCKET_SECONDS, (group.members[group.rank][1], 0)
                    ),
                    0,
                )
                peer.send(group=group.name, rank=group.rank, fingerprint=group.fingerprint)
                say_once(f"{group.label(0)} is there, the others are waited for")
                if self._told_to_go(peer):
                    return peer
                why = "it was there, and went away again"
            except (OSError, ValueError, LostError) as error:
                why = str(error)
            if peer is not None:
                peer.close()
            say_once(f"waiting for {group.label(0)}: {why}")
            time.sleep(_TICK_SECONDS)

    def _told_to_go(self, peer: Peer) -> bool:
        while not self.stopping:
            messages = peer.receive()
            if messages is None:
                return False
            for message in messages:
                if "refused" in message:
                    raise LostError(f"it does not let this host in: {message['refused']}")
                if message.get("go"):
                    return True
        return False

    # While vLLM runs

    def _start(self) -> None:
        environment = {key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"}
        try:
            self.process = subprocess.Popen(self.command, env=environment)
        except OSError as error:
            raise LostError(f"{self.command[0]} cannot be run: {error}") from error

    def _watch(self, peers: t.Sequence[Peer]) -> int:
        """Until something ends."""
        group, process = self.group, self.process
        if process is None:
            raise LostError("vLLM was not started")
        say("vLLM runs, all members are there")
        with selectors.DefaultSelector() as waiting:
            for peer in peers:
                peer.heard = time.monotonic()
                waiting.register(peer.connection, selectors.EVENT_READ, peer)
            next_tick = 0.0
            while True:
                status = process.poll()
                if status is not None:
                    if self.stopping:
                        raise LostError("stopped")
                    raise LostError(f"vLLM ended here with status {status}")
                now = time.monotonic()
                if now >= next_tick:
                    next_tick = now + _TICK_SECONDS
                    for peer in peers:
                        if now - peer.heard > group.lost_seconds:
                            raise LostError(f"{group.label(peer.rank)} has not been heard for {group.lost_seconds:g} s")
                        try:
                            peer.send(here=True)
                        except OSError as error:
                            raise LostError(f"{group.label(peer.rank)} is lost: {error}") from error
                for key, _events in waiting.select(_TICK_SECONDS / 4):
                    self._listen(key.data)

    def _listen(self, peer: Peer) -> None:
        label = self.group.label(peer.rank)
        try:
            messages = peer.receive()
        except (OSError, ValueError) as error:
            raise LostError(f"{label} is lost: {error}") from error
        if messages is None:
            raise LostError(f"{label} is lost: its connection ended")
        for message in messages:
            if "end" in message:
                raise LostError(f"{label} ends: {message['end']}")

    def _kill(self) -> None:
        """A vLLM that has lost its peers answers no signal that asks; systemd kills the rest of the unit."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


_said = [""]


def say_once(text: str) -> None:
    """The same line once in a row: waiting may take long."""
    if text != _said[0]:
        _said[0] = text
        say(text)


def _drop(there: dict[int, Peer], rank: int, waiting: selectors.BaseSelector) -> None:
    peer = there.pop(rank, None)
    if peer is not None:
        waiting.unregister(peer.connection)
        peer.close()


def _is_gone(peer: Peer) -> bool:
    """A follower has nothing to say before it starts."""
    try:
        return peer.receive() is None
    except (OSError, ValueError):
        return True


def _hello(peer: Peer) -> dict[str, t.Any]:
    deadline = time.monotonic() + _HELLO_SECONDS
    while time.monotonic() < deadline:
        messages = peer.receive()
        if messages is None:
            break
        if messages:
            return messages[0]
    raise ValueError("the connection ended")


def main(arguments: t.Sequence[str]) -> int:
    """Entry point of the copy on the host."""
    if len(arguments) < 3 or arguments[1] != "--":
        sys.stderr.write("usage: group_guard.py GROUP.json -- COMMAND...\n")
        return 2
    try:
        group = Group.read(arguments[0])
    except (OSError, ValueError, KeyError, TypeError) as error:
        say(f"{arguments[0]} cannot be used ({error!r}): run the play that deploys this host again")
        return 78
    return Guard(group, arguments[2:]).run()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
