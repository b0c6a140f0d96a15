# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The double itself: its command line, its configuration file, its processes, its faults, its pace."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import typing as t

import pytest
from contract import normal
from contract.questions import COMPLETIONS, Ask, completion
from contract.scenarios import alive, long_stream, until
from contract.server import ContractError, Conversation, Engine, Running, descendants, running
from vllm.double import config_file, metrics, options, processes
from vllm.double.numa import Binding
from vllm.double.settings import Settings, SettingsError

HERE = pathlib.Path(__file__).parent


def changed(engine: Engine, **environment: str) -> Engine:
    """The same engine with more environment."""
    return dataclasses.replace(engine, environment={**engine.environment, **environment})


def thread_cpus(pid: int) -> set[str]:
    """The cpulists of a process's threads."""
    found = set()
    for status in pathlib.Path(f"/proc/{pid}/task").glob("*/status"):
        lines = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
        found.add(lines["Cpus_allowed_list"])
    return found


# The configuration file


def test_a_file_as_the_role_writes_it() -> None:
    text = """# Managed by numapin.inference (role vllm): changes made here are lost.
enable-server-load-tracking: true
enforce-eager: false
gpu-memory-utilization: 0.9
host: 192.0.2.11
model: /opt/models/llama 3  # a comment
port: 8000
served-model-name:
- llama-3
- 'it''s: "odd" # text'
- true
api-key: []
chat-template: a long text that PyYAML
  folds onto
  a second line
tokenizer: null
label: "caf\\u00e9\\t1"
"""
    assert config_file.parse(text) == [
        ("enable-server-load-tracking", True),
        ("enforce-eager", False),
        ("gpu-memory-utilization", "0.9"),
        ("host", "192.0.2.11"),
        ("model", "/opt/models/llama 3"),
        ("port", "8000"),
        ("served-model-name", ["llama-3", 'it\'s: "odd" # text', "True"]),
        ("api-key", []),
        ("chat-template", "a long text that PyYAML folds onto a second line"),
        ("tokenizer", "None"),
        ("label", "café\t1"),
    ]


@pytest.mark.parametrize("indent", ["", "  "])
def test_lists_may_be_indented(indent: str) -> None:
    assert config_file.parse(f"a:\n{indent}- b\n{indent}- c\nd: 1\n") == [("a", ["b", "c"]), ("d", "1")]


def test_it_reads_what_pyyaml_writes() -> None:
    yaml = pytest.importorskip("yaml")
    content = {
        "model": "/opt/models/" + "a long name with spaces " * 8,
        "served-model-name": ["x", "yes", "8000", "a: b", "- c", "#d", "", "ü", "~", "*e", "it's"],
        "port": 8000,
        "share": 0.25,
        "on": True,
        "empty": [],
        "text": "yes",
        "number": "0123",
        "quoted": "both ' and \"",
    }
    text = yaml.safe_dump(content, default_flow_style=False, allow_unicode=True, indent=2)
    assert dict(config_file.parse(text)) == {
        key: value if isinstance(value, (bool, list)) else str(value) for key, value in content.items()
    }


@pytest.mark.parametrize(
    "text",
    [
        "a:\n  b: 1\n",
        "a: |\n  text\n",
        "a: {b: 1}\n",
        "a: &x 1\n",
        "a: 010\n",
        "a: 1_000\n",
        "a: 1\na: 2\n",
        "just text\n",
        "a: 'b\n",
    ],
)
def test_what_it_does_not_know_is_not_guessed(text: str) -> None:
    with pytest.raises(Exception, match=r"line [12]"):
        config_file.parse(text)


