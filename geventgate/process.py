"""What a process is to its system: the pid file, the umask, the user it becomes.

For the command line and ``geventgate.serve()``; a Server in a program leaves its process alone.
"""

import fcntl
import grp
import os
import pwd
import socket
import stat
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from typing import NamedTuple

from geventgate.config import Config
from geventgate.errors import ConfigError


def notifier(environ: MutableMapping[str, str]) -> Callable[[str], None]:
    """Tells the supervisor that started us how we are, if it wants to know (sd_notify(3)).

    Takes the variable away: it is not meant for our children.
    """
    address = environ.pop("NOTIFY_SOCKET", "")

    def tell(state: str) -> None:
        if address:
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
                peer.sendto(state.encode(), f"\0{address[1:]}" if address.startswith("@") else address)

    return tell


class Identity(NamedTuple):
    """Who to become."""

    uid: int  # -1: who we are
    gid: int
    groups: tuple[int, ...]  # the supplementary ones


def set_umask(mask: str) -> None:
    if mask:
        os.umask(int(mask, 8))


def identity(config: Config) -> Identity | None:
    """Whom --user and --group name; None when that changes nothing. Raises ConfigError, also if we may not."""
    if not config.user and not config.group:
        return None
    uid, gid, name = -1, -1, ""
    if config.user:
        uid, gid, name = _user(config.user)
    if config.group:
        gid = _group(config.group)
    if gid < 0:
        raise ConfigError(f"--user {config.user}: has no group: say --group")
    if os.geteuid() != 0:
        if uid in (-1, os.geteuid()) and gid == os.getegid():
            return None
        raise ConfigError(f"{f'--user {config.user}' if config.user else f'--group {config.group}'}: only root can")
    groups = tuple(os.getgrouplist(name, gid)) if name else (gid,)
    return Identity(uid, gid, groups)


def become(who: Identity, files: Iterable[int] = ()) -> None:
    """Become *who*, for good, and have the open *files* belong to them. Raises ConfigError."""
    try:
        for file in files:
            if stat.S_ISREG(os.fstat(file).st_mode):
                os.fchown(file, who.uid, who.gid)
        os.setgroups(who.groups)
        os.setresgid(who.gid, who.gid, who.gid)
        if who.uid >= 0:
            os.setresuid(who.uid, who.uid, who.uid)
    except OSError as error:
        raise ConfigError(f"cannot become user {who.uid}, group {who.gid}: {error.strerror}") from None


def _user(name: str) -> tuple[int, int, str]:
    """uid, gid and name; -1 and "" where a number has none."""
    try:
        entry = pwd.getpwuid(int(name)) if _is_number(name) else pwd.getpwnam(name)
    except (KeyError, OverflowError):
        if _is_number(name) and int(name) < 2**31:
            return int(name), -1, ""
        raise ConfigError(f"--user {name}: there is no such user") from None
    return entry.pw_uid, entry.pw_gid, entry.pw_name


def _group(name: str) -> int:
    if _is_number(name) and int(name) < 2**31:
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(f"--group {name}: there is no such group") from None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


@contextmanager
def pid_file(path: str) -> Iterator[int | None]:
    """Have *path* hold our process id while inside; its descriptor, or None without a path. Raises ConfigError when a
    process that lives has written it.

    That process holds a lock on it: a number alone may be somebody else's by now, and a lock a child's it left behind.
    """
    if not path:
        yield None
        return
    path = os.path.abspath(path)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(f"--pid {path}: {error.strerror}") from None
    try:
        _claim(fd, path)
        yield fd
    finally:
        with suppress(OSError):
            if os.path.samestat(os.fstat(fd), os.stat(path)) and _written(fd) == os.getpid():
                os.ftruncate(fd, 0)  # if it may not be removed, it at least says nothing
                os.unlink(path)
        os.close(fd)


def _claim(fd: int, path: str) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        other = _written(fd)
        if other is None or _lives(other):
            raise ConfigError(f"--pid {path}: process {other or '?'} runs and has written it") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise ConfigError(f"--pid {path}: not a file")
    os.ftruncate(fd, 0)
    os.pwrite(fd, b"%d\n" % os.getpid(), 0)


def _written(fd: int) -> int | None:
    text = os.pread(fd, 20, 0).strip()
    return int(text) if text.isdigit() else None


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
