"""PEP 3333, clause by clause: over exchanges in memory, and the same answers over a real server."""

import contextlib
import gc
import gzip
import io
import logging
import os
import sys
import tempfile
import weakref
from wsgiref.validate import validator

import gevent
import pytest
from gevent.event import Event

from geventgate.errors import ApplicationError, PeerGone, WebSocketError
from geventgate.gateway.wsgi import FileWrapper
from geventgate.testing import (
    FakeExchange,
    Http2Client,
    Http2WebSocketClient,
    Refused,
    WebSocketClient,
    running,
)

TEXT = [("Content-Type", "text/plain")]


class Pieces:
    """What an application returns: pieces, of which exceptions are raised; counts how often it is closed."""

    def __init__(self, *pieces, close=None):
        self.pieces = pieces
        self.closed = 0
        self.asked = 0
        self._close = close

    def __iter__(self):
        for piece in self.pieces:
            self.asked += 1
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    def close(self):
        self.closed += 1
        if self._close is not None:
            raise self._close


def returning(result, status="200 OK", fields=TEXT):
    def application(environ, start_response):
        start_response(status, fields)
        return result

    return application


# --- start_response() and what is returned


@pytest.mark.parametrize(
    ("result", "sends"),
    [
        ([b"hello"], [b"hello"]),
        ((b"hello",), [b"hello"]),
        ([], []),
        ([b""], []),
        ([b"", b""], []),
        ([b"a", b"", b"b"], [b"a", b"b"]),
        (iter([b"a", b"b"]), [b"a", b"b"]),
        ({b"k": 1}, [b"k"]),
        (Pieces(b"a", b"b"), [b"a", b"b"]),
        ([bytearray(b"a")], [b"a"]),
        ([b"a", memoryview(b"bc")], [b"a", b"bc"]),
    ],
)
def test_what_is_returned_is_sent(answer, result, sends):
    exchange = answer(returning(result))
    assert (exchange.status, exchange.fields, exchange.sends) == (200, TEXT, sends)
    assert exchange.finished
    assert exchange.aborted is None
    assert all(type(piece) is bytes for piece in exchange.sends)


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        ("404 Not Found", [("X-A", "1"), ("X-A", "2")]),
        (404, [(b"X-A", b"1"), ("X-A", b"2")]),
        ("404", (("X-A", "1"), ["X-A", "2"])),
    ],
)
def test_a_status_and_fields(answer, status, fields):
    """Beyond PEP 3333: an int, bytes pairs."""
    exchange = answer(returning([b"x"], status, fields))
    assert (exchange.status, exchange.fields) == (404, [("X-A", "1"), ("X-A", "2")])


def test_each_block_is_sent_before_the_next_is_asked_for(answer):
    """ "servers and gateways must not delay the transmission of any block" (PEP 3333, Buffering and Streaming)."""
    exchange = FakeExchange()
    seen = []

    def application(environ, start_response):
        start_response("200 OK", TEXT)
        for piece in (b"a", b"b", b"c"):
            seen.append(list(exchange.sends))
            yield piece
        seen.append(list(exchange.sends))

    answer(application, exchange)
    assert seen == [[], [b"a"], [b"a", b"b"], [b"a", b"b", b"c"]]


def test_the_head_waits_for_the_first_bytes(answer):
    """ "the headers must not be sent until there is actual body data available, or until the application's returned
    iterable is exhausted"."""
    exchange = FakeExchange()
    seen = []

    def application(environ, start_response):
        start_response("200 OK", TEXT)
        seen.append(exchange.status)
        yield b""
        seen.append(exchange.status)
        start_response("500 Late", TEXT, (ValueError, ValueError("late"), None))
        yield b"x"
        seen.append(exchange.status)

    answer(application, exchange)
    assert seen == [0, 0, 500]


def test_start_response_may_come_with_the_first_block(answer):
    """ "start_response may be called by the first iteration", as a generator does."""

    def application(environ, start_response):
        start_response("201 Created", TEXT)
        yield b"x"

    exchange = answer(application)
    assert (exchange.status, exchange.content, exchange.finished) == (201, b"x", True)


def test_a_callable_object_as_application(answer):
    class Application:
        def __init__(self, environ, start_response):
            self.start_response = start_response

        def __iter__(self):
            self.start_response("200 OK", TEXT)
            yield b"iterated"

    assert answer(Application).content == b"iterated"


def test_arguments_are_positional(answer):
    def application(*arguments):
        environ, start_response = arguments
        write = start_response("200 OK", TEXT, None)
        assert callable(write)
        return [environ["REQUEST_METHOD"].encode()]

    assert answer(application).content == b"GET"


def test_the_content_length_is_known_when_all_is_there(answer):
    finishes = []

    class Counting(FakeExchange):
        def finish(self, data=b"", trailers=()):
            finishes.append((self.status, data))
            super().finish(data, trailers)

    answer(returning([b"hello"]), Counting())
    answer(returning([]), Counting())
    assert finishes == [(0, b"hello"), (0, b"")]  # the end rides with the head: its length is the Content-Length


# --- write()


def test_write_sends_at_once(answer):
    exchange = FakeExchange()

    def application(environ, start_response):
        write = start_response("200 OK", TEXT)
        assert exchange.status == 0
        assert write(b"written") is None
        assert exchange.sends == [b"written"]
        write(b"again")
        return [b"returned"]

    answer(application, exchange)
    assert exchange.sends == [b"written", b"again", b"returned"]
    assert exchange.finished


@pytest.mark.parametrize("result", [[], [b""], (), iter([]), Pieces()])
def test_write_and_an_empty_result(answer, result):
    def application(environ, start_response):
        start_response("200 OK", TEXT)(b"written")
        return result

    exchange = answer(application)
    assert (exchange.content, exchange.finished) == (b"written", True)


