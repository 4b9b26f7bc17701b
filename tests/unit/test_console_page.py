"""The console's page as it lies in the package: two languages, checked modules, nobody else's address."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mirrord.console.pages import PAGE

OURS = [path for path in sorted(PAGE.rglob("*.*")) if "vendor" not in path.parts]
MODULES = [path for path in OURS if path.suffix == ".js"]
TEXT = r"'((?:[^'\\]|\\.)*)'"


def plain() -> set[str]:
    """Every text that the page puts into words, but for those about so many things."""
    return {text for path in MODULES for text in re.findall(rf"\bt\({TEXT}", path.read_text())}


def counted() -> dict[str, str]:
    """What is said of one thing, and what of so many."""
    pattern = re.compile(rf"\bplural\([^']+, {TEXT}, {TEXT}")
    return dict(found for path in MODULES for found in pattern.findall(path.read_text()))


def translated() -> dict[str, str]:
    return dict(re.findall(rf"^  {TEXT}: {TEXT},$", (PAGE / "zh.js").read_text(), re.MULTILINE))


def test_every_text_is_there_in_chinese_with_the_same_values() -> None:
    chinese = translated()
    assert chinese.keys() == plain() | set(counted().values())
    values = re.compile(r"\{\w+\}")
    assert not [text for text, other in chinese.items() if set(values.findall(text)) != set(values.findall(other))]


def test_one_thing_is_not_said_as_several() -> None:
    several = re.compile(r"\{(?:n|packets)\} (?:of \{all\} )?\w+s\b")
    assert not [text for text in plain() if several.search(text)]
    assert len(counted()) > 8
    assert not [one for one in counted() if several.search(one)]


def test_the_documents_own_terms_are_used() -> None:
    terms = {"端口镜像", "流量网络", "会话", "入方向", "出方向", "双向", "源端口", "目的端口", "云主机", "网卡", "采集"}
    assert terms <= set(translated().values())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_module_is_checked_and_one_idea(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0] == "// @ts-check"
    assert lines[1].startswith("//"), "what it is for"
    assert path.name == "zh.js" or len(lines) < 250


def test_no_address_of_anybody_else_is_named() -> None:
    named = {(path.name, address) for path in OURS for address in re.findall(r"https?:[^\s'\"`]+", path.read_text())}
    assert named == {("icon.svg", "http://www.w3.org/2000/svg")}  # a name, which nothing fetches
