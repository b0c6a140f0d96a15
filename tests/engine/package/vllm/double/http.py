# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""As much of HTTP/1.1 as uvicorn shows its clients: keep-alive, chunked answers, its headers and its errors."""

from __future__ import annotations

import socket
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import typing as t

REASONS = {
    200: "OK", 307: "Temporary Redirect", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found",
    405: "Method Not Allowed", 500: "Internal Server Error", 501: "Not Implemented", 503: "Service Unavailable",
}  # fmt: skip
_HEAD_LIMIT = 64 * 1024
_BODY_LIMIT = 64 * 2**20


class BadRequest(Exception):
    """What came is no HTTP."""


class Request:
    """Method, path without query, headers in lower case, body."""

    def __init__(self, method: str, target: str, version: str, headers: dict[str, str], body: bytes) -> None:
        self.method = method
        self.target = target
        self.path = target.partition("?")[0]
        self.is_http_1_1 = version == "HTTP/1.1"
        self.headers = headers
        self.body = body
        wish = headers.get("connection", "").lower()
        self.keep_alive = wish != "close" if self.is_http_1_1 else wish == "keep-alive"


class Connection:
    """One client. ``idle``: nothing was begun; who shuts down may close it."""

    def __init__(self, client: socket.socket, peer: str) -> None:
        self.socket = client
        self.peer = peer
        self.idle = True
        self._buffer = b""
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    # Reading

    def read_request(self, seconds: float | None) -> Request | None:
        """The next request; nothing when the client closed or said nothing for ``seconds``. BadRequest, OSError."""
        self.idle = True
        self.socket.settimeout(seconds)
        try:
            while b"\r\n\r\n" not in self._buffer:
                if len(self._buffer) > _HEAD_LIMIT:
                    raise BadRequest
                if not self._receive():
                    return None
                self.idle = False
        except socket.timeout:
            return None
        self.idle = False
        self.socket.settimeout(None)
        head, _blank, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return self._parse(head.decode("latin-1"))

    def _parse(self, head: str) -> Request:
        lines = head.split("\r\n")
        words = lines[0].split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            raise BadRequest
        headers = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon:
                raise BadRequest
            headers[name.strip().lower()] = value.strip()
        return Request(words[0], words[1], words[2], headers, self._read_body(headers))

    def _read_body(self, headers: dict[str, str]) -> bytes:
        if headers.get("expect", "").lower() == "100-continue":
            self.socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if "chunked" in headers.get("transfer-encoding", "").lower():
            return self._read_chunks()
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > _BODY_LIMIT:
            raise BadRequest
        return self._take(int(length))

    def _read_chunks(self) -> bytes:
        parts = []
        while True:
            size = int(self._take_line().partition(b";")[0], 16)
            parts.append(self._take(size))
            self._take_line()
            if not size:
                return b"".join(parts)

    def _take_line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            if len(self._buffer) > _HEAD_LIMIT or not self._receive():
                raise BadRequest
        line, _end, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if not self._receive():
                raise BadRequest
        body, self._buffer = self._buffer[:size], self._buffer[size:]
        return body

    def _receive(self) -> bool:
        data = self.socket.recv(65536)
        self._buffer += data
        return bool(data)

    # Writing

    def answer(self, request: Request | None, status: int, body: bytes, headers: t.Mapping[str, str]) -> None:
        """A whole answer."""
        closing = {} if request is not None and request.keep_alive else {"connection": "close"}
        head = _head(status, {"content-length": str(len(body)), **headers, **closing})
        self.socket.sendall(head if request is not None and request.method == "HEAD" else head + body)

    def begin_stream(self, request: Request, media_type: str) -> Stream:
        """The head of an answer that comes in pieces."""
        headers = {"content-type": media_type}
        if request.is_http_1_1:
            headers["transfer-encoding"] = "chunked"
        else:
            request.keep_alive = False
        if not request.keep_alive:
            headers["connection"] = "close"
        self.socket.sendall(_head(200, headers))
        return Stream(self.socket, request.is_http_1_1)


class Stream:
    """The pieces."""

    def __init__(self, client: socket.socket, chunked: bool) -> None:
        self._socket = client
        self._chunked = chunked

    def write(self, text: str) -> None:
        data = text.encode("utf-8")
        self._socket.sendall(b"%x\r\n%s\r\n" % (len(data), data) if self._chunked else data)

    def end(self) -> None:
        if self._chunked:
            self._socket.sendall(b"0\r\n\r\n")


def _head(status: int, headers: t.Mapping[str, str]) -> bytes:
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
    lines = [f"HTTP/1.1 {status} {REASONS[status]}", f"date: {date}", "server: uvicorn"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
