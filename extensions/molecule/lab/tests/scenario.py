# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where this scenario's inventory is, also for site_runs of the scenario default; figures for the summary."""

from __future__ import annotations

import os
import pathlib

REPOSITORY = pathlib.Path(__file__).parents[4]
INVENTORY = REPOSITORY / "build" / "lab" / "molecule" / "inventory.yml"
os.environ["NUMAPIN_INVENTORY"] = str(INVENTORY)
# What was seen, by host and unit.
FIGURES: list[str] = []
