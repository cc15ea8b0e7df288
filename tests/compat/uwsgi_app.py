"""What uWSGI's documentation and its tests do with WebSockets, for Python 3."""

import gevent
import gevent.select
import uwsgi


def application(environ, start_response):
    return PAGES.get(environ["PATH_INFO"], missing)(environ, start_response)


def missing(environ, start_response):
    start_response("404 Not Found", [])
    return []


def echo(environ, start_response):
    uwsgi.websocket_handshake(environ["HTTP_SEC_WEBSOCKET_KEY"], environ.get("HTTP_ORIGIN", ""))
    while True:
        message = uwsgi.websocket_recv()
        uwsgi.websocket_send(b"[%s]" % message)


def binary(environ, start_response):
    uwsgi.websocket_handshake()
    try:
        while True:
            uwsgi.websocket_send_binary(uwsgi.websocket_recv())
    except OSError as error:
        ended.append(str(error))
        return []


def generator(environ, start_response):
    """An application that is a generator runs when its result is asked for."""
    uwsgi.websocket_handshake()
    uwsgi.websocket_send("from a generator")
    yield b""


def polled(environ, start_response):
    """Whatever has come, in brackets; "-" when nothing has."""
    uwsgi.websocket_handshake()
    try:
        while True:
            uwsgi.websocket_send(uwsgi.websocket_recv_nb() or b"-")
            gevent.sleep(0.05)
    except OSError as error:
        ended.append(str(error))
        return []


def selected(environ, start_response):
    """A chat as in uWSGI's tests: select() on the WebSocket and on something else."""
    if "early" in environ["QUERY_STRING"]:
        uwsgi.connection_fd()
    uwsgi.websocket_handshake()
    fd = uwsgi.connection_fd()
    empty = 0
    try:
        while True:
            ready = gevent.select.select([fd], [], [], 0.2)[0]
            message = uwsgi.websocket_recv_nb()
            if ready:
                uwsgi.websocket_send(b"%d empty, then %s" % (empty, message))
                empty = 0
            else:
                empty += message == b""
    except OSError as error:
        ended.append(str(error))
        return []


ended = []


def endings(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{len(ended)}".encode()]


def elsewhere(environ, start_response):
    """Sends from greenlets of its own, which need the request's context."""
    uwsgi.websocket_handshake()
    context = uwsgi.request_context()

    def without():
        try:
            uwsgi.websocket_send("no")
        except SystemError:
            uwsgi.websocket_send("SystemError", request_context=context)

    gevent.spawn(without).join()
    gevent.spawn(lambda: uwsgi.websocket_send_binary(b"bytes", request_context=context)).join()
    return []


def subprotocol(environ, start_response):
    proto = environ["QUERY_STRING"]
    uwsgi.websocket_handshake(environ["HTTP_SEC_WEBSOCKET_KEY"], "", proto) if proto else uwsgi.websocket_handshake()
    return []


def leaves(environ, start_response):
    uwsgi.websocket_handshake()
    uwsgi.disconnect()
    try:
        uwsgi.websocket_send("late")
    except OSError:
        ended.append("leaves")
    return ""


def plain(environ, start_response):
    """A request that opens no WebSocket."""
    answers = [uwsgi.connection_fd(), uwsgi.is_connected(uwsgi.connection_fd())]
    for call in (uwsgi.websocket_handshake, uwsgi.websocket_recv, uwsgi.disconnect):
        try:
            answers.append(call())
        except OSError as error:
            answers.append(str(error))
    uwsgi.set_logvar("user", "me")
    uwsgi.log("a line\nof the application's")
    answers += [uwsgi.get_logvar("user"), uwsgi.get_logvar("none"), hasattr(uwsgi, "cache_get"), uwsgi.worker_id()]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [repr(answers).encode()]


PAGES = {
    "/echo": echo, "/binary": binary, "/generator": generator, "/polled": polled, "/selected": selected,
    "/elsewhere": elsewhere, "/subprotocol": subprotocol, "/leaves": leaves, "/plain": plain, "/endings": endings,
}  # fmt: skip
