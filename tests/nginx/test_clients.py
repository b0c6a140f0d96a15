# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""TLS, keys and limits in a real nginx: who gets in, how much each may ask, and what changes under running streams."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import ssl
import stat
import subprocess
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ansible_collections.numapin.inference.tests.nginx.balancing import (
    NGINX,
    NO_NGINX,
    Backend,
    Balancer,
    instance,
    key_module,
    plan,
    play,
    running,
    trusting,
)

pytestmark = [
    pytest.mark.skipif(NGINX is None, reason=NO_NGINX),
    pytest.mark.skipif(not key_module(), reason="KEYS ARE NOT TESTED: run this with tools/nginx, which fetches njs"),
]

ALICE, BOB, CAROL, DAVE = (f"sk-{name}-0123456789abcdefghijklmn" for name in ("alice", "bob", "carol", "dave"))
NEW = "sk-alice-second-0123456789abcdefgh"
ENGINE = "engine-key-that-no-client-knows"
CLIENTS: list[dict[str, t.Any]] = [
    {"name": "alice", "keys": [ALICE]},
    # Nobody needs to hold a client's key but the client.
    {"name": "bob", "sha256": [hashlib.sha256(BOB.encode()).hexdigest()], "requests_per_second": 1, "burst": 3},
    {"name": "carol", "keys": [CAROL], "streams": 2},
    {"name": "dave", "keys": [DAVE], "requests_per_second": 1, "burst": 3},
]


def hosts_of(backends: dict[str, Backend]) -> dict[str, dict[str, t.Any]]:
    instances = [
        instance("tiny", 0, backends["tiny-n0"].server_port),
        instance("other", 0, backends["other"].server_port),
    ]
    return {"gpu1": {"vllm_plan": plan("gpu1", "127.0.0.1", *instances), "vllm_api_key": ENGINE}}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Balancer]:
    backends = {"tiny-n0": Backend("tiny-n0"), "other": Backend("other")}
    try:
        with running(
            tmp_path_factory.mktemp("guarded"),
            hosts_of(backends),
            backends,
            load_balancer_tls=True,
            load_balancer_tls_self_signed=True,
            load_balancer_hsts_seconds=63072000,
            load_balancer_keys=CLIENTS,
        ) as balancer:
            yield balancer
    finally:
        for backend in backends.values():
            backend.close()


def ask(
    balancer: Balancer, key: str, path: str = "/v1/completions", header: str = "Authorization"
) -> tuple[int, dict[str, str], bytes]:
    value = f"Bearer {key}" if header == "Authorization" else key
    return balancer.request("POST", path, b"{}", {header: value} if key else {}, balancer.tls_port)


def error_of(body: bytes) -> dict[str, t.Any]:
    """The error in OpenAI's format, whole."""
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return t.cast("dict[str, t.Any]", error)


@contextlib.contextmanager
def streaming(balancer: Balancer, key: str, path: str = "/v1/completions") -> t.Iterator[t.Callable[[], bytes]]:
    """An answer that has begun: what is yielded lets it end and returns the rest. The backend waits until then."""
    backend = balancer.backends["tiny-n0"]
    backend.go_on.clear()
    connection = balancer.connect(balancer.tls_port)

    def rest() -> bytes:
        backend.go_on.set()
        return response.read()

    try:
        connection.request("POST", path, b"{}", {"Authorization": f"Bearer {key}"})
        response = connection.getresponse()
        assert response.status == 200
        assert response.readline() + response.readline() == b"data: tiny-n0\n\n"
        yield rest
    finally:
        backend.go_on.set()
        connection.close()


# TLS


def handshake(balancer: Balancer, context: ssl.SSLContext) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", balancer.tls_port), timeout=10)
    return context.wrap_socket(raw, server_hostname="localhost")


def served_certificate(balancer: Balancer) -> bytes:
    with handshake(balancer, trusting()) as connection:
        return connection.getpeercert(binary_form=True) or b""


