# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One configuration for nginx 1.18 to 1.31: each version gets what it can do, and those that are here accept it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

from ansible_collections.numapin.inference.tests.nginx.balancing import (
    NGINX,
    NO_NGINX,
    ROOT,
    instance,
    key_module,
    nginx_variables,
    plan,
    play,
)

pytestmark = pytest.mark.skipif(NGINX is None, reason=NO_NGINX)

VERSIONS = ("1.18.0", "1.20.1", "1.22.1", "1.24.0", "1.26.3", "1.28.0", "1.29.7", "1.31.0")
# What tools/nginx-releases unpacks: whole roots of distributions with an nginx of their own.
RELEASES = sorted(path for path in (ROOT / ".cache" / "nginx-releases").glob("*") if (path / "usr/sbin/nginx").exists())
HOSTS = {"gpu1": {"vllm_plan": plan("gpu1", "192.0.2.1", instance("big", 0, 8000), instance("big", 1, 8001, weight=4))}}
EVERYTHING: dict[str, t.Any] = {
    "load_balancer_tls": True,
    "load_balancer_hardening": True,
    "load_balancer_hsts_seconds": 1,
    "load_balancer_method": "session",
    "load_balancer_max_requests": 16,
    "load_balancer_streams": 8,
    "load_balancer_requests_per_second": 5,
    "load_balancer_keys": [
        {"name": "alice", "sha256": ["0" * 64]},
        {"name": "bob", "sha256": ["1" * 64], "streams": 2},
    ],
    "load_balancer_location_snippet": "proxy_send_timeout 30s;",
    "load_balancer_server_snippet": "proxy_set_header X-Of-Mine 1;",
}


def nginx_of(version: str, modules: list[str]) -> dict[str, t.Any]:
    """What the role knows of a host's nginx."""
    return {
        "rc": 0,
        "stderr": f"nginx version: nginx/{version}\nconfigure arguments: --user=www-data",
        "stdout_lines": modules,
    }


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of one balancer for each version, of one for each real nginx, and of two bare ones."""
    directory = tmp_path_factory.mktemp("versions")
    assert NGINX is not None
    balancers: dict[str, dict[str, t.Any]] = {
        version: {
            **EVERYTHING,
            "__load_balancer_nginx": nginx_of(version, []),
            "__load_balancer_directory": f"{directory}/{version}",
        }
        for version in VERSIONS
    }
    here = nginx_variables(directory)
    balancers["here"] = {**here, **EVERYTHING, "__load_balancer_directory": f"{directory}/here"}
    balancers["bare"] = {**here, "__load_balancer_directory": f"{directory}/bare", "load_balancer_streams": 4}
    for release in RELEASES:
        module = "ngx_http_js_module.so"
        if not (release / "usr/lib/nginx/modules" / module).exists():
            module = "ngx_http_perl_module.so"
        balancers[release.name] = {
            **EVERYTHING,
            "load_balancer_key_module": "perl" if "perl" in module else "njs",
            "__load_balancer_nginx": nginx_of(version_of(release), [f"/usr/lib/nginx/modules/{module}"]),
            "__load_balancer_directory": "/etc/nginx",
        }
    texts = certificate(directory)
    result = play(directory, HOSTS, {"load_balancer_user": "root", **texts}, balancers=balancers)
    assert result.returncode == 0, result.stdout + result.stderr
    return directory


def certificate(directory: Path) -> dict[str, str]:
    """A certificate and its key as the role's variables."""
    names = {"load_balancer_tls_certificate": "-out", "load_balancer_tls_key": "-keyout"}
    paths = {name: directory / f"{name}.pem" for name in names}
    written = [word for name, option in names.items() for word in (option, str(paths[name]))]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test", "-days", "2", *written],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    return {name: path.read_text(encoding="utf-8") for name, path in paths.items()}


def version_of(release: Path) -> str:
    said = subprocess.run(
        ["chroot", str(release), "/usr/sbin/nginx", "-v"], check=True, capture_output=True, text=True, timeout=20
    ).stderr
    return said.strip().rpartition("/")[2]


@pytest.mark.parametrize("version", VERSIONS)
def test_http2_is_said_as_the_version_wants_it(rendered: Path, version: str) -> None:
    server = (rendered / version / "numapin/server.conf").read_text(encoding="utf-8")
    new = tuple(int(part) for part in version.split(".")) >= (1, 25, 1)
    assert ("    http2 on;" in server) == new
    assert bool(re.search(r"listen 0\.0\.0\.0:443 ssl http2 default_server;", server)) != new


