# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.numapin.inference.plugins.module_utils._changes import Changes


def test_only_what_differs_is_a_change_and_stands_in_the_diff() -> None:
    changes = Changes()
    assert not changes.record("kept", "1", "1")
    assert not changes.changed
    assert changes.record("irq 24 eth0-rx-0", "0-3", "0")
    assert changes.record("new", None, "2")
    assert changes.changed
    assert changes.diff("/proc/irq") == {
        "before_header": "/proc/irq",
        "after_header": "/proc/irq",
        "before": "irq 24 eth0-rx-0  0-3\n",
        "after": "irq 24 eth0-rx-0  0\nnew               2\n",
    }
