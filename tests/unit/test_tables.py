"""Tables on terminals of any width: nothing is cut but names."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrord.cli.tables import CUT, Cell, Table, columns, folded, name, shortened, whole, words

LONG = "production-mirror-of-the-second-virtual-machine-in-the-third-row"[:63]


def table(rows: int = 1) -> Table:
    made = Table([name("NAME"), whole("STATE"), words("WHERE", 2), whole("FRAMES", 1), whole("DROPPED")])
    for _ in range(rows):
        made.row(LONG, Cell("waiting", "yellow"), "vxlan 192.0.2.10 port 4789 vni 16777215", 123456789012, 210987654321)
    return made


def test_a_wide_terminal_has_it_all_on_a_line() -> None:
    lines = table().lines(None)
    assert lines[1].split("  ")[0] == LONG
    assert len(lines) == 2


@pytest.mark.parametrize("width", [40, 50, 60, 80, 100, 120, 200])
def test_numbers_are_whole_at_any_width_and_what_is_left_out_is_said(width: int) -> None:
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in table().lines(width)]
    told = lines.pop() if lines[-1].startswith("(no room for") else ""
    assert all(columns(line) <= width for line in lines), lines
    text = " ".join(lines)
    for title, cell in (("FRAMES", "123456789012"), ("WHERE", "16777215"), ("DROPPED", "210987654321")):
        assert (cell in text) != (title in told), (width, lines)
    assert "waiting" in text
    assert LONG in text or CUT in text


def test_what_must_stay_is_left_to_the_terminal() -> None:
    lines = table().lines(20)
    assert any("210987654321" in line for line in lines)


def test_a_cut_name_keeps_both_ends() -> None:
    assert shortened("customer-a-vm-2", 9) == f"cust{CUT}vm-2"
    assert shortened("short", 9) == "short"
    assert shortened("日本語日本語日本語", 9) == f"日本{CUT}本語"


def test_a_devices_name_cannot_move_the_cursor() -> None:
    made = Table([whole("DEVICE")])
    made.row("eth\x1b[2J0")
    assert made.lines(None)[1] == "eth\ufffd[2J0"


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=40), st.integers(5, 60))
def test_a_shortened_text_fits(text: str, width: int) -> None:
    assert columns(shortened(text, width)) <= width
    if columns(text) <= width:
        assert shortened(text, width) == text


@given(st.text("ab ,", max_size=60), st.integers(3, 30))
def test_folding_loses_no_sign(text: str, width: int) -> None:
    assert re.sub(" ", "", "".join(folded(text, width))) == re.sub(" ", "", text)


@given(st.text(max_size=30))
def test_the_width_of_a_text_is_its_letters(text: str) -> None:
    wide = sum(unicodedata.east_asian_width(one) in "WF" for one in text)
    assert columns(text) <= len(text) + wide
