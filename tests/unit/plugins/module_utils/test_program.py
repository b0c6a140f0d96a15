# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import ast
import subprocess
import sys
import typing as t

import pytest

from ansible_collections.numapin.inference.plugins.module_utils import _program

if t.TYPE_CHECKING:
    from pathlib import Path

ENTRY = """
from __future__ import annotations

from ansible_collections.numapin.inference.plugins.module_utils import _cpuset


def main(arguments: list[str]) -> int:
    from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError

    try:
        print(_cpuset.format_cpulist(_cpuset.parse_cpulist(arguments[0])))
    except NumapinError:
        return 3
    return 0
"""


@pytest.fixture
def entry(monkeypatch: pytest.MonkeyPatch) -> str:
    """A utility that is not in the collection; the others are as they are."""
    real = _program._source
    monkeypatch.setattr(_program, "_source", lambda name: ENTRY if name == "_entry" else real(name))
    return "_entry"


def test_runs_without_ansible_and_holds_what_it_imports(entry: str, tmp_path: Path) -> None:
    path = tmp_path / "program"
    path.write_bytes(_program.program(entry))

    def run(argument: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", "-S", str(path), argument]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    assert run("3,0-1").stdout == "0-1,3\n"
    assert run("nonsense").returncode == 3
    assert sorted(_program.sources(entry)) == ["_cpuset", "_entry", "_errors"]


def test_a_cache_is_filled_once_and_used(entry: str, tmp_path: Path) -> None:
    path, cache = tmp_path / "program", tmp_path / "cache"
    path.write_bytes(_program.program(entry))
    (cache / "of an earlier program").mkdir(parents=True)

    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", "-S", str(path), "3,0-1"]
        environment = {"CACHE_DIRECTORY": str(cache)}
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env=environment)

    assert (run().stdout, run().stderr) == ("0-1,3\n", "")
    (unpacked,) = cache.iterdir()
    assert [*unpacked.rglob("__pycache__/_entry.*.pyc")]
    source = next(unpacked.rglob("_entry.py"))
    source.write_text("def main(arguments):\n    print('from the cache')\n    return 0\n")
    assert run().stdout == "from the cache\n"
    # One that cannot be written to is said, and done without.
    cache.rename(tmp_path / "gone")
    assert run().stdout == "0-1,3\n"
    assert run().stderr.startswith(f"{cache} cannot be used as a cache: ")


@pytest.mark.parametrize("name", ["_verify_service", "_irq_service", "_hugetlb_boot"])
def test_imports_are_those_that_python_finds(name: str) -> None:
    package = "ansible_collections.numapin.inference.plugins.module_utils"
    for source in _program.sources(name).values():
        found = set()
        for statement in ast.walk(ast.parse(source)):
            if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith(package):
                own = (statement.module or "")[len(package) + 1 :]
                found |= {own} if own else {alias.name for alias in statement.names}
        assert set(_program._imports(source)) == found


def test_same_code_same_bytes(entry: str) -> None:
    assert _program.program(entry) == _program.program(entry)


def test_missing_code_is_named() -> None:
    with pytest.raises(_program.ProgramError, match="_nothing_like_this cannot be read: install the collection"):
        _program.program("_nothing_like_this")
