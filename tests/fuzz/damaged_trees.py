# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read 10,000 randomly damaged trees: each gives facts or a clear error, in at most 1 s and 200 MiB.

``python tests/fuzz/damaged_trees.py`` takes a new seed and prints it; ``--seed`` takes an old one, and ``--only N``
does case N alone and tells all about it (``--keep DIRECTORY`` leaves its damaged tree there). A case is one of the base
trees - the machines of the unit tests, made-up GPU servers with recorded NVML answers, the captures in tests/captures -
with one to forty damages (see damages.py). All that numa_facts reads of a captured tree is read from it, most often
with every part, sometimes with some of them, sometimes with overrides of GPUs' nodes. Some cases go through the module
as Ansible starts it, too, and must come to the same result.

A case passes when it gives facts of the documented shape (facts_shape.py) or a ``NumapinError``; no traceback, nothing
read from outside of the tree. Time is wall time without what the process waited for a CPU that others had, memory the
peak of the whole process, interpreter included. A case over a limit counts when it is that twice more, each time in a
new process: the machine has other things to do as well.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import multiprocessing.connection
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
import typing as t
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEV = ROOT / "build" / "dev"
if str(DEV) not in sys.path:
    sys.path.insert(0, str(DEV))

# Importable only now (E402): a script finds what lies beside it through the path that was just set.
from ansible_collections.numapin.inference.plugins.module_utils import _facts  # noqa: E402
from ansible_collections.numapin.inference.plugins.module_utils._archive import recorded_answers  # noqa: E402
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError  # noqa: E402
from ansible_collections.numapin.inference.plugins.module_utils._gpu_answers import (  # noqa: E402
    GpuAnswer,
    GpuAnswers,
    LinkAnswer,
    MigDevice,
)
from ansible_collections.numapin.inference.plugins.module_utils._gpu_sources import GpuSources  # noqa: E402
from ansible_collections.numapin.inference.plugins.module_utils._host import Host  # noqa: E402
from ansible_collections.numapin.inference.tests.figures import made_up_tree  # noqa: E402
from ansible_collections.numapin.inference.tests.fuzz import damages, facts_shape  # noqa: E402
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils import trees  # noqa: E402

COUNT = 10_000
LIMIT_SECONDS = 1.0
LIMIT_MIB = 200
# Where a case that does not end is interrupted, to say where it was, and where its process is killed.
INTERRUPT_SECONDS = 10
KILL_SECONDS = 30
# Keeps a case that asks for all memory there is from taking it.
ADDRESS_SPACE_MIB = 2048
WORKERS = 2
# Cases that go through the module as well.
THROUGH_THE_MODULE = 20
MODULE_LIMIT_SECONDS = 30
CONFIRMATIONS = 2
MESSAGE_LIMIT = 3_000


@dataclass
class Outcome:
    """What became of one case."""

    case: int
    base: str
    damages: list[str]
    kind: str = "failure"  # facts | error | failure
    message: str = ""
    warnings: int = 0
    seconds: float = 0.0
    mib: float = 0.0
    problems: list[str] = field(default_factory=list)
    was_stopped: bool = False

    @property
    def over_a_limit(self) -> bool:
        return self.was_stopped or self.seconds > LIMIT_SECONDS or self.mib > LIMIT_MIB


class InterruptedCase(BaseException):
    """Not an Exception: nothing that the reading catches may catch this."""


# Base trees


def base_names() -> list[str]:
    """Return the names of the base trees; a function of trees.py that takes nothing describes a machine."""
    unit = sorted(
        name for name, value in vars(trees).items() if getattr(value, "__annotations__", {}) == {"return": "Machine"}
    )
    captures = sorted(path.name for path in (ROOT / "tests" / "captures").glob("*.tar.gz"))
    return (
        [f"unit:{name}" for name in unit]
        + ["made-up:gpu-server", "made-up:one-node"]
        + [f"capture:{n}" for n in captures]
    )


