# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""host_tuning on a real kernel: set, told, refused, kept over a reboot, and undone, as full dumps of the machine show.

One machine with a node of memory alone goes through the story below once; the tests hold what it noted.
"""

from __future__ import annotations

import collections.abc as c
import json
import re
import subprocess
import typing as t

import pytest
from fleet.console import FleetError
from fleet.settings import BUILD
from machines.places import LAB

if t.TYPE_CHECKING:
    from machines.booted import Booted

NAME = "expansion"
NOTES = BUILD / "lab-tuning"
PLAYBOOK_SECONDS = 600
PAGES = {0: 64, 1: 32}
VARIABLES = {
    "vllm_models": [],
    "host_tuning_hugepage_minimum_available_mib": 64,
    "host_tuning_hugepages": [
        {"size": "2M", "nodes": [{"node": node, "pages": pages} for node, pages in PAGES.items()]}
    ],
    "host_tuning_hugepage_mounts": [{"path": "/mnt/huge", "size": "2M", "limit": "16M", "mode": "0770"}],
}
POOL = "/sys/devices/system/node/node{}/hugepages/hugepages-2048kB/nr_hugepages"
# Stands for an instance: an ordinary service that notes what it finds when it starts.
PROBE = """
cat >/etc/systemd/system/vllm@probe.service <<'END'
[Unit]
PartOf=vllm.target
After=tuned.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/probe
[Install]
WantedBy=multi-user.target
END
cat >/usr/local/sbin/probe <<'END'
#!/bin/sh
cd /sys/devices/system/node
cat node[01]/hugepages/hugepages-2048kB/nr_hugepages >/run/probe
cat /proc/sys/kernel/numa_balancing /sys/kernel/mm/transparent_hugepage/enabled >>/run/probe
grep -c /mnt/huge /proc/mounts >>/run/probe
END
chmod 0755 /usr/local/sbin/probe
systemctl -q enable vllm@probe.service
"""
HOLDER = """
import ctypes, mmap, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
# On the CPU of node 0, whose memory comes first.
os.sched_setaffinity(0, {0})
area = mmap.mmap(-1, 50 << 21, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000)
for page in range(50):
    area[page << 21] = 1