def test_nested_mappings_are_left_to_pyyaml(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("yaml")
    path = tmp_path / "x.yaml"
    path.write_text("hf-overrides:\n  rope: {theta: 1}\nport: 8000\n", encoding="utf-8")
    assert config_file.load(str(path)) == [("hf-overrides", '{"rope": {"theta": 1}}'), ("port", "8000")]


def test_without_pyyaml_they_are_refused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    path = tmp_path / "x.yaml"
    path.write_text("a:\n  b: 1\n", encoding="utf-8")
    with pytest.raises(config_file.ConfigError, match=r"line 1: 'b: 1' is more than .*, and PyYAML"):
        config_file.load(str(path))


# The command line


@pytest.fixture
def config(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "x.yaml"
    path.write_text(
        "model: from-file\nport: 8001\nenforce-eager: true\nserved-model-name:\n- a\n- b\n", encoding="utf-8"
    )
    return str(path)


def test_the_command_line_wins_over_the_file(config: str) -> None:
    read = options.parse(["--port", "8002", "--config", config, "--no-enforce-eager", "--served_model_name", "c"])
    assert read.integer("port", 0) == 8002
    assert read.flag("enforce-eager") is False
    assert read.texts("served-model-name") == ["c"]
    assert read.text("model") == "from-file"


def test_names_are_written_with_dashes_or_underscores_and_values_behind_a_space_or_an_equals_sign() -> None:
    read = options.parse(["--tensor_parallel_size=2", "--max-model-len", "8k", "-pp", "3", "--shutdown-timeout", "30"])
    assert read.values == {
        "tensor-parallel-size": 2,
        "max-model-len": 8000,
        "pipeline-parallel-size": 3,
        "shutdown-timeout": 30,
    }
    assert options.parse(["--max-model-len=8K"]).integer("max-model-len", 0) == 8192
    assert options.parse(["--max-model-len", "-1"]).integer("max-model-len", 0) == -1


def test_unknown_options_are_remembered() -> None:
    read = options.parse(["model", "--some-new_thing", "x", "y", "--switch", "--other=1", "--kv-config.role", "both"])
    assert read.unknown == {"some-new-thing": ["x", "y"], "switch": True, "other": "1", "kv-config.role": "both"}
    assert read.model_tag == "model"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "http"], "argument --port: invalid int value: 'http'"),
        (["-tp", "two"], "argument --tensor-parallel-size/-tp: invalid int value: 'two'"),
        (["--max-model-len=long"], "argument --max-model-len: invalid human_readable_int_or_auto value: 'long'"),
        (["--gpu-memory-utilization", "most"], "argument --gpu-memory-utilization: invalid float value: 'most'"),
        (["--port"], "argument --port: expected one argument"),
        (["--port", "--host", "x"], "argument --port: expected one argument"),
        (["--served-model-name"], "argument --served-model-name: expected at least one argument"),
        (["--enforce-eager=yes"], "argument --enforce-eager/--no-enforce-eager: ignored explicit argument 'yes'"),
        (["a", "b"], "unrecognized arguments: b"),
    ],
)
def test_wrong_options_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(options.UsageError) as refused:
        options.parse(arguments)
    assert str(refused.value) == message


def test_a_refusal_ends_with_2_and_says_so(python: pathlib.Path) -> None:
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--port=http"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "api_server.py: error: argument --port: invalid int value: 'http'"


def test_a_wrong_variable_of_a_test_is_refused() -> None:
    with pytest.raises(SettingsError, match="NUMAPIN_ENGINE_FAULT is 'die-after'; it must be one of"):
        Settings({"NUMAPIN_ENGINE_FAULT": "die-after"})
    with pytest.raises(SettingsError, match="NUMAPIN_ENGINE_TOKENS_PER_SECOND is 'fast'"):
        Settings({"NUMAPIN_ENGINE_TOKENS_PER_SECOND": "fast"})


# The program, and how roles/vllm finds it


def test_the_program_says_that_it_is_a_double(python: pathlib.Path) -> None:
    for program in (HERE / "vllm", python.with_name("vllm")):
        done = subprocess.run([str(program), "--version"], capture_output=True, text=True, timeout=30, check=True)
        assert done.stdout == "0.32.0+numapin.double\n"


def test_the_role_finds_its_package(python: pathlib.Path) -> None:
    from ansible_collections.numapin.inference.plugins.modules.deployment_info import ask_python

    assert ask_python(str(python), 30) == {
        "exists": True,
        "vllm": True,
        "version": "0.32.0+numapin.double",
        "error": None,
    }


def test_serve_takes_its_model_from_the_command_line(double: Engine, model: pathlib.Path) -> None:
    engine = dataclasses.replace(double, command=(str(HERE / "vllm"), "serve", str(model)), model="from-file")
    with running(engine) as server:
        listed = json.loads(server.endpoint.text("/v1/models"))
        assert {card["root"] for card in listed["data"]} == {str(model)}
        server.terminate()
        assert server.wait(30) == 0


