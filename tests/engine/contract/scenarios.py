# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is compared: every scenario returns plain JSON. Those of SERVING ask one server that stays up, the others start
and stop their own.
"""

from __future__ import annotations

import collections.abc as c
import http.client
import os
import re
import signal
import socket
import time
import typing as t

from contract import normal
from contract.questions import CHAT, COMPLETIONS, EXACT, REQUESTS, USAGE, Ask, completion
from contract.server import ContractError, Conversation, Endpoint, Engine, Running, running, send

# More than any engine makes while a scenario looks at it, and less than the model's length.
LONG = 4000
DRAIN_SECONDS = 60
END_SECONDS = 90.0


def all_of(engine: Engine, say: t.Callable[[str], None]) -> dict[str, t.Any]:
    """Every scenario by name."""
    found: dict[str, t.Any] = {}
    with running(engine) as server:
        say("asking the requests")
        try:
            found.update(serving(server.endpoint))
        except (OSError, http.client.HTTPException) as error:
            raise ContractError(f"the engine answers no more ({error}):\n{server.tail(200)}") from error
        say("SIGTERM when idle")
        server.terminate()
        found["SIGTERM when idle"] = {"exit status": server.wait(END_SECONDS)}
    for name, scenario in OWN_SERVER.items():
        say(name)
        try:
            found[name] = scenario(engine)
        except ContractError as error:
            # The others are worth asking all the same.
            found[name] = {"could not be asked": str(error)}
    return found


def serving(endpoint: Endpoint) -> dict[str, t.Any]:
    """What a server that is up is asked."""
    found: dict[str, t.Any] = {f"request: {ask.name}": answered(endpoint, ask) for ask in REQUESTS}
    for name, scenario in SERVING.items():
        found[name] = scenario(endpoint)
    return found


def answered(endpoint: Endpoint, question: Ask) -> t.Any:
    """One request's answer, normalised."""
    try:
        return normal.answer(*endpoint.ask(question))
    except (OSError, http.client.HTTPException) as error:
        return {"no answer": type(error).__name__}


