# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a benchmark runs, where, and what it leaves out; that it cleans up whatever happens."""

from __future__ import annotations

import asyncio
import json
import typing as t

import pytest

from ansible_collections.numapin.inference.plugins.module_utils import (
    _bench_client,
    _bench_probe,
    _bench_run,
    _bench_units,
)
from ansible_collections.numapin.inference.plugins.module_utils._bench_plan import (
    BenchmarkError,
    Machine,
    Placed,
    chosen,
    linear_placed,
    node_pairs,
    placed,
)
from ansible_collections.numapin.inference.plugins.module_utils._bench_units import Units, placement_properties
from ansible_collections.numapin.inference.plugins.module_utils._commands import Result

if t.TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Dict = dict[str, t.Any]


def numa(nodes: int = 2, **more: t.Any) -> Dict:
    """Nodes of four CPUs each."""
    listed = [
        {
            "id": node,
            "cpus": f"{4 * node}-{4 * node + 3}",
            "kind": "cpu_and_memory",
            "memory_free_mib": 60000,
            "distances": [{"node": other, "distance": 10 + 10 * abs(node - other)} for other in range(nodes)],
        }
        for node in range(nodes)
    ]
    return {"nodes": listed, "allowed_cpus": f"0-{4 * nodes - 1}", "gpus": [], **more}


def instance(node: int, device: str = "cpu", cpus: str = "", **more: t.Any) -> Dict:
    """An entry of vllm_plan.instances."""
    own = cpus or f"{4 * node + 1}-{4 * node + 3}"
    return {
        "name": f"m-n{node}",
        "model": "m",
        "source": "/models/m",
        "served_names": ["m"],
        "nodes": [node],
        "cpus": own,
        "omp_cpus": own if device == "cpu" else None,
        "memory_nodes": [node],
        "memory_policy": "bind",
        "device": device,
        "gpus": [] if device == "cpu" else [f"GPU-{node}"],
        "tensor_parallel_size": 1,
        "pipeline_parallel_size": 1,
        "numa_bind_nodes": [],
        "numa_bind_cpus": [],
        "housekeeping_cpus": str(4 * node),
        "arguments": {"max-model-len": 4096, "port": 8000},
        "environment": {"VLLM_CPU_KVCACHE_SPACE": "1"},
        **more,
    }


def put(placement: str, *instances: Dict, machine: Dict | None = None, reserved: str = "") -> list[Placed]:
    """Where ``placement`` puts them; not why it cannot."""
    found = placed(Machine(machine or numa(), reserved), instances, placement)
    assert not isinstance(found, str), found
    return found


def test_local_is_as_deployed() -> None:
    (found,) = put("local", instance(1))
    assert (found.cpus, found.memory_nodes, found.memory_policy) == ("5-7", (1,), "bind")
    assert found.environment == {
        "VLLM_CPU_OMP_THREADS_BIND": "5-7",
        "CPU_VISIBLE_MEMORY_NODES": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }
    assert placement_properties(found) == [
        "CPUAffinity=5-7",
        "NUMAPolicy=bind",
        "NUMAMask=1",
        "AllowedCPUs=5-7",
        "AllowedMemoryNodes=1",
    ]
    assert put("again", instance(1)) == [found]


def test_remote_on_the_cpu_is_its_own_cpus_and_the_memory_farthest_away() -> None:
    found = put("remote", instance(0), instance(1), machine=numa(4))
    assert [(one.cpus, one.memory_nodes) for one in found] == [("1-3", (3,)), ("5-7", (3,))]
    assert found[0].environment["CPU_VISIBLE_MEMORY_NODES"] == "3"


def test_remote_beside_a_gpu_is_the_other_node_altogether_and_instances_do_not_share_cpus() -> None:
    pair = [instance(0, "gpu", cpus="0-1"), {**instance(0, "gpu", cpus="2-3"), "name": "m-n0-2"}]
    found = put("remote", *pair, instance(1, "gpu"))
    assert [(one.cpus, one.memory_nodes) for one in found] == [("4-5", (1,)), ("6-7", (1,)), ("0-2", (0,))]
    assert found[0].environment["CUDA_VISIBLE_DEVICES"] == "GPU-0"