# Processes


def test_processes_threads_and_memory_are_where_the_environment_puts_them(double: Engine) -> None:
    cpu = min(os.sched_getaffinity(0))
    engine = changed(
        double,
        VLLM_CPU_OMP_THREADS_BIND=f"{cpu}|{cpu}",
        NUMAPIN_ENGINE_WORKER_MEMORY_MIB="48",
        CUDA_VISIBLE_DEVICES="GPU-0",
    )
    with running(engine, tensor_parallel_size=2) as server:
        workers = [server.descendant(f"VLLM::Worker_TP{rank}") for rank in range(2)]
        core = server.descendant("VLLM::EngineCore")
        assert sorted(descendants(server.process.pid)) == sorted([core, *workers])
        for pid in workers:
            assert str(cpu) in thread_cpus(pid)
            assert len(list(pathlib.Path(f"/proc/{pid}/task").iterdir())) >= 5
            assert anonymous_mib(pid) >= 48
        assert pathlib.Path(f"/proc/{core}/comm").read_text() == "VLLM::EngineCor\n"
        # The environment is read back from there, also after the command line was overwritten.
        assert b"CUDA_VISIBLE_DEVICES=GPU-0" in pathlib.Path(f"/proc/{core}/environ").read_bytes().split(b"\0")


def test_workers_are_bound_where_numa_bind_says(double: Engine) -> None:
    cpu = max(os.sched_getaffinity(0))
    bound: dict[str, t.Any] = {"numa_bind": True, "numa_bind_nodes": ["0", "0"], "numa_bind_cpus": [str(cpu)] * 2}
    with running(double, tensor_parallel_size=2, **bound) as server:
        for rank in range(2):
            worker = server.descendant(f"VLLM::Worker_TP{rank}")
            assert set(thread_cpus(worker)) == {str(cpu)}
            heap = pathlib.Path(f"/proc/{worker}/numa_maps").read_text(encoding="utf-8")
            assert " bind:0 " in heap
        core = server.descendant("VLLM::EngineCore")
        assert " bind:0 " not in pathlib.Path(f"/proc/{core}/numa_maps").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--numa-bind"], "could not detect the GPU-to-NUMA topology automatically"),
        (["--numa-bind-nodes", "0", "0"], "numa_bind_nodes and numa_bind_cpus require numa_bind=True"),
        (["--numa-bind", "--numa-bind-nodes", "0"], "GPU index 1 exceeds numa_bind_nodes size 1"),
        (["--numa-bind", "--numa-bind-nodes", "0", "0", "--numa-bind-cpus", "0"], "exceeds numa_bind_cpus size 1"),
    ],
)
def test_a_binding_that_does_not_fit_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises((ValueError, RuntimeError), match=message):
        Binding.of(options.parse(arguments), 2)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_behind(double: Engine, number: signal.Signals) -> None:
    with running(double, tensor_parallel_size=2) as server:
        children = descendants(server.process.pid)
        assert len(children) == 3
        server.process.send_signal(number)
        server.wait(20)
        assert until(10, lambda: not any(alive(pid) for pid in children))


