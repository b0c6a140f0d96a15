# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""The one base class of everything this collection raises on purpose."""

from __future__ import annotations


class NumapinError(Exception):
    """A fault that a user can act on.

    The message says what was given, what is allowed and what to do; ``main`` hands it to ``fail_json`` unchanged.
    """
