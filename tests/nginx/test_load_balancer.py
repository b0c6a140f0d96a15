# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role's own configuration in a real nginx, in front of small HTTP servers on loopback.

Nothing is installed and no service is touched: nginx runs from a temporary directory. Needs the program nginx
(package nginx-light is enough).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.numapin.inference.tests.nginx.balancing import (
    NGINX,
    NO_NGINX,
    Backend,
    Balancer,
    free_port,
    instance,
    plan,
    play,
    running,
)

SECRET = "sk-never-in-a-log"

pytestmark = pytest.mark.skipif(NGINX is None, reason=NO_NGINX)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Balancer]:
    """Six models: two good instances; one busy; one gone; all gone; all busy; one that this run did not find ready."""
    backends = {
        "tiny-n0": Backend("tiny-n0"),
        "tiny-n1": Backend("tiny-n1"),
        "busy-n0": Backend("busy-n0", 503),
        "busy-n1": Backend("busy-n1"),
        "gone-n1": Backend("gone-n1"),
        "full-n0": Backend("full-n0", 503),
        "full-n1": Backend("full-n1", 503),
        "half-n0": Backend("half-n0"),
        "half-n1": Backend("half-n1"),
    }
    names = [f"{model}-n{node}" for model in ("tiny", "busy", "gone", "dead", "full", "half") for node in (0, 1)]
    instances = [
        instance(model, int(node), backends[name].server_port if name in backends else free_port())
        for name in names
        for model, node in [name.split("-n")]
    ]
    instances[0]["served_names"] = ["tiny", "team/tiny"]
    host = {
        "vllm_plan": plan("gpu1", "127.0.0.1", *instances),
        "vllm_ready_instances": [name for name in names if name != "half-n1"],
    }
    try:
        with running(
            tmp_path_factory.mktemp("fleet"),
            {"gpu1": host},
            backends,
            load_balancer_upstream_header=True,
            load_balancer_max_body_size="1m",
        ) as balancer:
            yield balancer
    finally:
        for backend in backends.values():
            backend.close()


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Balancer]:
    """One model with one instance, everything at its default."""
    backends = {"tiny-n0": Backend("tiny-n0")}
    host = {"vllm_plan": plan("gpu1", "127.0.0.1", instance("tiny", 0, backends["tiny-n0"].server_port))}
    try:
        with running(tmp_path_factory.mktemp("single"), {"gpu1": host}, backends) as balancer:
            yield balancer
    finally:
        backends["tiny-n0"].close()


# Workers


def worker_cpus(balancer: Balancer) -> list[str]:
    """The cpulist of every worker of a running nginx."""
    master = balancer.process.pid
    children = Path(f"/proc/{master}/task/{master}/children").read_text(encoding="utf-8").split()
    statuses = [Path(f"/proc/{pid}/status").read_text(encoding="utf-8") for pid in children]
    return sorted(re.findall(r"^Cpus_allowed_list:\s*(\S+)$", "\n".join(statuses), re.MULTILINE))


def test_workers_stay_on_the_cpus_that_the_plan_keeps_for_them(tmp_path: Path) -> None:
    allowed = sorted(os.sched_getaffinity(0))[-2:]
    host = {"vllm_plan": plan("gpu1", "127.0.0.1", instance("tiny", 0, free_port()))}
    variables = {
        "load_balancer_worker_processes": "auto",
        "__load_balancer_cpus": ",".join(str(cpu) for cpu in allowed),
    }
    with running(tmp_path, {"gpu1": host}, {}, **variables) as balancer:
        assert worker_cpus(balancer) == sorted(str(cpu) for cpu in allowed)


# Streams


def first_event(balancer: Balancer, path: str) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=5)
    connection.request("POST", path, b"{}")
    response = connection.getresponse()
    return connection, response, response.readline() + response.readline()


# Where the backend's answer is chunked, nginx passes small events on at once with and without proxy_buffering.
@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "until-close"])
def test_the_first_token_is_there_before_the_second_is_written(single: Balancer, chunked: bool) -> None:
    backend = single.backends["tiny-n0"]
    backend.chunked = chunked
    backend.go_on.clear()
    try:
        connection, response, event = first_event(single, "/v1/chat/completions")
        with contextlib.closing(connection):
            assert event == b"data: tiny-n0\n\n"
            backend.go_on.set()
            assert response.read() == b"data: [DONE]\n\n"
    finally:
        backend.chunked = True
        backend.go_on.set()


