"""What an application finds in its environ, over requests in memory."""

import io
import sys
import traceback
from urllib.parse import unquote_to_bytes

import gevent
import pytest
from gevent.event import Event
from hypothesis import given
from hypothesis import strategies as st

from geventgate.errors import PeerError, PeerGone, PeerTimeout
from geventgate.gateway.environ import build_environ, distinguished_name, environ_template, with_room
from geventgate.message import Tls
from geventgate.testing import FakeExchange

DRAINING = Event()
ERRORS = io.StringIO()


def environ_of(*arguments, root_path="", exchange=None, **more):
    exchange = exchange or FakeExchange(*arguments, **more)
    return build_environ(exchange, environ_template(exchange.local, root_path, ERRORS, DRAINING, "geventgate/test"))


def wsgi_bytes(text):
    """What PEP 3333's native strings stand for."""
    return text.encode("latin-1")


# --- target, path and query

TARGETS = [
    # target, PATH_INFO as bytes, QUERY_STRING
    ("/", b"/", ""),
    ("/?", b"/", ""),
    ("/a?b", b"/a", "b"),
    ("/a?b=1&c=%20+?d", b"/a", "b=1&c=%20+?d"),
    ("/%20", b"/ ", ""),
    ("/a+b", b"/a+b", ""),
    ("/caf%C3%A9/%FF/a%2Fb", "/café/".encode() + b"\xff/a/b", ""),
    (b"/caf\xc3\xa9", "/café".encode(), ""),
    ("/%", b"/%", ""),
    ("/%2", b"/%2", ""),
    ("/%zz", b"/%zz", ""),
    ("/%00", b"/\0", ""),
    ("/a//b/./../c", b"/a//b/./../c", ""),
    ("//evil.example/x", b"//evil.example/x", ""),
    ("/a;b=c", b"/a;b=c", ""),
    ("http://a/b?c", b"/b", "c"),
    ("http://a", b"/", ""),
    ("http://a?c", b"/", "c"),
    (b"/?q=\xe9", b"/", "q=é"),
]


@pytest.mark.parametrize(("target", "path", "query"), TARGETS)
def test_path_and_query(target, path, query):
    environ = environ_of("GET", target)
    assert wsgi_bytes(environ["PATH_INFO"]) == path
    assert environ["QUERY_STRING"] == query
    assert environ["SCRIPT_NAME"] == ""


@pytest.mark.parametrize("target", [target for target, _, _ in TARGETS])
def test_the_target_is_kept_as_received(target):
    environ = environ_of("GET", target)
    raw = target if isinstance(target, bytes) else target.encode()
    assert wsgi_bytes(environ["REQUEST_URI"]) == wsgi_bytes(environ["RAW_URI"]) == raw
    assert environ["geventgate.request"].target == raw


def test_the_asterisk_form():
    environ = environ_of("OPTIONS", "*")
    assert (environ["REQUEST_METHOD"], environ["REQUEST_URI"], environ["PATH_INFO"]) == ("OPTIONS", "*", "*")


def test_an_absolute_target_overrides_host():
    """RFC 9112 §3.2.2."""
    environ = environ_of("GET", "http://target.example:81/x", [("Host", "field.example")])
    assert environ["HTTP_HOST"] == "target.example:81"
    assert environ["geventgate.request"].authority == "target.example:81"
    assert (b"host", b"field.example") in environ["geventgate.request"].headers  # as on the wire


@given(st.binary(max_size=40))
def test_no_byte_of_a_path_is_lost(raw):
    escaped = b"/" + b"".join(b"%%%02x" % byte for byte in raw)
    request = environ_of("GET", escaped)["geventgate.request"]
    assert request.path.encode("utf-8", "surrogateescape") == b"/" + raw
    assert request.raw_path == escaped
    assert wsgi_bytes(environ_of("GET", escaped)["PATH_INFO"]) == unquote_to_bytes(escaped)


