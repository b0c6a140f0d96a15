# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The inventory of running containers, and the SSH configuration that Ansible, testinfra and people share."""

from __future__ import annotations

import collections.abc as c
import dataclasses
import json
import pathlib

from fleet.hosts import RunningHost, ssh_key
from fleet.settings import BUILD


@dataclasses.dataclass(frozen=True)
class Files:
    """What was written below build/PURPOSE."""

    directory: pathlib.Path
    inventory: pathlib.Path
    ssh_config: pathlib.Path


def write(
    purpose: str,
    hosts: c.Sequence[RunningHost],
    group_variables: c.Mapping[str, c.Mapping[str, object]],
    host_variables: c.Mapping[str, c.Mapping[str, object]] | None = None,
) -> Files:
    """Write inventory, SSH configuration and known hosts; groups are those of the hosts."""
    directory = BUILD / purpose
    directory.mkdir(parents=True, exist_ok=True)
    files = Files(directory, directory / "inventory.yml", directory / "ssh_config")
    known = "".join(f"{host.address} {host.ssh_host_key}\n" for host in hosts)
    (directory / "known_hosts").write_text(known, encoding="utf-8")
    files.ssh_config.write_text(ssh_config(hosts, directory / "known_hosts"), encoding="utf-8")
    connection = {
        "ansible_user": "root",
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_ssh_pipelining": True,
        "ansible_ssh_common_args": f"-F '{files.ssh_config}'",
        "ansible_ssh_args": "-o ControlMaster=auto -o ControlPersist=60s",
    }
    groups: dict[str, dict[str, object]] = {}
    for group in dict.fromkeys(host.group for host in hosts):
        members: dict[str, dict[str, object]] = {}
        for host in hosts:
            if host.group == group:
                # A container made anew keeps its address: never reuse the connection to the one before it.
                path = f"%(directory)s/numapin-{host.container_id[:12]}"
                members[host.name] = {"ansible_host": host.address, "ansible_control_path": path}
                members[host.name] |= (host_variables or {}).get(host.name, {})
        groups[group] = {"hosts": members, "vars": dict(group_variables.get(group, {}))}
    content = {"all": {"vars": connection | dict(group_variables.get("all", {})), "children": groups}}
    text = f"---\n# Written by tests/containers: the containers of purpose {purpose!r}.\n" + yaml(content)
    part = files.inventory.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.rename(files.inventory)
    return files


def ssh_config(hosts: c.Sequence[RunningHost], known_hosts: pathlib.Path) -> str:
    """So that ``ssh -F build/demo/ssh_config inference1`` works as well."""
    names = "".join(f"Host {host.name}\n  HostName {host.address}\n" for host in hosts)
    return f"""{names}
Host *
  User root
  IdentityFile "{ssh_key()}"
  IdentitiesOnly yes
  UserKnownHostsFile "{known_hosts}"
  GlobalKnownHostsFile none
  StrictHostKeyChecking yes
  PreferredAuthentications publickey
  ConnectTimeout 10
  ServerAliveInterval 10
  ServerAliveCountMax 3
  LogLevel ERROR
"""


def yaml(value: c.Mapping[str, object], indent: int = 0) -> str:
    """Block-style YAML of nested mappings; everything else is written as JSON, which YAML contains."""
    lines = []
    for key, item in value.items():
        margin = "  " * indent
        if isinstance(item, dict) and item:
            lines.append(f"{margin}{key}:\n{yaml(item, indent + 1)}")
        elif isinstance(item, list) and item and all(isinstance(entry, dict) for entry in item):
            lines.append(f"{margin}{key}:\n")
            lines.extend(margin + "  - " + yaml(entry, indent + 2).lstrip() for entry in item)
        else:
            lines.append(f"{margin}{key}: {json.dumps(item)}\n")
    return "".join(lines)