def test_plain_http_leads_to_tls_with_method_and_body_kept(guarded: Balancer) -> None:
    status, headers, _body = guarded.post("/v1/completions?a=b")
    assert (status, headers["location"]) == (308, f"https://127.0.0.1:{guarded.tls_port}/v1/completions?a=b")
    assert not any(path.endswith("?a=b") for path in guarded.backends["tiny-n0"].paths)


def test_old_protocols_are_refused_and_new_ones_offer_http2(guarded: Balancer) -> None:
    for version, name in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")):
        context = trusting()
        context.minimum_version = context.maximum_version = version
        context.set_alpn_protocols(["h2", "http/1.1"])
        with handshake(guarded, context) as connection:
            assert (connection.version(), connection.selected_alpn_protocol()) == (name, "h2")


def test_a_scanner_finds_nothing_weak(guarded: Balancer) -> None:
    """sslscan has a TLS library of its own that still can do what the client's refuse by themselves."""
    scan = subprocess.run(
        ["sslscan", "--no-colour", "--no-check-certificate", f"127.0.0.1:{guarded.tls_port}"],
        check=True, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
    ).stdout  # fmt: skip
    for old in ("SSLv2", "SSLv3", "TLSv1.0", "TLSv1.1"):
        assert any(line.split() == [old, "disabled"] for line in scan.splitlines()), scan
    for good in ("TLSv1.2", "TLSv1.3"):
        assert any(line.split() == [good, "enabled"] for line in scan.splitlines()), scan
    assert "not vulnerable to heartbleed" in scan
    assert "Secure session renegotiation supported" in scan or "Session renegotiation not supported" in scan
    accepted = [line for line in scan.splitlines() if line.startswith(("Preferred", "Accepted"))]
    assert len(accepted) >= 4
    for line in accepted:
        assert any(word in line for word in ("TLS_AES_", "TLS_CHACHA20_", "ECDHE-")), line
        assert any(word in line for word in ("GCM", "POLY1305")), line


def test_browsers_are_told_to_stay_with_tls(guarded: Balancer) -> None:
    assert ask(guarded, ALICE)[1]["strict-transport-security"] == "max-age=63072000"
    assert ask(guarded, "")[1]["strict-transport-security"] == "max-age=63072000"


# Keys


@pytest.mark.parametrize(
    "key", ["", ALICE[:-1], ALICE + "x", ALICE.upper(), "x", hashlib.sha256(ALICE.encode()).hexdigest()]
)
def test_without_the_right_key_nobody_is_asked(guarded: Balancer, key: str) -> None:
    seen = len(guarded.backends["tiny-n0"].paths)
    status, headers, body = ask(guarded, key)
    assert (status, headers["content-type"], headers["www-authenticate"]) == (
        401,
        "application/json",
        'Bearer realm="models"',
    )
    assert error_of(body)["code"] == "invalid_api_key"
    assert len(guarded.backends["tiny-n0"].paths) == seen


def test_the_list_of_models_wants_a_key_too(guarded: Balancer) -> None:
    assert guarded.request("GET", "/v1/models", port=guarded.tls_port)[0] == 401
    header = {"Authorization": f"Bearer {ALICE}"}
    status, _headers, body = guarded.request("GET", "/v1/models", headers=header, port=guarded.tls_port)
    assert (status, [model["id"] for model in json.loads(body)["data"]]) == (200, ["tiny", "other"])


def test_other_paths_are_404_with_a_key_and_without(guarded: Balancer) -> None:
    for key in ("", ALICE):
        assert ask(guarded, key, "/metrics")[0] == 404


