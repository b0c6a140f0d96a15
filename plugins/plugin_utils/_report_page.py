# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""The report as one HTML file: its data, its style and its script inside, nothing asked of anybody else.

What hosts and users named gets in as data only, and no other script than ours can run (Content-Security-Policy).
"""

from __future__ import annotations

import base64
import hashlib
import json
import typing as t
from collections.abc import Mapping, Sequence

import jinja2
import markupsafe

from ansible_collections.numapin.inference.plugins.plugin_utils._plain import plain
from ansible_collections.numapin.inference.plugins.plugin_utils._report_data import FORMAT, VERSION, ReportError
from ansible_collections.numapin.inference.plugins.plugin_utils._report_view import fleet_view

# In a script element of HTML these could end it or begin a comment; in JSON they mean the same when escaped.
_ESCAPED = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def report_page(report: object, *, template: str, style: str, scripts: Sequence[str]) -> str:
    """Return the page of a report. ``template``, ``style`` and ``scripts`` are texts, those of the role report.

    Raises ``ReportError`` for what is no report of this version.
    """
    if not isinstance(report, Mapping) or (report.get("format"), report.get("version")) != (FORMAT, VERSION):
        raise ReportError(
            f"{str(report)[:60]!r} is no {FORMAT} of version {VERSION}: give what the filter fleet_report returns"
        )
    view = fleet_view(plain(report))
    script = "\n".join(str(text) for text in scripts)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(str(template)).render(
        view=view,
        data=_inside_html(view),
        style=markupsafe.Markup(style),
        script=markupsafe.Markup(script),
        script_hash="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _inside_html(value: t.Any) -> markupsafe.Markup:
    """JSON that can stand in a script element as it is."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return markupsafe.Markup(text.translate(_ESCAPED))
