"""Server-sent events: a counter that every browser follows, ``geventgate --chdir examples events:app``.

A response is sent piece by piece as its iterable yields. One greenlet waits for each reader, which costs next to
nothing; it ends when the reader has gone or the server is stopping, and the browser then comes back by itself.
"""

import time

PAGE = b"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Events</title>
<link rel="icon" href="data:,">
<style>
  :root { color-scheme: light dark; font: 1.1rem/1.5 system-ui, sans-serif }
  body { display: grid; place-content: center; min-height: 90vh; text-align: center }
  output { font-size: 5rem; font-variant-numeric: tabular-nums }
</style>
<h1>Seconds since 1970</h1>
<output id="now">&hellip;</output>
<script>
  new EventSource("events").onmessage = event => { document.getElementById("now").value = event.data }
</script>
</html>
"""


def ticks(gone, draining):
    yield b"retry: 1000\n\n"
    while not draining.is_set():
        now = int(time.time())
        yield b"id: %d\ndata: %d\n\n" % (now, now)
        if gone.wait(1.0):
            return


def app(environ, start_response):
    if environ["PATH_INFO"] != "/events":
        start_response("200 OK", [("Content-Type", "text/html; charset=utf-8")])
        return [PAGE]
    start_response("200 OK", [("Content-Type", "text/event-stream"), ("Cache-Control", "no-store")])
    return ticks(environ["geventgate.disconnected"], environ["geventgate.draining"])
