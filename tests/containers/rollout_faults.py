# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What goes wrong during a rollout, and what clients see of it: faults on purpose, under load, with the engine double.

In each case streamed completions run all the time, 8 at once, something happens, and rollout.yml is run again
afterwards: the fleet has to be as wanted then, with nothing left drained. Clients give an answer up after 30 s without
a token. ``--case`` picks some; all take about 40 minutes. With ``--keep`` the containers stay, and ``--as-they-are``
goes on with them. The results are gathered in build/rollout-faults.json, and as a table in build/rollout-faults.md;
exit status 0 when every case lost no more than it may.
"""

from __future__ import annotations

import argparse
import contextlib
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
from fleet.podman import podman
from fleet.settings import BUILD, REPOSITORY, ansible_playbook
from rollout_load import MODEL, Fleet, Load, started, wait_for_health

PURPOSE = "faults"
FIRST, SECOND = service.INFERENCE_HOSTS
UNIT = f"vllm@{MODEL}-n0.service"
RESULTS = BUILD / "rollout-faults.json"
GIVEN_UP_AFTER_SECONDS = 30
WATCHED_CLOSELY = "vllm_watchdog_stalled_seconds=10"
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


LATER = list(KILLED_AT)[list(KILLED_AT).index("the restart") :]


@dataclasses.dataclass
class Case:
    """One fault: what is done before there is load, and under load, and how many answers may be lost by it."""

    name: str
    act: t.Callable[[Fleet, int], str]
    may_lose: int = 0
    before: t.Callable[[Fleet], None] | None = None


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


def killed_run_after_run(fleet: Fleet, number: int) -> str:
    """Each of these runs goes on from where the one before it was killed, and is killed a step later."""
    for name in LATER:
        killed(name).act(fleet, number)
    return f"killed {len(LATER)} times"


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


def will_give_no_tokens(fleet: Fleet) -> None:
    """The double of one host answers 20 requests, and from then on /health alone."""
    place = f"/run/systemd/system/{UNIT}.d"
    fleet.on(
        FIRST,
        f"mkdir -p {place} && cd {place} && echo '[Service]' > fault.conf"
        " && echo Environment=NUMAPIN_ENGINE_FAULT=hang-after:20 >> fault.conf && systemctl daemon-reload"
        f" && systemctl restart {UNIT} && rm fault.conf && systemctl daemon-reload",
    )
    wait_for_health(fleet, FIRST)


def no_tokens(fleet: Fleet, number: int) -> str:
    time.sleep(15)
    fleet.playbook("rollout", fleet.models(max_num_seqs=number), "--extra-vars=vllm_rollout_stalled_seconds=20")
    return "the one without tokens was restarted first"


def watched_closely(fleet: Fleet) -> None:
    """The watchdog acts before a client gives up; the run that follows the case sets it back."""
    fleet.playbook("rollout", fleet.as_deployed(), f"--extra-vars={WATCHED_CLOSELY}")


def watched_closely_and_without_tokens(fleet: Fleet) -> None:
    watched_closely(fleet)
    will_give_no_tokens(fleet)


def hung_alone(fleet: Fleet, _number: int) -> str:
    fleet.on(FIRST, "systemctl", "kill", "--kill-whom=main", "--signal=STOP", UNIT)
    return killed_by_the_watchdog(fleet, "left /health without an answer")


def no_tokens_alone(fleet: Fleet, _number: int) -> str:
    return killed_by_the_watchdog(fleet, "had requests and computed nothing")


def killed_by_the_watchdog(fleet: Fleet, why: str) -> str:
    """Nobody does anything until the instance is another process, and answers."""
    show = ("systemctl", "show", "--value", "--property=MainPID", UNIT)
    before, end = fleet.on(FIRST, *show), time.monotonic() + 90
    while fleet.on(FIRST, *show) in (before, "0\n"):
        if time.monotonic() > end:
            raise FleetError(f"{UNIT} hangs, and nothing kills it")
        time.sleep(1)
    said = fleet.on(FIRST, "journalctl --unit=numapin-watchdog --output=cat --since=-2min")
    expect(said, f"killed {UNIT}, which {why}")
    wait_for_health(fleet, FIRST)
    wait_for_health(fleet, FIRST, service.BALANCER)
    return "none: the watchdog killed it, systemd started it"


def host_gone(fleet: Fleet, number: int) -> str:
    gone = next(one["Id"] for one in hosts.containers(PURPOSE) if one["Names"][0].endswith(FIRST))
    podman("kill", gone)
    try:
        time.sleep(5)
        text = refused(fleet, fleet.models(max_num_seqs=number))
    finally:
        podman("start", gone)
        answers_again(fleet, FIRST)
        # A container comes back with another hardware address, which the balancer learns late; a host keeps its own.
        wait_for_health(fleet, FIRST, service.BALANCER)
    return expect(text, "unreachable=1")


def answers_again(fleet: Fleet, host: str) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(FleetError):
            fleet.on(host, "systemctl is-active ssh")
            break
        time.sleep(1)
    wait_for_health(fleet, host)


def network_cut(fleet: Fleet, number: int) -> str:
    (balancer,) = [line.split()[0] for line in known_addresses(fleet) if line.endswith(service.BALANCER)]
    fleet.on(SECOND, "ip", "route", "add", "blackhole", f"{balancer}/32")
    try:
        time.sleep(GIVEN_UP_AFTER_SECONDS)
        text = refused(fleet, fleet.models(max_num_seqs=number))
    finally:
        fleet.on(SECOND, "ip", "route", "del", "blackhole", f"{balancer}/32")
    return expect(text, f"{service.BALANCER} does not reach it")


def known_addresses(fleet: Fleet) -> list[str]:
    """Lines "ADDRESS HOST" of the SSH configuration."""
    words = fleet.files.ssh_config.read_text(encoding="utf-8").split()
    names = [words[i + 1] for i, word in enumerate(words) if word == "Host" and words[i + 1] != "*"]
    addresses = [words[i + 1] for i, word in enumerate(words) if word == "HostName"]
    return [f"{address} {name}" for address, name in zip(addresses, names, strict=True)]


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
    Case("Ansible killed at the restart, the next run a step later, and so on", killed_run_after_run),
    Case("new configuration that does not start", does_not_start),
    Case("new configuration that breaks nginx", nginx_broken),
    Case("disk full on the host", disk_full),
    # What the dead engine was writing is lost, all else is retried: 8 at most.
    Case("engine killed", engine_killed, may_lose=8),
    Case("engine hung", peer_hung, may_lose=8),
    Case("engine that answers /health but gives no tokens", no_tokens, may_lose=16, before=will_give_no_tokens),
    Case("engine hung while nothing is rolled out", hung_alone, may_lose=8, before=watched_closely),
    Case(
        "engine without tokens while nothing is rolled out",
        no_tokens_alone,
        may_lose=8,
        before=watched_closely_and_without_tokens,
    ),
    Case("host gone", host_gone, may_lose=8),
    Case("network cut between balancer and host", network_cut, may_lose=8),
]


def main() -> int:
    """Run the cases, say what each cost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", action="append", help="part of a case's name; may be given several times")
    parser.add_argument("--keep", action="store_true", help="leave the containers up")
    parser.add_argument("--as-they-are", action="store_true", help="go on with what --keep left")
    given = parser.parse_args()
    # In the order they are asked for.
    chosen = list({case.name: case for part in given.case or [""] for case in CASES if part in case.name}.values())
    if not chosen:
        parser.error(f"no case has that in its name; there are: {', '.join(case.name for case in CASES)}")
    good = True
    try:
        packages.install()
        fleet = started("double", PURPOSE)
        if not given.as_they_are:
            fleet.playbook("rollout", fleet.models())
        number = max(fleet.max_num_seqs(), 49)
        for case in chosen:
            number += 1
            result = tried(fleet, case, number)
            good &= result["good"]
            record(case.name, result)
    except FleetError as error:
        print(f"\nERROR: {error}", file=sys.stderr)
        return 2
    finally:
        if not given.keep:
            hosts.down(PURPOSE)
    print("\n" + table())
    return 0 if good else 1


