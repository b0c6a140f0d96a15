# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the double was held against a real vLLM, which is told at the end however quiet pytest is."""

from __future__ import annotations

import pytest

NOT_COMPARED = (
    "THE DOUBLE WAS NOT HELD AGAINST A REAL vLLM: run tests/engine/against-real, or see tests/engine/test_contract.py"
)
COMPARED = pytest.StashKey[str]()
