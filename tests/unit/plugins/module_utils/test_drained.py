# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Records of drained instances and the files that a rollout keeps. Real files below tmp_path throughout."""

from __future__ import annotations

import json
import stat
import typing as t
from pathlib import Path

import pytest

from ansible_collections.numapin.inference.plugins.module_utils import _drained
from ansible_collections.numapin.inference.plugins.module_utils._drained import DrainedError, Drains, read_records

SINCE = 1795574411.0
STAMP = "2026-11-25T02:40:11Z"


def now() -> float:
    return SINCE


def drains(tmp_path: Path, **more: t.Any) -> Drains:
    return Drains(str(tmp_path / "state"), **more)


def records(tmp_path: Path) -> dict[str, dict[str, str]]:
    return read_records(str(tmp_path / "state"))


def snapshot(root: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in root.rglob("*")}


def test_a_person_drains_and_undrains(tmp_path: Path) -> None:
    one = drains(tmp_path)
    one.drain(["m-n0"], "new memory", now)
    assert one.changed
    assert records(tmp_path) == {"m-n0": {"since": STAMP, "by": "person", "reason": "new memory", "rollout": ""}}
    again = drains(tmp_path)
    again.drain(["m-n0"], "new memory")
    assert not again.changed
    back = drains(tmp_path)
    back.undrain(["m-n0", "m-n1"])
    assert (back.changed, records(tmp_path)) == (True, {})
    assert not (tmp_path / "state" / "drained.json").exists()


def test_check_mode_says_the_same_and_writes_nothing(tmp_path: Path) -> None:
    config = tmp_path / "m.yaml"
    config.write_text("port: 1\n", encoding="utf-8")
    one = drains(tmp_path, check_mode=True)
    one.begin(["m-n0"], "r1", "being changed", {"m-n0": [str(config)]}, now)
    assert one.changed
    assert one.records["m-n0"]["rollout"] == "r1"
    assert snapshot(tmp_path) == {"m.yaml": b"port: 1\n"}


def test_a_rollout_puts_back_what_it_found(tmp_path: Path) -> None:
    config, secret, absent = tmp_path / "m.yaml", tmp_path / "m.env", tmp_path / "m.service"
    config.write_text("port: 1\n", encoding="utf-8")
    secret.write_text("KEY=sk-1\n", encoding="utf-8")
    secret.chmod(0o600)
    before = snapshot(tmp_path)
    drains(tmp_path).begin(["m-n0"], "r1", "being changed", {"m-n0": [str(config), str(secret), str(absent)]}, now)
    kept = tmp_path / "state" / "previous" / "m-n0.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    config.write_text("port: 2\n", encoding="utf-8")
    secret.unlink()
    absent.write_text("new", encoding="utf-8")
    back = drains(tmp_path)
    back.restore(["m-n0"])
    assert back.restored_files == [str(config), str(secret), str(absent)]
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert records(tmp_path)["m-n0"] == {"since": STAMP, "by": "rollout", "reason": "being changed", "rollout": "r1"}
    drains(tmp_path).close(["m-n0"])
    assert snapshot(tmp_path) == before | {"state": None}


def test_what_an_interrupted_rollout_kept_is_not_overwritten(tmp_path: Path) -> None:
    config = tmp_path / "m.yaml"
    config.write_text("works", encoding="utf-8")
    drains(tmp_path).begin(["m-n0"], "r1", "", {"m-n0": [str(config)]}, now)
    config.write_text("broken", encoding="utf-8")
    drains(tmp_path).begin(["m-n0"], "r2", "", {"m-n0": [str(config)]})
    assert records(tmp_path)["m-n0"] == {"since": STAMP, "by": "rollout", "reason": "", "rollout": "r1"}
    drains(tmp_path).restore(["m-n0"])
    assert config.read_text(encoding="utf-8") == "works"


def test_what_a_finished_rollout_kept_is_not_used_again(tmp_path: Path) -> None:
    config = tmp_path / "m.yaml"
    config.write_text("first", encoding="utf-8")
    for rollout, text in (("r1", "second"), ("r2", "third")):
        drains(tmp_path).begin(["m-n0"], rollout, "", {"m-n0": [str(config)]})
        config.write_text(text, encoding="utf-8")
        if rollout == "r1":
            drains(tmp_path).close(["m-n0"])
    drains(tmp_path).restore(["m-n0"])
    assert config.read_text(encoding="utf-8") == "second"


def test_a_person_s_drain_outlives_a_rollout(tmp_path: Path) -> None:
    drains(tmp_path).drain(["m-n0"], "fan", now)
    drains(tmp_path).begin(["m-n0"], "r1", "being changed", {})
    assert records(tmp_path)["m-n0"] == {"since": STAMP, "by": "person", "reason": "fan", "rollout": "r1"}
    drains(tmp_path).close(["m-n0"])
    assert records(tmp_path)["m-n0"] == {"since": STAMP, "by": "person", "reason": "fan", "rollout": ""}


def test_a_person_cannot_end_what_a_rollout_has_not_finished(tmp_path: Path) -> None:
    drains(tmp_path).begin(["m-n0"], "r1", "being changed", {})
    drains(tmp_path).drain(["m-n0"], "fan")
    drains(tmp_path).undrain(["m-n0"])
    assert (records(tmp_path)["m-n0"]["by"], records(tmp_path)["m-n0"]["rollout"]) == ("rollout", "r1")


def test_nothing_to_restore(tmp_path: Path) -> None:
    one = drains(tmp_path)
    one.restore(["m-n0"])
    assert (one.changed, one.restored_files) == (False, [])


@pytest.mark.parametrize(
    "content", ["", "[]", '{"version": 2, "instances": {}}', '{"version": 1, "instances": {"m-n0": {"since": "x"}}}']
)
def test_damaged_records_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "drained.json").write_text(content, encoding="utf-8")
    with pytest.raises(DrainedError, match=r"state/drained\.json, which says what is drained on this host, is damaged"):
        drains(tmp_path)


def test_damaged_previous_files_are_named(tmp_path: Path) -> None:
    drains(tmp_path).begin(["m-n0"], "r1", "", {})
    (tmp_path / "state" / "previous" / "m-n0.json").write_text(json.dumps({"files": [{}]}), encoding="utf-8")
    with pytest.raises(DrainedError, match=r"previous/m-n0\.json, the previous files of m-n0, is damaged"):
        drains(tmp_path).restore(["m-n0"])


def test_a_full_disk_stops_it_before_anything_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_drained, "put_durably", full)
    with pytest.raises(DrainedError, match="No space left on device; nothing is done without it"):
        drains(tmp_path).begin(["m-n0"], "r1", "", {})
    assert records(tmp_path) == {}


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "there").symlink_to("elsewhere")
    with pytest.raises(DrainedError, match="is no regular file: a rollout could not put it back"):
        drains(tmp_path).begin(["m-n0"], "r1", "", {"m-n0": [str(tmp_path / "there")]})


@pytest.mark.parametrize("name", ["", "../x", "A", "-a"])
def test_a_name_that_is_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(DrainedError, match="allowed are a-z"):
        drains(tmp_path).drain([name], "")