def tried(fleet: Fleet, case: Case, number: int) -> dict[str, t.Any]:
    """One case, and the run that follows it."""
    say(f"---- {case.name}")
    saw, problems = "", []
    if case.before:
        case.before(fleet)
    earlier = given_to_another(fleet)
    with Load(fleet, "fault", 20, timeout=GIVEN_UP_AFTER_SECONDS) as load:
        time.sleep(2)
        try:
            saw = case.act(fleet, number)
        except FleetError as error:
            problems = [str(error)]
        # Also after an act that was not as expected: the next case finds a fleet that is whole.
        try:
            fleet.playbook("rollout", fleet.models(max_num_seqs=number))
            problems += not_as_wanted(fleet, number)
        except FleetError as error:
            problems += [str(error)]
    failures = load.result["failures"]
    good = not problems and len(failures) <= case.may_lose
    say(f"{case.name}: {len(failures)} of {load.result['requests']} lost{'' if good else ', NOT GOOD'}")
    return {
        "good": good,
        "requests": load.result["requests"],
        "complete": load.result["completed"],
        "lost": len(failures),
        "may_lose": case.may_lose,
        "retried": given_to_another(fleet) - earlier,
        "saw": saw,
        "problems": problems,
        "failures": failures,
    }


def given_to_another(fleet: Fleet) -> int:
    """Requests so far that the balancer's log has more than one instance for."""
    count = 'grep -c \'"upstream":"[^"]*,\' /var/log/nginx/access.log || true'
    return int(fleet.on(service.BALANCER, count).strip() or 0)


def record(name: str, result: dict[str, t.Any]) -> None:
    """Beside what other cases gave."""
    known = {**results(), name: result}
    ordered = {case.name: known[case.name] for case in CASES if case.name in known}
    RESULTS.write_text(json.dumps(ordered, indent=2) + "\n", encoding="utf-8")
    RESULTS.with_suffix(".md").write_text(table() + "\n", encoding="utf-8")


def results() -> dict[str, t.Any]:
    """What was found so far, by case."""
    with contextlib.suppress(OSError, ValueError):
        found: dict[str, t.Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
        return found
    return {}


def table() -> str:
    """As it stands in docs/rollouts.md."""
    lines = [
        "| fault | requests | complete | lost | given to another instance | the run that met it |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in results().items():
        said = one["saw"] if one["good"] else "NOT GOOD: " + " ".join("; ".join(one["problems"]).split())[:300]
        lines.append(f"| {name} | {one['requests']} | {one['complete']} | {one['lost']} | {one['retried']} | {said} |")
    return "\n".join(lines)


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
