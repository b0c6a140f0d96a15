# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Clients become digests and classes of limits, and no message holds a key."""

from __future__ import annotations

import hashlib
import re
import typing as t

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.numapin.inference.plugins.filter.api_keys import FilterModule
from ansible_collections.numapin.inference.plugins.plugin_utils._api_keys import ApiKeysError, api_keys

ONE, TWO, THREE = "a" * 24, "b" * 32, "sk-proj_c.c-c~c+c/c=c:c;c,c!" * 2
DIGEST = hashlib.sha256(b"of a key that nobody here knows").hexdigest()


def sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def test_keys_become_digests_under_their_clients_name() -> None:
    clients: list[dict[str, t.Any]] = [
        {"name": "alice", "keys": [ONE, TWO]},
        {"name": "bob@x.y-z_1", "keys": [THREE], "sha256": [DIGEST]},
    ]
    assert api_keys(clients)["digests"] == [
        {"sha256": sha256(ONE), "name": "alice"},
        {"sha256": sha256(TWO), "name": "alice"},
        {"sha256": sha256(THREE), "name": "bob@x.y-z_1"},
        {"sha256": DIGEST, "name": "bob@x.y-z_1"},
    ]


def test_a_key_given_twice_for_one_client_is_one() -> None:
    assert len(api_keys([{"name": "alice", "keys": [ONE, ONE], "sha256": [sha256(ONE)]}])["digests"]) == 1


def test_clients_with_the_same_limits_share_a_zone() -> None:
    clients: list[dict[str, t.Any]] = [
        {"name": "alice", "keys": [ONE]},
        {"name": "bob", "keys": [TWO], "requests_per_second": 0.5, "burst": 0},
        {"name": "carol", "keys": [THREE], "streams": 4},
        {"name": "dave", "sha256": [DIGEST], "requests_per_second": 0, "streams": 0},
    ]
    answer = api_keys(clients, requests_per_second=2, burst=10, streams=8)
    assert answer["rates"] == [
        {"zone": "numapin_rate_120_10", "per_minute": 120, "burst": 10, "names": ["alice", "carol"]},
        {"zone": "numapin_rate_30_0", "per_minute": 30, "burst": 0, "names": ["bob"]},
    ]
    assert answer["streams"] == [
        {"zone": "numapin_streams_8", "limit": 8, "names": ["alice", "bob"]},
        {"zone": "numapin_streams_4", "limit": 4, "names": ["carol"]},
    ]


def test_without_clients_limits_are_for_every_address() -> None:
    """The zone has another name: nginx would refuse the reload after which the same zone counts something else."""
    answer = api_keys([], requests_per_second=1, burst=5, streams=2)
    assert answer == {
        "digests": [],
        "rates": [{"zone": "numapin_address_rate_60_5", "per_minute": 60, "burst": 5, "names": []}],
        "streams": [{"zone": "numapin_address_streams_2", "limit": 2, "names": []}],
    }
    assert api_keys([]) == {"digests": [], "rates": [], "streams": []}


def test_texts_from_the_command_line_are_numbers() -> None:
    answer = api_keys([], requests_per_second=t.cast("float", "0.1"), burst=t.cast("int", "3"))
    assert answer["rates"] == [{"zone": "numapin_address_rate_6_3", "per_minute": 6, "burst": 3, "names": []}]


@pytest.mark.parametrize(
    ("clients", "message"),
    [
        ([{"keys": [ONE]}], "a client's name is None"),
        ([{"name": 'x"; }', "keys": [ONE]}], "a client's name is 'x\"; }'"),
        ([{"name": "x" * 65, "keys": [ONE]}], "allowed are up to 64"),
        ([{"name": "alice"}], "alice has no key"),
        ([{"name": "alice", "keys": []}], "alice has no key"),
        ([{"name": "alice", "keys": [ONE[:-1]]}], "key 1 of alice has 23 characters, 24 are the least"),
        ([{"name": "alice", "keys": [ONE, TWO + " x"]}], "key 2 of alice has characters that a header cannot hold"),
        ([{"name": "alice", "keys": [TWO + "\n"]}], "key 1 of alice has characters that a header cannot hold"),
        ([{"name": "alice", "sha256": [DIGEST.upper()]}], "sha256 1 of alice is not the digest of a key"),
        ([{"name": "alice", "keys": [ONE], "rate": 1}], "alice has rate: allowed are burst, keys, name,"),
        ([{"name": "alice", "keys": [ONE]}, {"name": "alice", "keys": [TWO]}], "alice is there 2 times"),
        (
            [{"name": "alice", "keys": [ONE]}, {"name": "bob", "sha256": [sha256(ONE)]}],
            "alice and bob have the same key",
        ),
        ([{"name": "alice", "keys": [ONE], "streams": -1}], "streams of alice is -1: give a number, or 0 for no limit"),
        ([{"name": "alice", "keys": [ONE], "streams": 1.5}], "streams of alice is 1.5"),
        ([{"name": "alice", "keys": [ONE], "requests_per_second": "many"}], "requests_per_second of alice is 'many'"),
        (
            [{"name": "alice", "keys": [ONE], "requests_per_second": float("nan")}],
            "requests_per_second of alice is nan",
        ),
        ([{"name": "alice", "keys": [ONE], "burst": True}], "burst of alice is True"),
    ],
)
def test_what_cannot_be_used_is_refused(clients: list[dict[str, t.Any]], message: str) -> None:
    with pytest.raises(ApiKeysError, match=re.escape(message)) as refused:
        api_keys(clients)
    for key in (ONE[:-1], TWO, DIGEST.upper(), sha256(ONE)):
        assert key not in str(refused.value)


def test_everything_wrong_is_said_at_once_and_a_default_once() -> None:
    clients: list[dict[str, t.Any]] = [{"name": "alice", "keys": ["short"]}, {"name": "bob"}]
    with pytest.raises(ApiKeysError) as refused:
        api_keys(clients, requests_per_second=-1)
    lines = str(refused.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "key 1 of alice has 5 characters, 24 are the least",
        "requests_per_second of alice is -1",
        "bob has no key",
        "requests_per_second of bob is -1",
    ]


def test_the_filter_says_what_it_wants() -> None:
    api_keys_filter = FilterModule().filters()["api_keys"]
    assert api_keys_filter([{"name": "alice", "keys": [ONE]}], streams=1)["streams"][0]["limit"] == 1
    with pytest.raises(AnsibleFilterError, match="api_keys takes a list of clients"):
        api_keys_filter("alice")
    with pytest.raises(AnsibleFilterError, match="api_keys takes a list of clients"):
        api_keys_filter(["alice"])
    with pytest.raises(AnsibleFilterError, match="api_keys got rate: allowed are"):
        api_keys_filter([], rate=1)
    with pytest.raises(AnsibleFilterError, match="alice has no key"):
        api_keys_filter([{"name": "alice"}])
