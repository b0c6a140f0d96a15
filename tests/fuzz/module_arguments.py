# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Call every module with arguments that nobody should give: a result or a clear error, never a traceback.

``python tests/fuzz/module_arguments.py`` takes a new seed and prints it; ``--seed`` takes an old one, ``--count`` says
how many calls of each module, ``--only MODULE`` picks one. Arguments are made from what the module documents – its
options, their types and choices, its examples – and are then spoiled: numbers out of any range, lists for texts,
cpulists that run backwards, sizes without a unit, unknown keys. All calls are in check mode, in which modules write
nothing (the unit tests hold them to it with strace), and in one process for each module, as on a host.

A call passes when it ends with one JSON object, within the limit, and a failure has a message for people: text, not too
long, and nothing of Python's own in it. ansible-core checks types before a module sees anything, and falls over some
(false where a dictionary with options of its own is wanted); these calls are counted apart.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import traceback
import typing as t
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEV = ROOT / "build" / "dev"
if str(DEV) not in sys.path:
    sys.path.insert(0, str(DEV))

from ansible.module_utils.testing import patch_module_args  # noqa: E402 - only now importable, with its collection

MODULES = sorted(path.stem for path in (ROOT / "plugins" / "modules").glob("[a-z]*.py"))
COUNT = 400
LIMIT_SECONDS = 10.0
MODULE_LIMIT_SECONDS = 600
MESSAGE_LIMIT = 6000
# What ansible-core says itself of an argument's type, before the module sees any.
CORES_OWN = re.compile(
    r"^(argument|Elements value for option) '?[\w.]+'? .*is of type .* and we were unable to convert"
    r"|^Value '.*' in the sub parameter field '\w+' must be a list, not '\w+'",
    re.DOTALL,
)
CORES_CHECK = "ansible/module_utils/common/parameters.py"
PYTHONS_OWN = re.compile(
    r"Traceback|<class |object at 0x|\bNoneType\b|'str' object|'int' object|'list' object|'dict' object"
)
# Options that say how long something may take; nobody waits for it here.
WAITS = re.compile(r"(^|_)(timeout|wait|quiet|stalled|limit|settle)_?(seconds)?$|_seconds$")

NAMES = [
    "a",
    "llama-n0",
    "vllm@llama-n0.service",
    "eth0",
    "lo",
    "kernel.numa_balancing",
    "vm.nr_hugepages",
    "root",
    "65534",
]
CPULISTS = [
    "0",
    "0-1",
    "0-3,8",
    "3-0",
    "0-99999999999",
    "0-31:2/4",
    "0-3:9/4",
    ",",
    "0,,1",
    "a-b",
    "ff,ffffffff",
    "-1",
    " 0",
]
SIZES = ["2M", "1G", "2048", "2m", "1Z", "M", "0", "-2M", "1.5G", "9" * 40 + "G"]
PATHS = [
    "/",
    "/nonexistent/x",
    "relative/x",
    "/etc/passwd",
    "/tmp/../etc",
    "/dev/null",
    "//x",
    "/x\0y",
    "/" + "a" * 300,
]
DEVICES = ["0000:17:00.0", "0000:17:00", "GPU-00000000-0000-4000-8000-000000000000", "nvme0", "mlx5_0"]
OTHERS = [
    "",
    " ",
    "\n",
    "é…",
    "{{ x }}",
    "%s",
    "x" * 3000,
    "null",
    "true",
    "http://127.0.0.1:1",
    "http://[::1",
    "ftp://x",
]
WORDS = [*NAMES, *CPULISTS, *SIZES, *PATHS, *DEVICES, *OTHERS]
NUMBERS = [0, 1, 2, -1, 7, 64, 100, 1.5, 2**31, 2**63, 2**70, -(2**70), 1e300]
ODD: list[t.Any] = [
    None,
    True,
    False,
    [],
    {},
    [[]],
    [{}],
    {"": ""},
    [None],
    {"node": 0},
    {"node": "x"},
    {"a": {"b": [1]}},
    ["0-1", 2],
]
# Addresses of examples: what goes there waits until it is given up, and here it is refused.
NOWHERE = re.compile(r"192\.0\.2\.\d+:\d+")
Options = dict[str, dict[str, t.Any]]


def documented(module: str) -> tuple[Options, list[dict[str, t.Any]]]:
    """Return a module's options and the arguments of its examples."""
    code = importlib.import_module(f"ansible_collections.numapin.inference.plugins.modules.{module}")
    options = yaml.safe_load(code.DOCUMENTATION).get("options") or {}
    tasks = yaml.safe_load(code.EXAMPLES) or []
    name = f"numapin.inference.{module}"
    return options, [task[name] for task in tasks if isinstance(task, dict) and isinstance(task.get(name), dict)]


