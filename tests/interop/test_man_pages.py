"""groff and mandoc read the manual pages without a warning."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy import man_pages
from tests import servers

LINTERS = {
    "groff": ("groff", "-mandoc", "-ww", "-Tutf8", "-z"),
    "mandoc": ("mandoc", "-T", "lint", "-W", "warning"),
}


@pytest.fixture
def pages(tmp_path: Path) -> list[Path]:
    for name, page in man_pages.create_pages("2026-01-31").items():
        (tmp_path / name).write_text(page)
    return sorted(tmp_path.iterdir())


@pytest.mark.parametrize("linter", LINTERS)
def test_man_pages_have_no_warnings(linter: str, pages: list[Path]) -> None:
    """The same program reports an unknown macro and an unknown escape sequence."""
    run = servers.run(*LINTERS[linter], *pages)
    assert (run.stdout, run.stderr) == ("", "")
    pages[0].write_text(pages[0].read_text() + ".XX\n\\[nonsense]\n")
    broken = servers.run(*LINTERS[linter], pages[0], check=False)
    assert broken.stdout + broken.stderr


def test_man_page_shows_the_help(pages: list[Path]) -> None:
    """Commands and options have the characters that a shell needs."""
    (page,) = (path for path in pages if path.name == "certlet-renew.1")
    text = servers.run("groff", "-mandoc", "-Tutf8", "-P-cbou", page).stdout
    assert "certlet renew www.example.com.crt --deploy-hook 'systemctl reload nginx'" in text
    assert "\n       --key-file FILE\n" in text