@pytest.mark.parametrize(
    ("root_path", "target", "script_name", "path_info"),
    [
        ("/app", "/app/x", "/app", "/x"),
        ("/app", "/app", "/app", ""),
        ("/app", "/app/", "/app", "/"),
        ("/app", "/application", "/app", "/application"),
        ("/app", "/other", "/app", "/other"),  # a proxy has taken the mount point off
        ("/app", "/%61pp/x", "/app", "/x"),
        ("/app", "/app%2Fx", "/app", "/x"),
        ("/a/b", "/a/b/c?/a/b", "/a/b", "/c"),
        ("/caf\xe9", "/caf%C3%A9/x", "/caf\xc3\xa9", "/x"),  # PEP 3333: bytes of UTF-8 as Latin-1
        ("/€", "/%E2%82%AC", "/\xe2\x82\xac", ""),
    ],
)
def test_root_path(root_path, target, script_name, path_info):
    environ = environ_of("GET", target, root_path=root_path)
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (script_name, path_info)
    assert environ["geventgate.request"].root_path == root_path
    assert environ["geventgate.request"].raw_path == target.partition("?")[0].encode()


@pytest.mark.parametrize(
    ("option", "script_name"), [("", ""), ("/", ""), ("/app", "/app"), ("/app/", "/app"), ("app", "/app")]
)
def test_the_root_path_option(answer, option, script_name):
    seen = {}

    def application(environ, start_response):
        seen.update(environ)
        start_response(204, [])
        return []

    answer(application, FakeExchange("GET", "/app/x"), root_path=option)
    assert seen["SCRIPT_NAME"] == script_name


# --- the rest of PEP 3333's keys


def test_keys_of_a_request():
    environ = environ_of("PUT", "/", peer=("192.0.2.7", "999"), local=("192.0.2.1", "8080"))
    request = environ["geventgate.request"]
    expected = {
        "REQUEST_METHOD": "PUT",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "192.0.2.1",
        "SERVER_PORT": "8080",
        "SERVER_SOFTWARE": "geventgate/test",
        "REMOTE_ADDR": "192.0.2.7",
        "REMOTE_PORT": "999",
        "HTTP_HOST": "localhost",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": ERRORS,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
        "geventgate.draining": DRAINING,
    }
    assert {key: environ[key] for key in expected} == expected
    assert (request.client, request.server) == (("192.0.2.7", "999"), ("192.0.2.1", "8080"))
    assert type(environ) is dict
    assert "CONTENT_LENGTH" not in environ
    assert "CONTENT_TYPE" not in environ
    assert all(type(value) is str for key, value in environ.items() if key.isupper())


def test_http_1_0_without_host():
    environ = environ_of("GET", "/", http_version="1.0")
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.0"
    assert "HTTP_HOST" not in environ
    assert environ["geventgate.request"].http_version == "1.0"


def test_a_unix_socket_has_no_addresses():
    environ = environ_of(peer=("", ""), local=("", ""))
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == ("", "")
    assert environ["SERVER_NAME"]  # "can never be empty strings"
    assert environ["SERVER_PORT"]


def test_environs_share_nothing_that_can_change():
    template = environ_template(("127.0.0.1", "80"), "", ERRORS, DRAINING, "x")
    one = build_environ(FakeExchange("GET", "/one", [("X-One", "1")]), template)
    one.clear()
    other = build_environ(FakeExchange("GET", "/other"), template)
    assert other["PATH_INFO"] == "/other"
    assert "HTTP_X_ONE" not in other
    assert template["PATH_INFO"] == "/"


# --- fields


@pytest.mark.parametrize(
    ("fields", "key", "value"),
    [
        ([("X-A", "1")], "HTTP_X_A", "1"),
        ([("x-a", "1")], "HTTP_X_A", "1"),
        ([("X-A", "")], "HTTP_X_A", ""),
        ([("X-A", " \t1 2\t ")], "HTTP_X_A", "1 2"),
        ([("X-A", "1"), ("x-A", "2"), ("X-a", "1")], "HTTP_X_A", "1,2,1"),
        ([("Cookie", "a=1"), ("X", "y"), ("Cookie", "b=2")], "HTTP_COOKIE", "a=1; b=2"),
        ([("Content-Type", "text/plain")], "CONTENT_TYPE", "text/plain"),
        ([("Content-Length", "0")], "CONTENT_LENGTH", "0"),
        ([(b"X-A", b"caf\xc3\xa9 \xff")], "HTTP_X_A", "caf\xc3\xa9 \xff"),
        ([("Version", "1")], "HTTP_VERSION", "1"),
        ([("x-" + "a" * 100, "1")], "HTTP_X_" + "A" * 100, "1"),
        ([("Transfer-Encoding", "chunked")], "HTTP_TRANSFER_ENCODING", "chunked"),
    ],
)
def test_a_field_and_its_key(fields, key, value):
    for _ in range(2):  # unknown, and known
        assert environ_of("GET", "/", fields)[key] == value


