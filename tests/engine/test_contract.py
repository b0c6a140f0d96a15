# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The contract: what the double answers, and that a real vLLM answers the same.

A real one is found through, in this order,

* NUMAPIN_REAL_VLLM_ANSWERS: a file of its answers, as ``python3 tests/engine/contract`` writes it;
* NUMAPIN_REAL_VLLM_COMMAND and NUMAPIN_REAL_VLLM_MODEL: what starts it (``…/bin/python -m
  vllm.entrypoints.openai.api_server``) and the directory of its model;
* NUMAPIN_REAL_VLLM_URL: one that is up (``http://HOST:PORT``), for what needs no start and stop. It must serve
  ``contract`` and ``contract-alias`` with ``max-model-len: 4096``, ``enable-server-load-tracking: true`` and the key of
  contract/questions.py;
* contract/vllm-answers.json, where somebody kept the answers of one.

tests/engine/against-real does all of it with the vLLM of tests/containers.
"""

from __future__ import annotations

import json
import os
import pathlib
import shlex
import typing as t
import urllib.parse

import pytest
from contract import compare, scenarios
from contract.server import Endpoint, Engine
from verdict import COMPARED, NOT_COMPARED

KEPT = pathlib.Path(__file__).parent / "contract" / "vllm-answers.json"
Answers = dict[str, t.Any]


def quiet(_text: str) -> None:
    """Nobody waits long for the double."""


@pytest.fixture(scope="session")
def answers(double: Engine) -> Answers:
    """Everything the double says."""
    return scenarios.all_of(double, quiet)


@pytest.fixture(scope="session")
def real() -> tuple[str, Answers]:
    """Who the real one is, and what it says."""
    found = real_vllm()
    if found is None:
        pytest.skip(NOT_COMPARED)
    return found


def real_vllm() -> tuple[str, Answers] | None:
    environment = os.environ
    if path := environment.get("NUMAPIN_REAL_VLLM_ANSWERS"):
        return f"the vLLM whose answers are in {path}", json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    if command := environment.get("NUMAPIN_REAL_VLLM_COMMAND"):
        model = environment.get("NUMAPIN_REAL_VLLM_MODEL", "")
        return f"the vLLM of {command}", scenarios.all_of(Engine("vLLM", tuple(shlex.split(command)), model), print)
    if url := environment.get("NUMAPIN_REAL_VLLM_URL"):
        parts = urllib.parse.urlsplit(url)
        return f"the vLLM at {url}", scenarios.serving(Endpoint(parts.port or 80, parts.hostname or ""))
    if KEPT.exists():
        return f"the vLLM whose answers are in {KEPT.name}", json.loads(KEPT.read_text(encoding="utf-8"))
    return None


def test_a_real_vllm_answers_the_same(
    answers: Answers, real: tuple[str, Answers], request: pytest.FixtureRequest
) -> None:
    name, said = real
    mine = {scenario: answers.get(scenario) for scenario in said}
    found = compare.differences(mine, said)
    request.config.stash[COMPARED] = f"held against {name}: {len(said)} scenarios, {len(found)} differences"
    assert not found, compare.report(found, name)


# What our code builds on, whoever answers.


def test_health_needs_no_key_and_everything_below_v1_does(answers: Answers) -> None:
    assert answers["request: health"]["status"] == 200
    assert answers["request: models without a key"] == {
        "status": 401,
        "headers": {"content-type": "application/json", "server": "uvicorn"},
        "body": {"error": "Unauthorized"},
    }
    assert answers["request: models"]["body"]["data"][0]["id"] == "contract"


def test_sigterm_without_a_timeout_cuts_answers_that_look_whole(answers: Answers) -> None:
    found = answers["SIGTERM without a shutdown timeout"]
    stream = found["a streamed completion"]
    assert stream["status"] == 200
    assert stream["connection broke"] is None
    assert stream["body"][-1] == "[DONE]"
    assert not stream["complete"]
    assert found["a completion in one piece"]["status"] == 200
    assert not found["a completion in one piece"]["complete"]
    assert found["exit status"] == 0


def test_sigterm_with_a_timeout_finishes_answers_and_refuses_new_ones_while_healthy(answers: Answers) -> None:
    found = answers["SIGTERM with a shutdown timeout"]
    for name in ("a streamed completion", "a streamed chat", "a completion in one piece"):
        assert found[name]["complete"], found[name]
    assert found["answers were still under way"]
    meanwhile = found["meanwhile"]
    assert meanwhile["health"]["status"] == 200
    for name in ("a new completion", "a new stream", "a new chat"):
        assert meanwhile[name]["status"] == 500
        assert meanwhile[name]["body"]["error"]["message"] == "cannot schedule new futures after shutdown"
    assert found["exit status"] == 0


def test_a_dead_engine_is_told_in_the_stream_and_ends_the_server(answers: Answers) -> None:
    found = answers["EngineCore is killed"]
    assert found["a streamed completion"]["body"][-2]["error"]["code"] == 500
    assert found["a streamed completion"]["body"][-1] == "[DONE]"
    assert found["a completion in one piece"]["status"] == 500
    assert found["health is not 200"]
    assert found["exit status"] == 0


def test_metrics_count_what_was_asked(answers: Answers) -> None:
    found = answers["metrics"]
    assert all(found["added"].values()), found["added"]
    assert found["prompt tokens added"]
    shapes = found["shapes"]
    assert shapes["vllm:num_requests_running"] == {"type": "gauge", "samples": ["engine=0, model_name=contract"]}
    assert "engine=0, finished_reason=length, model_name=contract" in shapes["vllm:request_success_total"]["samples"]
    for name in ("vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", "vllm:cache_config_info"):
        assert shapes[name]["type"] == "gauge"


# The comparison itself: a difference must not go unseen.


def test_a_difference_is_told_with_its_place() -> None:
    double = {"health": {"status": 200, "body": [1, {"a": None}]}, "more": 1}
    real = {"health": {"status": 503, "body": [1, {"a": 0}]}, "load": {}}
    found = compare.differences(double, real)
    assert [line.split("\n")[0] for line in found] == [
        "health → status",
        "health → body [2] → a",
        "load",
        "more",
    ]
    assert "the double: 200" in found[0]
    assert "vLLM:       503" in found[0]
    assert "(nothing)" in found[2]


@pytest.mark.parametrize(("double", "real"), [(1, True), ([1], [1, 2]), ("1", 1), ({}, [])])
def test_what_is_not_the_same_differs(double: t.Any, real: t.Any) -> None:
    assert compare.differences({"x": double}, {"x": real})


def test_the_same_has_no_differences(answers: Answers) -> None:
    assert compare.differences(answers, json.loads(json.dumps(answers))) == []
