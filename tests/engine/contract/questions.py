# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The requests whose answers are compared, as data: what our code asks, what it must not be able to ask, and what a
client gets wrong.

The server they are for serves MODEL, also called ALIAS, with KEY as its API key and MAX_MODEL_LEN as its length.
"""

from __future__ import annotations

import dataclasses
import json
import typing as t

MODEL = "contract"
ALIAS = "contract-alias"
KEY = "sk-contract-0123456789"
MAX_MODEL_LEN = 4096
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
# Exactly as many tokens as asked for, whatever the model would say.
EXACT: dict[str, t.Any] = {"temperature": 0, "ignore_eos": True}


@dataclasses.dataclass(frozen=True)
class Ask:
    """One request. ``body`` is sent as JSON when it is no text; ``key`` None sends no Authorization."""

    name: str
    method: str
    path: str
    body: t.Any = None
    key: str | None = KEY
    headers: t.Mapping[str, str] = dataclasses.field(default_factory=dict)

    def content(self) -> bytes | None:
        if self.body is None:
            return None
        return self.body.encode() if isinstance(self.body, str) else json.dumps(self.body).encode()

    def all_headers(self) -> dict[str, str]:
        headers = {} if self.body is None else {"Content-Type": "application/json"}
        headers.update(self.headers)
        if self.key is not None:
            headers.setdefault("Authorization", f"Bearer {self.key}")
        return headers


def completion(name: str, /, **more: t.Any) -> Ask:
    """A completion of five tokens, changed by ``more``; None takes a key away."""
    body = {"model": MODEL, "prompt": "One instance per node", "max_tokens": 5, **EXACT, **more}
    return Ask(name, "POST", COMPLETIONS, {key: value for key, value in body.items() if value is not None})


def chat(name: str, /, **more: t.Any) -> Ask:
    """A chat of five tokens, changed by ``more``; None takes a key away."""
    messages = [{"role": "user", "content": "One instance per node"}]
    body = {"model": MODEL, "messages": messages, "max_tokens": 5, **EXACT, **more}
    return Ask(name, "POST", CHAT, {key: value for key, value in body.items() if value is not None})


# Long enough that not all of its tokens come in one chunk.
STREAM: dict[str, t.Any] = {"stream": True, "max_tokens": 60}
USAGE: dict[str, t.Any] = {**STREAM, "stream_options": {"include_usage": True}}
CONTINUOUS: dict[str, t.Any] = {**STREAM, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
PARTS = [{"role": "user", "content": [{"type": "text", "text": "One instance per node"}]}]

REQUESTS: tuple[Ask, ...] = (
    # Without a key: open to everybody who reaches the port.
    Ask("health", "GET", "/health", key=None),
    Ask("health with a query", "GET", "/health?deep=1", key=None),
    Ask("health by HEAD", "HEAD", "/health", key=None),
    Ask("health by POST", "POST", "/health", key=None),
    Ask("ping", "GET", "/ping", key=None),
    Ask("ping by POST", "POST", "/ping", key=None),
    Ask("version", "GET", "/version", key=None),
    Ask("load when idle", "GET", "/load", key=None),
    Ask("a path that is not there", "GET", "/nowhere", key=None),
    Ask("a slash too many", "GET", "/health/", key=None),
    # The key.
    Ask("models", "GET", "/v1/models"),
    Ask("models without a key", "GET", "/v1/models", key=None),
    Ask("models with a wrong key", "GET", "/v1/models", key="sk-wrong"),
    Ask("models with another scheme", "GET", "/v1/models", key=None, headers={"Authorization": f"Basic {KEY}"}),
    Ask(
        "models with the scheme in capitals", "GET", "/v1/models", key=None, headers={"Authorization": f"BEARER {KEY}"}
    ),
    Ask("a path below /v1 that is not there", "GET", "/v1/nowhere"),
    Ask("the same without a key", "GET", "/v1/nowhere", key=None),
    Ask("a completion without a key", "POST", COMPLETIONS, {"prompt": "x"}, key=None),
    Ask("a completion by GET", "GET", COMPLETIONS),
    Ask("a chat by GET", "GET", CHAT),
    # Completions.
    completion("one token, as the readiness probe asks", prompt="1", max_tokens=1, ignore_eos=None),
    completion("a completion"),
    completion("a completion by its alias", model=ALIAS),
    completion("a completion of no named model", model=None),
    completion("a completion of token ids", prompt=[5, 6, 7]),
    completion("a completion of a list of one prompt", prompt=["One instance per node"]),
    completion("a completion with numbers as text", max_tokens="5"),
    dataclasses.replace(completion("a completion with a request id"), headers={"X-Request-Id": "numapin-1"}),
    completion("a completion of sixteen tokens by default", max_tokens=None),
    completion("a streamed completion", **STREAM),
    completion("a streamed completion with usage", **USAGE),
    completion("a streamed completion with continuous usage", **CONTINUOUS),
    completion("a streamed completion of one token", **{**USAGE, "max_tokens": 1}),
    # Chats.
    chat("a chat"),
    chat("a chat in parts", messages=PARTS),
    chat("a chat with max_completion_tokens", max_tokens=None, max_completion_tokens=5),
    chat("a streamed chat", **STREAM),
    chat("a streamed chat with usage", **USAGE),
    chat("a streamed chat with continuous usage", **CONTINUOUS),
    # What is refused.
    completion("a completion of an unknown model", model="nobody"),
    completion("a streamed completion of an unknown model", model="nobody", stream=True),
    chat("a chat of an unknown model", model="nobody"),
    Ask("a completion of bad JSON", "POST", COMPLETIONS, '{"prompt": '),
    Ask("a chat of bad JSON", "POST", CHAT, "not JSON"),
    Ask("a completion of a list", "POST", COMPLETIONS, []),
    Ask("a completion of nothing", "POST", COMPLETIONS, ""),
    Ask("a completion as plain text", "POST", COMPLETIONS, '{"prompt": "x"}', headers={"Content-Type": "text/plain"}),
    completion("a completion without a prompt", prompt=None),
    completion("a completion of an empty prompt", prompt=""),
    chat("a chat without messages", messages=None),
    chat("a chat whose messages are a text", messages="hello"),
    completion("max_tokens that is no number", max_tokens="many"),
    completion("max_tokens with a fraction", max_tokens=1.5),
    completion("max_tokens of 0", max_tokens=0),
    completion("max_tokens beyond the model's length", max_tokens=MAX_MODEL_LEN + 1),
    chat("max_completion_tokens beyond it", max_tokens=None, max_completion_tokens=MAX_MODEL_LEN + 1),
    completion("a prompt beyond it", prompt=[5] * (MAX_MODEL_LEN + 900)),
    completion("min_tokens above max_tokens", min_tokens=6),
    completion("a temperature below 0", temperature=-1),
    completion("a temperature above 2", temperature=3),
    completion("a temperature that is no number", temperature="warm"),
    completion("stream options without a stream", stream_options={"include_usage": True}),
    completion("stream options that are a list", stream=True, stream_options=[1]),
)
