# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""irq_affinity on a kernel of its own: placed, and still there after everything that makes a kernel forget.

Run by ``make lab-irqs``: one boot, and one reboot, of the shape ``queues``. The tests are steps and run in their order.
What is compared was read by a shell in the machine, not by our code.
"""

from __future__ import annotations

import collections.abc as c
import dataclasses
import json
import pathlib
import re
import time
import typing as t

import pytest
from fleet.cpus import numbers
from fleet.settings import BUILD

if t.TYPE_CHECKING:
    from machines.booted import Booted

SHAPE = "queues"
ANSWER = BUILD / "lab-irqs" / "answer.json"
PLAYBOOK = pathlib.Path(__file__).resolve().parent / "irqs.yml"
UNIT = "numapin-irq-affinity.service"
# The service looks every three seconds here, and an emulated machine takes seconds for a look.
SETTLE_SECONDS = 60
# It looks every ten seconds.
IRQBALANCE_SECONDS = 20
OPTIONS: dict[str, t.Any] = {
    "rules": [
        {"name": "node 0", "devices": {"node": 0, "kinds": ["nic", "infiniband", "gpu"]}, "cpus": "1"},
        {"name": "node 1", "devices": {"node": 1}, "target": "local", "xps": True},
        {"name": "root disk", "devices": {"action": "virtio*-req.*"}, "cpus": "0-1", "policy": "all"},
    ],
    "exclude_cpus": "0",
    "default_smp_affinity": "1,3",
    "check_seconds": 3,
}
# A line for each vector: device, place, number, request, effective CPUs, how often it came.
READ = r"""
for device in /sys/bus/pci/devices/*; do
    place=0
    for number in $(ls "$device/msi_irqs" 2>/dev/null | sort -n); do
        irq=/proc/irq/$number
        if [ -e $irq/smp_affinity_list ]; then
            count=$(awk -v n="$number:" '$1 == n {s = 0; for (i = 2; i <= 5; i++) s += $i; print s}' /proc/interrupts)
            request=$(cat $irq/smp_affinity_list)
            effective=$(cat $irq/effective_affinity_list)
            echo "${device##*/}|$place|$number|$request|$effective|$count|$(cat /sys/kernel/irq/$number/actions)"
        fi
        place=$((place + 1))
    done
done
echo "default|0|0|$(cat /proc/irq/default_smp_affinity)|0|0|"
for file in /sys/class/net/enp81s0/queues/tx-*/xps_cpus; do
    echo "$file|0|0|$(cat $file 2>/dev/null)|0|0|"