@pytest.mark.parametrize(
    "name", ["X_Real_IP", "Content_Length", "Content_Type", "X-A_B", "_", "Proxy", "PROXY", "Host_"]
)
def test_fields_without_a_key(name):
    """Ambiguous names, and httpoxy (CVE-2016-1000110)."""
    plain = environ_of("GET", "/")
    for _ in range(2):
        environ = environ_of("GET", "/", [(name, "evil")])
        assert set(environ) == set(plain)
        assert "evil" not in environ.values()
        assert environ["geventgate.request"].text(name) == "evil"  # nothing is kept from who asks for the wire


def test_an_underscore_does_not_add_to_a_field():
    environ = environ_of("GET", "/", [("X-User", "alice"), ("X_User", "root")])
    assert environ["HTTP_X_USER"] == "alice"


def test_fields_never_become_other_keys():
    environ = environ_of("GET", "/", [("wsgi.input", "x"), ("SERVER-NAME", "x"), ("REMOTE-ADDR", "x")])
    assert environ["SERVER_NAME"] == environ["REMOTE_ADDR"] == "127.0.0.1"
    assert environ["HTTP_WSGI.INPUT"] == "x"


# --- HTTP/2


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [("X-A", "1"), ("Cookie", "a=1"), ("x-a", "2"), ("Cookie", "b=2")],
        [("Content-Type", "text/plain"), ("Content-Length", "0")],
        [("X_A", "evil"), ("X-A", "1"), ("Proxy", "evil"), ("Content_Length", "5"), ("-", "x")],
        [(b"X-A", b"caf\xe9 \xff"), ("wsgi.input", "x"), ("REMOTE-ADDR", "x"), ("te", "trailers")],
    ],
)
def test_fields_are_the_same_over_http_2(fields):
    """One policy, whatever carries them (gunicorn 26.2 had two)."""
    host = [("Host", "a.example:81")]
    one, two = (environ_of("GET", "/a?b", host + fields, http_version=version) for version in ("1.1", "2"))
    for _ in range(2):  # unknown, and known
        assert {key: value for key, value in two.items() if type(value) is str} == {
            key: value for key, value in one.items() if type(value) is str
        } | {"SERVER_PROTOCOL": "HTTP/2"}


def test_a_request_over_http_2():
    environ = environ_of("POST", "/caf%C3%A9?b", [("X-A", "1")], [b"con", b"tent"], http_version="2")
    assert (environ["SERVER_PROTOCOL"], environ["wsgi.url_scheme"]) == ("HTTP/2", "http")
    assert (environ["PATH_INFO"], environ["REQUEST_URI"]) == ("/caf\xc3\xa9", "/caf%C3%A9?b")
    assert environ["HTTP_HOST"] == "localhost"  # its :authority
    assert "CONTENT_LENGTH" not in environ
    assert environ["wsgi.input"].read() == b"content"
    request = environ["geventgate.request"]
    assert (request.http_version, request.authority, request.headers) == ("2", "localhost", ((b"x-a", b"1"),))


def test_a_tunnel_over_http_2():
    environ = environ_of("CONNECT", "a.example:80", http_version="2")
    assert (environ["REQUEST_METHOD"], environ["REQUEST_URI"]) == ("CONNECT", "a.example:80")
    assert (environ["PATH_INFO"], environ["HTTP_HOST"]) == ("", "a.example:80")


# --- geventgate.request


def test_request_headers_keep_order_and_duplicates():
    fields = [("Host", "a"), ("X-B", "1"), (b"X-A", b"\xff"), ("x-b", "2"), ("X_C", "3")]
    request = environ_of("GET", "/", fields)["geventgate.request"]
    assert request.headers == ((b"host", b"a"), (b"x-b", b"1"), (b"x-a", b"\xff"), (b"x-b", b"2"), (b"x_c", b"3"))
    assert type(request.headers) is tuple


@pytest.mark.parametrize(
    ("value", "text"),
    [(b"plain", "plain"), ("café €".encode(), "café €"), (b"caf\xe9", "caf\xe9"), (b"", ""), (b"\xff\xfe", "\xff\xfe")],
)
def test_request_text(value, text):
    request = environ_of("GET", "/", [(b"X-A", value)])["geventgate.request"]
    assert request.text("x-a") == request.text("X-A", "default") == text


