# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pages of reports, from the files that the role uses."""

from __future__ import annotations

import typing as t
from pathlib import Path

from ansible_collections.numapin.inference.plugins.plugin_utils._report_page import report_page

if t.TYPE_CHECKING:
    from playwright.sync_api import Page

TOP = Path(__file__).resolve().parents[2]
_PAGE = TOP / "roles" / "report" / "files" / "page"
_SCRIPTS = ("1-tools.js", "2-drawing.js", "3-details.js", "4-page.js")

Open = t.Callable[..., "Page"]


def render(report: dict[str, t.Any]) -> str:
    """The page of a report, from the files that the role uses."""
    return report_page(
        report,
        template=(_PAGE / "page.html.j2").read_text(encoding="utf-8"),
        style=(_PAGE / "style.css").read_text(encoding="utf-8"),
        scripts=[(_PAGE / name).read_text(encoding="utf-8") for name in _SCRIPTS],
    )