def test_floating_and_vllm_are_not_placed_but_stay_off_what_is_somebody_elses() -> None:
    (floating,) = put("floating", instance(0), reserved="7")
    assert placement_properties(floating) == ["AllowedCPUs=0-6"]
    assert floating.environment["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    (by_vllm,) = put("vllm", instance(0))
    assert by_vllm.environment["VLLM_CPU_OMP_THREADS_BIND"] == "auto"
    (by_vllm,) = put("vllm", instance(0, "gpu", tensor_parallel_size=2))
    assert by_vllm.arguments == {"numa-bind": True}


@pytest.mark.parametrize(
    ("placement", "given", "nodes", "why"),
    [
        ("remote", instance(0), 1, "there is no wrong one"),
        ("remote", instance(0, "gpu", nodes=[0, 1]), 2, "on nodes 0, 1"),
        ("vllm", instance(0, "gpu"), 2, "ignores --numa-bind for one"),
        (
            "vllm",
            instance(0, "gpu", numa_bind_nodes=[0, 1], numa_bind_cpus=["1-3", "5-7"]),
            2,
            "in the placement `local`",
        ),
    ],
)
def test_what_cannot_be_placed_says_why(placement: str, given: Dict, nodes: int, why: str) -> None:
    found = placed(Machine(numa(nodes)), [given], placement)
    assert isinstance(found, str)
    assert why in found


def test_the_loop_of_a_gpu_instance_runs_on_its_cpus() -> None:
    found = linear_placed(Machine(numa()), instance(0, "gpu"), "remote")
    assert isinstance(found, Placed)
    assert (found.cpus, found.memory_nodes, found.device) == ("1-3", (1,), "cpu")


def test_pairs_are_all_of_them_and_memory_that_is_full_is_left_out() -> None:
    tree = numa()
    tree["nodes"].append({"id": 2, "cpus": "", "kind": "memory_only", "memory_free_mib": 100, "distances": []})
    pairs, left_out = node_pairs(Machine(tree), 2048)
    assert pairs == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [(one.what, one.why.split(":")[0]) for one in left_out] == [
        ("memory of node 2", "100 MiB are free there, 2048 are needed")
    ]
    _pairs, left_out = node_pairs(Machine(numa(1)), 2048)
    assert [one.why for one in left_out] == ["this host has one node with memory: the matrix is 1 x 1"]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: chosen([], ""), "no instance on this host"),
        (lambda: chosen([instance(0)], "n"), "benchmark_model is 'n'; planned on this host: m"),
        (lambda: Machine(numa(1), "0-3"), "no CPU is left"),
        (lambda: Machine({"nodes": None}), "give ansible_facts"),
    ],
)
def test_what_is_wrong_is_said(call: t.Callable[[], object], said: str) -> None:
    with pytest.raises(BenchmarkError, match=said.replace("[", r"\[")):
        call()


def settings(**more: t.Any) -> _bench_run.Settings:
    """Small ones."""
    base = _bench_run.Settings(
        parts=("host", "linear", "service"),
        placements=("local", "remote", "floating"),
        model="",
        rounds=6,
        requests=4,
        concurrency=2,
        input_tokens=8,
        output_tokens=8,
        buffer_mib=64,
        linear_size=64,
        keep_running=False,
        start_timeout_seconds=5,
    )
    return base._replace(**more)


class UnitsDouble:
    """Counts what runs; ``fails`` are placements whose instances do not start."""

    def __init__(self, fails: Sequence[str] = (), answered: int = 4) -> None:
        self.fails = fails
        self.answered = answered
        self.up: set[str] = set()
        self.most_up = 0
        self.loads: list[list[str]] = []

    def probe(self, where: Placed, *arguments: object) -> Dict:
        return {"milliseconds": 4.0} if arguments[0] == "linear" else {"gib_per_second": 10.0, "nanoseconds": 90.0}

    def start(self, name: str, where: Placed, config: Dict) -> str:
        assert config["host"] == "127.0.0.1"
        assert config["port"] != 8000, "the deployed instance's"
        unit = f"numapin-benchmark-{name}.service"
        self.up.add(unit)
        self.most_up = max(self.most_up, len(self.up))
        return unit

    def wait_until_ready(self, unit: str, port: int, timeout_seconds: int) -> None:
        if any(f"-{name}-" in unit for name in self.fails):
            raise BenchmarkError(f"{unit} ended before it answered")

    def load(self, meeting: str, number: int, count: int, where: Placed, arguments: Sequence[str]) -> Dict:
        assert number < count
        self.loads.append(list(arguments))
        keys = [f"p{share}_{what}_ms" for share in (50, 99) for what in ("ttft", "tpot", "e2el")]
        return {"completed": self.answered, "output_throughput": 50.0, **dict.fromkeys(keys, 2.0)}

    def stop(self, names: Sequence[str]) -> None:
        self.up -= set(names)


@pytest.fixture(autouse=True)
def _no_placement(monkeypatch: pytest.MonkeyPatch) -> None:
    """The units here are no processes."""
    monkeypatch.setattr(_bench_run, "read_placement", lambda *_given: {"instances": [{"own_locality_percent": 99.5}]})