def test_request_text_of_repeated_and_missing_fields():
    request = environ_of("GET", "/", [("X-A", "1"), ("X-A", "2")])["geventgate.request"]
    assert request.text("x-a") == "1, 2"
    assert request.text("x-b") is None
    assert request.text("x-b", "default") == "default"
    assert request.text("x-€", "default") == "default"  # no field has such a name


def test_request_properties():
    request = environ_of("GET", "/caf%C3%A9/%FF/a%2Fb?q=%C3%A9", [("Host", "a.example:81")])["geventgate.request"]
    assert request.method == "GET"
    assert request.path == "/café/\udcff/a/b"
    assert request.raw_path == b"/caf%C3%A9/%FF/a%2Fb"
    assert request.query == b"q=%C3%A9"
    assert request.target == b"/caf%C3%A9/%FF/a%2Fb?q=%C3%A9"
    assert (request.authority, request.scheme, request.http_version) == ("a.example:81", "http", "1.1")
    assert "GET" in repr(request)


def test_request_is_immutable():
    request = environ_of("GET", "/")["geventgate.request"]
    public = [name for name in dir(type(request)) if not name.startswith("_")]
    assert "root_path" in public
    for name in [*public, "anything"]:
        with pytest.raises(AttributeError):
            setattr(request, name, "changed")


def test_request_stays_when_middleware_rewrites():
    environ = environ_of("GET", "/a/b")
    environ.update(PATH_INFO="/b", SCRIPT_NAME="/a", REQUEST_METHOD="POST", REQUEST_URI="/b")
    request = environ["geventgate.request"]
    assert (request.method, request.path, request.root_path, request.target) == ("GET", "/a/b", "", b"/a/b")


def test_trailers_come_with_the_end():
    trailers = ((b"x-sum", b"1"),)
    environ = environ_of("POST", "/", content=[b"abc"], trailers=trailers)
    assert environ["geventgate.request"].trailers() == ()
    assert environ["wsgi.input"].read() == b"abc"
    assert environ["geventgate.request"].trailers() == trailers
    assert environ_of()["geventgate.request"].trailers() == ()


# --- geventgate.disconnected


def test_disconnected_is_lazy():
    exchange = FakeExchange()
    disconnected = environ_of(exchange=exchange)["geventgate.disconnected"]
    assert not exchange.watched
    assert not disconnected.is_set()
    assert exchange.watched
    exchange.hang_up()
    assert disconnected.is_set()
    assert disconnected.wait(0)


def test_disconnected_waits():
    exchange = FakeExchange()
    disconnected = environ_of(exchange=exchange)["geventgate.disconnected"]
    assert not disconnected.wait(0.001)
    waiting = gevent.spawn(disconnected.wait, 10)
    gevent.idle()
    exchange.hang_up()
    assert waiting.get(timeout=5)


def test_gevent_waits_for_disconnected_among_others():
    exchange = FakeExchange()
    disconnected = environ_of(exchange=exchange)["geventgate.disconnected"]
    never = Event()
    assert gevent.wait([disconnected, never], timeout=0.001) == []
    gevent.spawn(exchange.hang_up)
    assert gevent.wait([never, disconnected], timeout=5, count=1) == [disconnected]
    assert gevent.wait([never, disconnected], timeout=5, count=1) == [disconnected]  # and when it is set already


def test_disconnected_forgets_who_waits_no_longer():
    exchange = FakeExchange()
    disconnected = environ_of(exchange=exchange)["geventgate.disconnected"]
    gevent.wait([disconnected], timeout=0.001)
    assert exchange.closed.linkcount() == 0


# --- wsgi.input

TEXT = b"one\ntwo\r\n\nlast"
SPLITS = [[TEXT], [TEXT[:2], TEXT[2:]], [b"%c" % byte for byte in TEXT], [b"", TEXT, b""]]


def input_of(content, **more):
    return environ_of("POST", "/", content=content, **more)["wsgi.input"]


