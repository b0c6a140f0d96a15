# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Takes out of an answer what must differ between two engines, and nothing else.

Ids keep their prefix, times and versions become words, text becomes TEXT, prompt tokens become N and a total that is
their sum becomes SUM. A stream becomes its chunks without repetitions: how many tokens come in one chunk is chance.
"""

from __future__ import annotations

import json
import re
import typing as t

_ID = re.compile(r"^(cmpl|chatcmpl|modelperm)-[0-9a-f]{16}$")
_TEXT_KEYS = ("text", "content")


def answer(status: int, headers: t.Mapping[str, str], body: bytes) -> dict[str, t.Any]:
    """Status, the headers that mean something to a client, and the body."""
    names = ("content-type", "allow", "location", "transfer-encoding", "www-authenticate", "server")
    kept = {name: headers[name] for name in names if name in headers}
    if "location" in kept:
        kept["location"] = re.sub(r"^http://[^/]+", "http://HOST", kept["location"])
    return {"status": status, "headers": kept, "body": content(kept.get("content-type", ""), body)}


def content(media_type: str, body: bytes) -> t.Any:
    """A body: JSON, a stream of events, or text."""
    text = body.decode("utf-8", "replace")
    if not text:
        return ""
    if media_type.startswith("text/event-stream"):
        return events(text)
    if media_type.startswith("application/json"):
        return value(json.loads(text))
    return text


def events(text: str) -> list[t.Any]:
    """The events of a stream, each kind once as long as it repeats."""
    found: list[t.Any] = []
    for block in text.split("\n\n"):
        if not block:
            continue
        data = block.removeprefix("data: ")
        event = data if data == "[DONE]" else _counted_loosely(value(json.loads(data)))
        if not found or found[-1] != event:
            found.append(event)
    return found


def _counted_loosely(event: t.Any) -> t.Any:
    """Usage inside a chunk that is not the last: how far it had come is chance."""
    if event.get("usage") and event.get("choices") and not event["choices"][0].get("finish_reason"):
        event["usage"] = dict.fromkeys(event["usage"], "SO FAR")
    return event


def value(given: t.Any, key: str = "") -> t.Any:
    """One value below a key."""
    if isinstance(given, dict):
        return _usage(given) if "prompt_tokens" in given else {name: value(given[name], name) for name in given}
    if isinstance(given, list):
        return [value(item, key) for item in given]
    if key == "id" and isinstance(given, str) and _ID.match(given):
        return _ID.sub(r"\1-ID", given)
    if key in ("created", "version", "system_fingerprint", "root") and given is not None:
        return f"{key.upper()} ({type(given).__name__})"
    if key in _TEXT_KEYS and isinstance(given, str):
        return "TEXT"
    return given


def _usage(given: dict[str, t.Any]) -> dict[str, t.Any]:
    told = dict(given)
    prompt, completion = given["prompt_tokens"], given.get("completion_tokens") or 0
    if isinstance(prompt, int) and prompt > 0:
        told["prompt_tokens"] = "N"
    if given.get("total_tokens") == prompt + completion:
        told["total_tokens"] = "SUM"
    return told


def metric_shapes(page: str) -> dict[str, t.Any]:
    """What ``/metrics`` offers of vLLM: types and labels; no help and no numbers."""
    shapes: dict[str, dict[str, t.Any]] = {}
    for line in page.splitlines():
        if line.startswith("# TYPE vllm:"):
            words = line.split(" ")
            shapes.setdefault(words[2], {})["type"] = words[3]
        elif line.startswith("vllm:"):
            name, labels, _number = sample(line)
            shape = shapes.setdefault(name, {})
            # The values of the cache's configuration are the machine's.
            told = (
                sorted(labels)
                if name == "vllm:cache_config_info"
                else [f"{key}={labels[key]}" for key in sorted(labels)]
            )
            shape.setdefault("samples", []).append(", ".join(told))
    for shape in shapes.values():
        shape["samples"] = sorted(set(shape.get("samples", [])))
    return shapes


def sample(line: str) -> tuple[str, dict[str, str], float]:
    """Name, labels and value of one line."""
    head, _space, number = line.rpartition(" ")
    name, _brace, inner = head.partition("{")
    return name, dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', inner)), float(number)


def sums(page: str) -> dict[str, float]:
    """The numbers by name and, where there is one, finished reason."""
    found: dict[str, float] = {}
    for line in page.splitlines():
        if line.startswith("vllm:"):
            name, labels, number = sample(line)
            reason = labels.get("finished_reason")
            key = f"{name} {reason}" if reason else name
            found[key] = found.get(key, 0.0) + number
    return found
