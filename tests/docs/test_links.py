"""Links lead somewhere: to files of the repository, and to headings that are there."""

import re

import pytest

from tests.harness import ROOT
from tests.harness.document import Document, pages

MORE = ["CONTRIBUTING.md", "SECURITY.md", "deploy/README.md", "deploy/backup.md", "bench/README.md"]


@pytest.mark.parametrize("path", [*pages(), *MORE])
def test_a_link_leads_to_what_is_there(path: str) -> None:
    page = Document(path)
    for link in page.links():
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        file = (page.path.parent / target).resolve() if target else page.path
        assert file.exists(), link
        assert file.is_relative_to(ROOT.resolve()), link
        if anchor:
            assert anchor in Document(str(file.relative_to(ROOT.resolve()))).anchors(), link


def test_every_page_is_reached_from_the_readme() -> None:
    seen: set[str] = set()
    to_read = ["README.md"]
    while to_read:
        path = to_read.pop()
        if path in seen or not path.endswith(".md"):
            continue
        seen.add(path)
        page = Document(path)
        for link in page.links():
            target = link.partition("#")[0]
            if target and not re.match(r"[a-z]+:", link):
                file = (page.path.parent / target).resolve()
                if file.is_file():
                    to_read.append(str(file.relative_to(ROOT.resolve())))
    assert set(pages()) <= seen