def test_a_stream_outlives_a_reload(single: Balancer) -> None:
    backend = single.backends["tiny-n0"]
    backend.go_on.clear()
    pid = int((single.directory / "nginx.pid").read_text(encoding="utf-8"))
    try:
        connection, response, event = first_event(single, "/v1/completions")
        with contextlib.closing(connection):
            assert event == b"data: tiny-n0\n\n"
            os.kill(pid, signal.SIGHUP)
            deadline = time.monotonic() + 10
            while "is shutting down" not in children_of(pid):
                assert time.monotonic() < deadline, "no worker of before the reload is left to finish the stream"
                time.sleep(0.05)
            backend.go_on.set()
            assert response.read() == b"data: [DONE]\n\n"
    finally:
        backend.go_on.set()
    deadline = time.monotonic() + 10
    while "is shutting down" in children_of(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def children_of(pid: int) -> str:
    """The command lines of nginx's workers, which say when they are shutting down."""
    return subprocess.run(
        ["ps", "--ppid", str(pid), "-o", "args="], check=False, capture_output=True, text=True, timeout=10
    ).stdout


# What reaches vLLM


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/metrics",
        "/tokenize",
        "/invocations",
        "/load",
        "/health",
        "/v1/load_lora_adapter",
        "/v1/chat/completions/",
        "/v1/chat/completionsx",
        "/V1/models",
        "/v1/../metrics",
        "/v1/models/..%2f..%2fmetrics",
        "/tiny/metrics",
        "/tiny/v1/",
        "/other/v1/models",
    ],
)
def test_other_paths_are_answered_with_404_and_reach_nobody(fleet: Balancer, path: str) -> None:
    seen = {name: len(backend.paths) for name, backend in fleet.backends.items()}
    status, headers, body = fleet.get(path)
    assert status == 404
    assert headers["content-type"] == "application/json"
    assert json.loads(body)["error"]["code"] == 404
    assert {name: len(backend.paths) for name, backend in fleet.backends.items()} == seen


@pytest.mark.parametrize("path", ["/v1/embeddings", "//v1///embeddings", "/v1/x/../embeddings", "/v1/%65mbeddings"])
def test_vllm_sees_the_allowed_path_however_it_was_written(single: Balancer, path: str) -> None:
    backend = single.backends["tiny-n0"]
    assert single.post(path + "?a=b")[0] == 200
    assert backend.paths[-1] == "/v1/embeddings?a=b"


def test_the_key_goes_through_and_into_no_file(single: Balancer) -> None:
    backend = single.backends["tiny-n0"]
    single.request("GET", f"/v1/models?key={SECRET}", headers={"Authorization": f"Bearer {SECRET}", "X-Key": SECRET})
    assert backend.headers[-1]["authorization"] == f"Bearer {SECRET}"
    assert single.logged("/v1/models")["status"] == 200
    with_secret = [
        str(path)
        for path in single.directory.rglob("*")
        if path.is_file() and SECRET in path.read_text(encoding="utf-8", errors="replace")
    ]
    assert with_secret == []


def test_nginx_gives_each_request_an_id_that_client_log_and_vllm_share(single: Balancer) -> None:
    backend = single.backends["tiny-n0"]
    _status, headers, _body = single.request("POST", "/v1/score", b"{}", {"X-Request-ID": "chosen by a client"})
    assert re.fullmatch("[0-9a-f]{32}", headers["x-request-id"])
    assert backend.headers[-1]["x-request-id"] == headers["x-request-id"]
    assert single.logged("/v1/score")["request_id"] == headers["x-request-id"]


def test_a_large_request_is_refused_in_json(fleet: Balancer) -> None:
    status, headers, body = fleet.post("/v1/completions", b"x" * (1024 * 1024 + 1))
    assert (status, headers["content-type"]) == (413, "application/json")
    assert json.loads(body)["error"]["message"] == "The request is larger than 1m."


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/completions", "POST"),
        ("PUT", "/tiny/v1/completions", "POST"),
        ("DELETE", "/v1/responses", "POST"),
        ("POST", "/tiny/v1/models", "GET, HEAD"),
        ("POST", "/v1/models", "GET, HEAD"),
    ],
)
def test_another_method_is_refused_and_reaches_nobody(fleet: Balancer, method: str, path: str, allow: str) -> None:
    seen = {name: len(backend.paths) for name, backend in fleet.backends.items()}
    status, headers, body = fleet.request(method, path, b"{}")
    assert (status, headers["allow"], headers["content-type"]) == (405, allow, "application/json")
    assert json.loads(body)["error"]["code"] == 405
    assert {name: len(backend.paths) for name, backend in fleet.backends.items()} == seen


def test_connections_to_vllm_are_kept(single: Balancer) -> None:
    backend = single.backends["tiny-n0"]
    before = backend.connections
    assert [single.get("/v1/models")[0] for _number in range(40)] == [200] * 40
    assert backend.connections - before <= 4, "two workers, one connection each, and what a reload left behind"


# Who answers