def lay_out(name: str, root: Path) -> None:
    kind, _colon, what = name.partition(":")
    root.mkdir(parents=True)
    if kind == "unit":
        trees.lay_out(root, getattr(trees, what)())
    elif kind == "capture":
        with tarfile.open(ROOT / "tests" / "captures" / what) as archive:
            archive.extractall(root, filter="data")
    elif what == "one-node":
        made_up_tree.lay_out(root, made_up_tree.Shape(1, 1, 4, 1, 1, 1, 4, 4))
    else:
        made_up_tree.lay_out(root, made_up_tree.Shape(2, 4, 32, 8, 4, 4, 64, 20))
        record_answers(root)


def record_answers(root: Path) -> None:
    """Add what NVML answered on this machine: NVLinks between all GPUs, one of them in MIG mode."""
    places = sorted((root / "proc/driver/nvidia/gpus").iterdir())
    gpus = {
        place.name: GpuAnswer(
            uuid=f"GPU-{number:08x}-0000-4000-8000-{number:012x}",
            name="NVIDIA H100 80GB HBM3",
            memory_total_mib=81559,
            near_nodes=str(number // 2),
            near_cpus="0-3,16-19",
            mig_enabled=number == 0,
            mig_devices=(MigDevice("MIG-0", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", 9856),) if number == 0 else (),
        )
        for number, place in enumerate(places)
    }
    links = {(one, other): LinkAnswer(18, "SYS") for one, other in itertools.combinations(sorted(gpus), 2)}
    answers = {
        "gpu_answers.json": GpuAnswers("nvml", gpus, links).to_plain(),
        "capture.json": {"format": 1, "collection_version": "0.1.0"},
    }
    for name, content in answers.items():
        trees.write(root / "numapin" / name, json.dumps(content, indent=1))


class Trees:
    """The base trees, each laid out when it is needed first."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._trees: dict[str, damages.Tree] = {}

    def __getitem__(self, name: str) -> damages.Tree:
        if name not in self._trees:
            root = self._place / name.replace(":", "-")
            lay_out(name, root)
            self._trees[name] = damages.Tree(root, self._place / f"{root.name}.aside")
        return self._trees[name]


# One case


@dataclass(frozen=True)
class Case:
    """What a case reads and how it is damaged, all of it from the seed and the case's number."""

    number: int
    base: str
    parts: frozenset[str]
    overrides: dict[str, int]
    damage_count: int
    rng: random.Random

    @classmethod
    def from_seed(cls, seed: int, number: int, bases: t.Sequence[str]) -> Case:
        rng = random.Random(f"{seed}:{number}")
        parts = _facts.PARTS if rng.random() < 0.9 else rng.sample(_facts.PARTS, rng.randrange(len(_facts.PARTS)))
        overrides = {}
        if rng.random() < 0.05:
            overrides = {
                rng.choice(("0000:17:00.0", "0000:1f:00.0", "GPU-00000000-0000-4000-8000-000000000000")): rng.choice(
                    (0, 1, 99)
                )
            }
        count = rng.choice((1, 1, 1, 1, 2, 2, 3, 5, 10, 40))
        return cls(number, rng.choice(bases), _facts.wanted_parts(list(parts) or ["all"]), overrides, count, rng)


def read_all(root: str, case: Case) -> dict[str, t.Any]:
    """Read what numa_facts reads of a captured tree."""
    host = Host(root)
    sources = GpuSources(nvml=None, nvidia_smi=None, recorded=recorded_answers(host))
    return _facts.gather(host, case.parts, case.overrides, sources)


def run_case(case: Case, known_trees: Trees, through_the_module: bool, keep: Path | None = None) -> Outcome:
    tree = known_trees[case.base]
    try:
        done = [damages.damage(tree, case.rng) for _number in range(case.damage_count)]
        outcome = Outcome(case.number, case.base, done)
        judge(outcome, tree, case)
        if through_the_module and outcome.kind != "failure":
            judge_module(outcome, tree, case)
        if keep is not None:
            shutil.copytree(tree.root, keep, symlinks=True, ignore=_no_plain_files)
    finally:
        tree.repair()
    return outcome


def _no_plain_files(directory: str, names: list[str]) -> list[str]:
    paths = {name: Path(directory, name) for name in names}
    return [
        n for n, p in paths.items() if not (p.is_symlink() or p.is_dir() or p.is_file()) or p.lstat().st_size > 1 << 30
    ]


def judge(outcome: Outcome, tree: damages.Tree, case: Case) -> None:
    """Read the damaged tree and judge what comes of it."""
    facts: dict[str, t.Any] | None = None
    text = ""
    _reset_peak()
    started = _clock()
    try:
        signal.setitimer(signal.ITIMER_REAL, INTERRUPT_SECONDS)
        facts = read_all(tree.root, case)
        text = json.dumps(facts)
        outcome.kind = "facts"
    except NumapinError as error:
        outcome.kind, outcome.message = "error", str(error)
    except InterruptedCase:
        outcome.was_stopped = True
        outcome.problems.append(
            f"not done after {INTERRUPT_SECONDS} s; it was here:\n{traceback.format_exc(limit=-12)}"
        )
    except BaseException:
        outcome.problems.append(traceback.format_exc(limit=-12))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        outcome.seconds = _clock() - started
        outcome.mib = _peak_mib()
    if facts is not None:
        outcome.warnings = len(facts["warnings"]) if isinstance(facts.get("warnings"), list) else 0
        outcome.problems += facts_shape.problems_of(facts, case.parts)
    for said in (text, outcome.message):
        if damages.CANARY in said:
            outcome.problems.append("what lies outside of the tree was read")
    if "Traceback" in outcome.message or len(outcome.message) > MESSAGE_LIMIT:
        outcome.problems.append(f"no error for people: {outcome.message[:500]}")
    if outcome.problems:
        outcome.kind = "failure"


def judge_module(outcome: Outcome, tree: damages.Tree, case: Case) -> None:
    """Run the module on the tree as Ansible starts it on a host, and hold its result against the first one."""
    options: dict[str, t.Any] = {"root": tree.root, "gather": sorted(case.parts)}
    if case.overrides:
        options["gpu_node_overrides"] = case.overrides
    try:
        done = subprocess.run(
            [sys.executable, "-m", "ansible_collections.numapin.inference.plugins.modules.numa_facts"],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": options}),
            env={**os.environ, "PYTHONPATH": str(DEV)},
            capture_output=True,
            text=True,
            timeout=MODULE_LIMIT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        outcome.problems.append(f"the module was not done after {MODULE_LIMIT_SECONDS} s")
        outcome.kind = "failure"
        return
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        outcome.problems.append(f"the module printed no JSON: {done.stdout[-500:]}{done.stderr[-2000:]}")
    else:
        if done.stderr or bool(answer.get("failed")) != bool(done.returncode):
            outcome.problems.append(f"the module ended with {done.returncode} and said: {done.stderr[-2000:]}")
        if bool(answer.get("failed")) != (outcome.kind == "error"):
            outcome.problems.append(f"the module said {str(answer)[:500]}, and reading gave {outcome.kind}")
    if outcome.problems:
        outcome.kind = "failure"


def _clock() -> float:
    """Return a time in seconds that stands still while the process could run and has no CPU."""
    waited = 0
    with contextlib.suppress(OSError):
        # Running, waiting in a run queue (ns), timeslices (Documentation/scheduler/sched-stats.rst).
        waited = int(Path("/proc/self/schedstat").read_text(encoding="ascii").split()[1])
    return time.perf_counter() - waited / 1e9


def _reset_peak() -> None:
    # 5 sets the peak of the resident set to what it is now (Documentation/filesystems/proc.rst). Where that is not
    # allowed, the peak is that of all cases so far: more than it should be, never less.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_mib() -> float:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# Processes


def work(connection: multiprocessing.connection.Connection, seed: int, bases: list[str], place: Path) -> None:
    """Do the cases that come through the connection, until there is none."""
    signal.signal(signal.SIGALRM, _interrupt)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit = ADDRESS_SPACE_MIB * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    known_trees = Trees(place)
    while True:
        order = connection.recv()
        if order is None:
            return
        number, through_the_module = order
        connection.send(run_case(Case.from_seed(seed, number, bases), known_trees, through_the_module))


def _interrupt(_signal: int, _frame: t.Any) -> None:
    raise InterruptedCase


class Worker:
    """A process with trees of its own."""

    _count = 0

    def __init__(self, seed: int, bases: list[str], place: Path) -> None:
        Worker._count += 1
        self._place = place / str(Worker._count)
        self.connection, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.Process(target=work, args=(theirs, seed, bases, self._place), daemon=True)
        self._process.start()
        theirs.close()
        self.case: int | None = None
        self._deadline = 0.0

    def start(self, case: int, through_the_module: bool) -> None:
        self.case = case
        self._deadline = time.monotonic() + KILL_SECONDS + (MODULE_LIMIT_SECONDS if through_the_module else 0)
        self.connection.send((case, through_the_module))

    def result(self) -> Outcome | None:
        """Return the outcome when there is one; a process that died or hangs is a failure and gone."""
        case = self.case
        if case is None:
            return None
        trouble = ""
        try:
            if self.connection.poll(0):
                outcome: Outcome = self.connection.recv()
                self.case = None
                return outcome
        except EOFError:
            trouble = "its process died"
        if time.monotonic() > self._deadline:
            trouble = f"its process had to be killed after {KILL_SECONDS} s"
        if not trouble:
            return None
        self.stop()
        told = f"{trouble} (exit status {self._process.exitcode})"
        return Outcome(case, "?", [], problems=[told], was_stopped=True)

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def stop(self) -> None:
        self.case = None
        with contextlib.suppress(OSError):
            self.connection.send(None)
        self._process.join(1)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        shutil.rmtree(self._place, ignore_errors=True)


class Run:
    """All cases on a few processes."""

    def __init__(self, seed: int, count: int, bases: list[str], place: Path) -> None:
        self._seed, self._bases, self._place = seed, bases, place
        self._pending = [(number, 0) for number in range(count)][::-1]
        self._every = max(1, count // THROUGH_THE_MODULE)
        self.outcomes: list[Outcome] = []
        self.repeated = 0

    def through_the_module(self, case: int) -> bool:
        return case % self._every == 0

    def run(self) -> None:
        workers: dict[Worker, int] = {}
        try:
            while self._pending or any(worker.case is not None for worker in workers):
                while self._pending and len(workers) < WORKERS:
                    workers[Worker(self._seed, self._bases, self._place)] = 0
                for worker in [worker for worker in workers if worker.case is None]:
                    # Both may be idle with one case left, when it is one to be repeated.
                    if not self._pending:
                        break
                    case, tried = self._pending.pop()
                    if tried:
                        worker.stop()
                        del workers[worker]
                        worker = Worker(self._seed, self._bases, self._place)
                    workers[worker] = tried
                    worker.start(case, self.through_the_module(case))
                multiprocessing.connection.wait([worker.connection for worker in workers], timeout=1)
                for worker in list(workers):
                    outcome = worker.result()
                    if outcome is not None:
                        self._take(outcome, workers[worker])
                    if not worker.is_alive:
                        worker.stop()
                        del workers[worker]
        finally:
            for worker in workers:
                worker.stop()

    def _take(self, outcome: Outcome, tried: int) -> None:
        if outcome.over_a_limit and tried < CONFIRMATIONS:
            self.repeated += 1
            self._pending.append((outcome.case, tried + 1))
            return
        if outcome.over_a_limit and outcome.kind != "failure":
            outcome.kind = "failure"
            outcome.problems.append(f"took {outcome.seconds:.2f} s and {outcome.mib:.0f} MiB")
        self.outcomes.append(outcome)
        if outcome.kind == "failure":
            show(outcome, self._seed)


def show(outcome: Outcome, seed: int) -> None:
    print(f"\nFAILED: --seed {seed} --only {outcome.case}: tree {outcome.base}, {len(outcome.damages)} damages:")
    for line in outcome.damages:
        print(f"  {line[:300]}")
    for problem in outcome.problems[:5]:
        print("  => " + problem.strip().replace("\n", "\n     ")[:4000])
    sys.stdout.flush()


def summary(outcomes: list[Outcome], seed: int, repeated: int, took: float) -> str:
    """Return the last lines of a run, for people."""
    of_kind = {kind: [o for o in outcomes if o.kind == kind] for kind in ("facts", "error", "failure")}
    warned = sum(1 for outcome in of_kind["facts"] if outcome.warnings)
    slowest = max(outcomes, key=lambda outcome: outcome.seconds)
    largest = max(outcomes, key=lambda outcome: outcome.mib)
    return (
        f"seed {seed}: {len(outcomes)} damaged trees in {took:.0f} s: {len(of_kind['facts'])} with facts ({warned} of"
        f" them with warnings), {len(of_kind['error'])} with a clear error, {len(of_kind['failure'])} FAILED\n"
        f"slowest {slowest.seconds * 1000:.0f} ms (case {slowest.case}), largest {largest.mib:.0f} MiB (case"
        f" {largest.case}); limits {LIMIT_SECONDS * 1000:.0f} ms, {LIMIT_MIB} MiB; {repeated} repetitions of cases over"
        " a limit"
    )


def parsed_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Read randomly damaged trees: facts or a clear error, nothing else.")
    parser.add_argument("--seed", type=int, help="a number that an earlier run printed (default: a new one)")
    parser.add_argument("--count", type=int, default=COUNT, help=f"how many trees (default: {COUNT})")
    parser.add_argument("--only", type=int, metavar="N", help="do case N alone, and tell all about it")
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="with --only: copy the damaged tree there")
    arguments = parser.parse_args()
    if arguments.count < 1:
        parser.error(f"--count is {arguments.count}; it must be at least 1")
    if arguments.keep and arguments.only is None:
        parser.error("--keep goes with --only")
    if arguments.seed is None:
        if arguments.only is not None:
            parser.error("--only needs the --seed of the run the case is from")
        arguments.seed = random.SystemRandom().randrange(10**9)
    return arguments


def main() -> None:
    """Run what the command line asks for; the exit status is 1 when a case failed."""
    arguments = parsed_arguments()
    bases = base_names()
    # In memory where there is such a place: thousands of files change for every tree.
    memory = "/dev/shm"
    place = Path(tempfile.mkdtemp(prefix="numapin-fuzz-", dir=memory if os.access(memory, os.W_OK) else None))
    try:
        if arguments.only is not None:
            signal.signal(signal.SIGALRM, _interrupt)
            case = Case.from_seed(arguments.seed, arguments.only, bases)
            outcome = run_case(case, Trees(place), True, arguments.keep)
            if outcome.over_a_limit:
                outcome.kind = "failure"
            print(
                f"case {outcome.case}: {outcome.base}, parts {','.join(sorted(case.parts))}, overrides {case.overrides}"
            )
            print("\n".join(f"  {line[:300]}" for line in outcome.damages))
            print(
                f"{outcome.kind}: {outcome.seconds * 1000:.0f} ms, {outcome.mib:.0f} MiB, {outcome.warnings} warnings"
            )
            print("\n".join([outcome.message, *outcome.problems]))
            sys.exit(outcome.kind == "failure")
        print(f"seed {arguments.seed}, base trees: {', '.join(bases)}", flush=True)
        started = time.monotonic()
        run = Run(arguments.seed, arguments.count, bases, place)
        run.run()
        print(summary(run.outcomes, arguments.seed, run.repeated, time.monotonic() - started))
        sys.exit(any(outcome.kind == "failure" for outcome in run.outcomes))
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
