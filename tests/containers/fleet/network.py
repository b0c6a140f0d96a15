# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A network of the containers' own, on addresses that nothing else here uses."""

from __future__ import annotations

import ipaddress
import json

from fleet.console import FleetError, run, say
from fleet.podman import inspect, podman
from fleet.settings import REPOSITORY, podman_name

# Tried in this order; a user's network rarely has them all.
CANDIDATES = [
    "10.203.61.0/24",
    "10.203.62.0/24",
    "10.203.63.0/24",
    "172.29.61.0/24",
    "172.29.62.0/24",
    "192.168.61.0/24",
]


def ready(purpose: str, wanted: str) -> ipaddress.IPv4Network:
    """Make sure that the network of a purpose is there and return its addresses.

    ``wanted`` is the user's choice; empty keeps a network that is already there, or takes the first free candidate.
    """
    name = podman_name(purpose)
    asked = parse(wanted) if wanted else None
    known = inspect("network", name)
    if known is not None:
        subnet = ipaddress.IPv4Network(known["subnets"][0]["subnet"])
        owner = known.get("labels", {}).get("numapin.checkout", "")
        if owner != str(REPOSITORY):
            raise FleetError(
                f"The container network {name} belongs to {owner or 'somebody else'}, not to {REPOSITORY}.\n"
                f"Take it down there first, or remove it: podman network rm {name}"
            )
        if asked in (None, subnet):
            return subnet
        raise FleetError(
            f"NUMAPIN_SUBNET={asked}, but the network {name} is already there with {subnet}.\n"
            f"Leave the variable out, or first: python3 tests/containers down {purpose}"
        )
    taken = in_use()
    for subnet in [asked] if asked else [ipaddress.IPv4Network(text) for text in CANDIDATES]:
        clash = next((other for other in taken if other.overlaps(subnet)), None)
        if clash is None:
            label = f"--label=numapin.checkout={REPOSITORY}"
            podman("network", "create", f"--subnet={subnet}", "--disable-dns", label, name)
            say(f"Network {name}: {subnet}")
            return subnet
        if asked:
            raise FleetError(f"NUMAPIN_SUBNET={subnet} overlaps {clash}, which is in use here: give a free one.")
    raise FleetError(
        f"None of {', '.join(CANDIDATES)} is free on this machine: name a free network of 64 addresses or more, for "
        "example NUMAPIN_SUBNET=10.99.0.0/24."
    )


def parse(text: str) -> ipaddress.IPv4Network:
    """The network a user named."""
    try:
        subnet = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise FleetError(
            f"NUMAPIN_SUBNET={text!r} is no IPv4 network ({error}): give one such as 10.203.61.0/24."
        ) from error
    if subnet.prefixlen > 26 or not subnet.is_private:
        raise FleetError(
            f"NUMAPIN_SUBNET={text} must be a private network of 64 addresses or more, such as 10.203.61.0/24."
        )
    return subnet


def in_use() -> list[ipaddress.IPv4Network]:
    """Networks that this machine has routes to, and those of other podman networks, running or not."""
    routes = json.loads(run(["ip", "-j", "-4", "route", "show", "table", "all"], timeout_seconds=30))
    found = [route["dst"] for route in routes if route["dst"] != "default"]
    for network in json.loads(podman("network", "ls", "--format=json")):
        found += [subnet["subnet"] for subnet in network.get("subnets") or []]
    return [network for network in map(ipv4_or_none, found) if network is not None and network.prefixlen > 0]


def ipv4_or_none(text: str) -> ipaddress.IPv4Network | None:
    """The network, or nothing for IPv6."""
    try:
        return ipaddress.IPv4Network(text, strict=False)
    except ValueError:
        return None
