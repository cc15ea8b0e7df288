"""A chat: its page and its WebSocket are two Flask views of one URL, ``geventgate --chdir examples chat:app``.

Everything is kept in memory.
"""

import json
import secrets
import time
from collections import deque

import gevent
from flask import Flask, Response, abort, render_template, request
from gevent.queue import Full, Queue

NAME, TEXT, KEY = 24, 2000, 40  # characters of a nickname, of a message, of a message's key
HISTORY = 200  # messages a late comer is shown
OUTBOX = 100  # messages a reader may be behind
PACE = 0.01  # seconds between two messages of one page, in which the writers have their turn
POLICY = (
    "default-src 'none'; style-src 'nonce-{0}'; script-src 'nonce-{0}'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

app = Flask(__name__, static_folder=None, template_folder=".")


class Member:
    """One open page. It has a greenlet to write with, so that a slow network holds up nobody else."""

    def __init__(self, name, ws):
        self.name = name
        self.ws = ws
        self.outbox = Queue(OUTBOX)
        self.writer = gevent.spawn(self.write)

    def write(self):
        try:
            for event in self.outbox:
                self.ws.send(event)
        except OSError:
            pass  # it has gone, and receive() says so to the view
        finally:
            self.ws.close(1013, "too slow")  # nothing happens if it is closed

    def tell(self, event):
        try:
            self.outbox.put_nowait(event)
        except Full:
            self.writer.kill(block=False)  # the page reconnects and catches up from the history


class Room:
    """Who is here and what was said lately. No method waits for anything, so none needs a lock."""

    def __init__(self):
        self.members = []
        self.history = deque(maxlen=HISTORY)

    def names(self):
        return sorted({member.name for member in self.members}, key=str.casefold)

    def tell(self, kind, **event):
        text = json.dumps({"kind": kind, **event})
        for member in self.members:
            member.tell(text)

    def join(self, member):
        if member.name not in self.names():
            self.tell("joined", name=member.name, people=[*self.names(), member.name])
        self.members.append(member)
        welcome = {"kind": "welcome", "name": member.name, "people": self.names(), "history": list(self.history)}
        member.tell(json.dumps(welcome))

    def leave(self, member):
        self.members.remove(member)
        member.writer.kill(block=False)
        if member.name not in self.names():
            self.tell("left", name=member.name, people=self.names())

    def say(self, member, text, key):
        if any(said["key"] == key for said in self.history):
            return  # sent again by a page that reconnected before it had seen it arrive
        self.history.append({"key": key, "name": member.name, "text": text, "time": int(time.time() * 1000)})
        self.tell("said", **self.history[-1])


room = Room()


@app.get("/")
def page():
    nonce = secrets.token_urlsafe()
    html = render_template("chat.html", nonce=nonce, name_length=NAME, text_length=TEXT)
    return Response(html, headers={"Content-Security-Policy": POLICY.format(nonce), "Cache-Control": "no-store"})


@app.get("/", websocket=True)  # Flask tells WebSocket handshakes from other requests to the same URL by this
def talk():
    name = " ".join("".join(filter(str.isprintable, request.args.get("name", ""))).split())[:NAME]
    if not name:
        abort(400, "Say who you are: ?name=...")  # an ordinary answer: the WebSocket is not accepted yet
    ws = request.environ["wsgi.websocket"]
    try:
        ws.accept()
    except OSError:
        return ""  # a page of another site, which was told 403; or it has gone already
    member = Member(name, ws)
    room.join(member)
    try:
        for message in ws:
            said = json.loads(message)
            text, key = str(said["text"])[:TEXT].strip(), str(said["key"])[:KEY]
            if text:
                room.say(member, text, key)
            gevent.sleep(PACE)
    except (ValueError, TypeError, KeyError, RecursionError):
        ws.close(1007, "not what this chat speaks")
    finally:
        room.leave(member)
    return ""
