"""The pid file, and whom the process may become; that it becomes them is in applications/test_front.py."""

import fcntl
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from geventgate import process
from geventgate.config import Config
from geventgate.errors import ConfigError
from geventgate.process import Identity, identity, pid_file

NOBODY = pwd.getpwnam("nobody")
HOLDER = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(fd, fcntl.LOCK_EX)
os.write(fd, b"%d" % os.getpid())
print(flush=True)
sys.stdin.read()
"""


def test_a_pid_file_lasts_as_long_as_the_process(tmp_path):
    path = tmp_path / "pid"
    with pid_file(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"
    assert not path.exists()
    with pid_file(""):
        pass


@pytest.mark.parametrize("left", ["", "1\n", "999999999\n", pytest.param(str(os.getpid()), id="ours"), "nonsense"])
def test_what_was_left_behind_is_replaced(tmp_path, left):
    """1 lives, but holds no lock: the number has been given again."""
    path = tmp_path / "pid"
    path.write_text(left)
    with pid_file(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"
    assert not path.exists()


def test_that_of_a_running_server_is_left_alone(tmp_path):
    path = tmp_path / "pid"
    with subprocess.Popen([sys.executable, "-c", HOLDER, path], stdin=-1, stdout=-1) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(ConfigError) as caught, pid_file(str(path)):
            pass
        assert str(caught.value) == f"--pid {path}: process {holder.pid} runs and has written it"
        assert path.read_text() == str(holder.pid)
        holder.communicate()


def test_a_lock_that_a_child_inherited_does_not_count(tmp_path):
    path = tmp_path / "pid"
    path.write_text("999999999\n")
    with path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pid_file(str(path)):
            assert path.read_text() == f"{os.getpid()}\n"


def test_a_file_that_has_become_anothers_is_left(tmp_path):
    path = tmp_path / "pid"
    with pid_file(str(path)):
        path.unlink()
        path.write_text("17\n")
    assert path.read_text() == "17\n"


@pytest.mark.parametrize("where", ["no/such/folder/pid", "."])
def test_where_no_pid_file_can_be(tmp_path, where):
    with (
        pytest.raises(ConfigError, match=r"^--pid /.*: (No such file|Is a directory)"),
        pid_file(f"{tmp_path}/{where}"),
    ):
        pass


def test_no_device_is_a_pid_file():
    with pytest.raises(ConfigError, match="not a file"), pid_file("/dev/null"):
        pass
    assert Path("/dev/null").exists()


@pytest.fixture
def root(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.mark.parametrize(
    ("options", "who"),
    [
        ({}, None),
        ({"user": "nobody"}, (NOBODY.pw_uid, NOBODY.pw_gid, (NOBODY.pw_gid,))),
        ({"user": str(NOBODY.pw_uid)}, (NOBODY.pw_uid, NOBODY.pw_gid, (NOBODY.pw_gid,))),
        ({"user": "nobody", "group": "daemon"}, (NOBODY.pw_uid, 1, (1,))),
        ({"user": "nobody", "group": "4000000"}, (NOBODY.pw_uid, 4000000, (4000000,))),
        ({"user": "4000000", "group": "daemon"}, (4000000, 1, (1,))),
        ({"group": "daemon"}, (-1, 1, (1,))),
    ],
)
def test_who(root, options, who):
    assert identity(Config(**options)) == (Identity(*who) if who else None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"user": "no-such-user"}, "--user no-such-user: there is no such user"),
        ({"user": "-1"}, "--user -1: there is no such user"),
        ({"user": "99999999999999999999"}, "--user 99999999999999999999: there is no such user"),
        ({"user": "4000000"}, "--user 4000000: has no group: say --group"),
        ({"group": "no-such-group"}, "--group no-such-group: there is no such group"),
        ({"group": "99999999999"}, "--group 99999999999: there is no such group"),
    ],
)
def test_nobody_of_that_name(root, options, message):
    with pytest.raises(ConfigError) as caught:
        identity(Config(**options))
    assert str(caught.value) == message


def test_only_root_becomes_others(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setattr(os, "getegid", lambda: 1)
    with pytest.raises(ConfigError, match=r"^--user nobody: only root can$"):
        identity(Config(user="nobody"))
    with pytest.raises(ConfigError, match=r"^--group nogroup: only root can$"):
        identity(Config(group="nogroup"))
    assert identity(Config(user="12345", group="1")) is None  # who we are already
    assert identity(Config(group="daemon")) is None


def test_the_system_may_still_say_no(monkeypatch):
    def refuse(*arguments):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "setgroups", refuse)
    with pytest.raises(ConfigError, match="cannot become user 1, group 2: Operation not permitted"):
        process.become(Identity(1, 2, (2,)))


def test_umask():
    before = os.umask(0o22)
    try:
        process.set_umask("")
        assert os.umask(0o22) == 0o22
        process.set_umask("027")
        assert os.umask(0o22) == 0o27
    finally:
        os.umask(before)
