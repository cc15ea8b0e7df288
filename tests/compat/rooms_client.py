"""The clients of rooms_app.py, whatever Flask-SocketIO waits by."""

import threading

import socketio


def converse(url: str, transports: list[str]) -> None:
    """One speaks, one listens, in a room, elsewhere, at length and in bytes; each is heard once."""
    said: list[str] = []
    enough = threading.Event()

    def on_said(text):
        said.append(text)
        if len(said) == 3:
            enough.set()

    speaker, listener = socketio.Client(), socketio.Client()
    listener.on("said", on_said)
    for client in (speaker, listener):
        client.connect(url, transports=transports)
    try:
        assert listener.call("join", "room") == "joined"
        speaker.emit("say", ("room", "hello"))
        speaker.emit("say", ("elsewhere", "not heard"))
        speaker.emit("say", ("room", "x" * 300_000))
        speaker.emit("later", {"bytes": b"\x00\xff"})
        assert enough.wait(10)
        assert sorted(said) == ["hello", "later: {'bytes': b'\\x00\\xff'}", "x" * 300_000]  # each came in a thread
        assert listener.transport() == transports[-1]
    finally:
        speaker.disconnect()
        listener.disconnect()
