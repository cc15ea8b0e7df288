"""docs/migration.md promises no option that is not there; its commands can be meant."""

import re
import shlex
from pathlib import Path

import pytest

from geventgate.cli import argument_parser

PAGE = (Path(__file__).parent.parent / "docs" / "migration.md").read_text()
COMMANDS = re.findall(r"^    geventgate (?!doctor)(.+)$", PAGE, re.MULTILINE)
# Of a table's row, what is said of us, in its last column.
OURS = re.findall(r"\| ([^|]*) \|$", PAGE, re.MULTILINE)
THEIRS = {"--log-file", "--capture-output"}  # named as missing


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command):
    given = argument_parser().parse_args(shlex.split(command))
    assert ":" in given.target


def test_options():
    words = {word for cell in OURS for word in re.findall(r"--[a-z][a-z0-9-]+", cell)}
    assert len(words) > 20
    assert words - THEIRS <= argument_parser()._option_string_actions.keys()


def test_words_shared_with_gunicorn():
    shared = re.search(r"^`-w`, .+? are the same words", PAGE, re.MULTILINE | re.DOTALL)[0]
    words = re.findall(r"`(-[^`]+)`", shared)
    assert len(words) > 20
    assert set(words) <= argument_parser()._option_string_actions.keys()


def test_each_section_has_both_sides():
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)[2:]
    assert len(sections) == 7
    for section in sections:
        assert "Before" in section
        assert "fter" in section