class Maker:
    """Makes arguments of one module; the same ones for the same seed."""

    def __init__(self, module: str, seed: str) -> None:
        self.random = random.Random(f"{seed} {module}")
        self.options, self.examples = documented(module)

    def arguments(self) -> dict[str, t.Any]:
        """Return the next arguments."""
        made = self.dictionary(self.options)
        if self.examples and self.random.random() < 0.5:
            example = json.loads(NOWHERE.sub("127.0.0.1:1", json.dumps(self.random.choice(self.examples), default=str)))
            made = {**example, **{name: value for name, value in made.items() if self.random.random() < 0.3}}
            if self.random.random() < 0.7:
                self.spoil(made)
        return {name: self.short(name, value) for name, value in made.items()}

    def short(self, name: str, value: t.Any) -> t.Any:
        return min(value, 1) if WAITS.search(name) and isinstance(value, (int, float)) else value

    def spoil(self, where: t.Any) -> None:
        """Replace something anywhere below ``where``."""
        while isinstance(where, (dict, list)) and where:
            key = self.random.choice(list(where) if isinstance(where, dict) else range(len(where)))
            if not isinstance(where[key], (dict, list)) or not where[key] or self.random.random() < 0.3:
                where[key] = self.anything()
                return
            where = where[key]

    def dictionary(self, options: Options) -> dict[str, t.Any]:
        made = {
            name: self.value(option)
            for name, option in options.items()
            if self.random.random() < (0.9 if option.get("required") else 0.35)
        }
        if self.random.random() < 0.05:
            made[self.random.choice(["unknown", "", "nodes", "Ω"])] = self.anything()
        return made

    def value(self, option: dict[str, t.Any]) -> t.Any:
        if self.random.random() < 0.2:
            return self.anything()
        if option.get("choices") and self.random.random() < 0.8:
            return self.random.choice(option["choices"])
        kind = option.get("type", "str")
        if kind == "list":
            element = {**option, "type": option.get("elements", "str")}
            return [self.value(element) for _number in range(self.random.choice([0, 1, 1, 2, 3]))]
        if kind == "dict":
            if option.get("suboptions"):
                return self.dictionary(option["suboptions"])
            return {self.random.choice(WORDS): self.anything() for _number in range(self.random.choice([0, 1, 2]))}
        if kind == "bool":
            return self.random.choice([True, False, "yes", "maybe", 2])
        return self.random.choice(NUMBERS if kind in ("int", "float") else WORDS)

    def anything(self) -> t.Any:
        pools: list[list[t.Any]] = [WORDS, NUMBERS, ODD]
        return self.random.choice(self.random.choice(pools))


def called(module: str, arguments: dict[str, t.Any]) -> tuple[str, str]:
    """Call a module; return what it came to (``result``, ``error``, ``core`` or ``fault``) and what was said."""
    code = importlib.import_module(f"ansible_collections.numapin.inference.plugins.modules.{module}")
    output, faults = io.StringIO(), io.StringIO()
    started = time.monotonic()
    try:
        with (
            patch_module_args({**arguments, "_ansible_check_mode": True, "_ansible_diff": True}),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(faults),
        ):
            code.main()
        return "fault", "it came back without an answer"
    except SystemExit:
        pass
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        return "core" if frames[-1].filename.endswith(CORES_CHECK) else "fault", traceback.format_exc()
    took = time.monotonic() - started
    try:
        answer = json.loads(output.getvalue())
    except ValueError:
        return "fault", f"no JSON: {output.getvalue()[:2000]!r}"
    if took > LIMIT_SECONDS:
        return "fault", f"it took {took:.1f} s"
    if not answer.get("failed"):
        return ("result", "") if not faults.getvalue() else ("fault", f"on standard error: {faults.getvalue()[:1000]}")
    message = answer.get("msg")
    if not isinstance(message, str) or not message.strip():
        return "fault", f"failed without a message: {answer}"
    if CORES_OWN.match(message):
        return "error", message
    if len(message) > MESSAGE_LIMIT or PYTHONS_OWN.search(message) or answer.get("exception"):
        return "fault", f"no message for people: {message[:2000]} {answer.get('exception', '')}"
    return "error", message


def try_module(module: str, seed: str, count: int) -> None:
    """Call one module so often, and print what became of it as JSON."""
    maker = Maker(module, seed)
    ends = {"result": 0, "error": 0, "core": 0, "fault": 0}
    faults = []
    # Where relative names lead; what is made by mistake is seen in it.
    with tempfile.TemporaryDirectory(prefix="numapin-fuzz-") as directory:
        os.chdir(directory)
        for number in range(count):
            arguments = maker.arguments()
            end, said = called(module, json.loads(json.dumps(arguments)))
            ends[end] += 1
            if end == "fault":
                faults.append({"number": number, "arguments": arguments, "said": said})
        left = sorted(os.listdir(directory))
        os.chdir("/")
    if left:
        ends["fault"] += 1
        faults.append({"number": -1, "arguments": {}, "said": f"check mode left {left}"})
    print(json.dumps({"ends": ends, "faults": faults[:5]}))


def main() -> None:
    parser = argparse.ArgumentParser(description="Modules with wrong arguments.")
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(2**32)))
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--only", choices=MODULES)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        try_module(given.only, given.seed, given.count)
        return
    print(f"seed {given.seed}, {given.count} calls of each module")
    total = {"result": 0, "error": 0, "core": 0, "fault": 0}
    for module in [given.only] if given.only else MODULES:
        command = [
            sys.executable,
            __file__,
            "--inside",
            "--only",
            module,
            "--seed",
            given.seed,
            "--count",
            str(given.count),
        ]
        started = time.monotonic()
        ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=MODULE_LIMIT_SECONDS)
        if ran.returncode != 0:
            sys.exit(f"{module}: ended with {ran.returncode}: {ran.stdout[-2000:]}{ran.stderr[-4000:]}")
        told = json.loads(ran.stdout.splitlines()[-1])
        for end, number in told["ends"].items():
            total[end] += number
        took = time.monotonic() - started
        print(
            f"{module:20} "
            + ", ".join(f"{number} {end}s" for end, number in told["ends"].items())
            + f" in {took:.0f} s",
            flush=True,
        )
        for fault in told["faults"]:
            print(f"  call {fault['number']}: {json.dumps(fault['arguments'])[:1500]}\n    {fault['said']}", flush=True)
    print(
        f"{sum(total.values())} calls: {total['result']} results, {total['error']} clear errors, {total['core']} that"
        f" ansible-core itself falls over, {total['fault']} faults"
    )
    if total["fault"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