def test_write_of_nothing_sends_the_head(answer):
    exchange = FakeExchange()

    def application(environ, start_response):
        start_response("200 OK", TEXT)(b"")
        assert exchange.status == 200
        return []

    answer(application, exchange)


def test_write_when_all_is_over(answer):
    kept = []

    def application(environ, start_response):
        kept.append(start_response("200 OK", TEXT))
        return [b"x"]

    exchange = answer(application)
    with pytest.raises(ApplicationError):
        kept[0](b"late")
    assert exchange.content == b"x"


# --- exc_info


def raised(error):
    try:
        raise error
    except type(error):
        return sys.exc_info()


def test_exc_info_replaces_a_head_not_yet_sent(answer):
    def application(environ, start_response):
        start_response("200 OK", [("X-Old", "1")])
        start_response("500 Oops", TEXT, raised(ValueError("oops")))
        return [b"failed"]

    exchange = answer(application)
    assert (exchange.status, exchange.fields, exchange.content) == (500, TEXT, b"failed")


def test_exc_info_on_the_first_call(answer):
    def application(environ, start_response):
        start_response("500 Oops", TEXT, raised(ValueError("oops")))
        return [b"failed"]

    assert answer(application).status == 500


@pytest.mark.parametrize("begin", ["write", "yield"])
def test_exc_info_is_raised_once_the_head_is_sent(answer, begin):
    """ "start_response must raise an error, using the exc_info tuple", and it is the application's own."""
    exchange = FakeExchange()
    error = ValueError("oops")
    reached = []

    def application(environ, start_response):
        write = start_response("200 OK", TEXT)
        if begin == "write":
            write(b"half")
        else:
            yield b"half"
        exc_info = raised(error)
        reached.append(exc_info[2])
        start_response("500 Oops", TEXT, exc_info)
        reached.append("behind")
        yield b"more"

    with pytest.raises(ValueError, match="oops") as caught:
        answer(application, exchange)
    assert caught.value is error
    assert len(reached) == 1
    trace, frames = caught.value.__traceback__, []
    while trace is not None:
        frames.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    assert frames[-1] == "raised"  # the traceback still says where it happened
    assert (exchange.content, exchange.finished) == (b"half", False)


def test_exc_info_after_the_head_does_not_change_it(answer):
    def application(environ, start_response):
        start_response("200 OK", TEXT)(b"half, ")
        try:
            start_response("500 Oops", [("X-New", "1")], raised(ValueError("oops")))
        except ValueError:
            return [b"and the rest"]

    exchange = answer(application)
    assert (exchange.status, exchange.fields, exchange.content) == (200, TEXT, b"half, and the rest")


def test_exc_info_makes_no_cycle(answer):
    class Mark(ValueError):
        pass

    def application(environ, start_response):
        start_response("200 OK", TEXT)(b"half")
        try:
            raise Mark
        except Mark:
            try:
                start_response("500 Oops", TEXT, sys.exc_info())
            except Mark:
                return [b"x"]

    gc.collect()
    gc.disable()
    try:
        answer(application)
        assert not [thing for thing in gc.get_objects() if isinstance(thing, Mark)]
    finally:
        gc.enable()


# --- the end


def test_what_is_to_be_done_at_the_end_is_done_once_the_last_request_has_ended():
    def application(environ, start_response):
        for number in (1, 2):
            environ["geventgate.at_stop"](call(number))
        environ["geventgate.draining"].wait()
        told.append("the request")
        start_response("200 OK", TEXT)
        return [b"x"]

    def call(number):
        def at_stop(seconds):
            gevent.sleep(0.01)
            told.append(number)
            assert 0 <= seconds <= 2.0

        return at_stop

    told = []
    with running(application) as server, server.connect() as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nHost: it\r\nConnection: close\r\n\r\n")
        gevent.sleep(0.05)
        gevent.joinall([gevent.spawn(server.server.stop) for _ in range(2)], raise_error=True, count=1)
        assert told == ["the request", 2, 1]  # whoever has stopped it finds all done


# --- what an application must not do; the carrier makes a 500 of it


def twice(environ, start_response):
    start_response("200 OK", TEXT)
    start_response("200 OK", TEXT)
    return [b"x"]


def twice_with_none(environ, start_response):
    start_response("200 OK", TEXT)
    start_response("200 OK", TEXT, None)
    return [b"x"]


def never(environ, start_response):
    return [b"x"]


def never_lazily(environ, start_response):
    yield b"x"


def never_empty(environ, start_response):
    return []


def writes_text(environ, start_response):
    start_response("200 OK", TEXT)("text")
    return []


def nothing(environ, start_response):
    start_response("200 OK", TEXT)


def fails(environ, start_response):
    raise ValueError("oops")


def fails_after_start(environ, start_response):
    start_response("200 OK", TEXT)
    raise ValueError("oops")


def fails_while_iterated(environ, start_response):
    start_response("200 OK", TEXT)
    return Pieces(b"", ValueError("oops"))


def exits(environ, start_response):
    start_response("200 OK", TEXT)
    sys.exit(3)


def times_out(environ, start_response):
    start_response("200 OK", TEXT)
    raise gevent.Timeout(1)


