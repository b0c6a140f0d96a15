# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role's own configuration in a real nginx, in front of small HTTP servers on loopback.

Nothing is installed and no service is touched: nginx runs from a temporary directory. Needs the program nginx
(package nginx-light is enough).
"""

from __future__ import annotations

import contextlib
import getpass
import http.client
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import typing as t
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
SECRET = "sk-never-in-a-log"

pytestmark = pytest.mark.skipif(
    NGINX is None, reason="THE BALANCER IS NOT TESTED: there is no nginx here (apt-get install nginx-light)"
)


# The other side of nginx


class Backend(http.server.ThreadingHTTPServer):
    """What stands for one instance. ``status`` is what it answers; a POST is answered as a stream of two events.

    The second event is sent only after ``go_on`` was set: whoever reads the first one before that reads unbuffered.
    """

    daemon_threads = True

    def __init__(self, name: str, status: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.name = name
        self.status = status
        self.chunked = True  # False: the end of the connection is the end of the answer
        self.go_on = threading.Event()
        self.go_on.set()
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.connections = 0
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()

    def process_request(self, request: t.Any, client_address: t.Any) -> None:
        self.connections += 1
        super().process_request(request, client_address)

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self.thread.join(5)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Backend
    timeout = 10

    # The name of the argument is that of http.server (A002).
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def _note(self) -> None:
        self.server.paths.append(self.path)
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})

    def do_GET(self) -> None:
        self._note()
        self._answer(self.server.status, json.dumps({"backend": self.server.name}).encode())

    def do_POST(self) -> None:
        self._note()
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.status != 200:
            self._answer(self.server.status, b'{"error":"busy"}')
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        chunked = self.server.chunked
        self.send_header(*(("Transfer-Encoding", "chunked") if chunked else ("Connection", "close")))
        self.end_headers()
        self._event(f"data: {self.server.name}\n\n".encode(), chunked)
        self.server.go_on.wait(10)
        self._event(b"data: [DONE]\n\n", chunked)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _event(self, data: bytes, chunked: bool) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data) if chunked else data)
        self.wfile.flush()

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def instance(model: str, number: int, port: int, **more: t.Any) -> dict[str, t.Any]:
    return {"name": f"{model}-n{number}", "model": model, "served_names": [model], "port": port, "weight": 1, **more}


def plan(host: str, address: str, *instances: dict[str, t.Any]) -> dict[str, t.Any]:
    return {"host": host, "address": address, "instances": list(instances), "warnings": []}


# The role


def play(
    directory: Path, hosts: dict[str, dict[str, t.Any]], variables: dict[str, t.Any], balancers: int = 1
) -> subprocess.CompletedProcess[str]:
    """Render the configuration for ``hosts`` (inventory variables by inference host) into ``directory``/etc."""
    directory.mkdir(parents=True, exist_ok=True)
    names = ["balancer", *(f"balancer{number}" for number in range(2, balancers + 1))]
    inventory = {
        "all": {
            "children": {
                "inference": {"hosts": hosts},
                "load_balancers": {"hosts": dict.fromkeys(names)},
            }
        }
    }
    (directory / "inventory.json").write_text(json.dumps(inventory), encoding="utf-8")
    (directory / "variables.json").write_text(
        json.dumps({"rendered_directory": str(directory / "etc"), **variables}), encoding="utf-8"
    )
    return subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            "--inventory", str(directory / "inventory.json"), "--limit", "balancer",
            "--extra-vars", f"@{directory / 'variables.json'}",
            str(Path(__file__).with_name("render.yml")),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        cwd=directory,
        env={
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "build" / "dev"),
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_RETRY_FILES_ENABLED": "false",
            "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        },
    )  # fmt: skip


def nginx_variables(directory: Path, **more: t.Any) -> dict[str, t.Any]:
    """The variables that make nginx run from ``directory``, as whoever runs this."""
    temporary = "".join(
        f"{kind}_temp_path {directory}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return {
        "load_balancer_listen_address": "127.0.0.1",
        "load_balancer_port": free_port(),
        "load_balancer_status_port": free_port(),
        "load_balancer_access_log": f"{directory}/access.log",
        "load_balancer_error_log": f"{directory}/error.log",
        "load_balancer_user": getpass.getuser(),
        "load_balancer_worker_processes": "2",
        "load_balancer_worker_connections": 256,
        "load_balancer_worker_rlimit_nofile": 1024,
        "load_balancer_http_snippet": temporary,
        "__load_balancer_directory": f"{directory}/etc",
        "__load_balancer_pid_file": f"{directory}/nginx.pid",
        **more,
    }


@dataclass
class Balancer:
    """A running nginx."""

    directory: Path
    port: int
    status_port: int
    process: subprocess.Popen[bytes]
    backends: dict[str, Backend] = field(default_factory=dict)

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None, port: int = 0
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (names in small letters) and body of one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=15)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()

    def get(self, path: str) -> tuple[int, dict[str, str], bytes]:
        return self.request("GET", path)

    def post(self, path: str, body: bytes = b"{}") -> tuple[int, dict[str, str], bytes]:
        return self.request("POST", path, body)

    def version(self) -> str | None:
        try:
            status, _headers, body = self.request("GET", "/version", port=self.status_port)
        except OSError:
            return None
        return body.decode().strip() if status == 200 else None

    def log(self) -> list[dict[str, t.Any]]:
        return [json.loads(line) for line in (self.directory / "access.log").read_text(encoding="utf-8").splitlines()]

    def logged(self, path: str) -> dict[str, t.Any]:
        """The last log line of ``path``; nginx writes it after the answer."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            lines = [line for line in self.log() if line["path"] == path]
            if lines:
                return lines[-1]
            time.sleep(0.02)
        raise AssertionError(f"{path} was not logged")


