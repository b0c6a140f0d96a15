# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Containers that behave like servers: systemd inside, a fixed address, SSH for root."""

from __future__ import annotations

import collections.abc as c
import contextlib
import dataclasses
import json
import pathlib
import shlex
import socket
import time
import typing as t

from fleet import image, network, passthrough
from fleet.console import FleetError, last_lines, run, say, step
from fleet.podman import inspect, podman, system_container_flags
from fleet.settings import CACHE, REPOSITORY, Settings, cache_lock, fingerprint, podman_name

BOOT_SECONDS = 90
SSH_SECONDS = 30


@dataclasses.dataclass(frozen=True)
class Host:
    """One container of a fleet: its name in the inventory, its group, its place in the network, what it mounts."""

    name: str
    group: str
    number: int
    mounts: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class RunningHost:
    """A host that answers over SSH. ``ssh_host_key`` is "TYPE KEY" as read inside the container."""

    name: str
    group: str
    container: str
    container_id: str
    address: str
    ssh_host_key: str


def up(purpose: str, hosts: c.Sequence[Host], settings: Settings) -> list[RunningHost]:
    """Start the hosts of one purpose; those that already run as wanted are kept."""
    image_name = image.ready(settings)
    subnet = network.ready(purpose, settings.subnet)
    settings_passed = passthrough.from_machine()
    public_key = ssh_key().with_suffix(".pub").read_text(encoding="utf-8")
    fresh = [host for host in hosts if started(purpose, host, image_name, str(subnet[host.number]), settings_passed)]
    if fresh:
        with step(f"Waiting for systemd in {', '.join(host.name for host in fresh)}"):
            for host in fresh:
                wait_for_systemd(container_name(purpose, host))
                prepare(container_name(purpose, host), public_key, settings_passed.environment)
    return [reachable(purpose, host, str(subnet[host.number])) for host in hosts]


def down(purpose: str) -> int:
    """Remove this checkout's containers and network of one purpose; returns how many containers there were."""
    found = containers(purpose)
    if found:
        with step(f"Removing {', '.join(one['Names'][0] for one in found)}"):
            podman("rm", "--force", "--volumes", "--time=10", *(one["Id"] for one in found), timeout_seconds=300)
    known = inspect("network", podman_name(purpose))
    if known is not None and known.get("labels", {}).get("numapin.checkout") == str(REPOSITORY):
        podman("network", "rm", podman_name(purpose))
    return len(found)


def containers(purpose: str) -> list[dict[str, t.Any]]:
    """podman's list of this checkout's containers of one purpose."""
    labels = [f"--filter=label=numapin.purpose={purpose}", f"--filter=label=numapin.checkout={REPOSITORY}"]
    found: list[dict[str, t.Any]] = json.loads(podman("ps", "--all", "--format=json", *labels))
    return found


def ssh_key() -> pathlib.Path:
    """Path of the private key that logs in to every container, made once."""
    path = CACHE / "ssh" / "id_ed25519"
    with cache_lock("ssh-key"):
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            part = path.with_name("part")
            part.unlink(missing_ok=True)
            part.with_suffix(".pub").unlink(missing_ok=True)
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "numapin containers", "-f", str(part)]
            run(command, timeout_seconds=60)
            part.with_suffix(".pub").rename(path.with_suffix(".pub"))
            part.rename(path)
    return path


def container_name(purpose: str, host: Host) -> str:
    """The name podman knows it by."""
    return f"{podman_name(purpose)}-{host.name}"


