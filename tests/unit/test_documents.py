"""What the documents tell people to type: every configuration in them is one that mirrord takes."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import click
import pytest

from docs.generate import PAGES as GENERATED
from mirrord.control.configuration import config
from mirrord.control.daemon import main as mirrord

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCKS = [
    pytest.param(block, id=f"{page.name}:{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"^```toml\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE), 1)
]
LINKS = [
    pytest.param(page, link, id=f"{page.name}:{link}")
    for page in PAGES
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
]


@pytest.mark.parametrize("block", BLOCKS)
def test_a_configuration_in_the_documents_is_taken(block: str, tmp_path: Path) -> None:
    file = tmp_path / "mirrord.toml"
    file.write_text(block)

    loaded = config.load(str(file))

    assert loaded.config.mirrors
    assert not loaded.warnings


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_a_link_in_the_documents_leads_somewhere(page: Path, link: str) -> None:
    assert (page.parent / link).exists()


@pytest.mark.parametrize("page", GENERATED, ids=lambda page: page.name)
def test_what_is_written_from_the_code_is_up_to_date(page: Path) -> None:
    assert page.read_text() == GENERATED[page](), "run `make docs`"


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "man").iterdir()), ids=lambda page: page.name)
def test_a_manual_page_is_clean(page: Path) -> None:
    done = subprocess.run(
        ["groff", "-man", "-ww", "-z", "-Tutf8", str(page)], capture_output=True, text=True, check=True
    )

    assert done.stderr == ""


def test_the_daemons_page_has_its_options() -> None:
    text = (ROOT / "docs" / "man" / "mirrord.8").read_text().replace("\\-", "-")
    page = text.partition(".SH OPTIONS\n")[2].partition("\n.SH ")[0]
    told = {
        option for line in re.findall(r"^\.TP\n(.*)", page, re.MULTILINE) for option in re.findall(r"--?[a-z-]+", line)
    }
    options = [option for param in mirrord.get_params(click.Context(mirrord)) for option in param.opts]
    assert told == set(options)
