# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How large the weights of a model directory are."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.numapin.inference.plugins.modules.deployment_info import weights_mib

MIB = 2**20


@pytest.mark.parametrize(
    ("files", "mib"),
    [
        ({"model-1.safetensors": 3 * MIB, "model-2.safetensors": MIB + 1, "tokenizer.json": MIB}, 5),
        ({"model.safetensors": 2 * MIB, "consolidated.safetensors": 2 * MIB, "pytorch_model.bin": 2 * MIB}, 2),
        ({"pytorch_model.bin": MIB, "x.pt": 5 * MIB}, 1),
        ({"config.json": 10}, None),
        ({}, None),
    ],
)
def test_weights(tmp_path: Path, files: dict[str, int], mib: int | None) -> None:
    for name, size in files.items():
        with (tmp_path / name).open("wb") as handle:
            handle.truncate(size)
    (tmp_path / "directory.safetensors").mkdir()
    assert weights_mib(str(tmp_path)) == mib


def test_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(b"x")
    assert weights_mib(str(tmp_path / "file.bin")) is None
    assert weights_mib(str(tmp_path / "absent")) is None


def test_links_are_followed(tmp_path: Path) -> None:
    """A hub's cache holds links to files that are elsewhere."""
    (tmp_path / "blob").write_bytes(b"x" * MIB)
    (tmp_path / "model.safetensors").symlink_to("blob")
    assert weights_mib(str(tmp_path)) == 1
