"""From what --bind says to listening sockets: TCP, unix sockets and their files, abstract ones, inherited ones."""

import ctypes
import errno
import json
import os
import socket
import stat
import struct
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, NamedTuple

from gevent.socket import socket as GeventSocket

from geventgate.config import Config
from geventgate.errors import ConfigError

FIRST_FD = 3  # of those that systemd passes (sd_listen_fds(3))
MAX_PATH = 107  # bytes (unix(7))
# A socket filter (bpf(4), SO_ATTACH_FILTER) that lets all segments through but a SYN alone.
SO_ATTACH_FILTER = 26  # Linux's, and not in the socket module
NO_SYN = b"".join(
    struct.pack("=HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # A = the byte of flags (RFC 9293 §3.1)
        (0x54, 0, 0, 0x12),  # A &= SYN | ACK
        (0x15, 0, 1, 0x02),  # unless A == SYN skip one
        (0x06, 0, 0, 0),  # drop
        (0x06, 0, 0, 0xFFFFFFFF),  # take
    )
)
FORMS = "HOST:PORT, [IPV6]:PORT, :PORT, unix:PATH, unix:@NAME or fd://N"


class Tcp(NamedTuple):
    host: str
    port: int


class Unix(NamedTuple):
    path: str  # "@NAME" is an abstract one, which has no file


class Given(NamedTuple):
    fd: int


