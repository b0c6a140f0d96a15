# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What goes wrong during a rollout, and what clients see of it: faults on purpose, under load, with the engine double.

In each case streamed completions run all the time, something happens, and rollout.yml is run again afterwards: the
fleet has to be as wanted then, with nothing left drained. ``--case`` picks some; all take about half an hour. The
result goes to build/rollout-faults.json; exit status 0 when every case lost no more than it may.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import typing as t

from fleet import hosts, packages, service
from fleet.console import FleetError, say, step
from fleet.settings import BUILD, REPOSITORY, ansible_playbook
from rollout_load import MODEL, Fleet, Load, up

PURPOSE = "faults"
FIRST, SECOND = service.INFERENCE_HOSTS
UNIT = f"vllm@{MODEL}-n0.service"
# (seen before, the task at whose beginning ansible-playbook and all its children are killed)
KILLED_AT = {
    "the record": ("", "Write down what is taken out, and keep its files"),
    "the balancer's files": ("Take it out of the balancers", "Put the configuration in place"),
    "the reload": ("Take it out of the balancers", "Reload nginx"),
    "the wait for the last answer": ("", "Wait until its last answer is given"),
    "the new files": ("", "Write the new configuration"),
    "the restart": ("Write the new configuration", "Start, restart and stop"),
    "the wait for its answer": ("", "Wait until it answers"),
    "the proof of its place": ("", "Read where its threads and pages are"),
    "putting it back": ("Put it back into the balancers", "Put the configuration in place"),
    "forgetting it": ("", "Forget that it was out"),
}


@dataclasses.dataclass
class Case:
    """One fault: what is done, how many answers may be lost by it, and what the first run must end with."""

    name: str
    act: t.Callable[[Fleet, int], str]
    may_lose: int = 0