READERS = [
    ("read", lambda file: file.read(), TEXT),
    ("read(-1)", lambda file: file.read(-1), TEXT),
    ("read(None)", lambda file: file.read(None), TEXT),
    ("read(n)", lambda file: file.read(6), TEXT[:6]),
    ("read(much)", lambda file: file.read(1 << 20), TEXT),
    ("read(0)", lambda file: file.read(0), b""),
    ("readline", lambda file: file.readline(), b"one\n"),
    ("readline(n)", lambda file: file.readline(2), b"on"),
    ("readlines", lambda file: file.readlines(), [b"one\n", b"two\r\n", b"\n", b"last"]),
    ("readlines(hint)", lambda file: file.readlines(3), [b"one\n"]),
    ("iteration", list, [b"one\n", b"two\r\n", b"\n", b"last"]),
    ("read1 until the end", lambda file: b"".join(iter(lambda: file.read1(5), b"")), TEXT),
    ("read1() until the end", lambda file: b"".join(iter(file.read1, b"")), TEXT),
    (
        "readinto",
        lambda file: (buffer := bytearray(20), file.readinto(buffer))[::-1],
        (len(TEXT), bytearray(TEXT + bytes(20 - len(TEXT)))),
    ),
]


@pytest.mark.parametrize("pieces", SPLITS, ids=["whole", "two", "bytewise", "empty pieces"])
@pytest.mark.parametrize(("read", "expected"), [case[1:] for case in READERS], ids=[case[0] for case in READERS])
def test_reading_however_it_comes(read, expected, pieces):
    assert read(input_of(pieces)) == expected
    if pieces == [TEXT]:
        assert read(input_of(TEXT)) == expected


@given(st.lists(st.binary(max_size=20)), st.lists(st.integers(1, 9), min_size=1))
def test_any_reads_of_any_pieces(pieces, sizes):
    file = input_of(pieces or [b""])
    got = b""
    for size in sizes * (sum(map(len, pieces)) + 1):
        data = file.read(size)
        got += data
        if len(data) < size:
            break
    assert got == b"".join(pieces)
    assert file.read(1) == file.read() == file.readline() == b""


def test_the_end_is_true_and_stays():
    file = input_of(b"abc")
    assert file.read(3) == b"abc"
    assert [file.read(1), file.read(), file.read1(), file.readline(), file.readlines(), list(file)] == [
        b"", b"", b"", b"", [], [],
    ]  # fmt: skip
    assert file.readinto(bytearray(5)) == 0


def test_read1_gives_what_is_there():
    file = input_of([b"first", b"second"])
    assert file.read1(100) == b"first"
    assert file.read1(3) == b"sec"
    assert file.read1(100) == b"ond"


def test_content_is_not_read_ahead_of_the_application():
    taken = []

    def pieces():
        for piece in (b"one", b"two"):
            taken.append(piece)
            yield piece

    file = input_of(pieces())
    assert taken == []
    assert file.read(3) == b"one"
    assert taken == [b"one"]


@pytest.mark.parametrize("fields", [[], [("Content-Length", "0")]])
def test_no_content(fields):
    template = environ_template(("127.0.0.1", "80"), "", ERRORS, DRAINING, "x")
    for _ in range(2):  # whoever closes it closes it for nobody else
        file = build_environ(FakeExchange("POST", "/", fields), template)["wsgi.input"]
        assert file.read() == file.read(5) == file.read1() == file.readline() == b""
        assert list(file) == file.readlines() == []
        file.close()
        assert io.TextIOWrapper(build_environ(FakeExchange("POST", "/", fields), template)["wsgi.input"]).read() == ""
        with build_environ(FakeExchange("POST", "/", fields), template)["wsgi.input"] as file:
            assert file.read() == b""


@pytest.mark.parametrize(
    "read",
    [
        lambda file: file.read(),
        lambda file: file.read(100),
        lambda file: file.readlines(),
        list,
        lambda file: [file.read1(100) for _ in range(3)],
        lambda file: [file.readinto(bytearray(100)) for _ in range(3)],
        lambda file: [file.readline() for _ in range(3)],
    ],
)
@pytest.mark.parametrize("error", [PeerGone("cut short"), PeerTimeout(), PeerError(413, "too large")])
def test_truncated_content_is_an_error(read, error):
    """Never b"": nobody must take half a message for a whole one."""
    file = input_of([b"half\nof", error])
    with pytest.raises(type(error)) as caught:
        read(file)
    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value, ConnectionResetError) == isinstance(error, PeerGone)
    for _ in range(2):  # and however often it is asked
        with pytest.raises(OSError, match=str(error)):
            file.read()