class Bound:
    """A listening socket, and its file if we made one; *given* by somebody who may go on listening with it, *shared*
    with other processes of this server."""

    __slots__ = ("_file", "_identity", "_process", "given", "shared", "sock")

    def __init__(self, sock: Any, file: str = "", given: bool = False, shared: bool = False) -> None:
        self.sock = sock
        self.shared = shared
        self.given = given
        self._file = os.path.abspath(file) if file else ""  # the application may change the directory
        self._identity = _identity(self._file)
        self._process = os.getpid()  # a child that ends leaves the file alone

    def leave(self) -> None:
        """Close; the file is for those who go on listening."""
        self._file = ""
        self.sock.close()

    def give_to(self, uid: int, gid: int) -> None:
        """Make them the owner of the file, -1 changes nothing. Raises OSError."""
        if self._file:
            os.chown(self._file, uid, gid)

    def hide(self) -> None:
        """Have nobody join the kernel's queue, as far as the system can: closing would reset who is in it.

        Who tries TCP tries again a second later, and is refused then. Idempotent.
        """
        self._unlink()
        if not self.given and self.sock.family != socket.AF_UNIX and sys.platform == "linux":
            program = ctypes.create_string_buffer(NO_SYN)
            with suppress(OSError):  # not every sandbox allows it
                self.sock.setsockopt(
                    socket.SOL_SOCKET,
                    SO_ATTACH_FILTER,
                    struct.pack("HP", len(NO_SYN) // 8, ctypes.addressof(program)),
                )

    def close(self) -> None:
        """Close, and remove the file if it is still ours: another server may have replaced it. Idempotent."""
        self._unlink()
        self.sock.close()

    def _unlink(self) -> None:
        if self._file and self._process == os.getpid() and _identity(self._file) == self._identity:
            with suppress(OSError):  # a user who may not: the next server finds it stale
                os.unlink(self._file)
        self._file = ""


def parse_bind(bind: str) -> Tcp | Unix | Given:
    """What --bind says; :PORT is on all IPv4 addresses. Raises ConfigError."""
    if bind.startswith("fd://"):
        number = bind.removeprefix("fd://")
        if not (number.isascii() and number.isdigit() and len(number) < 10):
            raise ConfigError(f"--bind {bind}: not fd://N, where N is the number of a listening socket")
        return Given(int(number))
    if bind.startswith("unix:"):
        path = bind.removeprefix("unix:")
        path = path.removeprefix("//") if path.startswith("///") else path  # as a URL
        if path in ("", "@") or "\0" in path or len(os.fsencode(path)) > MAX_PATH:
            raise ConfigError(f"--bind {bind}: not unix:PATH or unix:@NAME, of 1 to {MAX_PATH} bytes")
        return Unix(path)
    host, colon, port = bind.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ConfigError(f"--bind {bind}: an IPv6 address stands in brackets, [::1]:8000")
    if not colon or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
        raise ConfigError(f"--bind {bind}: not {FORMS}")
    return Tcp(host or "0.0.0.0", int(port))


def listen(bind: str, config: Config) -> Bound:
    """Raises ConfigError."""
    where = parse_bind(bind)
    try:
        match where:
            case Tcp(host, port):
                return Bound(_listen_tcp(host, port, config))
            case Unix(path):
                return Bound(_listen_unix(path, config.backlog), "" if path.startswith("@") else path)
            case Given(fd):
                return Bound(_take(fd, config.backlog), given=True)
    except OSError as error:
        raise ConfigError(f"cannot listen on {bind}: {error.strerror or error}") from None


def listen_all(config: Config) -> list[Bound]:
    """A socket for every address of ``config.bind``. Raises ConfigError; then nothing is left bound."""
    bound: list[Bound] = []
    try:
        for bind in config.bind:
            bound.append(listen(bind, config))
    except BaseException:
        for one in bound:
            one.close()
        raise
    return bound


def check_bind(bind: str) -> None:
    """Look for what would keep listen() from it, and bind nothing. Raises ConfigError."""
    try:
        match parse_bind(bind):
            case Tcp(host, port):
                _resolve(host, port)
            case Unix(path) if not path.startswith("@"):
                os.stat(os.path.dirname(path) or ".")
            case Given(fd):
                _check_given(fd)
    except OSError as error:
        raise ConfigError(f"cannot listen on {bind}: {error.strerror or error}") from None


def activated(environ: MutableMapping[str, str]) -> tuple[str, ...]:
    """The sockets a supervisor passed to this process (sd_listen_fds(3)), as --bind would name them.

    Takes the variables away: they are not meant for our children.
    """
    meant = environ.get("LISTEN_PID") == str(os.getpid())
    count = environ.get("LISTEN_FDS", "")
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES") if meant else ():
        environ.pop(name, None)
    if not meant or not count.isdigit():
        return ()
    return tuple(f"fd://{fd}" for fd in range(FIRST_FD, FIRST_FD + int(count)))


def bequest(sockets: list[Bound]) -> str:
    """What inherited() makes the same of, in a program that this process becomes."""
    for bound in sockets:
        os.set_inheritable(bound.sock.fileno(), True)
    return json.dumps([(bound.sock.fileno(), bound._file, bound.given) for bound in sockets])


def inherited(bequest: str) -> list[Bound]:
    sockets = []
    for fd, file, given in json.loads(bequest):
        os.set_inheritable(fd, False)
        sockets.append(Bound(GeventSocket(fileno=fd), file, given))
    return sockets


def url(sock: Any, scheme: str) -> str:
    """http://HOST:PORT, or unix:PATH."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:@{os.fsdecode(name[1:])}" if isinstance(name, bytes) else f"unix:{name}"
    host, port = name[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _resolve(host: str, port: int) -> Any:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]


def _listen_tcp(host: str, port: int, config: Config) -> Any:
    family, kind, proto, _, address = _resolve(host, port)
    sock = GeventSocket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if config.reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(config.backlog)
    except OSError:
        sock.close()
        raise
    return sock


def _listen_unix(path: str, backlog: int) -> Any:
    sock = GeventSocket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.startswith("@"):
            sock.bind("\0" + path[1:])
        else:
            if _is_stale(path):
                os.unlink(path)
            sock.bind(path)
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    return sock


def _is_stale(path: str) -> bool:
    """Whether *path* is a socket that nobody listens on any more."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
    except FileNotFoundError:
        return False
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    probe.setblocking(False)
    try:
        probe.connect(path)
    except ConnectionRefusedError:
        return True
    except BlockingIOError:
        pass  # its queue is full
    finally:
        probe.close()
    return False


def _check_given(fd: int) -> None:
    """Raises OSError unless *fd* is a stream socket that has an address and is not connected."""
    probe = socket.socket(fileno=os.dup(fd))
    try:
        if probe.type != socket.SOCK_STREAM or probe.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
            raise OSError(errno.ESOCKTNOSUPPORT, "not a TCP or unix stream socket")
        name = probe.getsockname()
        if not (name if probe.family == socket.AF_UNIX else name[1]):
            raise OSError(errno.EINVAL, "the socket has no address")
        if probe.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return
        try:
            probe.getpeername()
        except OSError:
            return
        raise OSError(errno.EISCONN, "a connection, not a listening socket")
    finally:
        probe.close()


def _take(fd: int, backlog: int) -> Any:
    _check_given(fd)
    os.set_inheritable(fd, False)
    sock = GeventSocket(fileno=fd)
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):  # circus binds and does not listen
        sock.listen(backlog)
    return sock


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