def until(seconds: float, holds: t.Callable[[], bool]) -> bool:
    """Whether something came to hold in time."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


# On a server that stays up


def keep_alive(endpoint: Endpoint) -> t.Any:
    """Two requests on one connection; one that asks for its end; what is no HTTP."""
    connection = endpoint.open()
    send(connection, Ask("health", "GET", "/health"))
    first = connection.getresponse()
    first.read()
    before = connection.sock
    send(connection, completion("again"))
    second = connection.getresponse()
    second.read()
    same = connection.sock is before and before is not None
    send(connection, Ask("last", "GET", "/version", headers={"Connection": "close"}))
    last = connection.getresponse()
    last.read()
    connection.close()
    raw = endpoint.open()
    raw.connect()
    raw.sock.sendall(b"this is no HTTP\r\n\r\n")
    said = raw.sock.recv(4096).decode("latin-1")
    raw.close()
    return {
        "statuses": [first.status, second.status, last.status],
        "same connection": same,
        "connection headers": [first.headers.get("connection"), last.headers.get("connection")],
        "no HTTP": [said.split("\r\n")[0], said.rpartition("\r\n")[2]],
    }


def load_counts(endpoint: Endpoint) -> t.Any:
    """``/load`` before, during and after a stream."""
    before = endpoint.text("/load")
    stream = Conversation(endpoint, long_stream())
    stream.start()
    stream.begun.wait(60)
    during = endpoint.text("/load")
    stream.join(120)
    return {
        "before": before,
        "during": during,
        "0 afterwards": until(10, lambda: endpoint.text("/load") == before),
    }


def metrics_page(endpoint: Endpoint) -> t.Any:
    """Names, types and labels of ``/metrics``, and what one completion of five tokens adds."""
    _status, headers, body = endpoint.ask(Ask("metrics", "GET", "/metrics", key=None))
    page = body.decode()
    before = normal.sums(page)
    endpoint.ask(completion("to be counted"))
    wanted = {"vllm:generation_tokens_total": 5.0, "vllm:request_success_total length": 1.0}
    wanted |= {"vllm:e2e_request_latency_seconds_count": 1.0, "vllm:request_generation_tokens_sum": 5.0}

    def added(name: str) -> float:
        return normal.sums(endpoint.text("/metrics"))[name] - before.get(name, 0.0)

    idle = ("vllm:num_requests_running", "vllm:num_requests_waiting")
    return {
        "content type": headers.get("content-type"),
        "shapes": normal.metric_shapes(page),
        # mypy cannot infer a lambda that binds a loop's name by its default.
        "added": {name: until(15, lambda name=name: added(name) == wanted[name]) for name in wanted},  # type: ignore[misc]
        "prompt tokens added": until(15, lambda: added("vllm:prompt_tokens_total") > 0),
        "idle in the end": {
            # As above.
            name: until(15, lambda name=name: normal.sums(endpoint.text("/metrics"))[name] == 0)  # type: ignore[misc]
            for name in idle
        },
    }


def client_leaves(endpoint: Endpoint) -> t.Any:
    """A client that closes its connection in the middle of a stream: the request is given up."""
    connection = endpoint.open()
    send(connection, long_stream())
    response = connection.getresponse()
    response.readline()
    # Not response.close() alone, which leaves the connection as it is.
    connection.close()
    response.close()
    return {
        "running again 0": until(30, lambda: normal.sums(endpoint.text("/metrics"))["vllm:num_requests_running"] == 0)
    }


def long_stream(tokens: int = LONG, path: str = COMPLETIONS) -> Ask:
    """A stream that takes its time."""
    what = {"prompt": "1"} if path == COMPLETIONS else {"messages": [{"role": "user", "content": "1"}]}
    return Ask("long", "POST", path, {**what, **EXACT, **USAGE, "max_tokens": tokens, "min_tokens": tokens})


def long_whole() -> Ask:
    """The same in one piece."""
    return Ask("long", "POST", COMPLETIONS, {"prompt": "1", "max_tokens": LONG, "min_tokens": LONG, **EXACT})


SERVING: dict[str, t.Callable[[Endpoint], t.Any]] = {
    "connections": keep_alive,
    "load": load_counts,
    "metrics": metrics_page,
    "a client that leaves": client_leaves,
}


# With a server of its own


def under_way(server: Running) -> dict[str, Conversation]:
    """A streamed completion, a streamed chat and a completion in one piece, all begun."""
    asked = {
        "a streamed completion": long_stream(),
        "a streamed chat": long_stream(path=CHAT),
        "a completion in one piece": long_whole(),
    }
    conversations = {name: Conversation(server.endpoint, question) for name, question in asked.items()}
    for conversation in conversations.values():
        conversation.start()
    for name, conversation in conversations.items():
        if name != "a completion in one piece" and not (conversation.begun.wait(60) and conversation.status == 200):
            raise ContractError(f"{name} did not begin: {conversation.status} {conversation.broken}\n{server.tail()}")
    # Nothing tells that the one in one piece has begun as well.
    time.sleep(0.2)
    return conversations


def endings(conversations: c.Mapping[str, Conversation]) -> dict[str, t.Any]:
    """How each ended. ``complete`` is whether it had all its tokens."""
    found = {}
    for name, conversation in conversations.items():
        conversation.join(END_SECONDS)
        body = conversation.body
        found[name] = {
            "status": conversation.status,
            "ended": not conversation.is_alive(),
            "connection broke": conversation.broken,
            "complete": f'"completion_tokens":{LONG}'.encode() in body,
            "body": cut(normal.content(conversation.media_type, body)) if body else None,
        }
    return found


def cut(content: t.Any) -> t.Any:
    """The number of tokens of an answer that was cut is chance."""
    if isinstance(content, dict):
        return {
            key: "CHANCE" if key == "completion_tokens" and value != LONG else cut(value)
            for key, value in content.items()
        }
    return [cut(item) for item in content] if isinstance(content, list) else content


def abort(engine: Engine) -> t.Any:
    """SIGTERM with ``shutdown-timeout: 0``."""
    with running(engine) as server:
        conversations = under_way(server)
        server.terminate()
        return {**endings(conversations), "exit status": server.wait(END_SECONDS)}


def drain(engine: Engine) -> t.Any:
    """SIGTERM with a shutdown timeout: what runs goes on, and what is asked meanwhile."""
    with running(engine, shutdown_timeout=DRAIN_SECONDS) as server:
        conversations = under_way(server)
        server.terminate()
        time.sleep(0.3)
        meanwhile = {
            ask.name: answered(server.endpoint, ask)
            for ask in (
                Ask("health", "GET", "/health", key=None),
                Ask("models", "GET", "/v1/models"),
                completion("a new completion"),
                completion("a new stream", stream=True),
                Ask("a new chat", "POST", CHAT, {"messages": [{"role": "user", "content": "1"}], "max_tokens": 1}),
                completion("a new completion of an unknown model", model="nobody"),
            )
        }
        still = all(conversation.is_alive() for conversation in conversations.values())
        return {
            "answers were still under way": still,
            "meanwhile": meanwhile,
            **endings(conversations),
            "exit status": server.wait(END_SECONDS),
        }


def engine_killed(engine: Engine) -> t.Any:
    """``kill -9`` of EngineCore: how answers end, what health says, and that the server ends too."""
    with running(engine) as server:
        conversations = under_way(server)
        os.kill(server.descendant("VLLM::EngineCore"), signal.SIGKILL)
        found = endings(conversations)
        # It ends at its next look: health is asked as long as it answers.
        said = answered(server.endpoint, Ask("health", "GET", "/health", key=None))
        ended = server.wait(END_SECONDS)
        return {**found, "health is not 200": said.get("status") != 200, "exit status": ended}


def processes(engine: Engine) -> t.Any:
    """Which processes there are, by title, and that they have several threads."""
    with running(engine) as server:
        pids = {name: server.descendant(f"VLLM::{name}") for name in ("EngineCore", "Worker")}
        return {name: {"several threads": threads(pid) > 1} for name, pid in pids.items()}


def threads(pid: int) -> int:
    """How many threads a process has."""
    return len(os.listdir(f"/proc/{pid}/task"))


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be collected does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="latin-1") as handle:
            return handle.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def refused_option(option: str) -> t.Callable[[Engine], t.Any]:
    """A start that argparse refuses: exit status and the line that says why."""

    def scenario(engine: Engine) -> t.Any:
        with running(engine, option, healthy=False) as server:
            status = server.wait(END_SECONDS)
            lines = [re.sub(r"^.*?: error: ", "PROGRAM: error: ", line) for line in server.log().splitlines()]
            return {"exit status": status, "says": [line for line in lines if line.startswith("PROGRAM: error: ")]}

    return scenario


def too_long(engine: Engine) -> t.Any:
    """A model length beyond the model's own, which tests/containers' model knows."""
    with running(engine, healthy=False, max_model_len=9_999_999) as server:
        status = server.wait(END_SECONDS)
        said = re.findall(r"User-specified max_model_len .*? in model's config.json\)\.", server.log())
        return {"exit status": status, "says": said[:1]}


def port_taken(engine: Engine) -> t.Any:
    """Another program has the port."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with running(engine, healthy=False, port=int(other.getsockname()[1])) as server:
            status = server.wait(END_SECONDS)
            return {"exit status": status, "says so": "Address already in use" in server.log()}


OWN_SERVER: dict[str, t.Callable[[Engine], t.Any]] = {
    "SIGTERM without a shutdown timeout": abort,
    "SIGTERM with a shutdown timeout": drain,
    "EngineCore is killed": engine_killed,
    "processes": processes,
    "a port that is no number": refused_option("--port=http"),
    "a tensor-parallel size that is no number": refused_option("--tensor-parallel-size=two"),
    "a switch that is given a value": refused_option("--enforce-eager=yes"),
    "a length beyond the model's": too_long,
    "a port that is taken": port_taken,
}
