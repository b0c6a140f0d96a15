# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command line: python3 tests/lab COMMAND."""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import re
import shlex
import sys
import time

from fleet.console import STARTED, FleetError, say, step

from machines import image, machine, shapes, shortfall, site, warm
from machines.places import at_once, purposes

COMMANDS = ("lab", "prepare", "up", "fleet", "site", "reset", "reboot", "down", "status", "ssh", "shapes", "shortfall")
EPILOG = """Commands:
  prepare            install the packages that are missing and make the image
  up SHAPE...        start clean machines and wait for them; NAME=SHAPE names one otherwise than its shape
  lab                prepare, fleet, site, and what to do with it
  fleet              start the fleet of site.yml (two dual-socket machines and a balancer), what runs of it is kept
  site               run playbooks/site.yml on the fleet
  reset [NAME...]    start these, or all, anew, as clean as they were
  reboot [NAME...]   reboot these, or all, from inside, and wait for them
  down [NAME...]     stop these, or all
  status             what runs
  ssh NAME [COMMAND] log in to one, or run a command there
  shapes             the shapes there are, and why
  shortfall [write]  who says what when there are fewer huge pages than asked for: the table of docs/tuning.md

Inventory: build/lab/PURPOSE/inventory.yml. Environment: NUMAPIN_SUITE (Debian suite of the image, default bookworm),
NUMAPIN_LAB_ACCELERATOR (kvm or tcg, default: kvm where the processor offers it)."""