@pytest.mark.parametrize("header", ["Authorization", "X-Api-Key"])
def test_the_clients_key_ends_at_nginx_and_vllm_sees_its_own(guarded: Balancer, header: str) -> None:
    assert ask(guarded, ALICE, "/v1/messages", header)[0] == 200
    seen = guarded.backends["tiny-n0"].headers[-1]
    assert seen["authorization"] == f"Bearer {ENGINE}"
    assert "x-api-key" not in seen
    assert ALICE not in str(seen)


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (f"bearer {ALICE}", 200),
        (f"BEARER   {ALICE}", 200),
        (f"Bearer {ALICE} {ALICE}", 401),
        (f"Bearer{ALICE}", 401),
        (f"Basic {ALICE}", 401),
        (ALICE, 401),
        ("Bearer", 401),
    ],
)
def test_how_a_key_may_be_said(guarded: Balancer, authorization: str, status: int) -> None:
    header = {"Authorization": authorization}
    assert guarded.request("POST", "/v1/completions", b"{}", header, guarded.tls_port)[0] == status


def test_the_log_names_the_client(guarded: Balancer) -> None:
    ask(guarded, ALICE, "/v1/embeddings")
    line = guarded.logged("/v1/embeddings")
    assert (line["key"], line["tls"], line["status"]) == ("alice", "TLSv1.3", 200)
    ask(guarded, "nobody's", "/v1/rerank")
    assert guarded.logged("/v1/rerank")["key"] == ""


def test_no_file_holds_a_clients_key_and_others_may_read_no_secret(guarded: Balancer) -> None:
    for key in (ALICE, BOB, CAROL):
        ask(guarded, key)
    configuration = [path for path in guarded.directory.rglob("*") if path.is_file() and path.name != "variables.json"]
    texts = {path: path.read_text(encoding="utf-8", errors="replace") for path in configuration}
    for key in (ALICE, BOB, CAROL, DAVE):
        assert [path for path, text in texts.items() if key in text] == []
    # The inventory of this test is how the role is told the instances' key.
    with_engine = {path.name for path, text in texts.items() if ENGINE in text} - {"inventory.json"}
    assert with_engine == {"vllm_key.conf"}
    private = {path.name for path in configuration if stat.S_IMODE(path.stat().st_mode) == 0o600}
    assert {"keys.conf", "vllm_key.conf", "certificate.key"} <= private
    command_lines = subprocess.run(["ps", "-e", "-o", "args="], check=True, capture_output=True, text=True, timeout=10)
    for key in (ALICE, BOB, CAROL, DAVE, ENGINE):
        assert key not in command_lines.stdout


# Limits


def test_a_rate_is_each_clients_own(guarded: Balancer) -> None:
    answers = [ask(guarded, BOB) for _number in range(8)]
    assert [status for status, _headers, _body in answers].count(200) in (3, 4, 5)
    status, headers, body = answers[-1]
    assert (status, headers["retry-after"], headers["content-type"]) == (429, "1", "application/json")
    assert error_of(body)["code"] == "rate_limit_exceeded"
    assert ask(guarded, DAVE)[0] == 200, "dave shares the zone, not the count"
    assert {ask(guarded, ALICE)[0] for _number in range(20)} == {200}


def test_streams_at_once_are_bounded(guarded: Balancer) -> None:
    with streaming(guarded, CAROL) as rest:
        backend = guarded.backends["tiny-n0"]
        with ThreadPoolExecutor(1) as pool:
            second = pool.submit(ask, guarded, CAROL)
            deadline = time.monotonic() + 10
            while backend.waiting < 2:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            status, headers, body = ask(guarded, CAROL)
            assert (status, headers["retry-after"]) == (429, "1")
            assert error_of(body)["code"] == "rate_limit_exceeded"
            assert rest() == b"data: [DONE]\n\n"
            assert second.result(10)[0] == 200
    assert ask(guarded, CAROL)[0] == 200


# What changes under running streams