done
"""

# An administrator's, so that what comes back in the end is not what the kernel gives by itself.
SOMEBODYS = """
for file in /proc/irq/*/smp_affinity_list; do echo 0-2 > $file 2>/dev/null; done
echo 7 > /proc/irq/default_smp_affinity
true
"""


@dataclasses.dataclass(frozen=True)
class Vector:
    """A vector as the machine's shell saw it."""

    number: int
    request: str
    effective: str
    count: int
    name: str


Key = tuple[str, str]


class Lab:
    """The machine, and what the steps hand to one another."""

    def __init__(self, machine: Booted) -> None:
        self.machine = machine
        self.before: dict[Key, str] = {}
        self.placed: dict[Key, str] = {}
        self.unmovable: set[Key] = set()
        self.environment = ""

    def shell(self, script: str) -> str:
        """What a script printed."""
        return self.machine.run(script)

    def vectors(self) -> dict[Key, Vector]:
        """Every vector, by device and place."""
        rows = [line.split("|") for line in self.shell(READ).splitlines()]
        return {(row[0], row[1]): Vector(int(row[2]), row[3], row[4], int(row[5] or 0), row[6]) for row in rows}

    def requests(self) -> dict[Key, str]:
        """What is requested for every vector."""
        return {key: vector.request for key, vector in self.vectors().items()}

    def module(self, check_mode: bool = False, **options: t.Any) -> dict[str, t.Any]:
        """Run the module and return its answer."""
        variables = {"irq_options": options, "irq_check_mode": check_mode, "answer": str(ANSWER)}
        ANSWER.parent.mkdir(parents=True, exist_ok=True)
        ANSWER.unlink(missing_ok=True)
        self.machine.playbook(PLAYBOOK, f"--extra-vars={json.dumps(variables)}")
        answer: dict[str, t.Any] = json.loads(ANSWER.read_text(encoding="utf-8"))
        return answer

    def settled(self) -> dict[Key, str]:
        """The differences from what was placed, once there are none, or when the time is up."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            now = self.requests()
            wrong = {key: f"{now.get(key)}, not {value}" for key, value in self.placed.items() if now.get(key) != value}
            if not wrong or time.monotonic() > deadline:
                return wrong
            time.sleep(1)

    def moved(self) -> list[str]:
        """The lines in which the service said that it moved something."""
        lines = self.shell(f"journalctl --unit={UNIT} --boot --no-pager --output=cat").splitlines()
        return [line for line in lines if " -> " in line]


@pytest.fixture(scope="module")
def lab(boot: c.Callable[[str], Booted]) -> Lab:
    """The machine."""
    return Lab(boot(SHAPE))


def test_place(lab: Lab) -> None:
    """Every movable vector has the wanted request and goes there; managed ones are reported, and nothing fails."""
    # irqbalance runs, and is held until it is told what it may not touch: it would change what we compare with.
    # Not before the boot has come to its end: it starts irqbalance too, and on a busy machine after we have.
    lab.shell(f"timeout 90 systemctl is-system-running --wait || true\nsystemctl stop irqbalance\n{SOMEBODYS}")
    lab.shell("systemctl start irqbalance && systemctl kill --signal=STOP irqbalance")
    state = lab.shell("ps -o stat= -p $(systemctl show --property=MainPID --value irqbalance)")
    assert state.startswith("T"), f"irqbalance is not held: {state}"
    lab.environment = lab.shell("cat /etc/default/irqbalance")
    before = lab.vectors()
    lab.before = {key: vector.request for key, vector in before.items()}
    counts = {key: vector.count for key, vector in before.items()}

    answer = lab.module(**OPTIONS)

    now = lab.vectors()
    results = {(one["device"], str(one["queue"])): one for one in answer["vectors"]}
    lab.unmovable = {key for key, one in results.items() if one["result"] == "unchangeable"}
    assert answer["changed"] is True
    assert answer["service"] == "restarted"
    assert answer["irqbalance"] == "restarted"
    assert {one["result"] for one in results.values()} == {"ok", "changed", "unchangeable"}
    assert {results[key]["errno"] for key in lab.unmovable} == {"EIO"}
    assert any(now[key].name.startswith("virtio") and "req" in now[key].name for key in lab.unmovable)
    # Two of the four queues have the right CPU from the driver.
    assert [one["result"] for one in answer["masks"]] == ["changed", "changed", "changed", "ok", "ok"]
    movable = {key: one for key, one in results.items() if key not in lab.unmovable}
    assert len(movable) >= 12
    for key, one in movable.items():
        assert now[key].request == one["wanted"], key
        # This kernel moves a vector when it comes the next time: until then the old CPU is the effective one.
        after = numbers(now[key].effective) <= numbers(one["wanted"])
        assert after or (one["pending"] and now[key].count == counts[key]), (key, now[key])
    lab.placed = {key: now[key].request for key in now if key in movable or not key[0].startswith("0000:")}
    assert "vectors by device" in answer["diff"][0]["before_header"]


def test_second_run(lab: Lab) -> None:
    """Nothing is changed by a second run, nor announced by check mode."""
    again = lab.module(**OPTIONS)
    assert (again["changed"], again["counts"].get("changed")) == (False, None)
    checked = lab.module(check_mode=True, **OPTIONS)
    assert [one["irq"] for one in checked["vectors"] if one["result"] == "changed"] == [
        one["irq"] for one in again["vectors"] if one["result"] == "unchangeable"
    ]
    assert any("only on writing" in warning for warning in checked.get("warnings", []))
    assert lab.requests() == {**lab.requests(), **lab.placed}


def test_irqbalance(lab: Lab) -> None:
    """irqbalance, told to look again, hears of each of ours that it is banned, and all stay where they are."""
    for _each in range(2):
        lab.shell("systemctl kill --signal=HUP irqbalance")
        # A signal while it asks the policy script makes it lose the answer: not a second one before it is done.
        time.sleep(IRQBALANCE_SECONDS)
    assert lab.shell("systemctl is-active irqbalance").strip() == "active"
    assert lab.settled() == {}
    said = lab.shell("journalctl --unit=irqbalance --boot --no-pager --output=cat")
    banned = {int(number) for number in re.findall(r"IRQ (\d+): Override ban to true", said)}
    ours = {vector.number for key, vector in lab.vectors().items() if key in lab.placed and vector.number}
    assert ours <= banned


def test_link(lab: Lab) -> None:
    """A link goes down and comes up."""
    lab.shell("ip link set enp81s0 down; sleep 1; ip link set enp81s0 up")
    assert lab.settled() == {}


def test_queues(lab: Lab) -> None:
    """The number of queues changes: virtio_net then gives its vectors CPUs of its own choice, and there is no event."""
    lab.shell("ethtool -L enp81s0 combined 2; ethtool -L enp81s0 combined 4")
    assert lab.settled() == {}
    assert any("enp81s0" in line for line in lab.moved())


def test_driver(lab: Lab) -> None:
    """The driver goes and comes back: every vector has a new number, or a new request at least."""
    lab.shell(
        """
        device=$(basename "$(readlink -f /sys/class/net/enp81s0/device)")
        echo "$device" > /sys/bus/virtio/drivers/virtio_net/unbind
        sleep 2
        echo "$device" > /sys/bus/virtio/drivers/virtio_net/bind
        udevadm settle
        for try in 1 2 3 4 5 6 7 8 9 10; do ip link set enp81s0 up && exit 0; sleep 1; done
        exit 1
        """
    )
    assert lab.settled() == {}
    status = lab.shell(f"systemctl status --no-pager {UNIT} || true")
    assert "vectors as wanted" in status
    assert "last moved" in status


def test_reboot(lab: Lab) -> None:
    """After a boot it is all there, without Ansible."""
    lab.machine.reboot()
    assert lab.settled() == {}
    assert lab.moved() != []
    assert lab.shell("systemctl is-active irqbalance").strip() == "active"


def test_restored(lab: Lab) -> None:
    """Everything is as it was before the first run, although there was a boot in between."""
    lab.shell("systemctl stop irqbalance")
    answer = lab.module(state="restored")
    assert answer["changed"] is True
    now = lab.requests()
    wrong = {key: f"{now.get(key)}, not {lab.before[key]}" for key in lab.placed if now.get(key) != lab.before[key]}
    assert wrong == {}
    assert lab.shell("cat /etc/default/irqbalance") == lab.environment
    left = lab.shell(
        f"ls -d /usr/local/lib/numapin /etc/numapin /var/lib/numapin /etc/systemd/system/{UNIT} 2>&1 || true"
    )
    assert left.count("No such file or directory") == 4
    assert lab.shell(f"systemctl show --property=LoadState --value {UNIT}").strip() == "not-found"
    assert lab.module(state="restored")["changed"] is False