def test_the_rest_is_the_same_for_all(rendered: Path) -> None:
    """A directive that only some have would have to be seen here."""
    texts = set()
    for version in VERSIONS:
        files = ("nginx.conf", "numapin/server.conf", "numapin/upstreams.conf", "numapin/tls.conf", "numapin/keys.conf")
        text = "".join((rendered / version / file).read_text(encoding="utf-8") for file in files)
        texts.add(text.replace("    http2 on;\n", "").replace(" ssl http2 ", " ssl ").replace(version, "VERSION"))
    assert len(texts) == 1


def test_sessions_are_hashed_with_a_bound_for_each_weight(rendered: Path) -> None:
    upstreams = (rendered / "1.18.0/numapin/upstreams.conf").read_text(encoding="utf-8")
    assert "map $http_x_session_id $numapin_session {" in upstreams
    assert "hash $numapin_session consistent;" in upstreams
    assert "server 192.0.2.1:8000 weight=1 max_conns=16 max_fails=3 fail_timeout=10s; # big-n0 on gpu1" in upstreams
    assert "server 192.0.2.1:8001 weight=4 max_conns=64 max_fails=3 fail_timeout=10s; # big-n1 on gpu1" in upstreams


def complaints(stderr: str) -> list[str]:
    """What nginx warns of or stops at; njs tells at the level notice that it is there."""
    return [line for line in stderr.splitlines() if "[notice]" not in line]


@pytest.mark.parametrize("name", ["here", "bare"])
def test_this_nginx_accepts_it(rendered: Path, name: str) -> None:
    if name == "here" and not key_module():
        pytest.skip("run this with tools/nginx, which fetches njs")
    assert NGINX is not None
    test = subprocess.run(
        [NGINX, "-t", "-q", "-p", str(rendered), "-c", str(rendered / name / "nginx.conf")],
        check=False, capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert complaints(test.stderr) == []
    assert test.returncode == 0


@pytest.mark.parametrize("name", ["here", "bare"])
def test_a_reader_of_configurations_finds_nothing_unsafe(rendered: Path, name: str) -> None:
    """Buffering off is what streams need; everything else gixy knows of is looked for."""
    gixy = [str(Path(sys.executable).with_name("gixy")), "-f", "json", str(rendered / name / "nginx.conf")]
    everything = subprocess.run(gixy, check=False, capture_output=True, text=True, timeout=60)
    assert {finding["plugin"] for finding in json.loads(everything.stdout)} == {"proxy_buffering_off"}


# Debian's and nginx.org's, as far as it decides what the service may do.
PACKAGED_UNIT = """
[Service]
Type=forking
PIDFile=/run/nginx.pid
ExecStart=/usr/sbin/nginx -g 'daemon on; master_process on;'
"""


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")
def test_the_unit_is_kept_to_what_it_needs(rendered: Path) -> None:
    drop_in = (rendered / "here" / "around_etc_systemd_system_nginx.service.d_numapin.conf").read_text(encoding="utf-8")
    unit = rendered / "nginx.service"
    unit.write_text(PACKAGED_UNIT + drop_in, encoding="utf-8")
    said = subprocess.run(
        ["systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=30", str(unit)],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if "unrecognized option" in said.stderr:
        pytest.skip("this systemd-analyze is older than 250")
    assert said.returncode == 0, said.stdout


@pytest.mark.skipif(not RELEASES or os.geteuid() != 0, reason="no other nginx here (as root: tools/nginx-releases)")
@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.name)
def test_real_ones_of_other_releases_accept_it(rendered: Path, release: Path) -> None:
    staged = release / "tmp" / "numapin"
    shutil.rmtree(staged, ignore_errors=True)
    shutil.copytree(rendered / release.name, staged)
    try:
        for directory in ("var/log/nginx", "run"):
            (release / directory).mkdir(parents=True, exist_ok=True)
        test = subprocess.run(
            ["chroot", str(release), "/usr/sbin/nginx", "-t", "-q", "-c", "/tmp/numapin/nginx.conf"],
            check=False, capture_output=True, text=True, timeout=20,
        )  # fmt: skip
    finally:
        shutil.rmtree(staged)
    assert complaints(test.stderr) == []
    assert test.returncode == 0