def test_keys_and_certificate_change_and_a_stream_goes_on(guarded: Balancer) -> None:
    """One after the other: a second key beside the first, then the first taken back, with another certificate."""
    directory = guarded.directory / "etc" / "numapin"
    certificate = (directory / "certificate.pem").read_bytes()
    first = served_certificate(guarded)
    hosts = hosts_of(guarded.backends)
    both = [{"name": "alice", "keys": [ALICE, NEW]}, *CLIENTS[1:]]
    with streaming(guarded, ALICE) as rest:
        guarded.reload(hosts, load_balancer_keys=both)
        assert (directory / "certificate.pem").read_bytes() == certificate, "a self-signed certificate is made once"
        assert served_certificate(guarded) == first
        guarded.backends["tiny-n0"].go_on.set()
        assert (ask(guarded, ALICE)[0], ask(guarded, NEW)[0]) == (200, 200)
        guarded.backends["tiny-n0"].go_on.clear()

        made = guarded.directory / "renewed"
        made.mkdir()
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=renewed", "-days", "2",
             "-keyout", str(made / "key.pem"), "-out", str(made / "cert.pem")],
            check=True, capture_output=True, timeout=30,
        )  # fmt: skip
        guarded.reload(
            hosts,
            load_balancer_keys=[{"name": "alice", "keys": [NEW]}, *CLIENTS[1:]],
            load_balancer_tls_self_signed=False,
            load_balancer_tls_certificate=(made / "cert.pem").read_text(encoding="utf-8"),
            load_balancer_tls_key=(made / "key.pem").read_text(encoding="utf-8"),
        )
        assert served_certificate(guarded) == ssl.PEM_cert_to_DER_cert((made / "cert.pem").read_text(encoding="utf-8"))
        guarded.backends["tiny-n0"].go_on.set()
        assert (ask(guarded, ALICE)[0], ask(guarded, NEW)[0]) == (401, 200)
        assert rest() == b"data: [DONE]\n\n"


# What is refused


def test_unusable_settings_are_refused_without_a_key_in_the_message(tmp_path: Path) -> None:
    hosts = {"gpu1": {"vllm_plan": plan("gpu1", "192.0.2.1", instance("big", 0, 8000)), "vllm_api_key": ENGINE + "$x"}}
    result = play(
        tmp_path,
        hosts,
        {
            "load_balancer_tls": True,
            "load_balancer_tls_port": 8081,
            "load_balancer_tls_certificate": "no certificate",
            "load_balancer_tls_key_file": "relative.key",
            "load_balancer_keys": CLIENTS,
            "load_balancer_method": "session",
            "load_balancer_get_paths": ["/v1/other"],
            "load_balancer_location_snippet": "proxy_send_timeout 5s; proxy_set_header X-Mine 1;",
        },
    )
    assert result.returncode != 0
    for words in (
        "load_balancer_status_port and load_balancer_tls_port are both 8081",
        "load_balancer_tls needs one certificate",
        "load_balancer_tls_certificate is no certificate",
        "load_balancer_tls_key is no private key",
        'load_balancer_tls_key_file is \\"relative.key\\"',
        'load_balancer_get_paths has \\"/v1/other\\"',
        "load_balancer_location_snippet has proxy_set_header",
        "has characters that nginx cannot send as they are",
        "load_balancer_method is session, and load_balancer_max_requests is 0",
    ):
        assert words in result.stdout, result.stdout
    for secret in (ENGINE, ALICE, CAROL):
        assert secret not in result.stdout + result.stderr


def test_unusable_keys_are_refused_without_a_key_in_the_message(tmp_path: Path) -> None:
    hosts = {"gpu1": {"vllm_plan": plan("gpu1", "192.0.2.1", instance("big", 0, 8000))}}
    clients = [
        {"name": "alice", "keys": ["short-secret"]},
        {"name": "bob", "keys": [CAROL]},
        {"name": "carol", "keys": [CAROL]},
    ]
    result = play(tmp_path, hosts, {"load_balancer_keys": clients})
    output = result.stdout + result.stderr
    assert result.returncode != 0
    assert "key 1 of alice has 12 characters, 24 are the least" in output
    assert "bob and carol have the same key" in output
    assert "short-secret" not in output
    assert CAROL not in output
