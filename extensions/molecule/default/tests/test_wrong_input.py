# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a stranger gets wrong: refused in words to act on, before anything on any host has changed."""

from __future__ import annotations

import pathlib

import pytest
from site_runs import Model, Run, deployed_model, run_site, with_models


@pytest.fixture(scope="module")
def good() -> Model:
    return deployed_model()


def refused(run: Run) -> str:
    """The run's output, after a look that it was refused before any host was changed."""
    assert run.status != 0, run.output
    assert run.recap, run.output
    assert {host: counts["changed"] for host, counts in run.recap.items()} == dict.fromkeys(run.recap, 0), run.output
    assert "Traceback" not in run.output
    assert "PLAY [Serve the models]" not in run.output, "the plan play refuses, and nothing after it runs"
    return run.text


def test_an_unknown_key(good: Model) -> None:
    text = refused(run_site(with_models({**good, "tensor_paralel_size": 2})))
    assert "has the unknown key 'tensor_paralel_size'. Did you mean `tensor_parallel_size`?" in text


def test_two_models_on_one_port(good: Model) -> None:
    text = refused(run_site(with_models({**good, "port": 8000}, {**good, "name": "other", "port": 8000})))
    assert "models 'tiny' and 'other' both ask for port 8000. Give one of them another `port`" in text


def test_a_tensor_parallel_size_no_node_can_hold(good: Model) -> None:
    text = refused(run_site(with_models({**good, "tensor_parallel_size": 2})))
    assert "asks for tensor_parallel_size 2 and this host has no GPU" in text
    assert "such a group cannot stay inside one node. Set `tensor_parallel_size: 1`" in text


def test_a_gpu_model_on_hosts_without_a_gpu(good: Model) -> None:
    text = refused(run_site(with_models({**good, "device": "gpu", "tensor_parallel_size": 16})))
    assert "this host has no GPU" in text


def test_a_model_directory_that_does_not_exist(good: Model) -> None:
    text = refused(run_site(with_models({**good, "source": "/opt/models/nowhere"})))
    assert "inference1: the model directory /opt/models/nowhere does not exist on this host" in text
    assert "correct `source` in vllm_models" in text


def test_an_inference_group_that_is_empty(tmp_path: pathlib.Path) -> None:
    inventory = tmp_path / "inventory.yml"
    inventory.write_text("inference: {hosts: {}}\nload_balancers: {hosts: {lb1: {}}}\n", encoding="utf-8")
    text = refused(run_site(inventory=inventory))
    assert "no host in the group `inference`" in text
    assert "Put the servers that run vLLM into the group `inference`" in text


def test_a_vllm_that_is_not_there(good: Model) -> None:
    text = refused(run_site(with_models(good), "--extra-vars=vllm_existing_python=/opt/nowhere/python"))
    assert "vllm_existing_python cannot be used: /opt/nowhere/python does not exist" in text
