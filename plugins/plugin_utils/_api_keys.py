# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""The balancer's API keys: what may be given, and what nginx needs of it - digests, and classes of limits.

No message of this file holds a key or a part of one.
"""

from __future__ import annotations

import hashlib
import math
import re
import typing as t
from collections.abc import Mapping, Sequence

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
# What can stand in a header behind "Bearer ", whole.
_KEY = re.compile(r"[!-~]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# A digest without salt keeps a key secret only as long as nobody can guess it: 24 letters and digits are 140 bits.
SHORTEST_KEY = 24
# Clients without keys share these limits by address, under this name.
_EVERYBODY = ""

_OPTIONS = frozenset({"name", "keys", "sha256", "requests_per_second", "burst", "streams"})


class ApiKeysError(NumapinError):
    """Keys or limits that cannot be used; one line for each, and none of them holds a key."""


def api_keys(
    clients: Sequence[Mapping[str, t.Any]],
    requests_per_second: float = 0,
    burst: int = 0,
    streams: int = 0,
) -> dict[str, t.Any]:
    """Return what nginx needs of ``clients``; limits that a client does not have itself are the other arguments.

    A client is ``{name, keys: [...], sha256: [...], requests_per_second, burst, streams}``: its keys themselves, or
    their SHA-256 in hexadecimal; both are optional, together there is one at least.

    The result is ``{digests: [{sha256, name}], rates: [{zone, per_minute, burst, names}], streams: [{zone, limit,
    names}]}``: nginx has a rate and a burst for a whole zone, so clients with the same ones share a zone. ``names`` is
    empty where there are no clients: the limit is for every address then. A limit of 0 is none.

    Raises ApiKeysError with all that is wrong.
    """
    problems: list[str] = []
    digests: dict[str, str] = {}
    rates: dict[tuple[int, int], list[str]] = {}
    most: dict[int, list[str]] = {}
    defaults = {"requests_per_second": requests_per_second, "burst": burst, "streams": streams}
    names = [client.get("name") for client in clients]
    for client in clients or [{"name": _EVERYBODY}]:
        name = client.get("name")
        if clients:
            problems += _problems_of(client, names)
            for digest in _digests(client):
                if digests.setdefault(digest, str(name)) != name:
                    problems.append(
                        f"{digests[digest]} and {name} have the same key: give every client keys of its own"
                    )
        limits = {**defaults, **{key: client[key] for key in defaults if client.get(key) is not None}}
        whose = f"of {name} " if name else ""
        wrong = [
            f"{option} {whose}is {limits[option]!r}: give a number, or 0 for no limit"
            for option in defaults
            if not _is_limit(limits[option], whole=option != "requests_per_second")
        ]
        problems += [problem for problem in wrong if problem not in problems]
        if wrong:
            continue
        per_minute = math.ceil(float(limits["requests_per_second"]) * 60)
        if per_minute:
            rates.setdefault((per_minute, int(limits["burst"])), []).append(str(name))
        if int(limits["streams"]):
            most.setdefault(int(limits["streams"]), []).append(str(name))
    if problems:
        raise ApiKeysError("\n".join(problems))
    return {
        "digests": [{"sha256": digest, "name": name} for digest, name in digests.items()],
        # A zone keeps its name as long as its meaning: nginx refuses, at a reload only, a zone whose key changed.
        "rates": [
            {
                "zone": f"numapin_{'rate' if clients else 'address_rate'}_{per_minute}_{burst}",
                "per_minute": per_minute,
                "burst": burst,
                "names": [name for name in names if name],
            }
            for (per_minute, burst), names in rates.items()
        ],
        "streams": [
            {
                "zone": f"numapin_{'streams' if clients else 'address_streams'}_{limit}",
                "limit": limit,
                "names": [name for name in names if name],
            }
            for limit, names in most.items()
        ],
    }


def _problems_of(client: Mapping[str, t.Any], names: Sequence[t.Any]) -> list[str]:
    name = client.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return [f"a client's name is {name!r}: allowed are up to 64 letters, digits, '.', '_', '@', '-', no sign first"]
    problems = []
    if names.count(name) > 1:
        problems.append(f"{name} is there {names.count(name)} times: give all keys of a client in one entry (`keys`)")
    unknown = sorted(set(client) - _OPTIONS)
    if unknown:
        problems.append(f"{name} has {', '.join(unknown)}: allowed are {', '.join(sorted(_OPTIONS))}")
    keys, hashes = client.get("keys") or [], client.get("sha256") or []
    if not keys and not hashes:
        problems.append(f"{name} has no key: give `keys`, or `sha256` with their digests, or leave the client out")
    for number, key in enumerate(keys, 1):
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            problems.append(f"key {number} of {name} has characters that a header cannot hold: use letters and digits")
        elif len(key) < SHORTEST_KEY:
            problems.append(
                f"key {number} of {name} has {len(key)} characters, {SHORTEST_KEY} are the least: make one with "
                "`openssl rand -hex 32`"
            )
    problems += [
        f"sha256 {number} of {name} is not the digest of a key: 64 characters 0-9 and a-f, as "
        "`printf %s KEY | sha256sum` writes them"
        for number, digest in enumerate(hashes, 1)
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest)
    ]
    return problems


def _digests(client: Mapping[str, t.Any]) -> list[str]:
    keys = [hashlib.sha256(key.encode()).hexdigest() for key in client.get("keys") or [] if isinstance(key, str)]
    return [*keys, *(digest for digest in client.get("sha256") or [] if isinstance(digest, str))]


def _is_limit(value: t.Any, whole: bool) -> bool:
    """Whether ``value`` is a number from 0 to a million; texts of numbers come from the command line (-e)."""
    if isinstance(value, bool):
        return False
    try:
        number = float(value)
    except (TypeError, ValueError):
        return False
    return 0 <= number <= 1_000_000 and (number.is_integer() or not whole)