def test_both_instances_of_a_model_serve(fleet: Balancer) -> None:
    answers = {fleet.post("/v1/chat/completions")[2] for _number in range(20)}
    assert answers == {b"data: tiny-n0\n\ndata: [DONE]\n\n", b"data: tiny-n1\n\ndata: [DONE]\n\n"}


def test_a_busy_instance_hands_over(fleet: Balancer) -> None:
    results = [fleet.post("/busy/v1/chat/completions") for _number in range(10)]
    assert {(status, body) for status, _headers, body in results} == {(200, b"data: busy-n1\n\ndata: [DONE]\n\n")}
    assert fleet.backends["busy-n0"].paths, "nobody asked the busy one: this proves nothing"
    assert "503, 200" in {line["upstream_status"] for line in fleet.log() if line["pool"] == "numapin_busy"}


def test_an_instance_that_is_gone_hands_over(fleet: Balancer) -> None:
    results = [fleet.post("/gone/v1/chat/completions") for _number in range(10)]
    assert {(status, body) for status, _headers, body in results} == {(200, b"data: gone-n1\n\ndata: [DONE]\n\n")}
    assert any(", " in headers["x-numapin-upstream"] for _status, headers, _body in results), (
        "the gone one was never tried"
    )


def test_busy_everywhere_is_what_the_client_sees(fleet: Balancer) -> None:
    status, headers, body = fleet.post("/full/v1/chat/completions")
    assert (status, body, headers["retry-after"]) == (503, b'{"error":"busy"}', "2")


def test_gone_everywhere_is_said_in_json(fleet: Balancer) -> None:
    status, headers, body = fleet.post("/dead/v1/chat/completions")
    assert (status, headers["content-type"], headers["retry-after"]) == (502, "application/json", "2")
    assert json.loads(body)["error"]["code"] == 502


def test_nobody_left_to_ask_is_overload_and_not_a_broken_gateway(fleet: Balancer) -> None:
    """After three failures within ten seconds nginx asks no instance of the model: that is 503, try later."""
    answers = [fleet.post("/dead/v1/responses") for _number in range(12)]
    status, headers, body = answers[-1]
    assert (status, headers["content-type"], headers["retry-after"]) == (503, "application/json", "2")
    assert json.loads(body)["error"]["message"] == "No instance of this model is free now. Try again."


def test_an_instance_says_itself_when_to_come_back(single: Balancer) -> None:
    backend = single.backends["tiny-n0"]
    backend.status, backend.retry_after = 503, "17"
    try:
        status, headers, body = single.post("/v1/completions")
    finally:
        backend.status, backend.retry_after = 200, ""
    assert (status, headers["retry-after"], body) == (503, "17", b'{"error":"busy"}')


def test_what_was_not_ready_gets_nothing(fleet: Balancer) -> None:
    assert {fleet.post("/half/v1/completions")[2] for _number in range(10)} == {b"data: half-n0\n\ndata: [DONE]\n\n"}
    assert fleet.backends["half-n1"].paths == []


def test_the_upstream_header_is_there_when_asked_for(fleet: Balancer, single: Balancer) -> None:
    address = f"127.0.0.1:{fleet.backends['half-n0'].server_port}"
    assert fleet.get("/half/v1/models")[1]["x-numapin-upstream"] == address
    assert "x-numapin-upstream" not in single.get("/v1/models")[1]


# Several models


def test_the_first_model_answers_to_the_plain_paths(fleet: Balancer) -> None:
    assert b"data: tiny-" in fleet.post("/v1/completions")[2]
    assert fleet.logged("/v1/completions")["pool"] == "numapin_tiny"


def test_the_list_of_models_names_all(fleet: Balancer) -> None:
    status, headers, body = fleet.get("/v1/models")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert [model["id"] for model in json.loads(body)["data"]] == [
        "tiny", "team/tiny", "busy", "gone", "dead", "full", "half",
    ]  # fmt: skip


def test_one_model_lists_itself(single: Balancer) -> None:
    assert json.loads(single.get("/v1/models")[2]) == {"backend": "tiny-n0"}
    assert json.loads(single.get("/tiny/v1/models")[2]) == {"backend": "tiny-n0"}


# What is seen of it


def test_the_log_is_one_json_object_per_request(fleet: Balancer) -> None:
    fleet.request("POST", "/half/v1/responses", b"{}", {"User-Agent": 'quote " backslash \\ tab \t end'})
    line = fleet.logged("/half/v1/responses")
    assert line["status"] == 200
    assert line["complete"] == "OK"
    assert line["method"] == "POST"
    assert line["pool"] == "numapin_half"
    assert line["upstream"] == f"127.0.0.1:{fleet.backends['half-n0'].server_port}"
    assert line["upstream_status"] == "200"
    # nginx takes the two from two clocks of a millisecond, which do not tick together.
    assert 0 <= float(line["upstream_header_seconds"]) <= float(line["request_seconds"]) + 0.001 < 10
    assert line["user_agent"] == 'quote " backslash \\ tab \t end'
    assert line["response_bytes"] > 0


