# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""NOT vLLM: an engine double that stands for it in tests. See ``vllm/double/__init__.py``."""

from __future__ import annotations

# The version it takes its manners from, and a local label that no vLLM has.
__version__ = "0.32.0+numapin.double"