def killed(name: str) -> Case:
    def act(fleet: Fleet, number: int) -> str:
        after, at = KILLED_AT[name]
        given = [f"--inventory={fleet.files.inventory}", str(REPOSITORY / "playbooks" / "rollout.yml")]
        command, environment = ansible_playbook(*given, fleet.models(max_num_seqs=number))
        with step(f"rollout.yml, killed at {name}"):
            process = subprocess.Popen(
                command,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            seen = not after
            for line in process.stdout or ():
                seen = seen or after in line
                if seen and line.startswith("TASK") and at in line:
                    time.sleep(0.3)
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait(10)
                    return "killed"
        raise FleetError(f"rollout.yml ended before its task {at!r}")

    return Case(f"Ansible killed at {name}", act)


def refused(fleet: Fleet, *arguments: str) -> str:
    """Run rollout.yml, which has to fail; its message."""
    given = [f"--inventory={fleet.files.inventory}", str(REPOSITORY / "playbooks" / "rollout.yml"), *arguments]
    command, environment = ansible_playbook(*given)
    with step("rollout.yml, which has to fail"):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode == 0:
        raise FleetError("rollout.yml succeeded, although it had to fail")
    return " ".join(done.stdout.split())


def expect(text: str, *words: str) -> str:
    """What has to be in a message."""
    missing = [word for word in words if word not in text]
    if missing:
        raise FleetError(f"the message lacks {missing}: {text[-3000:]}")
    return words[0]


def does_not_start(fleet: Fleet, _number: int) -> str:
    text = refused(fleet, fleet.models(max_model_len=9_999_999))
    return expect(text, "Its previous configuration is back, and it serves", "max_position_embeddings")


def nginx_broken(fleet: Fleet, number: int) -> str:
    snippet = json.dumps({"load_balancer_server_snippet": "no_such_directive on;"})
    text = refused(fleet, fleet.models(max_num_seqs=number), f"--extra-vars={snippet}")
    return expect(text, 'unknown directive "no_such_directive"')


def engine_killed(fleet: Fleet, number: int) -> str:
    fleet.on(FIRST, "systemctl", "kill", "--signal=KILL", UNIT)
    time.sleep(1)
    fleet.playbook("rollout", fleet.models(max_num_seqs=number))
    return "the rollout went on"


def peer_hung(fleet: Fleet, number: int) -> str:
    fleet.on(SECOND, "systemctl", "kill", "--kill-whom=main", "--signal=STOP", UNIT)
    fleet.playbook("rollout", fleet.models(max_num_seqs=number))
    return "the hung one was restarted first"


def disk_full(fleet: Fleet, number: int) -> str:
    # A file system of its own with not a byte left, where the records go.
    state = "/var/lib/numapin"
    fleet.on(
        FIRST,
        f"cp -a {state} /run/kept && mount -t tmpfs -o size=64k none {state} && cp -a /run/kept/. {state}"
        f" && dd if=/dev/zero of={state}/fill bs=4k 2>/dev/null; true",
    )
    try:
        text = refused(fleet, fleet.models(max_num_seqs=number))
    finally:
        fleet.on(FIRST, "umount /var/lib/numapin; rm -rf /run/kept")
    return expect(text, "No space left on device")


CASES = [
    *(killed(name) for name in KILLED_AT),
    Case("new configuration that does not start", does_not_start),
    Case("new configuration that breaks nginx", nginx_broken),
    Case("disk full on the host", disk_full),
    # What the dead engine was writing is lost, all else is retried: 8 at most.
    Case("engine killed", engine_killed, may_lose=8),
    Case("engine hung", peer_hung, may_lose=8),
]


def main() -> int:
    """Run the cases, say what each cost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", action="append", help="part of a case's name; may be given several times")
    parser.add_argument("--keep", action="store_true", help="leave the containers up")
    given = parser.parse_args()
    chosen = [case for case in CASES if not given.case or any(part in case.name for part in given.case)]
    if not chosen:
        parser.error(f"no case has that in its name; there are: {', '.join(case.name for case in CASES)}")
    results = []
    try:
        packages.install()
        fleet = up("double", PURPOSE)
        for number, case in enumerate(chosen, start=50):
            results.append(tried(fleet, case, number))
            (BUILD / "rollout-faults.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    except FleetError as error:
        print(f"\nERROR: {error}", file=sys.stderr)
        return 2
    finally:
        if not given.keep:
            hosts.down(PURPOSE)
    for one in results:
        verdict = "" if one["good"] else "NOT GOOD: "
        print(f"{one['case']:44}{one['requests']:>7} requests{one['lost']:>4} lost  {verdict}{one['saw']}")
    return 0 if all(one["good"] for one in results) else 1


def tried(fleet: Fleet, case: Case, number: int) -> dict[str, t.Any]:
    """One case, and the run that follows it."""
    say(f"---- {case.name}")
    saw, problems = "", []
    with Load(fleet, "fault", 20) as load:
        time.sleep(2)
        try:
            saw = case.act(fleet, number)
            fleet.playbook("rollout", fleet.models(max_num_seqs=number))
            problems = not_as_wanted(fleet, number)
        except FleetError as error:
            problems = [str(error)]
    failures = load.result["failures"]
    good = not problems and len(failures) <= case.may_lose
    return {
        "case": case.name,
        "good": good,
        "requests": load.result["requests"],
        "lost": len(failures),
        "may_lose": case.may_lose,
        "saw": saw if good else "; ".join(problems)[:400] or json.dumps(failures[:3]),
    }


def not_as_wanted(fleet: Fleet, number: int) -> list[str]:
    """What is not as the last run had to leave it."""
    problems = []
    for host in service.INFERENCE_HOSTS:
        left = "ls /var/lib/numapin/drained.json /var/lib/numapin/previous 2>/dev/null"
        found = fleet.on(host, f"{left}; grep -h max-num-seqs /etc/vllm/*.yaml; true")
        if found.strip() != f"max-num-seqs: {number}":
            problems.append(f"{host}: {found.strip()!r} instead of max-num-seqs {number} and nothing drained")
    upstreams = fleet.on(service.BALANCER, "cat", "/etc/nginx/numapin/upstreams.conf")
    if " down;" in upstreams or upstreams.count("server ") != len(service.INFERENCE_HOSTS) + 1:
        problems.append(f"the balancer has {upstreams}")
    return problems


if __name__ == "__main__":
    sys.exit(main())
