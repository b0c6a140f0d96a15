# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who says what when there are fewer huge pages than asked for: the table of docs/tuning.md, from a real kernel.

On the lab's machine ``expansion`` the module hugepages, DPDK's own script (from Debian's package) and a task of
ansible.posix.sysctl are asked for a million pages each.
"""

from __future__ import annotations

import json
import re
import signal
import typing as t

from fleet.console import FleetError, as_root, run, say, step
from fleet.settings import BUILD, REPOSITORY

from machines.booted import Booted
from machines.places import CACHE, LAB

SHAPE = "expansion"
NOTES = BUILD / "lab-shortfall"
DOCS = REPOSITORY / "docs" / "tuning.md"
BEGIN, END = "<!-- From here to the end of the table: make lab-shortfall WRITE=1 -->\n", "<!-- End of the table -->\n"
SCRIPT = "/usr/local/bin/dpdk-hugepages.py"
BEFORE = [64, 32, 0]
CONTENDERS: list[dict[str, t.Any]] = [
    {"name": "`hugepages`", "kind": "hugepages", "minimum_available_mib": 0},
    {"name": "`hugepages`, with memory kept available (the default)", "kind": "hugepages"},
    {"name": "`dpdk-hugepages.py -p 2M --reserve 2000000M`", "kind": "command"},
    {"name": "`dpdk-hugepages.py -p 2M --node 0 --reserve 2000000M`", "kind": "command"},
    {"name": "a task of `ansible.posix.sysctl` for `vm.nr_hugepages`", "kind": "sysctl"},
    {"name": "the same task again", "kind": "sysctl", "anew": False},
]


class Answer(t.NamedTuple):
    """What one of them said, and the pages of each node afterwards."""

    name: str
    kind: str
    said: dict[str, t.Any]
    left: list[int]

    @property
    def text(self) -> str:
        """What it reported, as short as it can be told."""
        said = self.said
        if self.kind == "command":
            text = said["stderr"] or said["stdout"]
        else:
            text = said.get("msg") or ("changed" if said["changed"] else "ok")
        return " ".join(text.split()).replace("|", "\\|")

    @property
    def ended(self) -> str:
        """How Ansible or a shell sees it."""
        if self.kind == "command":
            return f"exit status {self.said['rc']}"
        # With failed_when: false nothing is called failed; a message without a result is one.
        return "failed" if "msg" in self.said and "pools" not in self.said else "ok"


def dpdk_script() -> str:
    """The script, as Debian's package has it."""
    directory = CACHE / "dpdk"
    if not list(directory.glob("dpdk_*.deb")):
        directory.mkdir(parents=True, exist_ok=True)
        download = ["sh", "-c", 'cd "$1" && apt-get download -q dpdk', "sh", str(directory)]
        try:
            run(download, timeout_seconds=120)
        except FleetError:
            # Without lists of packages, or with old ones.
            run(as_root(["apt-get", "update", "-q"]), timeout_seconds=300)
            run(download, timeout_seconds=120)
    (package,) = directory.glob("dpdk_*.deb")
    unpack = 'dpkg-deb --fsys-tarfile "$1" | tar -xO ./usr/bin/dpdk-hugepages.py'
    return run(["sh", "-c", unpack, "sh", str(package)], timeout_seconds=60)


def ask() -> list[Answer]:
    """Boot the machine and ask everybody."""
    NOTES.mkdir(parents=True, exist_ok=True)
    notes, given = NOTES / "answers.json", NOTES / "contenders.json"
    for contender in CONTENDERS:
        if contender["kind"] == "command":
            contender["command"] = contender["name"].strip("`").replace("dpdk-hugepages.py", SCRIPT)
    given.write_text(json.dumps({"contenders": CONTENDERS, "notes": str(notes)}), encoding="utf-8")
    script = dpdk_script()
    with Booted.of(SHAPE) as machine:
        machine.run(f"cat >{SCRIPT} <<'END_OF_SCRIPT'\n{script}\nEND_OF_SCRIPT\nchmod 0755 {SCRIPT}\n")
        with step("Asking everybody"):
            machine.playbook(LAB / "shortfall.yml", f"--extra-vars=@{given}")
    answers = json.loads(notes.read_text(encoding="utf-8"))
    return [
        Answer(contender["name"], contender["kind"], answer["said"], [int(pages) for pages in answer["left"]])
        for contender, answer in zip(CONTENDERS, answers, strict=True)
    ]


def table(answers: list[Answer]) -> str:
    """For the docs."""
    lines = ["| who | what it reports | how it ends | what is left (nodes 0, 1, 2) |", "|---|---|---|---|"]
    for answer in answers:
        left = ", ".join(map(str, answer.left)) + (" as before" if answer.left == BEFORE else "")
        lines.append(f"| {answer.name} | {answer.text} | {answer.ended} | {left} |")
    return "\n".join(lines) + "\n"


def surprises(answers: list[Answer]) -> list[str]:
    """What is not as the docs say in words."""
    ours, kept, dpdk, dpdk_node, sysctl, again = answers
    asked_and_got = re.compile(
        r"node 0: asked for 1000000 pages of 2M, (got|could get) \d+ .*; node 1: asked for 1000000"
    )
    claims = {
        "the module refuses, with the numbers of each node": all(
            one.ended == "failed" and asked_and_got.search(one.text) for one in (ours, kept)
        ),
        "the module leaves the pools as they were": ours.left == kept.left == BEFORE,
        "dpdk-hugepages.py fails": all(one.said["rc"] == 1 for one in (dpdk, dpdk_node)),
        "dpdk-hugepages.py leaves what it got": BEFORE not in (dpdk.left, dpdk_node.left),
        "the task of sysctl succeeds with less": sysctl.ended == "ok"
        and sysctl.said["changed"]
        and sysctl.left != BEFORE,
        "and says changed in every run": again.ended == "ok" and again.said["changed"],
    }
    return [claim for claim, holds in claims.items() if not holds]


def compare(write: bool) -> None:
    """Ask, print the table, put it into the docs if ``write``; ``FleetError`` when somebody did not as the docs say."""
    # At a time limit the machine is stopped as well.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    answers = ask()
    made = table(answers)
    print(f"\n{made}")
    if write:
        before, begin, rest = DOCS.read_text(encoding="utf-8").partition(BEGIN)
        DOCS.write_text(f"{before}{begin}{made}{END}{rest.partition(END)[2]}", encoding="utf-8")
        say(f"Written into {DOCS.relative_to(REPOSITORY)}")
    wrong = surprises(answers)
    if wrong:
        raise FleetError(f"This is not so any more: {'; '.join(wrong)}. Correct docs/tuning.md.")
