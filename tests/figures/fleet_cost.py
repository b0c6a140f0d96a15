# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Measure what a site.yml that changes nothing costs the controller, by the number of hosts.

Usage: ``python tests/figures/fleet_cost.py [HOSTS...]`` (1 10 50 100 200). The hosts are doubles that answer at once
(tests/fleet), two balancers in front of them, so everything that is measured is the controller's: a host's own work is
done beside that of others. Growth is that of processor seconds, so that what else this machine does has no part in it.
A play that does nothing but ``ansible.builtin.ping`` runs in turn, over the same connection. The last line is the
figures' JSON.

``python tests/figures/fleet_cost.py --inventory build/demo/inventory.yml`` asks real hosts instead, such as those of
``make demo``, three times: how many times the ping's wall time such a site.yml takes.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median

from ansible_collections.numapin.inference.tests.fleet.doubles import FORKS, Fleet, Ran, as_wanted

ROUNDS = 3
HOSTS = (1, 10, 50, 100, 200)
PING = "---\n- hosts: all\n  gather_facts: false\n  tasks:\n    - ansible.builtin.ping:\n"


def measured(fleet: Fleet, playbook: str) -> Ran:
    """Run a playbook; one that fails or changes something is no measurement."""
    ran = fleet.run(playbook)
    wrong = as_wanted(ran)
    if wrong:
        sys.exit(
            f"{playbook} on {fleet.count} hosts was to succeed and to change nothing, but {wrong}:\n{ran.said[-6000:]}"
        )
    return ran


def by_ping(fleet: Fleet, ping: Path) -> dict[str, object]:
    """Return how many times a ping of all hosts a site.yml without changes takes, on hosts that are there."""
    rounds = []
    for _number in range(ROUNDS):
        alone, site = measured(fleet, str(ping)), measured(fleet, "numapin.inference.site")
        rounds.append((site.seconds / alone.seconds, f"{site.seconds:.1f} s against {alone.seconds:.1f} s"))
    detail = f"{fleet.hosts}: {', '.join(told for _ratio, told in rounds)}"
    return {"values": {"site_over_ping": round(median(ratio for ratio, _told in rounds), 2)}, "detail": detail}


def main() -> None:
    """Measure, and print the figures."""
    if sys.argv[1:2] == ["--inventory"] and len(sys.argv) == 3:
        with tempfile.TemporaryDirectory(prefix="numapin-fleet-") as directory:
            ping = Path(directory) / "ping.yml"
            ping.write_text(PING, encoding="utf-8")
            print(json.dumps(by_ping(Fleet(0, Path(directory), Path(sys.argv[2]).resolve()), ping)))
        return
    costs: dict[int, Ran] = {}
    with tempfile.TemporaryDirectory(prefix="numapin-fleet-") as directory:
        ping = Path(directory) / "ping.yml"
        ping.write_text(PING, encoding="utf-8")
        for count in [int(word) for word in sys.argv[1:]] or HOSTS:
            fleet = Fleet(count, Path(directory))
            alone = measured(fleet, str(ping))
            site = costs[count] = measured(fleet, "numapin.inference.site")
            print(
                f"{count:4} hosts: {site.seconds:.1f} s ({site.seconds / count:.2f} a host; {site.processor:.1f} s of"
                f" processors), {site.recap['gpu000']['ok']} tasks on each, {site.mib:.0f} MiB;"
                f" ping alone {alone.seconds:.1f} s ({alone.processor:.1f} s of processors)",
                flush=True,
            )
    most = max(costs)
    values: dict[str, float] = {
        "fleet_site_mib": costs[most].mib,
        "fleet_site_tasks": costs[most].recap["gpu000"]["ok"],
    }
    if most // 2 in costs:
        values["fleet_site_growth"] = costs[most].processor / costs[most // 2].processor
    detail = f"{FORKS} forks, {os.cpu_count()} CPUs, doubles of hosts: " + ", ".join(
        f"{cost.seconds:.1f} s ({cost.processor:.1f} s of processors) for {count}" for count, cost in costs.items()
    )
    print(json.dumps({"values": {name: round(value, 2) for name, value in values.items()}, "detail": detail}))


if __name__ == "__main__":
    main()
