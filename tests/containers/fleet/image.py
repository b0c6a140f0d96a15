# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The image of a host: a small Debian with systemd, made from packages, no registry needed."""

from __future__ import annotations

import re

from fleet.console import FleetError, as_root, run, say, step
from fleet.podman import inspect, podman
from fleet.settings import CACHE, Settings, cache_lock, fingerprint

# What a fresh server has, plus what the checks use. nginx and python3-venv are not here: the roles install them, and
# must get along without python3-apt and package lists.
PACKAGES = [
    "systemd",
    "systemd-sysv",
    "dbus",
    "udev",
    "kmod",
    "openssh-server",
    "python3",
    "iproute2",
    "procps",
    "psmisc",
    "sudo",
    "ca-certificates",
    "numactl",
    "util-linux",
    "curl",
    "libgomp1",
    "libnuma1",
]

# A container shares the machine's kernel: whatever would act on the machine's devices, consoles or kernel settings
# stays quiet, and so do timers that would take the package lock in the middle of a play.
MASKED_UNITS = [
    "systemd-udevd.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-udev-trigger.service",
    "systemd-modules-load.service",
    "systemd-sysctl.service",
    "systemd-binfmt.service",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "proc-sys-fs-binfmt_misc.automount",
    "getty.target",
    "console-getty.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
]

# Every container makes host keys and a machine id of its own.
SSH_DROP_IN = "[Service]\\nExecStartPre=\\nExecStartPre=/usr/bin/ssh-keygen -A\\nExecStartPre=/usr/sbin/sshd -t\\n"

CUSTOMIZE = [
    'rm -f "$1"/etc/ssh/ssh_host_*; : > "$1/etc/machine-id"; mkdir -p "$1/etc/systemd/system/ssh.service.d"',
    f"printf '{SSH_DROP_IN}' > \"$1/etc/systemd/system/ssh.service.d/host-keys.conf\"",
    "for unit in " + " ".join(MASKED_UNITS) + '; do ln -sf /dev/null "$1/etc/systemd/system/$unit"; done',
]


def ready(settings: Settings) -> str:
    """Make sure that the image is there and return its name."""
    if settings.image:
        if inspect("image", settings.image) is None:
            with step(f"Fetching the image {settings.image} (NUMAPIN_IMAGE)"):
                podman("pull", settings.image, timeout_seconds=1800)
        return settings.image
    if not re.fullmatch(r"[a-z][a-z0-9-]*", settings.suite):
        raise FleetError(
            f"NUMAPIN_SUITE={settings.suite!r} is no Debian suite: give a name such as bookworm or trixie."
        )
    key = f"{settings.suite}-{fingerprint([settings.suite, PACKAGES, CUSTOMIZE])}"
    name = f"localhost/numapin-host:{key}"
    if inspect("image", name) is not None:
        say(f"Image {name} is there")
        return name
    archive = CACHE / f"image-{key}.tar"
    with cache_lock("image"):
        if inspect("image", name) is not None:
            return name
        if not archive.exists():
            part = archive.with_suffix(".part")
            hooks = [f"--customize-hook={script}" for script in CUSTOMIZE]
            with step(f"Making the image from Debian {settings.suite} packages (about a minute)"):
                command = ["mmdebstrap", "--variant=minbase", "--format=tar", f"--include={','.join(PACKAGES)}"]
                run(as_root([*command, *hooks, settings.suite, "-"]), stdout_path=part, timeout_seconds=1800)
                part.rename(archive)
        with step(f"Importing the image {name}"):
            podman("import", str(archive), name, timeout_seconds=600)
    return name
