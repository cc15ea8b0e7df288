"""From --bind to listening sockets. What a server does with them is in test_server.py."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from geventgate.config import Config
from geventgate.errors import ConfigError
from geventgate.exchange import Exchange
from geventgate.server import addresses
from geventgate.server.addresses import Given, Tcp, Unix, activated, check_bind, listen, parse_bind, url

from .conftest import Site

CONFIG = Config()


def hello(exchange: Exchange) -> None:
    exchange.send_head(200, [])
    exchange.finish(b"hello")


@pytest.mark.parametrize(
    ("bind", "where"),
    [
        ("a:1", Tcp("a", 1)),
        (":1", Tcp("0.0.0.0", 1)),
        ("unix:/run/a:b", Unix("/run/a:b")),
        ("unix:a", Unix("a")),
        ("unix:///run/a", Unix("/run/a")),
        ("unix:@a", Unix("@a")),
        ("unix:" + "a" * 107, Unix("a" * 107)),
        ("fd://3", Given(3)),
        ("fd://10", Given(10)),
    ],
)
def test_parse(bind: str, where: object) -> None:
    assert parse_bind(bind) == where
    assert type(parse_bind(bind)) is type(where)


@pytest.mark.parametrize(
    "bind",
    [
        "unix:", "unix:@", "unix:a\0b", "unix:" + "a" * 108, "unix:" + "é" * 54, "fd://", "fd://x", "fd://-1",
        "fd://\u0663", "fd://99999999999", "a:100000", "a:99999999999999999999",
    ],
)  # fmt: skip
def test_refused(bind: str) -> None:
    with pytest.raises(ConfigError, match=r"^--bind "):
        parse_bind(bind)


# --- descriptors we were given


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as one:
        yield one


def test_a_given_socket(site: Site, taken: socket.socket) -> None:
    port = taken.getsockname()[1]
    server = site.serve(hello, bind=(f"fd://{taken.detach()}",))
    assert server.addresses == [f"http://127.0.0.1:{port}"]
    assert site.connect().get().content == b"hello"


def test_a_given_socket_that_does_not_listen_yet(site: Site) -> None:
    one = socket.socket()
    one.bind(("127.0.0.1", 0))
    one.set_inheritable(True)
    fd = one.detach()
    site.serve(hello, bind=(f"fd://{fd}",))
    assert site.connect().get().content == b"hello"
    assert not os.get_inheritable(fd)


def test_a_given_unix_sockets_file_is_not_ours(site: Site, tmp_path: Path) -> None:
    one = socket.socket(socket.AF_UNIX)
    one.bind(f"{tmp_path}/s")
    one.listen()
    server = site.serve(hello, bind=(f"fd://{one.detach()}",))
    assert server.addresses == [f"unix:{tmp_path}/s"]
    assert site.connect().get().content == b"hello"
    server.stop()
    assert (tmp_path / "s").exists()


def test_what_is_no_listening_socket(taken: socket.socket) -> None:
    one = socket.create_connection(taken.getsockname())
    other = socket.socketpair()[0]
    with (
        one,
        other,
        socket.socket() as bare,
        socket.socket(type=socket.SOCK_DGRAM) as datagrams,
        open("/dev/null") as file,
    ):
        for fd, why in (
            (one.fileno(), "a connection, not a listening socket"),
            (bare.fileno(), "the socket has no address"),
            (other.fileno(), "the socket has no address"),
            (datagrams.fileno(), "not a TCP or unix stream socket"),
            (file.fileno(), "Socket operation on non-socket"),
            (99999, "Bad file descriptor"),
        ):
            for look in (check_bind, lambda bind: listen(bind, CONFIG)):
                with pytest.raises(ConfigError) as caught:
                    look(f"fd://{fd}")
                assert str(caught.value) == f"cannot listen on fd://{fd}: {why}"
        assert one.fileno() >= 0
        one.send(b"still open")


@pytest.mark.parametrize(
    ("environ", "binds"),
    [
        ({}, ()),
        ({"LISTEN_FDS": "2"}, ()),
        ({"LISTEN_PID": "1", "LISTEN_FDS": "2"}, ()),
        ({"LISTEN_PID": str(os.getpid())}, ()),
        ({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "x"}, ()),
        ({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0"}, ()),
        ({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}, ("fd://3", "fd://4")),
    ],
)
def test_activation(environ: dict[str, str], binds: tuple[str, ...]) -> None:
    meant = environ.get("LISTEN_PID") == str(os.getpid())
    before = dict(environ)
    assert activated(environ) == binds
    assert environ == ({} if meant else before)


# --- unix sockets


def test_the_file_is_removed_only_while_it_is_ours(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = listen(f"unix:{path}", CONFIG)
    path.unlink()
    second = listen(f"unix:{path}", CONFIG)
    first.close()
    assert stat.S_ISSOCK(path.stat().st_mode)
    second.close()
    second.close()
    assert not path.exists()


def test_the_file_is_found_again_from_another_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bound = listen("unix:s", CONFIG)
    monkeypatch.chdir("/")
    bound.close()
    assert not (tmp_path / "s").exists()


def test_a_link_is_left_alone(tmp_path: Path) -> None:
    listen(f"unix:{tmp_path}/s", CONFIG).sock.close()
    (tmp_path / "link").symlink_to("s")
    with pytest.raises(ConfigError, match="in use"):
        listen(f"unix:{tmp_path}/link", CONFIG)
    assert (tmp_path / "s").exists()


def test_a_server_whose_queue_is_full_lives(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(f"{tmp_path}/s")
        busy.listen(0)
        clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(f"{tmp_path}/s")
        with pytest.raises(ConfigError, match="in use"):
            listen(f"unix:{tmp_path}/s", CONFIG)
        for client in clients:
            client.close()


def test_an_abstract_socket(site: Site) -> None:
    name = f"geventgate-{os.getpid()}"
    server = site.serve(hello, bind=(f"unix:@{name}",))
    assert server.addresses == [f"unix:@{name}"]
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"\0{name}")
    with pytest.raises(ConfigError, match=f"cannot listen on unix:@{name}: Address already in use"):
        listen(f"unix:@{name}", CONFIG)


def test_the_owner(tmp_path: Path) -> None:
    bound = listen(f"unix:{tmp_path}/s", CONFIG)
    bound.give_to(os.getuid(), os.getgid())
    if os.geteuid() == 0:
        bound.give_to(12345, 54321)
        assert (os.stat(f"{tmp_path}/s").st_uid, os.stat(f"{tmp_path}/s").st_gid) == (12345, 54321)
    bound.close()
    listen("127.0.0.1:0", CONFIG).give_to(0, 0)  # which has none


# --- TCP, and looking without binding


def test_several_may_share_a_port() -> None:
    first = listen("127.0.0.1:0", Config(reuse_port=True))
    where = f"127.0.0.1:{first.sock.getsockname()[1]}"
    second = listen(where, Config(reuse_port=True))
    with pytest.raises(ConfigError, match="in use"):
        listen(where, CONFIG)
    first.close()
    second.close()


def test_nothing_is_left_bound_when_one_fails(tmp_path: Path, taken: socket.socket) -> None:
    bad = f"127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(ConfigError, match=f"cannot listen on {bad}: Address already in use"):
        addresses.listen_all(Config(bind=(f"unix:{tmp_path}/s", bad)))
    assert not (tmp_path / "s").exists()


def test_looking_binds_nothing(tmp_path: Path, taken: socket.socket) -> None:
    for bind in (":0", "[::1]:0", f"unix:{tmp_path}/s", "unix:s", "unix:@s", f"fd://{taken.fileno()}"):
        check_bind(bind)
    assert list(tmp_path.iterdir()) == []
    for bind in (f"unix:{tmp_path}/no/s", "no-such-host.invalid:1"):
        with pytest.raises(ConfigError, match=f"cannot listen on {bind}: "):
            check_bind(bind)


def test_urls() -> None:
    for bind, start in (("127.0.0.1:0", "https://127.0.0.1:"), ("[::1]:0", "https://[::1]:")):
        bound = listen(bind, CONFIG)
        assert url(bound.sock, "https").startswith(start)
        bound.close()


# --- going away


def test_who_comes_to_a_hidden_port_is_not_reset_but_refused_later() -> None:
    """Between the last accept and the close a connection would be accepted by the kernel, and lost."""
    bound = listen("127.0.0.1:0", CONFIG)
    before = socket.create_connection(bound.sock.getsockname())
    bound.hide()
    bound.hide()
    late = socket.socket()
    late.settimeout(0.2)
    with pytest.raises(TimeoutError):
        late.connect(bound.sock.getsockname())
    accepted = bound.sock.accept()[0]
    before.sendall(b"what was queued is whole")
    assert accepted.recv(100) == b"what was queued is whole"
    address = bound.sock.getsockname()
    bound.close()
    late.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    accepted.sendall(b"still")
    assert before.recv(100) == b"still"
    accepted.close()
    before.close()


def test_a_hidden_unix_socket_has_no_file(tmp_path: Path) -> None:
    path = tmp_path / "s"
    bound = listen(f"unix:{path}", CONFIG)
    bound.hide()
    assert not path.exists()
    path.write_text("another's")
    bound.close()
    assert path.exists()


def test_a_socket_that_was_given_is_not_hidden() -> None:
    """Others may listen on it too."""
    with socket.create_server(("127.0.0.1", 0)) as given:
        bound = listen(f"fd://{os.dup(given.fileno())}", CONFIG)
        bound.hide()
        bound.close()
        with socket.create_connection(given.getsockname()):
            given.accept()[0].close()
