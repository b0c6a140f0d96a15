# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every link inside the repository leads somewhere."""

from __future__ import annotations

import pytest

from ansible_collections.numapin.inference.tests.documents.pages import PAGES, Said, anchors, links, named

INSIDE = [link for link in links() if "://" not in link.text and not link.text.startswith("mailto:")]


def test_there_are_pages_and_links() -> None:
    assert {"README.md", "docs/architecture.md", "roles/vllm/README.md"} <= {named(page) for page in PAGES}
    assert len(INSIDE) > 50


@pytest.mark.parametrize("link", INSIDE, ids=lambda link: f"{link.where}-{link.text}")
def test_a_link_leads_somewhere(link: Said) -> None:
    path, _hash, anchor = link.text.partition("#")
    target = (link.page.parent / path).resolve() if path else link.page
    assert target.exists(), f"{link.where} links to {link.text}, and there is no {target}"
    if anchor:
        assert anchor in anchors(target), (
            f"{link.where}: {named(target)} has no heading #{anchor}, but {sorted(anchors(target))}"
        )
