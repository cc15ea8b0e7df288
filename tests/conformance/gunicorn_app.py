"""Answers with what it saw of the request, in the words of gunicorn's corpus."""


def application(environ, start_response):
    request = environ["geventgate.request"]
    body = environ["wsgi.input"].read()
    seen = {
        "method": request.method,
        "uri": request.target.decode("latin-1"),
        "version": tuple(map(int, request.http_version.split("."))),
        "headers": [field for field in as_gunicorn(request.headers) if "_" not in field[0]],  # these have no key
        "body": body,
        "trailers": as_gunicorn(request.trailers()),
    }
    # A 2xx to CONNECT has no content (RFC 9110 §9.3.6).
    start_response("403 Seen" if request.method == "CONNECT" else "200 Seen", [("Seen", "yes")])
    return [repr(seen).encode()]


def as_gunicorn(fields):
    return [(name.decode().upper(), value.decode("latin-1")) for name, value in fields]
