# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""podman, as root, with the flags that this machine's cgroups and limits ask for."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import resource
import typing as t

from fleet.console import FleetError, as_root, run

# vLLM wants many file descriptors and threads. A container can never have more than the machine allows, and podman
# itself (4.3) allows none of its own more than 32768 processes.
OPEN_FILES = 20000
PROCESSES = 16384


@dataclasses.dataclass(frozen=True)
class Cgroups:
    """How this machine's cgroups are mounted; ``path`` is where the version 2 tree is."""

    path: str
    hybrid: bool


@functools.cache
def cgroups() -> Cgroups:
    """Read from /proc/self/mounts whether cgroups are pure version 2, or version 1 with a version 2 tree beside."""
    mounts = [line.split() for line in pathlib.Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    trees = [fields[1] for fields in mounts if fields[2] == "cgroup2"]
    if "/sys/fs/cgroup" in trees:
        return Cgroups("/sys/fs/cgroup", hybrid=False)
    below = [path for path in trees if path.startswith("/sys/fs/cgroup/")]
    if not below:
        raise FleetError(
            "No cgroup version 2 tree is mounted below /sys/fs/cgroup, and systemd in a container needs one.\n"
            "Boot with systemd.unified_cgroup_hierarchy=1, or run this on a machine that uses cgroup version 2."
        )
    return Cgroups(below[0], hybrid=True)


def podman(*arguments: str, timeout_seconds: int = 120, stdin: str | None = None, check: bool = True) -> str:
    """Run podman and return what it printed."""
    return run(podman_command(*arguments), timeout_seconds=timeout_seconds, stdin=stdin, check=check)


def podman_command(*arguments: str) -> list[str]:
    """The words that run podman."""
    runtime = ["--runtime", "runc"] if cgroups().hybrid else []
    return as_root(["podman", *runtime, *arguments])


def inspect(kind: str, name: str) -> dict[str, t.Any] | None:
    """What podman knows of a container, an image or a network; nothing when it is not there."""
    text = podman(kind, "inspect", name, check=False)
    found: list[dict[str, t.Any]] = json.loads(text) if text.strip().startswith("[") else []
    return found[0] if found else None


def system_container_flags() -> list[str]:
    """Flags under which systemd is a container's first process."""
    flags = ["--privileged", "--systemd=always", "--stop-signal=SIGRTMIN+3", "--shm-size=1g"]
    if cgroups().hybrid:
        flags += ["--cgroupns=host", f"--volume={cgroups().path}:/sys/fs/cgroup:rw"]
    for name, number, wanted in (
        ("nofile", resource.RLIMIT_NOFILE, OPEN_FILES),
        ("nproc", resource.RLIMIT_NPROC, PROCESSES),
    ):
        hard = resource.getrlimit(number)[1]
        value = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        flags.append(f"--ulimit={name}={value}:{value}")
    return flags
