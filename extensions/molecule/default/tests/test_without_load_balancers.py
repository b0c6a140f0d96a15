# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Without the group load_balancers an inference host balances for itself, and its vLLM listens on loopback only.

After this file only refusals are tested, which need no particular deployment, so that the usual one is not put back:
`molecule converge` does that for who wants to run the tests again.
"""

from __future__ import annotations

import pathlib
import typing as t

import yaml
from site_runs import INVENTORY, address_of, run_site

ALONE = "inference1"


def test_a_host_that_balances_for_itself(site: t.Any, tmp_path: pathlib.Path) -> None:
    content = yaml.safe_load(INVENTORY.read_text(encoding="utf-8"))
    groups = content["all"]["children"]
    del groups["load_balancers"]
    groups["inference"]["hosts"] = {ALONE: groups["inference"]["hosts"][ALONE]}
    inventory = tmp_path / "inventory.yml"
    inventory.write_text(yaml.safe_dump(content), encoding="utf-8")
    (tmp_path / "api_key").write_text(site.api_key, encoding="utf-8")
    (entry,) = site.plans[ALONE]["instances"]
    host, neighbour = site.hosts[ALONE], site.hosts[site.balancer]
    ask = f"printf 'Authorization: Bearer %s' '{site.api_key}' | curl -s -m 10 -o /dev/null -w '%{{http_code}}' -H @-"
    run = run_site(inventory=inventory)
    assert run.status == 0, run.output
    again = run_site(inventory=inventory)
    assert {name: counts["changed"] for name, counts in again.recap.items()} == dict.fromkeys(again.recap, 0)
    assert host.socket(f"tcp://127.0.0.1:{entry['port']}").is_listening
    address = address_of(ALONE)
    assert neighbour.run(f"{ask} http://{address}/v1/models").stdout == "200"
    direct = neighbour.run(f"{ask} http://{address}:{entry['port']}/v1/models")
    assert (direct.rc, direct.stdout) != (0, "200"), "vLLM answers its neighbours directly"
    assert direct.stdout == "000"