BEFORE_THE_HEAD = [
    (twice, ApplicationError),
    (twice_with_none, ApplicationError),
    (never, ApplicationError),
    (never_lazily, ApplicationError),
    (never_empty, ApplicationError),
    (writes_text, ApplicationError),
    (nothing, TypeError),
    (fails, ValueError),
    (fails_after_start, ValueError),
    (fails_while_iterated, ValueError),
    (exits, SystemExit),
    (times_out, gevent.Timeout),
    (returning(["text"]), ApplicationError),
    (returning(["", "text"]), ApplicationError),
    (returning("text"), ApplicationError),
    (returning(b"bytes"), ApplicationError),  # iterated, it gives ints
    (returning([1]), ApplicationError),
    (returning(Pieces(object())), ApplicationError),
    (returning([b"x"], "OK"), ApplicationError),
    (returning([b"x"], "200 OK\r\nX-Evil: 1"), ApplicationError),
    (returning([b"x"], "100 Continue"), ApplicationError),
    (returning([b"x"], 99), ApplicationError),
    (returning([b"x"], None), ApplicationError),
    (returning([b"x"], "200 OK", [("X-A", "1\r\nX-Evil: 1")]), ApplicationError),
    (returning([b"x"], "200 OK", [("X A", "1")]), ApplicationError),
    (returning([b"x"], "200 OK", [("X-A", "\0")]), ApplicationError),
    (returning([b"x"], "200 OK", [("X-A", "€")]), ApplicationError),
    (returning([b"x"], "200 OK", [("X-A", 1)]), ApplicationError),
    (returning([b"x"], "200 OK", [("Content-Length", "+1")]), ApplicationError),
    (returning([b"x"], "200 OK", None), TypeError),
]
NAMES = [f"{number}-{case[0].__name__}" for number, case in enumerate(BEFORE_THE_HEAD)]


@pytest.mark.parametrize(("application", "error"), BEFORE_THE_HEAD, ids=NAMES)
def test_errors_before_the_head_leave_the_exchange_blank(answer, application, error):
    exchange = FakeExchange()
    with pytest.raises(error):
        answer(application, exchange)
    assert (exchange.status, exchange.sends, exchange.finished) == (0, [], False)


@pytest.mark.parametrize("piece", ["text", ValueError("oops"), SystemExit(1), gevent.Timeout(1), 5])
def test_errors_after_the_head_leave_the_answer_unfinished(answer, piece):
    exchange = FakeExchange()
    result = Pieces(b"half", piece, b"more")
    with pytest.raises(type(piece) if isinstance(piece, BaseException) else ApplicationError):
        answer(returning(result), exchange)
    assert (exchange.status, exchange.content, exchange.finished) == (200, b"half", False)
    assert (result.closed, result.asked) == (1, 2)


# --- close()


def test_close_is_called_once_after_the_end(answer):
    exchange = FakeExchange()
    result = Pieces(b"a", b"b")
    seen = []
    result.close = lambda: seen.append(exchange.finished)
    answer(returning(result), exchange)
    assert seen == [True]


@pytest.mark.parametrize(
    ("status", "pieces"),
    [
        ("200 OK", []),
        ("200 OK", [b"x"]),
        ("200 OK", ["text"]),
        ("200 OK", [ValueError("oops")]),
        ("200 OK", [b"x", SystemExit(1)]),
        ("200 OK", [b"x", gevent.Timeout(1)]),
        ("200 OK", [b"x", gevent.GreenletExit()]),
        ("malformed", [b"x"]),
        ("204 No Content", [b"x"]),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_close_is_called_however_it_ends(answer, status, pieces, method):
    result = Pieces(*pieces)
    ended = []
    try:
        answer(returning(result, status), FakeExchange(method))
    except BaseException as error:
        ended.append(error)
    assert result.closed == 1
    assert bool(ended) == (status == "malformed" or any(not isinstance(piece, bytes) for piece in pieces))


def test_close_is_called_when_start_response_was_not(answer):
    result = Pieces(b"x")
    with pytest.raises(ApplicationError, match="start_response"):
        answer(lambda environ, start_response: result)
    assert result.closed == 1


def test_close_is_called_when_the_peer_has_gone(answer):
    exchange = FakeExchange()

    def pieces():
        yield b"first"
        exchange.hang_up()
        yield b"second"
        raise AssertionError("asked for more than anybody will read")

    result = Pieces()
    result.__class__ = type("Gone", (Pieces,), {"__iter__": lambda self: pieces()})
    with pytest.raises(PeerGone):
        answer(returning(result), exchange)
    assert (result.closed, exchange.content, exchange.finished) == (1, b"first", False)


def test_close_is_called_on_a_generator(answer):
    closed = []
    exchange = FakeExchange()

    def application(environ, start_response):
        start_response("200 OK", TEXT)
        try:
            yield b"first"
            exchange.hang_up()
            yield b"second"
        finally:
            closed.append(True)

    with pytest.raises(PeerGone):
        answer(application, exchange)
    assert closed == [True]


def test_close_may_fail(answer):
    exchange = FakeExchange()
    with pytest.raises(ValueError, match="in close"):
        answer(returning(Pieces(b"x", close=ValueError("in close"))), exchange)
    assert (exchange.content, exchange.finished) == (b"x", True)


@pytest.mark.parametrize("pieces", [(), (b"x",)])
def test_close_of_a_list(answer, pieces):
    class Closing(list):
        closed = 0

        def close(self):
            self.closed += 1

    result = Closing(pieces)
    answer(returning(result))
    assert result.closed == 1


# --- HEAD, and statuses without content


@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 Not Modified")]
)
def test_answers_without_content(answer, method, status):
    for result in ([b"hello"], Pieces(b"a", b"b"), []):
        exchange = answer(returning(result, status), FakeExchange(method))
        assert (exchange.status, exchange.content, exchange.finished) == (int(status[:3]), b"", True)
        assert exchange.aborted is None


# --- wsgi.file_wrapper


def sending(file, fields=TEXT, *block_size):
    def application(environ, start_response):
        start_response("200 OK", fields)
        return environ["wsgi.file_wrapper"](file, *block_size)

    return application


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    return path


def test_a_regular_file(answer, path):
    file = path.open("rb")
    exchange = answer(sending(file))
    assert exchange.files == [(0, 10)]
    assert exchange.field("Content-Length") == "10"
    assert (exchange.content, exchange.finished, file.closed) == (b"0123456789", True, True)


@pytest.mark.parametrize("buffering", [-1, 0])
@pytest.mark.parametrize("mode", ["rb", "r+b"])
def test_a_file_is_sent_from_where_it_stands(answer, path, mode, buffering):
    """ "transmission should begin at the current position"."""
    file = path.open(mode, buffering)
    assert file.read(3) == b"012"
    exchange = answer(sending(file))
    assert exchange.files == [(3, 7)]
    assert (exchange.field("Content-Length"), exchange.content) == ("7", b"3456789")


@pytest.mark.parametrize("name", ["Content-Length", "content-length", b"Content-Length"])
def test_no_more_of_a_file_than_its_content_length(answer, path, name):
    file = path.open("rb")
    file.seek(2)
    exchange = answer(sending(file, [(name, "3")]))
    assert (exchange.fields, exchange.content) == (
        [("Content-Length" if name != "content-length" else name, "3")],
        b"234",
    )
    assert exchange.faults == ()
    assert file.closed


def test_an_empty_file_and_one_read_to_its_end(answer, path, tmp_path):
    (tmp_path / "empty").touch()
    past = path.open("rb")
    past.seek(20)
    for file in ((tmp_path / "empty").open("rb"), past):
        exchange = answer(sending(file))
        assert (exchange.field("Content-Length"), exchange.content, exchange.finished) == ("0", b"", True)
        assert file.closed


def test_a_file_in_memory(answer):
    file = io.BytesIO(b"0123456789")
    file.seek(1)
    exchange = answer(sending(file, TEXT, 4))
    assert (exchange.files, exchange.sends) == ([], [b"1234", b"5678", b"9"])
    assert file.closed


def test_a_compressed_file_is_sent_as_it_reads(answer, tmp_path):
    """Its fileno() is that of the compressed bytes."""
    with gzip.open(tmp_path / "file.gz", "wb") as file:
        file.write(b"0123456789" * 100)
    for wrap in (lambda file: file, io.BufferedReader):
        file = wrap(gzip.open(tmp_path / "file.gz"))  # noqa: SIM115 (the gateway closes it)
        assert answer(sending(file)).content == b"0123456789" * 100
        assert file.closed


def test_a_pipe(answer):
    reading, writing = os.pipe()
    os.write(writing, b"piped")
    os.close(writing)
    assert answer(sending(os.fdopen(reading, "rb"))).content == b"piped"


def test_a_temporary_file(answer):
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"temporary")
        file.seek(0)
        assert answer(sending(file)).content == b"temporary"


