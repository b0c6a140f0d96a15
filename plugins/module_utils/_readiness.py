# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Whether an instance really serves: its unit, its ``/health``, its model's name, and one token of a completion.

``/health`` alone proves little: it goes on answering 200 when an accelerator hangs.
"""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
import typing as t
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, replace

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._systemd import Systemd, Unit

READY, LOADING, FAILED, ABSENT = "ready", "loading", "failed", "absent"

_POLL_SECONDS = 1.0
_QUICK_SECONDS = 5.0
_COMPLETION_SECONDS = 30.0
_MAX_ANSWER_BYTES = 1 << 20
_JOURNAL_LINES = 400
_CAUSE_LINES = 12
_LAST_LINES = 20
_LONGEST_LINE = 500


class ReadinessError(NumapinError):
    """The question cannot be asked this way."""


@dataclass(frozen=True)
class Instance:
    """What is asked: ``url`` is where the instance listens (``http://IP:PORT``), ``model`` the name it must serve.

    ``restarts`` that systemd had counted when the wait began are history and not held against the instance.
    """

    name: str
    unit: str
    url: str
    model: str
    restarts: int = 0


@dataclass(frozen=True)
class Answer:
    """How an instance is. ``seconds`` is how long this call watched it; ``log`` has lines when it is not ready."""

    name: str
    unit: str
    state: str = LOADING
    detail: str = ""
    seconds: float = 0
    restarts: int = 0
    log: tuple[str, ...] = ()


@dataclass(frozen=True)
class Probe:
    """What one look over HTTP found. ``final``: waiting longer will not change it."""

    ready: bool
    detail: str
    final: bool = False


def check_instances(instances: t.Sequence[Instance]) -> None:
    """Refuse what cannot be an instance; ReadinessError."""
    names: set[str] = set()
    for instance in instances:
        if instance.name in names:
            raise ReadinessError(f"instance {instance.name!r} is given twice: every instance has its own name")
        names.add(instance.name)
        try:
            parts = urllib.parse.urlsplit(instance.url)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port is not None
        except ValueError:
            good = False
            parts = urllib.parse.SplitResult("", "", "", "", "")
        if not good or parts.path.strip("/") or parts.query or parts.fragment or parts.username:
            raise ReadinessError(
                f"instance {instance.name!r}: url {instance.url!r} must be where it listens, such as http://192.0.2.11:8000"
            )


def wait_until_ready(
    instances: t.Sequence[Instance],
    systemd: Systemd,
    *,
    api_key: str | None = None,
    timeout_seconds: float,
    restarts_allowed: int = 0,
    clock: t.Callable[[], float] = time.monotonic,
    sleep: t.Callable[[float], None] = time.sleep,
) -> list[Answer]:
    """Watch all instances until each is ready or absent, one has failed, or ``timeout_seconds`` are over."""
    start = clock()
    answers = {instance.name: Answer(instance.name, instance.unit) for instance in instances}
    allowed = {instance.name: instance.restarts + restarts_allowed for instance in instances}
    proved: dict[str, str] = {}  # name -> invocation of its unit that was found ready
    while True:
        units = systemd.show([instance.unit for instance in instances])
        open_questions: list[Instance] = []
        for instance in instances:
            unit = units[instance.unit]
            answers[instance.name] = _by_unit(answers[instance.name], unit, allowed[instance.name])
            if unit.up and proved.get(instance.name) != unit.invocation_id:
                open_questions.append(instance)
            elif not unit.up:
                proved.pop(instance.name, None)
        left = start + timeout_seconds - clock()
        for name, (probe, answered) in _probe_all(open_questions, api_key, max(left, 1.0), clock).items():
            unit = units[answers[name].unit]
            answers[name] = replace(
                _by_probe(answers[name], probe, unit, allowed[name]), seconds=round(answered - start, 1)
            )
            if probe.ready:
                proved[name] = unit.invocation_id
        seconds = clock() - start
        for name, answer in answers.items():
            if answer.state != READY:
                answers[name] = replace(answer, seconds=round(seconds, 1))
        states = [answer.state for answer in answers.values()]
        if FAILED in states or LOADING not in states or seconds >= timeout_seconds:
            break
        sleep(min(_POLL_SECONDS, max(timeout_seconds - seconds, 0.0)))
    return [_with_log(answers[instance.name], systemd, api_key) for instance in instances]


def summary(answers: t.Sequence[Answer]) -> str:
    """One line for people who wait."""
    ready = sum(answer.state == READY for answer in answers)
    rest = "; ".join(f"{answer.name} {answer.state}: {answer.detail}" for answer in answers if answer.state != READY)
    return f"{ready} of {len(answers)} ready" + (f"; {rest}" if rest else "")


def _by_unit(answer: Answer, unit: Unit, restarts_allowed: int) -> Answer:
    """What the unit alone says. One whose process is up is loading, unless it was already found ready."""
    # systemd counts a restart when it begins, so the failure it waits after is not counted yet.
    failures = unit.restarts + (1 if unit.waits_for_restart else 0)
    answer = replace(answer, restarts=unit.restarts)
    if unit.load_state == "not-found":
        return replace(answer, state=ABSENT, detail=f"{unit.name} does not exist")
    if unit.active_state == "failed" or (unit.waits_for_restart and failures > restarts_allowed):
        return replace(answer, state=FAILED, detail=f"{unit.state}, result {unit.result}")
    if unit.down:
        return replace(answer, state=ABSENT, detail=f"{unit.name} is not running: {unit.state}")
    if not unit.up or answer.state != READY:
        return replace(answer, state=LOADING, detail=f"{unit.state}, nothing has answered yet")
    return answer


def _by_probe(answer: Answer, probe: Probe, unit: Unit, restarts_allowed: int) -> Answer:
    if probe.ready:
        return replace(answer, state=READY, detail=probe.detail)
    if probe.final:
        return replace(answer, state=FAILED, detail=probe.detail)
    if unit.restarts > restarts_allowed:
        return replace(answer, state=FAILED, detail=f"restarted {unit.restarts} times, {probe.detail}")
    return replace(answer, state=LOADING, detail=probe.detail)


def _with_log(answer: Answer, systemd: Systemd, api_key: str | None) -> Answer:
    def redact(text: str) -> str:
        return text.replace(api_key, "(secret)") if api_key else text

    answer = replace(answer, detail=redact(answer.detail))
    if answer.state not in (FAILED, LOADING):
        return answer
    journal = [(invocation, redact(text)) for invocation, text in systemd.journal(answer.unit, _JOURNAL_LINES)]
    if answer.state == LOADING:
        # What an earlier start logged would only mislead.
        journal = [line for line in journal if line[0] == journal[-1][0]]
    last = [_shorten(text) for _invocation, text in journal[-_LAST_LINES:]]
    if answer.state == LOADING:
        return replace(answer, log=tuple(last))
    cause = find_cause(journal)
    detail = f"{answer.detail}: {cause[0]}" if cause else answer.detail
    return replace(answer, detail=detail, log=(*cause, *(["..."] if cause else []), *last))


# Over HTTP


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """vLLM redirects nothing; following would carry the API key elsewhere."""

    def redirect_request(self, *_args: t.Any, **_kwargs: t.Any) -> None:
        return None


# An instance is asked directly, whatever proxies the environment names.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())


def _probe_all(
    instances: t.Sequence[Instance], api_key: str | None, seconds: float, clock: t.Callable[[], float]
) -> dict[str, tuple[Probe, float]]:
    """Look at all at once, so that none waits for another; what was found of each, and when."""
    found: dict[str, tuple[Probe, float]] = {}

    def look(instance: Instance) -> None:
        probe = probe_instance(instance, api_key, seconds)
        found[instance.name] = (probe, clock())

    threads = [threading.Thread(target=look, args=(instance,), daemon=True) for instance in instances]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds + 1
    for thread in threads:
        thread.join(max(end - time.monotonic(), 0))
    late = Probe(False, f"it did not answer within {seconds:.0f} s")
    return {instance.name: found.get(instance.name, (late, clock())) for instance in instances}


def probe_instance(instance: Instance, api_key: str | None, seconds: float) -> Probe:
    """One look: /health, then the model's name, then one token. Each request gets at most ``seconds``."""
    quick, slow = min(_QUICK_SECONDS, seconds), min(_COMPLETION_SECONDS, seconds)
    base = instance.url.rstrip("/")
    status, body = request(base + "/health", None, None, quick)
    if status != 200:
        return Probe(False, _said("/health", status, body, quick))
    status, body = request(base + "/v1/models", api_key, None, quick)
    if status in (401, 403):
        return Probe(False, f"/v1/models answers {status}: the API key is not the one it was started with", final=True)
    if status != 200:
        return Probe(False, _said("/v1/models", status, body, quick))
    served = _served_names(body)
    if instance.model not in served:
        names = ", ".join(served) or "nothing"
        return Probe(False, f"it serves {names}, not {instance.model}", final=True)
    question = {"model": instance.model, "prompt": "1", "max_tokens": 1, "temperature": 0}
    status, body = request(base + "/v1/completions", api_key, question, slow)
    if status in (400, 404):
        # Embedding and scoring models complete nothing.
        return Probe(True, f"serves {instance.model}; no completion was tried, it offers none (HTTP {status})")
    if status != 200:
        return Probe(False, _said("a one-token completion", status, body, slow))
    tokens = _completion_tokens(body)
    if tokens != 1:
        return Probe(
            False, f"a one-token completion came back with {'no count of' if tokens is None else tokens} tokens"
        )
    return Probe(True, f"serves {instance.model}, one token came back")


def request(url: str, api_key: str | None, question: dict[str, t.Any] | None, seconds: float) -> tuple[int, str]:
    """HTTP status and text of the answer; status 0 and the reason when there was none."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    data = None
    if question is not None:
        data = json.dumps(question).encode()
        headers["Content-Type"] = "application/json"
    try:
        request = urllib.request.Request(url, data=data, headers=headers)
        with _OPENER.open(request, timeout=seconds) as response:
            return response.status, response.read(_MAX_ANSWER_BYTES).decode(errors="replace")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""
    except urllib.error.URLError as error:
        return 0, _reason(error.reason)
    except (OSError, http.client.HTTPException) as error:
        return 0, _reason(error)
    except ValueError:  # a key with a line break, an address that is none
        return 0, "the request could not be made"


def _reason(reason: object) -> str:
    if isinstance(reason, TimeoutError) or "timed out" in str(reason):
        return "timeout"
    if isinstance(reason, ConnectionRefusedError):
        return "refused"
    return str(getattr(reason, "strerror", None) or reason or type(reason).__name__)


def _said(what: str, status: int, reason: str, seconds: float) -> str:
    if status:
        return f"{what} answers {status}"
    if reason == "refused":
        return "it does not listen yet"
    if reason == "timeout":
        return f"{what} did not answer within {seconds:.0f} s"
    return f"{what} did not answer: {reason}"


def _served_names(body: str) -> list[str]:
    try:
        return [str(model["id"]) for model in json.loads(body)["data"]]
    except (ValueError, KeyError, TypeError):
        return []


def _completion_tokens(body: str) -> int | None:
    try:
        answer = json.loads(body)
        return int(answer["usage"]["completion_tokens"]) if answer["choices"] else 0
    except (ValueError, KeyError, TypeError):
        return None


# Why it failed

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_LOG_LINE = re.compile(
    r"(?P<process>\([\w .:=-]+ pid=\d+\) ?)?"
    r"(?:(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL):? +(?:\d\d-\d\d \d\d:\d\d:\d\d )?(?:\[[^\]]*\] ?)?)?(?P<text>.*)"
)
_TRACEBACK = "Traceback (most recent call last):"
_USAGE_ERROR = re.compile(r"^[\w.@/ -]+: error: ")
# v1/executor/multiproc_executor.py; a negative exit code is the signal that ended it, -9 often the kernel's for memory.
_DIED = re.compile(r"\bWorker proc \S+ died unexpectedly")
_NOT_EXECUTED = re.compile(r"Failed at step|Failed to (locate executable|load environment|spawn)|No module named")


@dataclass(frozen=True)
class _Line:
    process: str
    level: str
    text: str


def find_cause(journal: t.Sequence[tuple[str, str]]) -> list[str]:
    """The lines of (invocation, text) that say why; of the last invocation that has any.

    vLLM's last lines only say ``Engine core initialization failed. See root cause above``: the cause is where the first
    traceback of that start ends; but when a process died, the tracebacks are only those of its mourners. Else it is
    what argparse or systemd refused, or the first line logged as an error.
    """
    invocations = list(dict.fromkeys(invocation for invocation, _text in journal))
    for invocation in reversed(invocations):
        lines = [_parse_line(text) for of, text in journal if of == invocation]
        cause = (
            _first(lines, lambda line: bool(_DIED.search(line.text)))
            or _end_of_first_traceback(lines)
            or _first(lines, lambda line: bool(_USAGE_ERROR.search(line.text)))
            or _first(lines, lambda line: bool(_NOT_EXECUTED.search(line.text)))
            or _first(lines, lambda line: line.level in ("ERROR", "CRITICAL"))
        )
        if cause:
            return [_shorten(line) for line in cause[:_CAUSE_LINES]]
    return []


def _parse_line(text: str) -> _Line:
    match = _LOG_LINE.fullmatch(_ANSI.sub("", text).rstrip("\n"))
    if match is None:
        return _Line("", "", text)
    return _Line((match["process"] or "").strip(), match["level"] or "", match["text"])


def _end_of_first_traceback(lines: t.Sequence[_Line]) -> list[str]:
    for start, line in enumerate(lines):
        if _TRACEBACK in line.text and line.level in ("", "ERROR", "CRITICAL"):
            # Several processes log at once: only lines of the same one belong to it.
            rest = [
                other.text for other in lines[start + 1 :] if (other.process, other.level) == (line.process, line.level)
            ]
            frames = 0
            while frames < len(rest) and (not rest[frames].strip() or rest[frames].startswith(" ")):
                frames += 1
            message = rest[frames : frames + 1]
            for text in rest[frames + 1 :]:
                if not text.strip() or _TRACEBACK in text or not text.startswith(" "):
                    break
                message.append(text)
            return message
    return []


def _first(lines: t.Sequence[_Line], matches: t.Callable[[_Line], bool]) -> list[str]:
    return next(([line.text] for line in lines if matches(line)), [])


def _shorten(text: str) -> str:
    text = _ANSI.sub("", text)
    return text if len(text) <= _LONGEST_LINE else text[: _LONGEST_LINE - 2] + " …"