def measure(units: UnitsDouble, given: _bench_run.Settings, *instances: Dict) -> Dict:
    """Plan and measure with the double."""
    work = _bench_run.plan(given, numa(), instances or [instance(0)], "")
    return _bench_run.measure(t.cast("Units", units), given, work)


@pytest.mark.parametrize(("keep_running", "most_up"), [(False, 2), (True, 6)])
def test_every_placement_is_measured_in_every_round_and_nothing_is_left(keep_running: bool, most_up: int) -> None:
    units = UnitsDouble()
    found = measure(units, settings(keep_running=keep_running), instance(0), instance(1))
    assert {name: len(rounds) for name, rounds in found["service"].items()} == {"local": 6, "remote": 6, "floating": 6}
    assert found["service"]["local"][0]["tokens_per_second"] == 100.0
    assert found["linear"] == {"local": [4.0] * 6, "remote": [4.0] * 6, "floating": [4.0] * 6}
    assert [(one["cpu_node"], one["memory_node"]) for one in found["pairs"]] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert found["problems"] == []
    assert (units.up, units.most_up) == (set(), most_up)
    assert len(units.loads) == 6 * 3 * 2
    # The same requests in all placements of a round, others in the next.
    seeds = [given[given.index("--seed") + 1] for given in units.loads]
    assert [sorted(set(seeds[i : i + 6])) for i in (0, 6)] == [["0", "1"], ["2", "3"]]


def test_another_placement_begins_in_each_round() -> None:
    assert [_bench_run.rotated(["a", "b", "c"], number)[0] for number in range(4)] == ["a", "b", "c", "a"]


def test_a_placement_that_does_not_start_is_told_and_the_others_go_on() -> None:
    units = UnitsDouble(fails=["remote"])
    found = measure(units, settings())
    assert list(found["service"]) == ["local", "floating"]
    assert [len(rounds) for rounds in found["service"].values()] == [6, 6]
    (problem,) = found["problems"]
    assert "vllm bench serve, remote, round 1: numapin-benchmark-remote-m-n0.service ended" in problem
    assert units.up == set()


def test_answers_that_failed_are_no_measure() -> None:
    units = UnitsDouble(answered=3)
    found = measure(units, settings(parts=("service",), placements=("local",)))
    assert found["service"] == {}
    assert "3 of 4 requests were answered" in found["problems"][0]
    assert units.up == set()


