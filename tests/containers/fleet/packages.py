# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The Debian and Ubuntu packages that containers with systemd inside need."""

from __future__ import annotations

import os
import shutil

from fleet import podman
from fleet.console import FleetError, as_root, run, say, show, step

# Package: the program that shows it is there, or nothing when only the package database knows.
PACKAGES = {
    "podman": "podman",
    "conmon": "conmon",
    "netavark": "",
    "aardvark-dns": "",
    "iptables": "iptables",
    "catatonit": "",
    "uidmap": "newuidmap",
    "mmdebstrap": "mmdebstrap",
    "debian-archive-keyring": "",
    "openssh-client": "ssh",
    "python3-venv": "",
    "ca-certificates": "",
}
NEEDED_MEMORY_MIB = 6 * 1024
NEEDED_DISK_MIB = 10 * 1024


def install() -> None:
    """Install what is missing; quick when nothing is."""
    with step("Looking for the packages that are needed"):
        if shutil.which("apt-get") is None:
            raise FleetError("apt-get is not there: the demo runs on Debian or Ubuntu (with root, or with sudo).")
        if os.geteuid() != 0 and shutil.which("sudo") is None:
            raise FleetError("Containers with systemd inside need root: run this as root, or install sudo.")
        # Only runc can start containers on a machine whose cgroups are still version 1 with a version 2 tree beside.
        wanted = [*PACKAGES, "runc" if podman.cgroups().hybrid else "crun"]
        missing = [name for name in wanted if not installed(name)]
    if missing:
        say(f"Missing: {' '.join(missing)}")
        apt = as_root(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300"])
        with step("Updating the package lists"):
            run([*apt, "update"], timeout_seconds=600)
        with step("Installing them"):
            show([*apt, "install", "--no-install-recommends", *missing], timeout_seconds=1800)
    warn_when_small()


def installed(package: str) -> bool:
    """Whether a package (or, built by hand, its program) is there."""
    program = PACKAGES.get(package, package)
    if program and shutil.which(program, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"):
        return True
    status = run(["dpkg-query", "-W", "-f=${Status}", package], timeout_seconds=60, check=False)
    return status == "install ok installed"


def warn_when_small() -> None:
    """Say beforehand what would otherwise end in a killed process."""
    with open("/proc/meminfo", encoding="ascii") as handle:
        sizes = {line.split(":")[0]: int(line.split()[1]) // 1024 for line in handle}
    available = sizes.get("MemAvailable", NEEDED_MEMORY_MIB)
    if available < NEEDED_MEMORY_MIB:
        say(f"NOTE: {available} MiB of memory are free; two real vLLM instances need about {NEEDED_MEMORY_MIB} MiB.")
    free = shutil.disk_usage(os.path.dirname(__file__)).free // 2**20
    if free < NEEDED_DISK_MIB:
        say(f"NOTE: {free} MiB of disk are free here; image, vLLM and containers need about {NEEDED_DISK_MIB} MiB.")