def test_what_has_only_read(answer):
    class Reader:
        def __init__(self):
            self.sizes = []

        def read(self, size):
            self.sizes.append(size)
            return b"x" if len(self.sizes) < 3 else b""

    reader = Reader()
    assert answer(sending(reader, TEXT, 10)).sends == [b"x", b"x"]
    assert reader.sizes == [10, 10, 10]


def test_a_file_behind_middleware(answer, path):
    """A wrapper that is not returned itself is an iterable with close(), no more."""
    file = path.open("rb")

    def application(environ, start_response):
        start_response("200 OK", TEXT)
        wrapper = environ["wsgi.file_wrapper"](file, 4)
        try:
            yield from wrapper
        finally:
            wrapper.close()

    exchange = answer(application)
    assert (exchange.files, exchange.sends, file.closed) == ([], [b"0123", b"4567", b"89"], True)


def test_a_file_behind_write(answer, path):
    def application(environ, start_response):
        start_response("200 OK", TEXT)(b"written, ")
        return environ["wsgi.file_wrapper"](path.open("rb"))

    exchange = answer(application)
    assert (exchange.content, exchange.field("Content-Length")) == (b"written, 0123456789", None)


@pytest.mark.parametrize(("method", "status"), [("HEAD", "200 OK"), ("GET", "304 Not Modified")])
def test_a_file_that_is_not_sent(answer, path, method, status):
    file = path.open("rb")

    def application(environ, start_response):
        start_response(status, TEXT)
        return environ["wsgi.file_wrapper"](file)

    exchange = answer(application, FakeExchange(method))
    assert (exchange.content, exchange.finished, file.closed) == (b"", True, True)


def test_a_file_is_closed_when_the_peer_has_gone(answer, path):
    file = path.open("rb")
    exchange = FakeExchange()
    exchange.hang_up()
    with pytest.raises(PeerGone):
        answer(sending(file), exchange)
    assert file.closed


def test_a_file_without_start_response(answer, path):
    with pytest.raises(ApplicationError, match="start_response"):
        answer(lambda environ, start_response: environ["wsgi.file_wrapper"](path.open("rb")))


def test_file_wrapper_is_a_class():
    assert isinstance(FileWrapper(io.BytesIO()), FileWrapper)
    assert list(FileWrapper(io.BytesIO(b"abc"), 2)) == [b"ab", b"c"]


# --- over a real server


def ask(server, *requests):
    """All that comes back until the server closes."""
    with server.connect() as peer:
        for request in requests:
            peer.sendall(request)
        return b"".join(iter(lambda: peer.recv(65536), b""))


def request(method="GET", target="/", *lines, content=b"", close=True):
    head = [f"{method} {target} HTTP/1.1", "Host: a", *lines, *(["Connection: close"] if close else [])]
    return "\r\n".join([*head, "", ""]).encode() + content


@pytest.mark.parametrize(("application", "error"), BEFORE_THE_HEAD, ids=NAMES)
def test_an_error_is_a_500_and_the_server_goes_on(application, error, caplog):
    """The connection too: nothing of the failed answer was sent."""
    caplog.set_level(logging.CRITICAL + 1, "geventgate")
    calls = []

    def once(environ, start_response):
        calls.append(environ)
        if len(calls) == 1:
            return application(environ, start_response)
        start_response("200 OK", TEXT)
        return [b"next"]

    with running(once) as server:
        answer = ask(server, request(close=False), request())
    first, _, second = answer.partition(b"HTTP/1.1 200 ")
    assert first.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert first.endswith(b"\r\n\r\nInternal Server Error\n")
    assert second.endswith(b"\r\n\r\nnext")
    assert b"Evil" not in answer
    assert b"oops" not in answer  # what went wrong is for the log


