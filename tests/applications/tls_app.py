"""What an application sees of TLS."""

import json
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment


def keys(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The keys that TLS adds, and those that a client may have forged, as JSON."""
    wanted = ("HTTPS", "HTTP_", "SSL_", "wsgi.url_scheme")
    shown = {name: value for name, value in environ.items() if name.startswith(wanted)}
    tls = environ.get("geventgate.tls")
    if tls is not None:
        shown["tls"] = [tls.version, tls.cipher, tls.server_name, tls.alpn, tls.peer.get("subject")]
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(shown).encode()]
