"""Log files that reopen and never fail a request; lines without control characters."""

import logging
import os
import sys

import pytest

from geventgate import logs
from geventgate.config import Config
from geventgate.errors import ConfigError
from geventgate.logs import LineFormatter, LogFile


@pytest.fixture(autouse=True)
def untouched(monkeypatch):
    """What the tests do to the loggers and to the list of files ends with them."""
    monkeypatch.setattr(logs, "files", [])
    for name in ("handlers", "propagate", "level"):
        monkeypatch.setattr(logs.log, name, getattr(logs.log, name))
    yield
    logs.log.manager._clear_cache()


def record(message, *arguments, **more):
    return logging.LogRecord("geventgate", logging.INFO, __file__, 1, message, arguments, more.pop("exc_info", None))


@pytest.mark.parametrize(
    ("peer_says", "logged"),
    [
        ("plain", "plain"),
        ("two\nlines\r\n", r"two\x0alines\x0d\x0a"),
        ("\x1b[2J\x07\x00\t\x7f", r"\x1b[2J\x07\x00\x09\x7f"),
        ("\x85\x9b31m", r"\x85\x9b31m"),  # C1: NEL, and a one-byte CSI
        ("a\u2028b\u2029c", r"a\u2028b\u2029c"),
        ("café \\x41", "café \\x41"),
    ],
)
def test_no_control_characters_in_a_line(peer_says, logged):
    text = LineFormatter().format(record("said %s", peer_says))
    assert text.endswith(f"[{os.getpid()}] [INFO] said {logged}")
    assert text.splitlines() == [text]


def test_a_traceback_keeps_its_lines_and_nothing_else():
    try:
        raise ValueError("from a peer: \x1b[31m\r")
    except ValueError:
        text = LineFormatter().format(record("failed", exc_info=sys.exc_info()))
    lines = text.split("\n")
    assert lines[0].endswith("failed")
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1] == r"ValueError: from a peer: \x1b[31m\x0d"


def test_the_form_of_a_line():
    one = record("text")
    one.created = 0.0
    assert LineFormatter().format(one).startswith(("[1970-01-01 ", "[1969-12-31 "))


def test_the_error_log_goes_to_its_file_and_is_wsgi_errors(tmp_path):
    path = tmp_path / "error.log"
    errors = logs.open_error_log(Config(error_logfile=str(path), log_level="warning"))
    logs.log.info("not said")
    logs.log.warning("said")
    print("by the application: \udcff", file=errors)
    errors.flush()
    errors.close()  # PEP 3333 forbids it; it does no harm
    errors.writelines(["a", "b\n"])
    lines = path.read_text().splitlines()
    assert [line.partition("] [WARNING] ")[2] or line for line in lines] == [
        "said",
        r"by the application: \udcff",
        "ab",
    ]


def test_rotation(tmp_path):
    path, old = tmp_path / "log", tmp_path / "log.1"
    file = LogFile(str(path), 1, "--access-logfile")
    descriptor = file.fileno()
    file.write("one\n")
    path.rename(old)
    file.write("two\n")
    logs.reopen()
    file.write("three\n")
    assert (old.read_text(), path.read_text()) == ("one\ntwo\n", "three\n")
    assert file.fileno() == descriptor
    assert not os.get_inheritable(descriptor)


def test_a_file_that_cannot_be_reopened_stays(tmp_path, caplog):
    (tmp_path / "folder").mkdir()
    file = LogFile(str(tmp_path / "folder" / "log"), 1, "--access-logfile")
    (tmp_path / "folder").rename(tmp_path / "moved")
    file.reopen()
    file.write("kept\n")
    assert (tmp_path / "moved" / "log").read_text() == "kept\n"
    assert "No such file or directory; the old file stays" in caplog.text


def test_a_full_disk_is_said_once_and_loses_only_lines(caplog):
    file = LogFile("/dev/full", 1, "--access-logfile")
    assert file.write("lost\n") == 5
    assert file.write("lost\n") == 5
    assert caplog.text.count("cannot write to /dev/full: No space left on device") == 1


def test_a_closed_pipe_loses_only_lines(caplog):
    reader, writer = os.pipe()
    os.close(reader)
    file = LogFile("-", writer, "--access-logfile")
    assert file.write("lost\n") == 5
    assert caplog.text.count("Broken pipe") == 1
    os.close(writer)


def test_an_error_log_that_fails_does_not_call_itself_for_ever():
    file = logs.open_error_log(Config(error_logfile="/dev/full"))
    logs.log.error("lost")
    assert file.write("lost\n") == 5


def test_a_standard_stream_that_is_closed_is_not_written_to():
    reader, writer = os.pipe()
    os.close(writer)
    file = LogFile("-", writer, "--error-logfile")  # else the next connection could be given its number
    assert os.path.samestat(os.fstat(file.fileno()), os.stat(os.devnull))
    os.close(file.fileno())
    os.close(reader)


def test_what_cannot_be_opened(tmp_path):
    with pytest.raises(ConfigError, match=r"--error-logfile .*: Is a directory"):
        LogFile(str(tmp_path), 2, "--error-logfile")


def test_a_programs_own_logging_stays(monkeypatch):
    own = logging.NullHandler()
    monkeypatch.setattr(logs.log, "handlers", [own])
    logs.open_error_log(Config(), yield_to_program=True)
    assert logs.log.handlers == [own]
    logs.open_error_log(Config())
    assert logs.log.handlers != [own]