def test_an_interruption_leaves_nothing_running(monkeypatch: pytest.MonkeyPatch) -> None:
    units = UnitsDouble()

    def interrupted(*_given: object) -> Dict:
        raise KeyboardInterrupt

    monkeypatch.setattr(units, "load", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure(units, settings(keep_running=True))
    assert units.up == set()


def test_what_is_left_out_is_listed_and_gpus_are_not_all_run_at_once() -> None:
    work = _bench_run.plan(settings(parts=("host",)), numa(1), [instance(0)], "")
    told = {(one.part, one.what): one.why for one in work.skipped}
    assert told["linear", "all of it"] == "benchmark_parts leaves it out"
    assert told["host", "copies between host and GPU"] == "this host has no GPU"
    with pytest.raises(BenchmarkError, match="leave it false"):
        _bench_run.plan(settings(keep_running=True), numa(), [instance(0, "gpu")], "")


def test_copies_of_every_node_and_gpu_are_planned() -> None:
    gpu = {"vendor": "nvidia", "uuid": "GPU-0", "pci_address": "0000:17:00.0", "node": 0}
    other = {"vendor": "amd", "uuid": None, "pci_address": "0000:18:00.0", "node": 1}
    work = _bench_run.plan(settings(parts=("host",)), numa(gpus=[gpu, other]), [instance(0, "gpu")], "")
    assert [line for line in _bench_run.told(work, settings()) if line.startswith("copies")] == [
        "copies: CPUs and memory of node 0, GPU 0000:17:00.0",
        "copies: CPUs and memory of node 1, GPU 0000:17:00.0",
    ]
    assert "only NVIDIA's GPUs" in next(one.why for one in work.skipped if "18:00.0" in one.what)


def test_a_unit_is_placed_bounded_and_has_its_key_in_a_file() -> None:
    calls: list[list[str]] = []

    def run(argv: Sequence[str], timeout_seconds: float) -> Result:
        calls.append(list(argv))
        return Result(0, 'noise\n{"milliseconds": 4.0}\n', "")

    units = Units("vllm", "/opt/vllm/bin/python", 600, run)
    (where,) = put("local", instance(0))
    assert units.probe(where, "linear", 64, 1, 3) == {"milliseconds": 4.0}
    (argv,) = calls
    assert argv[:5] == ["systemd-run", "--quiet", "--collect", "--wait", "--pipe"]
    for option in ("User=vllm", "RuntimeMaxSec=600s", "CPUAffinity=1-3", "AllowedMemoryNodes=0", "PrivateDevices=yes"):
        assert f"--property={option}" in argv
    assert argv[argv.index("--") + 1 :] == [
        "/opt/vllm/bin/python",
        "/run/numapin-benchmark/probe.py",
        *["linear", "64", "1", "3"],
    ]
    assert not any("API_KEY" in text for text in argv)


def test_a_process_that_fails_says_its_last_lines() -> None:
    units = Units("vllm", "/python", 600, lambda _argv, _timeout: Result(1, "", "a\nModuleNotFoundError: torch\n"))
    with pytest.raises(BenchmarkError, match=r"probe-m-n0.service failed \(exit status 1\): a | ModuleNotFoundError"):
        units.probe(put("local", instance(0))[0], "linear")


GONE = "LoadState=not-found\nActiveState=inactive\nSubState=dead\n"
STUCK = "LoadState=loaded\nActiveState=active\nSubState=running\nMainPID=7\n"


def stopping(state: str) -> Units:
    """Units whose systemd refuses to stop anything, as it does with one that it has forgotten."""

    def run(argv: Sequence[str], timeout_seconds: float) -> Result:
        if argv[1] == "show":
            return Result(0, state, "")
        return Result(5, "", "Failed to stop: Unit not loaded.")

    return Units("vllm", "/python", 600, run)


def test_a_unit_that_ended_by_itself_is_stopped() -> None:
    stopping(GONE).stop(["numapin-benchmark-local-m-n0.service"])


def test_why_an_instance_ended_is_told_of_this_start_alone() -> None:
    said = [
        ("old", "RuntimeError: an earlier one"),
        ("new", "WARNING OSError: [Errno 24] Too many open files"),
        ("new", "ValidationError: 1 validation error for ModelConfig"),
        ("new", "  max_model_len is too large"),
        ("new", "  for further information visit"),
        ("new", "bye"),
    ]
    entries = [json.dumps({"_SYSTEMD_INVOCATION_ID": start, "MESSAGE": text}) for start, text in said]

    def run(argv: Sequence[str], timeout_seconds: float) -> Result:
        return Result(0, "\n".join(entries) if argv[0] == "journalctl" else GONE, "")

    with pytest.raises(BenchmarkError) as caught:
        Units("vllm", "/python", 600, run).wait_until_ready("u.service", 1, 5)
    assert str(caught.value) == (
        "u.service ended before it answered: ValidationError: 1 validation error for ModelConfig |"
        "   max_model_len is too large |   for further information visit"
    )


def test_a_unit_that_goes_on_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_bench_units, "_STOP_SECONDS", 0)
    with pytest.raises(BenchmarkError, match="not stopped within 0 s: numapin-benchmark-local"):
        stopping(STUCK).stop(["numapin-benchmark-local-m-n0.service"])


def test_a_second_benchmark_of_the_host_is_refused(tmp_path: Path) -> None:
    first, second = (Units("vllm", "/python", 600) for _number in range(2))
    with (
        first.alone(tmp_path / "lock"),
        pytest.raises(BenchmarkError, match="another benchmark runs"),
        second.alone(tmp_path / "lock"),
    ):
        pass
    with second.alone(tmp_path / "lock"):
        pass


def test_a_probe_without_numba_gives_no_latency_and_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_bench_probe, "triad", lambda _size: 11.5)

    def absent(name: str) -> t.NoReturn:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(_bench_probe, "import_module", absent)
    assert _bench_probe.main(["memory", "64"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "gib_per_second": 11.5,
        "nanoseconds": None,
        "why": "no latency: No module named 'numba'",
    }


def test_clients_begin_when_all_are_there(tmp_path: Path) -> None:
    begun: list[str] = []

    async def one(name: str, after: float) -> None:
        await asyncio.sleep(after)
        begun.append(f"{name} is here")
        await _bench_client.meet(tmp_path / "m", name, 2)
        begun.append(f"{name} begins")

    async def both() -> None:
        await asyncio.gather(one("a", 0), one("b", 0.05))

    asyncio.run(both())
    assert begun[:2] == ["a is here", "b is here"]
    assert sorted(begun[2:]) == ["a begins", "b begins"]


def test_a_client_does_not_wait_for_ever(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError, match="only 1 of 2 clients"):
        asyncio.run(_bench_client.meet(tmp_path / "m", "a", 2, wait_seconds=0.05))
