# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Addresses of network interfaces, as the kernel tells of them."""

from __future__ import annotations

import struct

from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._interfaces import (
    parse_if_inet6,
    parse_ifconf,
    read_interfaces,
)


def entry(name: bytes, *address: int) -> bytes:
    return name.ljust(16, b"\0") + struct.pack("=HH4B16x", 2, 0, *address)


def test_aliases_belong_to_their_interface() -> None:
    answer = entry(b"eth0", 192, 0, 2, 1) + entry(b"eth0:1", 192, 0, 2, 7)
    assert parse_ifconf(answer) == [("eth0", "192.0.2.1"), ("eth0", "192.0.2.7")]


def test_ipv6() -> None:
    line = "20010db8000000000000000000000001 02 40 00 80     eth0\n"
    assert parse_if_inet6(line + "broken\n") == [("eth0", "2001:db8::1")]


def test_the_running_kernel_has_a_loopback() -> None:
    assert "127.0.0.1" in read_interfaces(Host("/"))["lo"]