print("holds", flush=True)
time.sleep(600)
"""

# Two profiles that come with TuneD and want something else, and a file that is applied after ours.
COMPETITORS = r"""
set -e
cp -a /etc/tuned /root/tuned-before
mkdir /etc/tuned/mine
printf '%s\n' '[main]' include=network-latency,spectrumscale-ece >/etc/tuned/mine/tuned.conf
echo mine >/etc/tuned/active_profile
echo manual >/etc/tuned/profile_mode
echo kernel.numa_balancing=1 >/etc/sysctl.d/99-x.conf
systemctl start tuned
"""
# For the boot: the same, without what TuneD is known to win (transparent huge pages).
AT_BOOT = r"""
set -e
systemctl stop tuned
rm /etc/sysctl.d/99-x.conf
printf '%s\n' '[vm]' transparent_hugepages=madvise >>/etc/tuned/mine/tuned.conf
systemctl -q enable tuned
"""
WHAT_TUNED_DID = """
systemctl is-active tuned
cat /proc/sys/vm/dirty_ratio
grep numa_balancing /var/log/tuned/tuned.log | tail -n 1
"""
NO_COMPETITORS = """
set -e
systemctl -q disable --now tuned
rm -r /etc/tuned
mv /root/tuned-before /etc/tuned
"""


class Story:
    """What was noted on the way, by name."""

    def __init__(self, machine: Booted) -> None:
        self._machine = machine
        self.dumps: dict[str, list[str]] = {}
        self.said: dict[str, str] = {}
        self.codes: dict[str, int] = {}

    def shell(self, script: str) -> str:
        """Run a script in the machine."""
        return self._machine.run(script)

    def dump(self, name: str) -> None:
        """Note everything that is under our care."""
        self.dumps[name] = self.shell((LAB / "dump-tuning").read_text(encoding="utf-8")).splitlines()

    def play(self, name: str, playbook: str, *arguments: str) -> None:
        """Run a playbook and note what it said."""
        command, environment = self._machine.playbook_command(
            playbook, f"--inventory={NOTES / 'groups.yml'}", *arguments
        )
        environment.pop("ANSIBLE_FORCE_COLOR", None)
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PLAYBOOK_SECONDS, check=False, env=environment
        )
        self.said[name], self.codes[name] = done.stdout + done.stderr, done.returncode
        (NOTES / f"{name}.txt").write_text(self.said[name], encoding="utf-8")

    def reboot(self) -> None:
        """Boot anew, and wait until everything that is to start has started."""
        self._machine.reboot()
        self.shell("systemctl is-system-running --wait || true")

    def answers(self) -> dict[str, dict[str, object]]:
        """What questions.yml noted."""
        found: dict[str, dict[str, object]] = json.loads((NOTES / "answers.json").read_text(encoding="utf-8"))
        return found


@pytest.fixture(scope="module")
def story(boot: c.Callable[[str], Booted]) -> Story:
    """Tune, ask, boot, undo, boot."""
    NOTES.mkdir(parents=True, exist_ok=True)
    group = {"inference": {"hosts": {NAME: {}}, "vars": VARIABLES}}
    (NOTES / "groups.yml").write_text(json.dumps(group), encoding="utf-8")
    try:
        told = Story(boot(NAME))
        told.shell(PROBE)
        tell(told)
    except FleetError as error:
        pytest.exit(f"The machine could not be tuned and asked: {error}", returncode=1)
    return told


def tell(story: Story) -> None:
    """The story, in its order."""
    story.shell("systemctl is-system-running --wait || true")
    story.dump("before")
    story.play("check", "numapin.inference.tune", "--check", "--diff")
    story.dump("checked")
    story.play("apply", "numapin.inference.tune", "--diff")
    story.dump("tuned")
    story.play("again", "numapin.inference.tune", "--diff")
    story.shell(f"nohup numactl --membind=0 python3 -c '{HOLDER}' >/run/holder 2>&1 & sleep 8; grep holds /run/holder")
    story.play("questions", str(LAB / "questions.yml"), f"--extra-vars=notes={NOTES}")
    story.shell("pkill -f MAP_ANONYMOUS; sleep 1")
    story.dump("asked")
    story.shell(COMPETITORS)
    story.play("hostile", "numapin.inference.verify", f"--extra-vars=notes={NOTES}", str(LAB / "competitors.yml"))
    story.shell(AT_BOOT)
    story.dump("with TuneD at boot")
    story.reboot()
    story.dump("booted")
    story.said["probe"] = story.shell("cat /run/probe")
    story.said["TuneD"] = story.shell(WHAT_TUNED_DID)
    story.shell(NO_COMPETITORS)
    story.play("restore", "numapin.inference.restore", "--diff")
    story.dump("restored")
    story.reboot()
    story.dump("restored and booted")


def same(story: Story, one: str, other: str) -> None:
    """Hold two dumps against each other; what differs is the failure's text."""
    # What irq_affinity remembers has the numbers of vectors in it, which each boot deals out anew; and TuneD notes at
    # its start what its profile asks of the kernel's command line.
    left_out = re.compile(r"[0-9a-f]{64} .*/(irq-affinity\.json|tuned/bootcmdline)$")
    before, after = ({line for line in story.dumps[name] if not left_out.search(line)} for name in (one, other))
    assert sorted(before - after) == sorted(after - before) == []


def changed(text: str) -> int:
    """The count in the recap."""
    match = re.search(rf"^{NAME} +: ok=\d+ +changed=(\d+) ", text, re.MULTILINE)
    assert match, text
    return int(match[1])


def diff(text: str) -> list[str]:
    """The lines of the diffs, without vectors: irqbalance moves these while nobody looks."""
    lines = [line for line in text.splitlines() if re.match(r"(---|\+\+\+|@@|[-+] ?)", line)]
    return [line for line in lines if not re.match(r"[-+]\S+ \([0-9a-f]{4}:[0-9a-f:.]+\) ", line)]


def test_each_node_gets_its_pages_exactly(story: Story) -> None:
    assert story.codes["apply"] == 0, story.said["apply"]
    tuned = story.dumps["tuned"]
    assert [line for line in tuned if "2048kB/nr_hugepages" in line] == [
        f"{POOL.format(node)} {PAGES.get(node, 0)}" for node in range(3)
    ]
    assert "/proc/sys/kernel/numa_balancing 0" in tuned
    assert "/sys/kernel/mm/transparent_hugepage/enabled always [madvise] never" in tuned
    assert any(re.match(r"hugetlbfs /mnt/huge hugetlbfs .*mode=770,pagesize=2M,size=16777216", line) for line in tuned)