@pytest.mark.parametrize("piece", ["text", ValueError("oops"), SystemExit(1), gevent.Timeout(1)])
def test_an_error_after_the_head_is_a_cut_answer(piece, caplog):
    with running(returning(Pieces(b"half", piece))) as server:
        answer = ask(server, request(close=False), request())
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 1
    assert answer.endswith(b"\r\n\r\n4\r\nhalf\r\n")  # no last chunk
    assert [record.exc_info is not None for record in caplog.records if record.levelname == "ERROR"] == [True]


def test_the_error_is_logged_with_its_traceback(caplog):
    with running(fails) as server:
        ask(server, request("GET", "/where"))
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.exc_info[0] is ValueError
    assert "/where" in record.getMessage()


@validator
def valid(environ, start_response):
    """Reads in every way, writes in every way."""
    path = environ["PATH_INFO"]
    content = environ["wsgi.input"]
    echo = {"/read": lambda: content.read(10_000), "/lines": lambda: b"".join(content), "/nothing": lambda: b""}
    data = echo.get(path, lambda: content.readline() + b"".join(content.readlines()))()
    environ["wsgi.errors"].flush()
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    if path == "/write":
        write(b"written, ")
    return iter([environ["REQUEST_METHOD"].encode(), b" ", data])


@pytest.mark.parametrize("path", ["/read", "/lines", "/nothing", "/write", "/caf%C3%A9/%FF"])
@pytest.mark.parametrize(
    ("lines", "content", "data"),
    [
        ([], b"", b""),
        (["Content-Length: 8", "Content-Type: text/plain"], b"one\ntwo\n", b"one\ntwo\n"),
        (["Transfer-Encoding: chunked"], b"4\r\none\n\r\n3\r\ntwo\r\n0\r\n\r\n", b"one\ntwo"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_wsgiref_finds_nothing_to_complain_of(method, path, lines, content, data, caplog):
    with running(valid) as server:
        answer = ask(server, request(method, path, *lines, content=content))
    assert caplog.records == []
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    if method == "HEAD":
        assert answer.endswith(b"\r\n\r\n")
    else:
        written = [b"9\r\nwritten, \r\n"] if path == "/write" else []
        pieces = [method.encode(), b" ", *([data] if data and path != "/nothing" else [])]
        chunks = written + [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
        assert answer.endswith(b"\r\n\r\n" + b"".join(chunks) + b"0\r\n\r\n")


@validator
def valid_file(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return environ["wsgi.file_wrapper"](io.BytesIO(b"valid"))


def test_wsgiref_and_a_file(caplog):
    with running(valid_file) as server:
        assert ask(server, request()).endswith(b"\r\n\r\n5\r\nvalid\r\n0\r\n\r\n")
    assert caplog.records == []


def test_a_file_from_the_kernel(path):
    with running(lambda environ, start_response: sending(path.open("rb"))(environ, start_response)) as server:
        answer = ask(server, request())
    assert b"\r\nContent-Length: 10\r\n" in answer
    assert answer.endswith(b"\r\n\r\n0123456789")


# --- WebSockets: an ordinary request until something is accepted


HANDSHAKE = [
    ("Host", "here.example"),
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Version", "13"),
]


def handshake(**changes):
    """The handshake's fields; a field changed to None is left out."""
    changed = {name.replace("_", "-").lower(): value for name, value in changes.items()}
    fields = [(name, changed.pop(name.lower(), value)) for name, value in HANDSHAKE] + list(changed.items())
    return FakeExchange("GET", "/chat", [field for field in fields if field[1] is not None])


def unreached(environ, start_response):
    raise AssertionError("the application was called")


@pytest.mark.parametrize(
    "changes",
    [
        {"Sec_WebSocket_Key": None},
        {"Sec_WebSocket_Key": "short"},
        {"Sec_WebSocket_Key": "not base64, not base64=="},
        {"Sec_WebSocket_Protocol": "with space"},
    ],
)
def test_a_malformed_handshake_is_answered_400(answer, changes):
    exchange = answer(unreached, handshake(**changes))
    assert (exchange.status, exchange.finished, exchange.tunnel) == (400, True, None)
    assert exchange.content


@pytest.mark.parametrize("version", [None, "8", "14", "13, 8", ""])
def test_another_version_is_answered_426(answer, version):
    """RFC 6455 §4.4, RFC 9110 §15.5.22."""
    exchange = answer(unreached, handshake(Sec_WebSocket_Version=version))
    assert (exchange.status, exchange.finished, exchange.tunnel) == (426, True, None)
    assert exchange.field("Sec-WebSocket-Version") == "13"
    assert exchange.field("Upgrade") == "websocket"


@pytest.mark.parametrize(
    "exchange",
    [
        FakeExchange("POST", "/", HANDSHAKE),
        FakeExchange("GET", "/", HANDSHAKE, http_version="1.0"),
        handshake(Connection="keep-alive"),
        handshake(Connection=None),
        handshake(Upgrade="h2c"),
        handshake(Upgrade=None),
    ],
)
def test_other_requests_have_no_websocket(answer, exchange):
    def application(environ, start_response):
        start_response("200 OK", TEXT)
        return [str("wsgi.websocket" in environ).encode()]

    assert answer(application, exchange).content == b"False"


@pytest.mark.parametrize("status", ["403 Forbidden", "302 Found", "200 OK"])
def test_a_handshake_may_be_answered_plainly(answer, status):
    def application(environ, start_response):
        assert environ["wsgi.websocket_version"] == "13"
        assert not environ["wsgi.websocket"].accepted
        start_response(status, TEXT)
        return [b"plain"]

    exchange = answer(application, handshake())
    assert (exchange.status, exchange.content, exchange.tunnel) == (int(status[:3]), b"plain", None)


@pytest.mark.parametrize("application", [never, never_empty, never_lazily, fails, nothing])
def test_a_handshake_nobody_answers(answer, application):
    exchange = handshake()
    with pytest.raises((ApplicationError, ValueError, TypeError)):
        answer(application, exchange)
    assert (exchange.status, exchange.finished, exchange.tunnel) == (0, False, None)


def test_a_websocket_carries_the_environ_of_its_request(answer):
    def application(environ, start_response):
        assert environ["wsgi.websocket"].environ is environ
        start_response("200 OK", TEXT)
        return []

    answer(application, handshake())


def test_a_websocket_and_its_request_are_no_cycle(answer):
    kept = []

    def application(environ, start_response):
        kept.append(weakref.ref(environ["wsgi.websocket"]))
        start_response("200 OK", TEXT)
        return []

    gc.collect()
    gc.disable()
    try:
        answer(application, handshake())
        assert kept[0]() is None
    finally:
        gc.enable()


def accept_and(result=(), error=None, start=True):
    """Echoes one message, then goes on as if nothing had happened."""

    def application(environ, start_response):
        websocket = environ["wsgi.websocket"]
        websocket.send(websocket.receive())
        if start:
            write = start_response("200 OK", TEXT)
            write(b"written late")
        if error is not None:
            raise error
        return result

    return application


def lazily(environ, start_response):
    start_response("200 OK", TEXT)
    for message in environ["wsgi.websocket"]:
        environ["wsgi.websocket"].send(message)
        if message == "hello":
            break
    yield b"late"
    yield b"and later"


def lazily_in_middleware(environ, start_response):
    return Pieces(*lazily(environ, start_response))


@pytest.mark.parametrize(
    "application",
    [
        accept_and([]),
        accept_and([b"late"]),
        accept_and([b"late", b"later"]),
        accept_and(iter([b"late"])),
        accept_and(None),
        accept_and(["text"]),
        accept_and([], start=False),
        accept_and([b"late"], start=False),
        lazily,
        lazily_in_middleware,
    ],
)
def test_what_comes_after_accept_is_ignored(application, caplog):
    with running(application) as server, WebSocketClient(server.url, "/chat") as client:
        client.send("hello")
        assert client.receive() == "hello"
        assert client.receive() is None
        assert client.close_code == 1000
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_result_is_closed_after_accept_too():
    result = Pieces(b"late")
    with running(accept_and(result)) as server, WebSocketClient(server.url) as client:
        client.send("hello")
        assert (client.receive(), client.receive(), client.close_code) == ("hello", None, 1000)
    assert (result.closed, result.asked) == (1, 0)


@pytest.mark.parametrize("error", [ValueError("oops"), SystemExit(1), gevent.Timeout(1)])
def test_an_application_that_fails_after_accept(error, caplog):
    calls = []

    def application(environ, start_response):
        calls.append(environ)
        return accept_and(error=error)(environ, start_response)

    with running(application) as server:
        with WebSocketClient(server.url) as client:
            client.send("hello")
            assert client.receive() == "hello"
            assert client.receive() is None
            assert (client.close_code, client.close_reason) == (1011, "")  # what went wrong is for the log
        with WebSocketClient(server.url) as client:  # and the server goes on
            client.send("again")
            assert client.receive() == "again"
            assert client.receive() is None
    assert len(calls) == 2
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [record.exc_info[1] for record in errors] == [error, error]


def test_a_handler_whose_peer_has_gone_ends_quietly(caplog):
    ended = Event()

    def application(environ, start_response):
        websocket = environ["wsgi.websocket"]
        try:
            while websocket.receive() is not None:
                pass
            websocket.send("to nobody")
        finally:
            ended.set()

    with running(application) as server:
        client = WebSocketClient(server.url)
        client.send("hello")
        client.socket.close()
        assert ended.wait(5)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_an_error_of_another_websocket_is_a_failure(caplog):
    def application(environ, start_response):
        environ["wsgi.websocket"].receive()
        raise WebSocketError("of another")

    with running(application) as server, WebSocketClient(server.url) as client:
        client.send("hello")
        assert (client.receive(), client.close_code) == (None, 1011)
    assert "of another" in caplog.text


def test_plain_answers_keep_the_connection():
    def application(environ, start_response):
        start_response("403 Forbidden", [("Content-Length", "2")])
        return [b"no"]

    fields = [f"{name}: {value}" for name, value in HANDSHAKE[1:]]
    with running(application) as server:
        answer = ask(
            server,
            request("GET", "/", *fields[2:], *fields[:2], close=False).replace(b"Host: a", b"Host: b"),
            request(),
        )
    assert answer.count(b"HTTP/1.1 403 ") == 2


def test_a_refusal_reads_well():
    with running(returning([b"not for you"], "401 Unauthorized")) as server:
        with pytest.raises(Refused) as caught:
            WebSocketClient(server.url)
        assert (caught.value.status, caught.value.content) == (401, b"not for you")


# what an application may do about an attempt from a foreign page


def goes_on(environ, start_response):
    """Knows nothing of origins."""
    for message in environ["wsgi.websocket"]:
        environ["wsgi.websocket"].send(message)
    return []


def catches(environ, start_response):
    try:
        environ["wsgi.websocket"].accept()
    except OSError:
        start_response("200 OK", TEXT)(b"written")
    return [b"returned"]


def catches_and_says_nothing(environ, start_response):
    try:
        environ["wsgi.websocket"].accept()
    except WebSocketError:
        return []


def catches_and_goes_on(environ, start_response):
    for _ in range(2):
        for use in ("receive", "accept"):
            with contextlib.suppress(OSError):
                getattr(environ["wsgi.websocket"], use)()
    environ["wsgi.websocket"].close()
    yield b"x"


@pytest.mark.parametrize("application", [goes_on, catches, catches_and_says_nothing, catches_and_goes_on])
def test_a_foreign_page_is_refused_whatever_the_application_does(application, caplog):
    with running(application) as server:
        with pytest.raises(Refused) as caught:
            WebSocketClient(server.url, headers=[("Origin", "https://evil.example")])
        assert caught.value.status == 403
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "https://evil.example" in warning.getMessage()
    assert "--ws-origins" in warning.getMessage()


@pytest.mark.parametrize("origins", [("https://friend.example",), ("*",)])
def test_a_foreign_page_may_be_allowed(origins):
    headers = [("Origin", "https://friend.example")]
    with running(accept_and(), ws_origins=origins) as server, WebSocketClient(server.url, headers=headers) as client:
        client.send("hello")
        assert client.receive() == "hello"


def test_its_own_page_is_served():
    with running(accept_and()) as server, WebSocketClient(server.url, headers=[("Origin", server.url)]) as client:
        client.send("hello")
        assert client.receive() == "hello"


@pytest.mark.parametrize(("restarts", "code"), [(False, 1001), (True, 1012)])
def test_websockets_are_closed_when_the_server_stops(restarts, code, caplog):
    with running(goes_on) as server:
        clients = [WebSocketClient(server.url) for _ in range(3)]
        for client in clients:
            client.send("hello")
            assert client.receive() == "hello"
        stopping = gevent.spawn(server.server.stop, restarts=restarts)
        for client in clients:
            assert (client.receive(), client.close_code) == (None, code)
            client.close()
        stopping.get(timeout=5)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


# --- beyond PEP 3333: early hints, push, trailers; and HTTP/2


def using(use, status="200 OK"):
    """Calls *use* with the environ before it answers."""

    def application(environ, start_response):
        use(environ)
        start_response(status, TEXT)
        return [b"answer"]

    return application


@pytest.mark.parametrize(
    ("arguments", "options", "keys"),
    [
        ({"http_version": "2"}, {}, {"wsgi.early_hints", "geventgate.send_trailers"}),
        (
            {"http_version": "2", "can_push": True},
            {},
            {"wsgi.early_hints", "geventgate.send_trailers", "geventgate.push"},
        ),
        ({"http_version": "1.1"}, {}, {"geventgate.send_trailers", "geventgate.hijack"}),
        (
            {"http_version": "1.1"},
            {"early_hints": True},
            {"geventgate.send_trailers", "geventgate.hijack", "wsgi.early_hints"},
        ),
        ({"http_version": "1.0"}, {"early_hints": True}, {"geventgate.hijack"}),
    ],
)
def test_what_is_offered_where(answer, arguments, options, keys):
    offered = {"wsgi.early_hints", "geventgate.send_trailers", "geventgate.push", "geventgate.hijack"}
    seen = set()
    answer(using(lambda environ: seen.update(offered & set(environ))), FakeExchange(**arguments), **options)
    assert seen == keys


@pytest.mark.parametrize("version", ["1.1", "2"])
def test_early_hints(answer, version):
    def application(environ, start_response):
        environ["wsgi.early_hints"]([("Link", "</a>; rel=preload"), ("Link", "</b>")])
        start_response("200 OK", TEXT)
        environ["wsgi.early_hints"]([(b"Link", b"</c>")])  # the head is still held
        return [b"answer"]

    exchange = answer(application, FakeExchange(http_version=version), early_hints=True)
    assert exchange.informational == [
        (103, [("Link", "</a>; rel=preload"), ("Link", "</b>")]),
        (103, [("Link", "</c>")]),
    ]
    assert (exchange.status, exchange.content) == (200, b"answer")


@pytest.mark.parametrize("headers", [[("Link", "a\r\nX: y")], [("Li nk", "a")], [("Link", "a\0")], [("Link", 1)]])
def test_early_hints_are_validated(answer, headers):
    """And the application may still answer."""

    def application(environ, start_response):
        with pytest.raises(ApplicationError):
            environ["wsgi.early_hints"](headers)
        start_response("200 OK", TEXT)
        return [b"answer"]

    exchange = answer(application, FakeExchange(http_version="2"))
    assert (exchange.informational, exchange.content) == ([], b"answer")


def test_early_hints_are_early(answer):
    def application(environ, start_response):
        start_response("200 OK", TEXT)(b"begun")
        with pytest.raises(ApplicationError):
            environ["wsgi.early_hints"]([("Link", "</a>")])
        return []

    exchange = answer(application, FakeExchange(http_version="2"))
    assert (exchange.informational, exchange.content, exchange.finished) == ([], b"begun", True)


def test_push(answer):
    pushed = []

    def use(environ):
        pushed.append(environ["geventgate.push"]("/caf\xc3\xa9.css?v=1", [("Accept", "text/css")]))

    exchange = answer(using(use), FakeExchange("GET", "/", [("Host", "a")], http_version="2", can_push=True))
    (head,) = exchange.pushed
    assert (head.target, head.authority, head.fields) == (
        b"/caf\xc3\xa9.css?v=1",
        b"a",
        ((b"accept", b"text/css"),),
    )
    assert pushed == [True]
    assert exchange.content == b"answer"


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("style.css", []),
        ("/a b", []),
        ("", []),
        ("/€", []),
        ("/", [("X", "a\nb")]),
        ("/", [("Transfer-Encoding", "x")]),
    ],
)
def test_what_cannot_be_pushed(answer, path, headers):
    def use(environ):
        with pytest.raises(ApplicationError):
            environ["geventgate.push"](path, headers)

    exchange = answer(using(use), FakeExchange(http_version="2", can_push=True))
    assert (exchange.pushed, exchange.content) == ([], b"answer")


@pytest.mark.parametrize("version", ["1.1", "2"])
@pytest.mark.parametrize("when", ["before", "while"])
def test_trailers(answer, version, when):
    def application(environ, start_response):
        start_response("200 OK", TEXT)
        if when == "before":
            environ["geventgate.send_trailers"]([("X-Sum", "1"), (b"X-More", b"2")])
            return [b"a", b"b"]
        return later(environ)

    def later(environ):
        yield b"a"
        yield b"b"
        environ["geventgate.send_trailers"]([("X-Sum", "1"), (b"X-More", b"2")])

    exchange = answer(application, FakeExchange(http_version=version))
    assert (exchange.content, exchange.sent_trailers) == (b"ab", [("X-Sum", "1"), ("X-More", "2")])


@pytest.mark.parametrize("trailers", [[("Content-Length", "1")], [("X", "a\r\nb")], [("Transfer-Encoding", "x")]])
def test_what_cannot_be_a_trailer(answer, trailers):
    exchange = FakeExchange(http_version="2")
    with pytest.raises(ApplicationError):
        answer(using(lambda environ: environ["geventgate.send_trailers"](trailers)), exchange)
    assert (exchange.sent_trailers, exchange.finished) == ([], False)


WEBSOCKET = {"http_version": "2", "protocol": "websocket"}


def test_a_websocket_over_http_2(answer):
    """RFC 8441: the same route as over HTTP/1.1, and no proof of the handshake."""

    def application(environ, start_response):
        assert (environ["REQUEST_METHOD"], environ["PATH_INFO"]) == ("GET", "/chat")
        assert environ["geventgate.request"].method == "CONNECT"
        assert environ["geventgate.protocol"] == "websocket"
        websocket = environ["wsgi.websocket"]
        assert (websocket.subprotocols, websocket.path) == (("a", "b"), "/chat")
        websocket.accept("b", [("X-A", "1")])
        exchange.tunnel.close()
        assert websocket.receive() is None
        return []

    fields = [("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Protocol", "a, b")]
    exchange = FakeExchange("CONNECT", "/chat", fields, **WEBSOCKET)
    answer(application, exchange)
    assert exchange.status == 200
    assert exchange.fields == [("Sec-WebSocket-Protocol", "b"), ("X-A", "1")]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([("Sec-WebSocket-Version", "8")], 426),
        ([], 426),
        ([("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Protocol", "a b")], 400),
    ],
)
def test_a_malformed_websocket_over_http_2(answer, fields, status):
    assert answer(unreached, FakeExchange("CONNECT", "/", fields, **WEBSOCKET)).status == status


@pytest.mark.parametrize(("http_version", "method"), [("2", "GET"), ("2", "POST")])
def test_no_websocket_without_connect(answer, http_version, method):
    fields = [("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")]
    application = using(lambda environ: environ["wsgi.input"].read() or ended.append("wsgi.websocket" in environ))
    ended = []
    answer(application, FakeExchange(method, "/", fields, http_version=http_version))
    assert ended == [False]


def test_a_websocket_over_http_2_looks_to_routers_as_over_http_1(answer):
    def application(environ, start_response):
        assert "wsgi.websocket" in environ
        seen = [environ[name] for name in ("REQUEST_METHOD", "HTTP_CONNECTION", "HTTP_UPGRADE", "SERVER_PROTOCOL")]
        start_response("403 Forbidden", TEXT)
        return [" ".join(seen).encode()]

    fields = [("Sec-WebSocket-Version", "13")]
    exchange = answer(application, FakeExchange("CONNECT", "/", fields, http_version="2", protocol="websocket"))
    assert exchange.content == b"GET Upgrade websocket HTTP/2"


def test_geventgate_upgrade_over_http_2(answer):
    def application(environ, start_response):
        assert environ["geventgate.protocol"] == "echo"
        tunnel = environ["geventgate.upgrade"]([("X-A", "1")])
        tunnel.sendall(b"hello")
        return []

    exchange = answer(application, FakeExchange("CONNECT", "/", http_version="2", protocol="echo"))
    assert (exchange.status, exchange.fields) == (200, [("X-A", "1")])
    assert exchange.tunnel.recv(9) == b"hello"


@pytest.mark.parametrize("engine", ["h2", "ngh2"])
def test_all_of_it_over_a_real_connection(engine):
    def application(environ, start_response):
        if environ["PATH_INFO"] == "/ws":
            for message in environ["wsgi.websocket"]:
                environ["wsgi.websocket"].send(message)
            return []
        if environ["PATH_INFO"] == "/":
            environ["wsgi.early_hints"]([("Link", "</style.css>")])
            environ["geventgate.push"]("/style.css")
            environ["geventgate.send_trailers"]([("X-Sum", "1")])
        start_response("200 OK", TEXT)
        return [environ["PATH_INFO"].encode(), environ["wsgi.input"].read()]

    with (
        running(application, http2_cleartext="prior-knowledge", http2_engine=engine) as server,
        Http2Client(server.url) as client,
    ):
        response = client.request("POST", "/", [], b"content")
        assert (response.status, response.content, response.trailers) == (200, b"/content", [("x-sum", "1")])
        assert response.informational == [(103, [("link", "</style.css>")])]
        assert response.pushed[0].response().content == b"/style.css"
        with Http2WebSocketClient(client, "/ws") as websocket:
            websocket.send("hello")
            assert websocket.receive() == "hello"
        assert client.open("CONNECT", "/", protocol="unknown").response().status == 501
        assert client.open("CONNECT", "a:80").response().status == 501
        assert client.request("GET", "/again").content == b"/again"
