# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SSH configuration and Ansible inventory of the machines that run, below build/lab/PURPOSE."""

from __future__ import annotations

import collections.abc as c
import dataclasses
import pathlib

from fleet.hosts import ssh_key
from fleet.inventory import yaml

from machines.machine import Machine
from machines.places import RUNNING


@dataclasses.dataclass(frozen=True)
class Files:
    """What was written."""

    inventory: pathlib.Path
    ssh_config: pathlib.Path


def write(
    purpose: str,
    machines: c.Sequence[Machine],
    groups: c.Mapping[str, c.Sequence[str]] | None = None,
    variables: c.Mapping[str, c.Mapping[str, object]] | None = None,
) -> Files:
    """Write both for the machines of one purpose: all are in the group ``lab``, and some in further ``groups``.

    ``variables`` are those of a group by its name.
    """
    directory = RUNNING / purpose
    directory.mkdir(parents=True, exist_ok=True)
    files = Files(directory / "inventory.yml", directory / "ssh_config")
    known_hosts = directory / "known_hosts"
    lines = [f"[127.0.0.1]:{machine.ssh_port} {machine.ssh_host_key}\n" for machine in machines]
    replace(known_hosts, "".join(lines))
    replace(files.ssh_config, ssh_config(machines, known_hosts))
    connection = {
        "ansible_host": "127.0.0.1",
        "ansible_user": "root",
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_ssh_pipelining": True,
        # An emulated machine under load takes its time.
        "ansible_ssh_timeout": 60,
        "ansible_ssh_common_args": f"-F '{files.ssh_config}'",
        # A new connection costs an emulated machine a second, and a test may come minutes after a play.
        "ansible_ssh_args": "-o ControlMaster=auto -o ControlPersist=600s",
    }
    hosts: dict[str, dict[str, object]] = {}
    for machine in machines:
        # A port may come back with another machine behind it: never reuse the connection to the one before.
        path = f"%(directory)s/numapin-lab-{machine.pid}-{machine.started_ticks}"
        hosts[machine.name] = {
            "ansible_port": machine.ssh_port,
            "ansible_control_path": path,
            "lab_fleet_address": machine.fleet_address,
            "lab_http_port": machine.http_port,
        }
    named = {"lab": hosts} | {group: {name: {} for name in names} for group, names in (groups or {}).items() if names}
    children = {group: {"hosts": own, "vars": dict((variables or {}).get(group, {}))} for group, own in named.items()}
    content = {"all": {"vars": connection, "children": children if hosts else {"lab": {}}}}
    replace(files.inventory, f"---\n# Written by tests/lab: the machines of purpose {purpose!r}.\n{yaml(content)}")
    return files


def replace(path: pathlib.Path, text: str) -> None:
    """Write a file whole."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.rename(path)


def ssh_config(machines: c.Sequence[Machine], known_hosts: pathlib.Path) -> str:
    """So that ``ssh -F build/lab/lab/ssh_config NAME`` works as well.

    Emulated, the key exchange that OpenSSH would choose takes seconds.
    """
    names = "".join(f"Host {one.name}\n  HostName 127.0.0.1\n  Port {one.ssh_port}\n" for one in machines)
    return f"""{names}
Host *
  User root
  IdentityFile "{ssh_key()}"
  IdentitiesOnly yes
  UserKnownHostsFile "{known_hosts}"
  GlobalKnownHostsFile none
  StrictHostKeyChecking yes
  PreferredAuthentications publickey
  KexAlgorithms curve25519-sha256
  ConnectTimeout 60
  ServerAliveInterval 15
  ServerAliveCountMax 4
  LogLevel ERROR
"""