def test_check_mode_foresees_the_run_and_writes_nothing(story: Story) -> None:
    assert story.codes["check"] == 0, story.said["check"]
    same(story, "before", "checked")
    # A directory for two modules is made by the first, and foreseen by both.
    assert set(diff(story.said["check"])) == set(diff(story.said["apply"]))
    assert changed(story.said["check"]) == changed(story.said["apply"]) > 0


def test_a_second_run_changes_nothing(story: Story) -> None:
    assert story.codes["again"] == 0, story.said["again"]
    assert changed(story.said["again"]) == 0


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("a million pages", r"node 0: asked for 1000000 pages of 2M, got \d+ .*; the pools are as they were before$"),
        ("below use", r"node 0: asked for 10 pages of 2M, but 50 of its 64 are in use"),
        ("unknown size", r"size '3M': this kernel has no huge pages of that size; it offers 2M, 1G"),
        ("unknown node", r"node 9 does not exist: the nodes of this host are 0, 1, 2"),
        ("three pages of 1 GiB", r"node 0: asked for 3 pages of 1G, could get 0 \(.*; nothing was changed$"),
        ("bytes", r"bytes '3M' is no multiple of the page size 2M"),
        ("mount", r"mount /run: a file system of type tmpfs is mounted there"),
    ],
)
def test_what_cannot_be_is_one_clear_error(story: Story, question: str, said: str) -> None:
    assert story.codes["questions"] == 0, story.said["questions"]
    answer = story.answers()[question]
    assert answer["changed"] is False
    assert re.search(said, str(answer["msg"])), answer["msg"]


def test_what_was_refused_changed_nothing_and_a_process_kept_its_pages(story: Story) -> None:
    same(story, "tuned", "asked")


def test_a_total_leaves_memory_alone(story: Story) -> None:
    pools = story.answers()["a total"]["pools"]
    assert isinstance(pools, list)
    assert [(pool["node"], pool["asked"]) for pool in pools if pool["asked"]] == [(0, 3), (1, 2)]


def test_competitors_are_named_by_verify(story: Story) -> None:
    assert story.codes["hostile"] != 0
    for said in (
        # TuneD applied the file again after its profile.
        "kernel.numa_balancing is 1, tuned was 0",
        "/etc/sysctl.d/99-x.conf line 1 sets kernel.numa_balancing = 1, tuned was 0",
        "the active TuneD profile mine sets kernel.numa_balancing = 1, tuned was 0",
        "transparent_hugepage is never, tuned was madvise",
        "the active TuneD profile mine sets transparent_hugepage = never, tuned was madvise",
    ):
        assert said in story.said["hostile"]


def test_competitors_are_named_in_the_result(story: Story) -> None:
    answer = json.loads((NOTES / "competitors.json").read_text(encoding="utf-8"))
    assert answer["changed"] is True
    assert {(found["source"], found["name"], found["value"]) for found in answer["competitors"]} == {
        ("/etc/sysctl.d/99-x.conf line 1", "kernel.numa_balancing", "1"),
        ("TuneD profile mine", "kernel.numa_balancing", "1"),
        ("TuneD profile mine", "transparent_hugepage", "never"),
    }


def test_sysctls_hold_against_a_profile_that_is_applied_at_boot(story: Story) -> None:
    active, dirty_ratio, log = story.said["TuneD"].splitlines()
    # It was applied, all of it, and then ours.
    assert (active, dirty_ratio) == ("active", "40")
    assert "Overriding sysctl parameter 'kernel.numa_balancing' from '1' to '0'" in log
    assert "/proc/sys/kernel/numa_balancing 0" in story.dumps["booted"]


def test_a_reboot_brings_the_same_before_vllm_starts(story: Story) -> None:
    # With the timer that verify put there in between.
    same(story, "with TuneD at boot", "booted")
    assert any(line.endswith("/etc/systemd/system/numapin-verify.timer") for line in story.dumps["booted"])
    values = [
        [line for line in story.dumps[name] if line.startswith(("/proc/", "/sys/"))] for name in ("asked", "booted")
    ]
    assert values[0] == values[1]
    assert story.said["probe"].splitlines() == ["64", "32", "0", "always [madvise] never", "1"]


def test_restore_returns_every_file_and_value_for_good(story: Story) -> None:
    assert story.codes["restore"] == 0, story.said["restore"]
    same(story, "before", "restored")
    same(story, "before", "restored and booted")
