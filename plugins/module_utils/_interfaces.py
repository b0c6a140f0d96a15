# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Which network interface has which IP addresses, asked of the kernel."""

from __future__ import annotations

import array
import fcntl
import ipaddress
import socket
import struct

from ansible_collections.numapin.inference.plugins.module_utils._host import Host

_SIOCGIFCONF = 0x8912
# struct ifreq on 64-bit kernels: the name, and a union of 24 bytes that begins with a sockaddr_in.
_NAME_BYTES, _ENTRY_BYTES = 16, 40
_MOST_ENTRIES = 4096


def read_interfaces(host: Host) -> dict[str, list[str]]:
    """IP addresses by interface, IPv4 first; of the running kernel, whatever root ``host`` has for its files."""
    found: dict[str, list[str]] = {}
    for name, address in [*_ipv4(), *parse_if_inet6(host.read_text("/proc/net/if_inet6") or "")]:
        found.setdefault(name, []).append(address)
    return found


def _ipv4() -> list[tuple[str, str]]:
    buffer = array.array("B", bytes(_ENTRY_BYTES * _MOST_ENTRIES))
    where, length = buffer.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        answer = fcntl.ioctl(asking, _SIOCGIFCONF, struct.pack("iP", length, where))
    used = struct.unpack("iP", answer)[0]
    return parse_ifconf(buffer.tobytes()[:used])


def parse_ifconf(answer: bytes) -> list[tuple[str, str]]:
    """(interface, address) of an array of ``struct ifreq``; an alias such as ``eth0:1`` counts as its interface."""
    pairs = []
    for start in range(0, len(answer) - _ENTRY_BYTES + 1, _ENTRY_BYTES):
        name = answer[start : start + _NAME_BYTES].split(b"\0")[0].decode().partition(":")[0]
        address = answer[start + _NAME_BYTES + 4 : start + _NAME_BYTES + 8]
        pairs.append((name, socket.inet_ntoa(address)))
    return pairs


def parse_if_inet6(text: str) -> list[tuple[str, str]]:
    """(interface, address) of ``/proc/net/if_inet6``."""
    lines = (line.split() for line in text.splitlines())
    return [(fields[5], str(ipaddress.IPv6Address(bytes.fromhex(fields[0])))) for fields in lines if len(fields) == 6]