def main() -> int:
    """Do what was asked; a fault ends with its message, never with a traceback."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="tests/lab", formatter_class=formatter, epilog=EPILOG)
    parser.add_argument("--purpose", choices=purposes(), default="lab", help="whose machines; default: lab, a person's")
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="...", help="as listed below")
    given = parser.parse_args()
    try:
        return act(given.command, given.purpose, given.words)
    except FleetError as error:
        print(f"\nERROR: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Machines that were started stay; python3 tests/lab down stops them.", file=sys.stderr)
        return 130


def act(command: str, purpose: str, words: list[str]) -> int:
    """Run one command."""
    if command == "prepare":
        prepare()
    elif command == "up":
        up(purpose, words)
    elif command == "lab":
        lab(purpose)
    elif command == "fleet":
        site.up(purpose, prepare())
        say(f"Inventory: {site.write_inventory(purpose).inventory}")
    elif command == "site":
        site.converge(purpose)
    elif command == "reset":
        reset(purpose, words)
    elif command == "reboot":
        reboot(purpose, words)
    elif command == "down":
        down(purpose, words)
    elif command == "status":
        status()
    elif command == "ssh":
        log_in(purpose, words)
    elif command == "shortfall":
        shortfall.compare("write" in words)
    else:
        for name in shapes.names():
            print(f"{name:<12} {shapes.read(name).reason}")
    return 0


def prepare() -> image.Image:
    """Packages and image."""
    with step("Looking for the packages that are needed"):
        image.install_packages()
    return image.ready()


def up(purpose: str, words: list[str]) -> None:
    """Start clean machines and wait for them."""
    if not words:
        raise FleetError(f"Which machines? Shapes: {', '.join(shapes.names())}.")
    wanted = {name: shapes.read(shape) for name, shape in map(named, words)}
    made = prepare()
    warm.up(purpose, [warm.Wanted(name, shape, n) for n, (name, shape) in enumerate(wanted.items(), 1)], made)
    say(f"Inventory: {site.write_inventory(purpose).inventory}")


def lab(purpose: str) -> None:
    """The fleet with site.yml applied, for people: how to look at it and how to break it."""
    site.up(purpose, prepare())
    site.converge(purpose)
    files = site.write_inventory(purpose)
    message = {"role": "user", "content": "Hello"}
    question = json.dumps({"model": site.MODEL, "stream": True, "max_tokens": 40, "messages": [message]})
    print(
        f"\nReady after {time.monotonic() - STARTED:.0f} s. It stays up until `make lab-down`. vLLM and the GPUs are\n"
        "doubles; kernels, nodes and placement are real.\n\n"
        "Ask it:\n"
        f"  curl -N {site.url(purpose)}/chat/completions -H 'Content-Type: application/json' \\\n"
        f'    -H "Authorization: Bearer $(cat {shlex.quote(str(files.inventory.with_name("api_key")))})" \\\n'
        f"    -d '{question}'\n"
        "Look at it, after make lab-shell (HOST=inference1, inference2 or balancer1):\n"
        "  numactl -H; lspci | grep NVIDIA; systemctl status 'vllm@*'; numastat -p $(pgrep -u vllm)\n"
        "Break it there:\n"
        f"  kill -9 $(systemctl show --value --property=MainPID vllm@{site.MODEL}-n0)  # systemd has it back\n"
        f"  systemctl stop vllm@{site.MODEL}-n1  # the balancer goes on without it\n"
        "  reboot  # the same placement, without Ansible\n"
        "And let it be proved, or named what is wrong:\n"
        f"  ANSIBLE_COLLECTIONS_PATH=build/dev .venv/bin/ansible-playbook -i {files.inventory} playbooks/verify.yml",
        flush=True,
    )


def named(word: str) -> tuple[str, str]:
    """NAME=SHAPE, or a shape that is its own name."""
    name, equals, shape = word.partition("=")
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,31}", name):
        raise FleetError(f"{name!r} is no name for a machine: small letters, digits and hyphens, as gpu-1=two-sockets.")
    return name, shape if equals else name


def reset(purpose: str, names: list[str]) -> None:
    """Begin again with machines, or all: what was done to them is gone."""
    chosen = those(purpose, names)
    wanted = [warm.Wanted(name, shapes.read(one.shape), one.number) for name, one in chosen.items()]
    made = prepare()
    with step(f"Resetting {', '.join(chosen)}"):
        warm.up(purpose, wanted, made)
    site.write_inventory(purpose)


def those(purpose: str, names: list[str]) -> dict[str, machine.Machine]:
    """The named machines, or all, that run; raises ``FleetError`` for a name that does not."""
    there = {one.name: one for one in machine.running(purpose)}
    strangers = [name for name in names if name not in there]
    if strangers or not there:
        raise FleetError(f"{', '.join(strangers) or 'No machine'} does not run; {', '.join(there) or 'none'} does.")
    return {name: there[name] for name in names or there}


def reboot(purpose: str, names: list[str]) -> None:
    """Reboot machines, or all, as many at a time as may boot together."""
    chosen = those(purpose, names)
    ssh = ["ssh", "-F", str(site.write_inventory(purpose).ssh_config)]
    with concurrent.futures.ThreadPoolExecutor(at_once()) as pool:
        for job in [pool.submit(machine.reboot, one, [*ssh, name]) for name, one in chosen.items()]:
            job.result()


def down(purpose: str, names: list[str]) -> None:
    """Stop machines, or all; what is not there is said, not refused."""
    there = [one.name for one in machine.running(purpose)]
    for name in names or there:
        say(f"Stopped {name}" if machine.stop(purpose, name) else f"{name} did not run")
    if not names and not there:
        say(f"No machines of purpose {purpose} ran.")
    site.write_inventory(purpose)


def status() -> None:
    """List this checkout's machines."""
    found = [one for purpose in purposes() for one in machine.running(purpose)]
    for one in found:
        where = f"PID {one.pid}, SSH at 127.0.0.1:{one.ssh_port}, {one.accelerator}"
        print(f"{one.purpose:<6} {one.name:<16} {one.shape:<12} {where}")
    if not found:
        print("No machines of this checkout.")


def log_in(purpose: str, words: list[str]) -> None:
    """Become ssh."""
    there = [one.name for one in machine.running(purpose)]
    if not words or words[0] not in there:
        raise FleetError(
            f"Which machine? {', '.join(there) or 'None'} runs. Usage: python3 tests/lab ssh NAME [COMMAND]"
        )
    files = site.write_inventory(purpose)
    os.execvp("ssh", ["ssh", "-F", str(files.ssh_config), *words])