def test_health_of_the_balancer_itself(single: Balancer) -> None:
    assert single.get("/healthz")[0::2] == (200, b'{"status":"ok"}')
    assert "/healthz" not in {line["path"] for line in single.log()}


def test_loopback_tells_version_and_counters(single: Balancer, fleet: Balancer) -> None:
    assert re.fullmatch("[0-9a-f]{16}", single.version() or "")
    assert single.version() != fleet.version()
    assert b"Active connections" in single.request("GET", "/stub_status", port=single.status_port)[2]
    assert single.get("/version")[0] == 404
    assert single.get("/stub_status")[0] == 404


# What is rendered, and what is refused


HOSTS = {
    "gpu1": {"vllm_plan": plan("gpu1", "192.0.2.1", instance("big", 0, 8000, weight=4))},
    "gpu2": {"vllm_plan": plan("gpu2", "2001:db8::2", instance("big", 0, 8000, weight=2), instance("small", 0, 8001))},
}


def test_several_balancers_choose_at_random_and_weights_are_the_plans(tmp_path: Path) -> None:
    result = play(
        tmp_path, HOSTS, {"load_balancer_default_model": "small", "load_balancer_user": "nobody"}, balancers=2
    )
    assert result.returncode == 0, result.stdout
    upstreams = (tmp_path / "etc/numapin/upstreams.conf").read_text(encoding="utf-8")
    assert upstreams.count("random two least_conn;") == 2
    assert "server 192.0.2.1:8000 weight=4 max_fails=3 fail_timeout=10s; # big-n0 on gpu1" in upstreams
    assert "server [2001:db8::2]:8000 weight=2 max_fails=3 fail_timeout=10s; # big-n0 on gpu2" in upstreams
    server = (tmp_path / "etc/numapin/server.conf").read_text(encoding="utf-8")
    assert re.search(r"location = /v1/completions \{[^}]*\}\s+proxy_pass http://numapin_small/v1/completions;", server)
    assert re.search(
        r"location = /big/v1/completions \{[^}]*\}\s+proxy_pass http://numapin_big/v1/completions;", server
    )


def test_settings_that_nginx_cannot_serve_are_refused_all_at_once(tmp_path: Path) -> None:
    result = play(
        tmp_path,
        HOSTS,
        {
            "load_balancer_allowed_paths": ["/v1/models", "/metrics", "/v1/x; } location / {"],
            "load_balancer_default_model": "huge",
            "load_balancer_listen_address": "balancer.example",
            "load_balancer_max_body_size": "64 MB",
            "load_balancer_port": 8081,
            "load_balancer_tries": 0,
            "load_balancer_error_log": "stderr",
        },
    )
    assert result.returncode != 0
    for words in (
        'load_balancer_allowed_paths has \\"/metrics\\"',
        'load_balancer_allowed_paths has \\"/v1/x; } location / {\\"',
        "load_balancer_default_model is huge, which is not planned. Planned are: big, small.",
        'load_balancer_listen_address is \\"balancer.example\\"',
        'load_balancer_max_body_size is \\"64 MB\\"',
        "load_balancer_port and load_balancer_status_port are both 8081",
        "load_balancer_tries is 0",
        'load_balancer_error_log is \\"stderr\\"',
    ):
        assert words in result.stdout
    assert not (tmp_path / "etc").exists()


def test_a_host_without_a_plan_is_not_lost_silently(tmp_path: Path) -> None:
    hosts = {**HOSTS, "gpu3": {}}
    refused = play(tmp_path / "fail", hosts, {})
    assert refused.returncode != 0
    assert "No plan for gpu3: " in refused.stdout
    assert "load_balancer_missing_hosts to omit" in refused.stdout
    omitted = play(tmp_path / "omit", hosts, {"load_balancer_missing_hosts": "omit", "load_balancer_user": "nobody"})
    assert omitted.returncode == 0, omitted.stdout
    assert "gpu3" not in (tmp_path / "omit/etc/numapin/upstreams.conf").read_text(encoding="utf-8")


def test_one_address_for_two_hosts_is_refused(tmp_path: Path) -> None:
    hosts = {name: {"vllm_plan": plan(name, "192.0.2.1", instance("big", 0, 8000))} for name in ("gpu1", "gpu2")}
    result = play(tmp_path, hosts, {})
    assert result.returncode != 0
    assert "big-n0 on gpu1 and big-n0 on gpu2 have the same endpoint 192.0.2.1:8000" in result.stdout + result.stderr
