# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What tests of the balancer share: servers that stand for instances, the role's configuration in a real nginx."""

from __future__ import annotations

import contextlib
import getpass
import http.client
import http.server
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import typing as t
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
NO_NGINX = "THE BALANCER IS NOT TESTED: there is no nginx here (apt-get install nginx-light)"


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
        self.retry_after = ""
        self.chunked = True  # False: the end of the connection is the end of the answer
        self.waiting = 0  # answers that have begun and not ended
        self.go_on = threading.Event()
        self.go_on.set()
        self.counting = threading.Lock()
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
        with self.server.counting:
            self.server.waiting += 1
        self.server.go_on.wait(10)
        with self.server.counting:
            self.server.waiting -= 1
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
        if self.server.retry_after:
            self.send_header("Retry-After", self.server.retry_after)
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
    directory: Path,
    hosts: dict[str, dict[str, t.Any]],
    variables: dict[str, t.Any],
    balancers: int | dict[str, dict[str, t.Any]] = 1,
) -> subprocess.CompletedProcess[str]:
    """Render the configuration for ``hosts`` (inventory variables by inference host) into ``directory``/etc.

    With ``balancers`` by name and their inventory variables, each is rendered into ``directory``/NAME.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if isinstance(balancers, dict):
        names = {name: {**more, "rendered_directory": str(directory / name)} for name, more in balancers.items()}
        limit = "load_balancers"
    else:
        names = {"balancer": {"rendered_directory": str(directory / "etc")}}
        names.update({f"balancer{number}": {} for number in range(2, balancers + 1)})
        limit = "balancer"
    inventory = {
        "all": {
            # An nginx of which nothing is known, unless a balancer or ``variables`` say more.
            "vars": {"__load_balancer_nginx": {"rc": 0, "stderr": "", "stdout_lines": []}},
            "children": {
                "inference": {"hosts": hosts},
                "load_balancers": {"hosts": names},
            },
        }
    }
    (directory / "inventory.json").write_text(json.dumps(inventory), encoding="utf-8")
    (directory / "variables.json").write_text(json.dumps(variables), encoding="utf-8")
    return subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            "--inventory", str(directory / "inventory.json"), "--limit", limit,
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


def build_of(nginx: str) -> str:
    """What ``nginx -V`` says."""
    return subprocess.run([nginx, "-V"], check=True, capture_output=True, text=True, timeout=20).stderr


def key_module() -> list[str]:
    """The module that hashes keys, where tools/nginx or the distribution has put it."""
    places = [os.environ.get("NUMAPIN_NGINX_MODULES", ""), "/usr/lib/nginx/modules", "/usr/lib64/nginx/modules"]
    return [f"{place}/ngx_http_js_module.so" for place in places if Path(place, "ngx_http_js_module.so").is_file()][:1]


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
        "load_balancer_tls_port": free_port(),
        "__load_balancer_nginx": {"rc": 0, "stderr": build_of(NGINX or "nginx"), "stdout_lines": key_module()},
        "__load_balancer_directory": f"{directory}/etc",
        "__load_balancer_pid_file": f"{directory}/nginx.pid",
        **more,
    }


def trusting() -> ssl.SSLContext:
    """A client's context that takes every certificate: what is tested is not who signed it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@dataclass
class Balancer:
    """A running nginx."""

    directory: Path
    port: int
    status_port: int
    tls_port: int
    process: subprocess.Popen[bytes]
    settings: dict[str, t.Any]
    backends: dict[str, Backend] = field(default_factory=dict)

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None, port: int = 0
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (names in small letters) and body of one request on a connection of its own."""
        connection = self.connect(port or self.port)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()

    def connect(self, port: int) -> http.client.HTTPConnection:
        """A connection; with TLS, whoever signed, when ``port`` is the one with TLS."""
        if port != self.tls_port:
            return http.client.HTTPConnection("127.0.0.1", port, timeout=15)
        return http.client.HTTPSConnection("127.0.0.1", port, timeout=15, context=trusting())

    def reload(self, hosts: dict[str, dict[str, t.Any]], **variables: t.Any) -> None:
        """Render anew with changed ``variables``, reload, and wait as the role does, for the version that answers."""
        before = self.version()
        result = play(self.directory, hosts, {**self.settings, **variables})
        assert result.returncode == 0, result.stdout + result.stderr
        os.kill(int((self.directory / "nginx.pid").read_text(encoding="utf-8")), signal.SIGHUP)
        deadline = time.monotonic() + 10
        while self.version() == before:
            assert time.monotonic() < deadline, (self.directory / "error.log").read_text(encoding="utf-8")
            time.sleep(0.05)

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
    port, status_port, tls_port = (settings[f"load_balancer_{name}port"] for name in ("", "status_", "tls_"))
    balancer = Balancer(directory, port, status_port, tls_port, process, settings, backends)
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
