# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""A service of the distribution that is to run: its state in two words (``active enabled``), and setting that."""

from __future__ import annotations

import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._systemd import SystemdError

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._host import Host
    from ansible_collections.numapin.inference.plugins.module_utils._systemd import Systemd

_DIRECTORIES = ("/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
_START_SECONDS = 60.0


def is_installed(host: Host, unit: str) -> bool:
    """Whether systemd has the unit; asked of the file system, which costs no call."""
    return any(host.exists(f"{directory}/{unit}") for directory in _DIRECTORIES)


def service_state(systemd: Systemd, unit: str) -> str:
    """``active enabled``, ``inactive disabled``; where it cannot be enabled, also ``active static``."""
    found = systemd.show([unit])[unit]
    return f"{'active' if found.active_state == 'active' else 'inactive'} {found.file_state or 'static'}"


def is_masked(state: str) -> bool:
    """Whether somebody forbade that it is ever started."""
    return state.split()[1] in ("masked", "masked-runtime")


def running_state(state: str) -> str:
    """What ``state`` is to become for the service to run, now and after a boot."""
    enabled = state.split()[1]
    return f"active {'enabled' if enabled == 'disabled' else enabled}"


def set_service(systemd: Systemd, unit: str, state: str) -> None:
    """Start, stop, enable or disable, and read back. Raises SystemdError."""
    activity, enabled = state.split()
    before = service_state(systemd, unit).split()
    if enabled != before[1] and {enabled, before[1]} == {"enabled", "disabled"}:
        systemd.change("enable" if enabled == "enabled" else "disable", [unit])
    if activity != before[0]:
        systemd.change("start" if activity == "active" else "stop", [unit], "--no-block")
        systemd.wait([unit], lambda found: not found.job and found.active_state != "activating", _START_SECONDS)
    after = service_state(systemd, unit)
    if after != state:
        raise SystemdError(f"{unit} is {after}, wanted is {state}: see journalctl -u {unit}")