@contextlib.contextmanager
def running(
    directory: Path, hosts: dict[str, dict[str, t.Any]], backends: dict[str, Backend], **variables: t.Any
) -> t.Iterator[Balancer]:
    assert NGINX is not None
    settings = nginx_variables(directory, **variables)
    result = play(directory, hosts, settings)
    assert result.returncode == 0, result.stdout + result.stderr
    command = [NGINX, "-p", str(directory), "-c", str(directory / "etc" / "nginx.conf")]
    test = subprocess.run([*command, "-t", "-q"], check=False, capture_output=True, text=True, timeout=20)
    assert test.returncode == 0, test.stderr
    process = subprocess.Popen([*command, "-g", "daemon off;"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    balancer = Balancer(
        directory, settings["load_balancer_port"], settings["load_balancer_status_port"], process, backends
    )
    try:
        deadline = time.monotonic() + 10
        while balancer.version() is None:
            assert process.poll() is None, (directory / "error.log").read_text(encoding="utf-8")
            assert time.monotonic() < deadline, "nginx does not answer"
            time.sleep(0.05)
        yield balancer
    finally:
        process.terminate()
        process.wait(10)


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
    assert single.get(path + "?a=b")[0] == 200
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
    _status, headers, _body = single.request("GET", "/v1/score", headers={"X-Request-ID": "chosen by a client"})
    assert re.fullmatch("[0-9a-f]{32}", headers["x-request-id"])
    assert backend.headers[-1]["x-request-id"] == headers["x-request-id"]
    assert single.logged("/v1/score")["request_id"] == headers["x-request-id"]


def test_a_large_request_is_refused_in_json(fleet: Balancer) -> None:
    status, headers, body = fleet.post("/v1/completions", b"x" * (1024 * 1024 + 1))
    assert (status, headers["content-type"]) == (413, "application/json")
    assert json.loads(body)["error"]["message"] == "The request is larger than 1m."


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
    assert "location = /v1/completions {\n        proxy_pass http://numapin_small/v1/completions;" in server
    assert "location = /big/v1/completions {\n        proxy_pass http://numapin_big/v1/completions;" in server


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