def test_a_timeout_while_reading_loses_nothing():
    file = input_of([b"one ", gevent.Timeout(), b"two"])
    assert file.read1(10) == b"one "
    with pytest.raises(gevent.Timeout):
        file.read1(10)
    assert file.read() == b"two"


def test_what_a_binary_file_can_do():
    file = input_of(b"abc")
    assert (file.readable(), file.writable(), file.seekable(), file.isatty(), file.closed) == (
        True,
        False,
        False,
        False,
        False,
    )
    with pytest.raises(OSError, match="fileno"):
        file.fileno()
    with pytest.raises(io.UnsupportedOperation):
        file.write(b"x")
    assert io.TextIOWrapper(file, "utf-8").read() == "abc"


def test_an_error_of_the_peer_reads_well():
    with pytest.raises(PeerGone) as caught:
        input_of([PeerGone("the request's content was cut short")]).read()
    assert "cut short" in traceback.format_exception_only(caught.value)[-1]


# --- TLS


def tls(certificate=None, **peer):
    return Tls(version="TLSv1.3", cipher="C", server_name="a.b", alpn=None, peer_certificate=certificate, peer=peer)


def test_without_tls_there_are_no_keys_of_it():
    environ = environ_of(fields=[("Https", "on"), ("Ssl-Client-Verify", "SUCCESS"), ("SSL_CLIENT_VERIFY", "SUCCESS")])
    assert [key for key in environ if key.startswith(("SSL", "HTTPS", "geventgate.tls"))] == []
    assert environ["HTTP_SSL_CLIENT_VERIFY"] == "SUCCESS"


def test_keys_of_tls():
    agreed = tls()
    environ = environ_of(tls=agreed)
    assert environ["geventgate.tls"] is agreed
    keys = {key: value for key, value in environ.items() if key.startswith(("SSL", "HTTPS", "wsgi.url_scheme"))}
    assert keys == {
        "wsgi.url_scheme": "https",
        "HTTPS": "on",
        "SSL_PROTOCOL": "TLSv1.3",
        "SSL_CIPHER": "C",
        "SSL_TLS_SNI": "a.b",
        "SSL_CLIENT_VERIFY": "NONE",
    }
    with pytest.raises(AttributeError):
        agreed.cipher = "none"


def test_keys_of_a_clients_certificate():
    name = ((("organizationName", "O"),), (("commonName", "A"),))
    environ = environ_of(
        tls=tls(bytes(60), subject=name, issuer=name[:1], serialNumber="0A", notBefore="then", notAfter="later")
    )
    assert {key[11:]: value for key, value in environ.items() if key.startswith("SSL_CLIENT_")} == {
        "VERIFY": "SUCCESS",
        "S_DN": "CN=A,O=O",
        "I_DN": "O=O",
        "M_SERIAL": "0A",
        "V_START": "then",
        "V_END": "later",
        "CERT": f"-----BEGIN CERTIFICATE-----\n{'A' * 64}\n{'A' * 16}\n-----END CERTIFICATE-----\n",
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ((), ""),
        (((("domainComponent", "org"),), (("userId", "a"), ("commonName", "b"))), "UID=a+CN=b,DC=org"),
        (((("1.2.3.4", "a"),),), "1.2.3.4=a"),
        (((("commonName", "a,b=c\\"),),), "CN=a\\,b=c\\\\"),
        (((("commonName", "é\n"),),), "CN=\\C3\\A9\\0A"),
        (((("commonName", "#a "),),), "CN=\\#a\\ "),
        (((("commonName", " "),),), "CN=\\ "),
        (((("commonName", "x,CN=root"),),), "CN=x\\,CN=root"),
    ],
)
def test_distinguished_names(name, text):
    assert distinguished_name(name) == text


def test_a_template_with_room() -> None:
    """The fields of a browser find their place without another dict being made."""
    template = environ_template(("127.0.0.1", "80"), "", ERRORS, DRAINING, "x")
    roomy = with_room(template)
    assert list(roomy.items()) == list(template.items())
    environ = roomy.copy()
    for number in range(30):
        environ[f"HTTP_X_{number}"] = ""
    assert sys.getsizeof(environ) == sys.getsizeof(roomy.copy()) > sys.getsizeof(template)
