# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A client for streamed completions that takes nothing for granted: standard library only."""

from __future__ import annotations

import collections.abc as c
import http.client
import json
import socket
import typing as t
import urllib.parse

UPSTREAM_HEADER = "X-Numapin-Upstream"


class StreamError(Exception):
    """The answer was refused, cut or malformed; the message says which."""


class Stream:
    """One streamed answer. Iterate for the text; afterwards the fields say how it ended.

    upstream: who served it, from the balancer's header (null until the answer began). finish_reason,
    completion_tokens: null until the server said so. done: the closing ``[DONE]`` arrived.
    """

    def __init__(self, url: str, path: str, body: dict[str, t.Any], api_key: str, timeout_seconds: float) -> None:
        self.upstream: str | None = None
        self.finish_reason: str | None = None
        self.completion_tokens: int | None = None
        self.done = False
        self._target = urllib.parse.urlsplit(url)
        self._path = self._target.path.rstrip("/") + path
        self._body = json.dumps(body | {"stream": True, "stream_options": {"include_usage": True}})
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._timeout_seconds = timeout_seconds

    def __iter__(self) -> c.Iterator[str]:
        """Send the request and yield pieces of text as they come. Raises ``StreamError``."""
        host, port = self._target.hostname or "", self._target.port
        kind = http.client.HTTPSConnection if self._target.scheme == "https" else http.client.HTTPConnection
        connection = kind(host, port, timeout=self._timeout_seconds)
        try:
            connection.request("POST", self._path, self._body, self._headers)
            response = connection.getresponse()
            self.upstream = response.headers.get(UPSTREAM_HEADER)
            if response.status != 200:
                text = response.read(500).decode(errors="replace")
                raise StreamError(f"HTTP {response.status}: {' '.join(text.split())}")
            yield from self._pieces(response)
        except (OSError, http.client.HTTPException, socket.timeout) as error:
            raise StreamError(f"{type(error).__name__}: {error}") from error
        finally:
            connection.close()

    def _pieces(self, response: http.client.HTTPResponse) -> c.Iterator[str]:
        for raw in response:
            line = raw.decode(errors="replace").strip()
            if not line.startswith("data:"):
                continue
            data = line[len("data:") :].strip()
            if data == "[DONE]":
                self.done = True
                continue
            try:
                event = json.loads(data)
            except ValueError as error:
                raise StreamError(f"the stream held {data[:200]!r}, which is not JSON") from error
            if "error" in event:
                raise StreamError(f"the stream held an error: {json.dumps(event['error'])[:500]}")
            if event.get("usage"):
                self.completion_tokens = event["usage"].get("completion_tokens")
            for choice in event.get("choices", []):
                self.finish_reason = choice.get("finish_reason") or self.finish_reason
                yield choice.get("text") or (choice.get("delta") or {}).get("content") or ""


def read_api_key(path: str | None) -> str:
    """The key in a file, or none."""
    if path is None:
        return ""
    with open(path, encoding="utf-8") as handle:
        return handle.read().strip()