def anonymous_mib(pid: int) -> float:
    """Resident anonymous memory."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:"))


def test_names_of_workers() -> None:
    assert processes.Ranks(1, 1).names() == ["Worker"]
    assert processes.Ranks(2, 1).names() == ["Worker_TP0", "Worker_TP1"]
    assert processes.Ranks(2, 2).names() == ["Worker_PP0_TP0", "Worker_PP0_TP1", "Worker_PP1_TP0", "Worker_PP1_TP1"]


def test_a_worker_that_dies_takes_the_engine_and_then_the_server_with_it(double: Engine) -> None:
    with running(double) as server:
        core = server.descendant("VLLM::EngineCore")
        os.kill(server.descendant("VLLM::Worker"), signal.SIGKILL)
        assert until(10, lambda: not alive(core))
        assert server.wait(20) == 0
        assert "Worker died unexpectedly" in server.log()


def test_a_list_of_cpus_per_worker_must_fit(double: Engine) -> None:
    engine = changed(double, VLLM_CPU_OMP_THREADS_BIND="0|0|0")
    with running(engine, healthy=False) as server:
        assert server.wait(30) == 1
        assert "doesn't match local world size 1" in server.log()


# Faults


def test_it_fails_at_start_as_vllm_does(double: Engine) -> None:
    from ansible_collections.numapin.inference.plugins.module_utils._readiness import find_cause

    engine = changed(double, NUMAPIN_ENGINE_FAULT="fail-at-start:No room, and /dev/shm is small")
    with running(engine, healthy=False) as server:
        assert server.wait(30) == 1
        assert not descendants(server.process.pid)
        lines = [("start", line) for line in server.log().splitlines()]
    assert find_cause(lines) == ["ValueError: No room, and /dev/shm is small"]
    assert "RuntimeError: " in lines[-1][1] or "StartError: " in lines[-1][1]
    assert "Engine core initialization failed. See root cause above." in lines[-1][1]


def test_it_hangs_at_start(double: Engine) -> None:
    engine = changed(double, NUMAPIN_ENGINE_FAULT="hang-at-start")
    with running(engine, healthy=False) as server:
        with pytest.raises(ContractError, match="did not answer within"):
            server.wait_until_healthy(1.0)
        assert server.process.poll() is None
        server.terminate()
        assert server.wait(30) == -signal.SIGINT, "vLLM ends in a KeyboardInterrupt while it loads"


def test_it_takes_the_time_to_start_it_was_told(double: Engine) -> None:
    started = time.monotonic()
    with running(changed(double, NUMAPIN_ENGINE_START_SECONDS="1.5")):
        assert time.monotonic() - started >= 1.5


def test_it_dies_with_the_second_request(double: Engine) -> None:
    with running(changed(double, NUMAPIN_ENGINE_FAULT="die-after:2")) as server:
        assert server.endpoint.ask(completion("first"))[0] == 200
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            server.endpoint.ask(completion("second"))
        assert server.wait(10) == -signal.SIGKILL


def test_its_engine_dies_with_the_second_request(double: Engine) -> None:
    with running(changed(double, NUMAPIN_ENGINE_FAULT="engine-dies-after:2")) as server:
        assert server.endpoint.ask(completion("first"))[0] == 200
        status, _headers, body = server.endpoint.ask(long_stream())
        assert status == 200
        assert b"EngineCore encountered an issue" in body
        assert server.wait(20) == 0


def test_it_hangs_while_health_says_200(double: Engine) -> None:
    with running(changed(double, NUMAPIN_ENGINE_FAULT="hang-after:1")) as server:
        assert server.endpoint.ask(completion("first"))[0] == 200
        stuck = Conversation(server.endpoint, completion("second"))
        stuck.start()
        stuck.join(1.0)
        assert stuck.is_alive()
        assert server.endpoint.ask(Ask("health", "GET", "/health"))[0] == 200
        server.terminate()
        stuck.join(10)
        assert stuck.status == 200
        assert json.loads(stuck.body)["choices"][0]["finish_reason"] == "abort"
        assert server.wait(20) == 0


# Pace, places and counts


def test_the_pace_is_the_one_that_was_set(double: Engine) -> None:
    with running(changed(double, NUMAPIN_ENGINE_TOKENS_PER_SECOND="40")) as server:
        started = time.monotonic()
        server.endpoint.ask(completion("paced", max_tokens=40))
        # 40 tokens; the first one comes a step after the start.
        assert time.monotonic() - started >= 1.0


def test_the_text_is_the_same_every_time_and_ends_by_itself(double: Engine) -> None:
    with running(double) as server:
        ask = Ask("free", "POST", COMPLETIONS, {"prompt": "x", "max_tokens": 1000})
        bodies = [json.loads(server.endpoint.ask(ask)[2]) for _number in range(2)]
        choices = [body["choices"][0] for body in bodies]
        assert choices[0] == choices[1]
        assert choices[0]["text"].startswith(" one instance per node")
        assert choices[0]["finish_reason"] == "stop"
        assert bodies[0]["usage"]["completion_tokens"] == 200
        exact = {"prompt": "x", "max_tokens": 300, "min_tokens": 300}
        told = json.loads(server.endpoint.ask(Ask("exact", "POST", COMPLETIONS, exact))[2])
        assert told["usage"]["completion_tokens"] == 300


def test_who_finds_no_place_waits(double: Engine) -> None:
    engine = changed(double, NUMAPIN_ENGINE_METRICS_LAG_SECONDS="0", NUMAPIN_ENGINE_TOKENS_PER_SECOND="100")
    with running(engine, max_num_seqs=1) as server:
        conversations = [Conversation(server.endpoint, completion(str(n), max_tokens=100)) for n in range(2)]
        for conversation in conversations:
            conversation.start()
        assert until(5, lambda: gauge(server, "vllm:num_requests_waiting") == 1)
        assert gauge(server, "vllm:num_requests_running") == 1
        for conversation in conversations:
            conversation.join(20)
            assert conversation.status == 200
        assert gauge(server, "vllm:num_requests_running") == 0


def test_one_request_too_many_is_answered_503(double: Engine) -> None:
    with running(changed(double, NUMAPIN_ENGINE_TOKENS_PER_SECOND="100"), max_num_queued_reqs=1) as server:
        first = Conversation(server.endpoint, long_stream(100))
        first.start()
        assert first.begun.wait(10)
        status, _headers, body = server.endpoint.ask(completion("second"))
        assert status == 503
        assert json.loads(body)["error"]["type"] == "Service Unavailable"
        first.join(20)
        assert server.endpoint.ask(completion("third"))[0] == 200


def gauge(server: Running, name: str) -> float:
    return normal.sums(server.endpoint.text("/metrics"))[name]


def test_gauges_lag_and_counters_do_not() -> None:
    page = metrics.Metrics("m", 4096, lag_seconds=0.3)
    page.requests(1, 2)
    page.tokens(7)
    told = normal.sums(page.exposition())
    assert told["vllm:num_requests_running"] == 0
    assert told["vllm:generation_tokens_total"] == 7
    time.sleep(0.35)
    assert normal.sums(page.exposition())["vllm:num_requests_running"] == 1


def test_buckets_and_numbers_are_printed_as_prometheus_client_does() -> None:
    page = metrics.Metrics('a "b"\\c', 250, lag_seconds=0)
    page.finished("length", 30, 5, (0.0, 2.0))
    text = page.exposition()
    labels = 'engine="0",le="{}",model_name="a \\"b\\"\\\\c"'
    for bound, count in (("20.0", 0), ("50.0", 1), ("200.0", 1), ("+Inf", 1)):
        assert f"vllm:request_prompt_tokens_bucket{{{labels.format(bound)}}} {float(count)}\n" in text
    assert metrics.one_two_five(250) == (1, 2, 5, 10, 20, 50, 100, 200)


def test_what_is_not_doubled_says_so(double: Engine) -> None:
    with running(double) as server:
        for more in ({"n": 2}, {"echo": True}, {"stop": ["x"]}, {"prompt": ["a", "b"]}):
            status, _headers, body = server.endpoint.ask(completion("more", **t.cast("dict[str, t.Any]", more)))
            assert status == 501
            assert "the engine double does not know" in json.loads(body)["error"]["message"]


def test_a_second_sigterm_changes_nothing(double: Engine) -> None:
    with running(double, shutdown_timeout=30) as server:
        stream = Conversation(server.endpoint, long_stream(1000))
        stream.start()
        assert stream.begun.wait(10)
        server.terminate()
        time.sleep(0.1)
        with contextlib.suppress(ProcessLookupError):
            server.terminate()
        stream.join(20)
        assert b'"completion_tokens":1000' in stream.body
        assert server.wait(20) == 0


def test_a_drain_that_takes_too_long_is_cut(double: Engine) -> None:
    engine = changed(double, NUMAPIN_ENGINE_TOKENS_PER_SECOND="100")
    with running(engine, shutdown_timeout=1) as server:
        stream = Conversation(server.endpoint, long_stream())
        stream.start()
        assert stream.begun.wait(10)
        server.terminate()
        stream.join(20)
        assert b"EngineCore encountered an issue" in stream.body
        assert server.wait(20) == 0
