# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The disk all machines start from, with its kernel: a small Debian made from packages, cached, never written to."""

from __future__ import annotations

import collections.abc as c
import dataclasses
import pathlib
import platform
import re
import shlex
import shutil

from fleet.console import FleetError, as_root, run, say, step
from fleet.hosts import ssh_key
from fleet.settings import REPOSITORY, cache_lock, fingerprint

from machines import payload
from machines.places import CACHE, LAB, suite

# On this machine; the image's own are below.
HOST_PACKAGES = [
    "qemu-system-x86",
    "qemu-utils",
    "mmdebstrap",
    "debian-archive-keyring",
    "e2fsprogs",
    "openssh-client",
    "gcc",
    "libc6-dev",
]

# What a fresh server has, plus the tools that tests hold our own reading against.
PACKAGES = [
    "systemd",
    "systemd-sysv",
    "dbus",
    "udev",
    "kmod",
    "linux-image-cloud-amd64",
    "busybox-static",
    "cpio",
    "openssh-server",
    "python3",
    "iproute2",
    "procps",
    "psmisc",
    "sudo",
    "ca-certificates",
    "curl",
    "util-linux",
    "numactl",
    "pciutils",
    "ethtool",
    "irqbalance",
    "nginx",
    "tuned",
]
# The initrd is our own (see image/build-disk), and nobody reads manuals here.
LEFT_OUT = ["/etc/kernel/postinst.d/initramfs-tools", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*"]
SCRIPT = LAB / "image" / "build-disk"


@dataclasses.dataclass(frozen=True)
class Image:
    """A directory of the cache with what ``image/build-disk`` makes."""

    directory: pathlib.Path

    @property
    def disk(self) -> pathlib.Path:
        """The root file system, raw; machines write to overlays of it."""
        return self.directory / "disk.raw"

    @property
    def kernel(self) -> pathlib.Path:
        """The kernel of the root file system."""
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> pathlib.Path:
        """What mounts the disk."""
        return self.directory / "initrd"

    @property
    def ssh_host_key(self) -> str:
        """The public host key of every machine, as "TYPE KEY"."""
        fields = (self.directory / "ssh_host_key.pub").read_text(encoding="ascii").split()
        return f"{fields[0]} {fields[1]}"


def install_packages(also: c.Sequence[str] = ()) -> None:
    """Install what is missing on this machine; quick when nothing is."""
    if platform.machine() != "x86_64":
        raise FleetError(
            f"The lab's machines are x86-64 and this one is {platform.machine()}: run it on an x86-64 one."
        )
    run([str(REPOSITORY / "tools" / "apt-install"), *HOST_PACKAGES, *also], timeout_seconds=1800)


def ready() -> Image:
    """Make sure that the image is in the cache and return it; an older recipe's is removed."""
    if not re.fullmatch(r"[a-z][a-z0-9-]*", suite()):
        raise FleetError(f"NUMAPIN_SUITE={suite()!r} is no Debian suite: give a name such as bookworm or trixie.")
    public_key = ssh_key().with_suffix(".pub")
    texts = [path.read_text(encoding="utf-8") for path in (SCRIPT, public_key)]
    recipe = [PACKAGES, LEFT_OUT, *texts, payload.recipe()]
    target = CACHE / f"image-{suite()}-{fingerprint(recipe)}"
    with cache_lock("lab-image"):
        if target.exists():
            say("The lab's image is in the cache")
            return Image(target)
        part = CACHE / "image.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        payload.make(part / "payload")
        words = [str(part), str(public_key), str(part / "payload")]
        hook = shlex.join(["bash", str(SCRIPT)]) + ' "$1" ' + shlex.join(words)
        command = ["mmdebstrap", "--variant=minbase", "--format=null", f"--include={','.join(PACKAGES)}"]
        command += [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
        with step(f"Making the lab's image from Debian {suite()} packages (about two minutes)"):
            run(as_root([*command, f"--customize-hook={hook}", suite(), "-"]), timeout_seconds=1800)
        shutil.rmtree(part / "payload")
        for old in CACHE.glob(f"image-{suite()}-*"):
            shutil.rmtree(old, ignore_errors=True)
        part.rename(target)
    return Image(target)
