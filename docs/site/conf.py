# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sphinx' settings for the documentation site that tools/docs-site puts together in build/site."""

project = "numapin.inference"
author = "numapin.inference contributors"
copyright = "2026, numapin.inference contributors"  # noqa: A001 - the name is Sphinx' own
extensions = ["myst_parser", "sphinx_antsibull_ext"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
html_theme = "alabaster"
html_theme_options = {
    "description": "One vLLM instance per NUMA node: pinned, balanced, proved",
    "page_width": "1200px",
}
html_sidebars = {"**": ["about.html", "searchfield.html", "navigation.html", "relations.html"]}
pygments_style = "default"
myst_heading_anchors = 4
# Links to files that are no pages (a module's source, an example) lead nowhere on the site; that every link leads to
# something in the repository is what tests/documents/test_links.py holds.
suppress_warnings = ["myst.xref_missing"]
