# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command line: python3 tests/containers COMMAND [PURPOSE]."""

from __future__ import annotations

import argparse
import sys

from fleet import demo, hosts, image, packages, service, vllm
from fleet.console import FleetError, say
from fleet.settings import Settings

PURPOSES = ("demo", "molecule", "load", "faults", "artefact-demo")
EPILOG = """Commands:
  setup          install the Debian or Ubuntu packages that are missing
  prepare        setup, then build what is cached: image, vLLM environment, model
  up PURPOSE     two inference hosts and a balancer, and build/PURPOSE/inventory.yml
  down PURPOSE   remove them
  status         what runs
  demo [PURPOSE] up, site.yml, what it did, and one streamed answer
  demo-down      remove the demo

Environment: NUMAPIN_SUITE (Debian suite of the image, default bookworm), NUMAPIN_IMAGE (a ready image instead),
NUMAPIN_SUBNET (the containers' IPv4 network, default the first free one of a few)."""


def main() -> int:
    """Do what was asked; a fault ends with its message, never with a traceback."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="tests/containers", formatter_class=formatter, epilog=EPILOG)
    commands = ("setup", "prepare", "up", "down", "status", "demo", "demo-down")
    parser.add_argument("command", choices=commands)
    parser.add_argument("purpose", nargs="?", choices=PURPOSES, default="demo", help="default: demo")
    given = parser.parse_args()
    try:
        act(given.command, given.purpose, Settings.from_environment())
    except FleetError as error:
        print(f"\nERROR: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. What was started stays; run it again to go on, or demo-down to remove it.", file=sys.stderr)
        return 130
    return 0


def act(command: str, purpose: str, settings: Settings) -> None:
    """Run one command."""
    if command in ("setup", "prepare", "up", "demo"):
        packages.install()
    if command == "prepare":
        image.ready(settings)
        vllm.ready(settings)
    elif command == "up":
        ready = service.up(purpose, settings)
        say(f"Inventory: {ready.files.inventory}")
    elif command == "down":
        take_down(purpose)
    elif command == "status":
        status()
    elif command == "demo":
        demo.run_demo(settings, purpose)
    elif command == "demo-down":
        take_down("demo")


def take_down(purpose: str) -> None:
    """Remove the containers of a purpose and say so."""
    count = hosts.down(purpose)
    say(f"Removed {count} containers of {purpose}." if count else f"No containers of {purpose} were there.")


def status() -> None:
    """List this checkout's containers."""
    found = [one for purpose in (*PURPOSES, "builder") for one in hosts.containers(purpose)]
    for one in found:
        print(f"{one['Names'][0]:<28} {one['State']:<10} {one.get('Status', '')}")
    if not found:
        print("No containers of this checkout.")