def started(purpose: str, host: Host, image_name: str, address: str, settings: passthrough.Passthrough) -> bool:
    """Start one container unless it runs as wanted; true when it is new and has to be prepared."""
    name = container_name(purpose, host)
    arguments = [
        f"--name={name}",
        f"--hostname={host.name}",
        f"--network={podman_name(purpose)}",
        f"--ip={address}",
        f"--label=numapin.purpose={purpose}",
        f"--label=numapin.checkout={REPOSITORY}",
        *system_container_flags(),
        *(f"--volume={path}:{path}:ro" for path in settings.mounts),
        *(f"--volume={mount}" for mount in host.mounts),
    ]
    image_id = (inspect("image", image_name) or {}).get("Id", image_name)
    recipe = fingerprint([image_id, arguments, settings.environment])
    known = inspect("container", name)
    if known is not None:
        labels = known["Config"].get("Labels") or {}
        owner = labels.get("numapin.checkout", "")
        if owner != str(REPOSITORY):
            raise FleetError(
                f"A container named {name} belongs to {owner or 'somebody else'}, not to {REPOSITORY}.\n"
                f"Take it down there first, or remove it: podman rm --force {name}"
            )
        prepared = labels.get("numapin.recipe") == recipe and marked_prepared(name, known)
        if prepared:
            say(f"{host.name} is up ({address})")
            return False
        say(f"{host.name} is not as it should be (stopped, unfinished, or an older recipe): making it anew")
        podman("rm", "--force", "--volumes", "--time=10", name, timeout_seconds=180)
    with step(f"Starting {host.name} ({address})"):
        podman("run", "--detach", f"--label=numapin.recipe={recipe}", *arguments, image_name, "/sbin/init")
    return True


def marked_prepared(name: str, known: dict[str, t.Any]) -> bool:
    """Whether a container runs and its preparation came to its end."""
    if not known["State"].get("Running"):
        return False
    return podman("exec", name, "cat", "/etc/numapin-prepared", check=False).strip() == "yes"


def wait_for_systemd(name: str) -> None:
    """Wait until systemd says that the system is up; a failed unit does not stop it, but is named."""
    deadline = time.monotonic() + BOOT_SECONDS
    state = ""
    while time.monotonic() < deadline:
        known = inspect("container", name)
        if known is None or not known["State"].get("Running"):
            break
        state = podman("exec", name, "systemctl", "is-system-running", check=False).strip()
        if state == "running":
            return
        if state == "degraded":
            failed = podman("exec", name, "systemctl", "--failed", "--no-legend", "--plain", check=False)
            say(f"NOTE: in {name} these units failed:\n{last_lines(failed)}")
            return
        time.sleep(0.5)
    log = podman("logs", "--tail=30", name, check=False)
    raise FleetError(
        f"systemd in {name} did not come up within {BOOT_SECONDS} s (state: {state or 'none'}). Its container said:"
        f"\n{last_lines(log) or '  | nothing'}\n"
        f"Look closer with: podman logs {name}; podman exec -it {name} journalctl -b"
    )


def prepare(name: str, public_key: str, environment: c.Mapping[str, str]) -> None:
    """Let root in over SSH and hand this machine's settings to every login."""
    # pam_env reads the file as root, so that nobody else has to: an index address may hold a password.
    lines = "".join(f'{key}="{value}"\n' for key, value in sorted(environment.items()))
    script = f"""
        install -d -m 0700 /root/.ssh
        printf %s {shlex.quote(public_key)} > /root/.ssh/authorized_keys
        chmod 0600 /root/.ssh/authorized_keys
        printf %s {shlex.quote(lines)} > /etc/environment
        chmod 0600 /etc/environment
        ssh-keygen -A >&2
        unit=ssh; systemctl cat ssh.service >/dev/null 2>&1 || unit=sshd
        systemctl restart "$unit"
        echo yes > /etc/numapin-prepared
    """
    podman("exec", "--interactive", name, "sh", "-eu", stdin=script)


def reachable(purpose: str, host: Host, address: str) -> RunningHost:
    """Wait until the host's SSH server greets."""
    name = container_name(purpose, host)
    deadline = time.monotonic() + SSH_SECONDS
    greeting = b""
    while not greeting.startswith(b"SSH-"):
        if time.monotonic() > deadline:
            journal = podman("exec", name, "journalctl", "-u", "ssh", "-n", "15", "--no-pager", check=False)
            raise FleetError(
                f"No SSH server answered at {address}:22 ({host.name}) within {SSH_SECONDS} s. Does a firewall on this "
                f"machine drop traffic to containers? The server's journal:\n{last_lines(journal)}"
            )
        with contextlib.suppress(OSError), socket.create_connection((address, 22), timeout=2) as connection:
            greeting = connection.recv(64)
        time.sleep(0 if greeting else 0.5)
    key = podman("exec", name, "cat", "/etc/ssh/ssh_host_ed25519_key.pub").split()
    container_id = (inspect("container", name) or {})["Id"]
    return RunningHost(host.name, host.group, name, container_id, address, f"{key[0]} {key[1]}")
