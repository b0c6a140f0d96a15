# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Identifiers in what a machine's files say, and stand-ins for them."""

from __future__ import annotations

import ipaddress
import re
import typing as t
from dataclasses import dataclass

# How many of the places a kind of identifier was in are told.
_WHERE_LIMIT = 5

_ADDRESS_NAME = re.compile(r"(?<![0-9A-Za-z])([a-z]{2,5}x)([0-9a-f]{12,20})(?![0-9a-f])")
_UUID = re.compile(r"(?<![0-9A-Fa-f])[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}(?![0-9A-Fa-f])")
_UUID_STAND_IN = re.compile(r"[0-9a-f]{8}-0000-0000-0000-000000000000")
# AMD's, of 16 digits.
_SHORT_UUID = re.compile(r"(?<=GPU-)[0-9a-f]{16}(?![0-9A-Fa-f-])")
_MAC = re.compile(
    r"(?<![0-9A-Fa-f:])[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5,}(?![0-9A-Fa-f:])"
    r"|(?<![0-9A-Fa-f-])[0-9A-Fa-f]{2}(?:-[0-9A-Fa-f]{2}){5}(?![0-9A-Fa-f-])"
)
_GUID = re.compile(r"(?<![0-9A-Fa-f:])(?:[0-9A-Fa-f]{4}:){3}[0-9A-Fa-f]{4}(?![0-9A-Fa-f:])")
_IPV6 = re.compile(
    r"(?<![0-9A-Za-z:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?:(?:\.[0-9]{1,3}){3})?(?![0-9A-Za-z:])"
)
_IPV4 = re.compile(r"(?<![0-9A-Za-z.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9A-Za-z]|\.[0-9])")
# Most files are a number or a list of numbers; none of the above is in a text without one of these.
_SUSPICIOUS = re.compile(r"[0-9A-Fa-f]:[0-9A-Fa-f]|[0-9A-Fa-f]{2}-[0-9A-Fa-f]{2}|[0-9A-Fa-f]{12}|::|[0-9]\.[0-9]")
# A release such as 5.15.153.1-microsoft has the form of an address.
RELEASE_PATH = "/proc/sys/kernel/osrelease"
# Where an identifier was, when it was in a path: the path itself would tell it.
NAMES = "names of files"


@dataclass(frozen=True)
class Redaction:
    """A kind of identifier that was replaced: how many different ones, and where (the first few places)."""

    kind: str
    count: int
    where: tuple[str, ...]


class Scrubber:
    """Replaces identifiers by stand-ins: the same one for the same value, everywhere in one archive."""

    def __init__(self, host_names: t.Collection[str] = (), taken: t.Collection[str] = ()) -> None:
        self._stand_ins: dict[str, dict[str, str]] = {}
        self._where: dict[str, dict[str, None]] = {}
        self._taken = taken
        self._host_name = (
            re.compile("(?<![0-9A-Za-z])(?:" + "|".join(re.escape(n) for n in host_names) + ")(?![0-9A-Za-z])", re.I)
            if host_names
            else None
        )

    def text(self, text: str, path: str) -> str:
        """Return ``text`` without identifiers; it was read from ``path``."""
        if self._host_name is not None:
            text = self._host_name.sub(lambda match: self._stand_in("host_name", match[0].lower(), "host", path), text)
        if not _SUSPICIOUS.search(text):
            return text
        text = _ADDRESS_NAME.sub(lambda match: self._interface(match, path), text)
        text = _UUID.sub(lambda match: self._uuid(match[0], path), text)
        text = _SHORT_UUID.sub(lambda match: self._short_uuid(match[0], path), text)
        text = _MAC.sub(lambda match: self._unless_nobodys(match[0], "mac_address", "mac", path), text)
        text = _GUID.sub(lambda match: self._unless_nobodys(match[0], "guid", "guid", path), text)
        text = _IPV6.sub(lambda match: self._address(match[0], path), text)
        if path != RELEASE_PATH:
            text = _IPV4.sub(lambda match: self._address(match[0], path), text)
        return text

    def redactions(self) -> tuple[Redaction, ...]:
        """Return what was replaced so far."""
        return tuple(
            Redaction(kind, len(stand_ins), tuple(sorted(self._where[kind])[:_WHERE_LIMIT]))
            for kind, stand_ins in sorted(self._stand_ins.items())
        )

    def _number(self, kind: str, value: str, path: str, form: t.Callable[[int], str]) -> str:
        known = self._stand_ins.setdefault(kind, {})
        self._where.setdefault(kind, {})[path] = None
        if value not in known:
            number = len(known) + 1
            while form(number) in self._taken or form(number) in known.values():
                number += 1
            known[value] = form(number)
        return known[value]

    def _stand_in(self, kind: str, value: str, word: str, path: str) -> str:
        return self._number(kind, value, path, lambda number: f"{word}-{number}")

    def _interface(self, match: re.Match[str], path: str) -> str:
        return self._number("interface_name", match[0], path, lambda number: f"{match[1]}{number}")

    def _uuid(self, value: str, path: str) -> str:
        value = value.lower()
        if _UUID_STAND_IN.fullmatch(value):
            return value
        return self._number("uuid", value, path, lambda number: f"{number:08x}-0000-0000-0000-000000000000")

    def _short_uuid(self, value: str, path: str) -> str:
        if value.startswith("00000000"):
            return value
        return self._number("uuid", value, path, lambda number: f"{number:016x}")

    def _unless_nobodys(self, value: str, kind: str, word: str, path: str) -> str:
        """All zeros and the broadcast address name nobody."""
        if not set(value.lower()) - set("0:-") or not set(value.lower()) - set("f:-"):
            return value
        return self._stand_in(kind, value.lower(), word, path)

    def _address(self, value: str, path: str) -> str:
        try:
            address = ipaddress.ip_address(value)
        except ValueError:
            return value
        if address.is_unspecified or address.is_loopback:
            return value
        return self._stand_in("ip_address", str(address), "ip", path)
