"""FastAPI and Flask in one process, on one port: ``geventgate --chdir examples mounted:app``.

What is under /api is FastAPI's, all else is Flask's. They share variables, too: what is sent to a view of Flask's the
WebSockets of FastAPI tell. And a view of Flask's uses a library that knows only asyncio.
"""

import asyncio

import httpx
from fastapi import FastAPI, WebSocket
from flask import Flask, request

import geventgate

api = FastAPI(root_path="/api")
site = Flask(__name__)
listeners: set[asyncio.Queue[str]] = set()


@api.get("/square/{number}")
async def square(number: int):
    await asyncio.sleep(0.05)  # as if it asked a database
    return {"square": number * number}


@api.websocket("/news")
async def news(websocket: WebSocket):
    await websocket.accept()
    queue: asyncio.Queue[str] = asyncio.Queue()
    listeners.add(queue)
    try:
        async with asyncio.TaskGroup() as group:
            telling = group.create_task(tell(websocket, queue))
            async for _ in websocket.iter_text():
                pass
            telling.cancel()
    finally:
        listeners.discard(queue)


async def tell(websocket: WebSocket, queue: asyncio.Queue[str]):
    while True:
        await websocket.send_text(await queue.get())


@site.get("/")
def home():
    return "Flask is here, FastAPI is at <a href=/api/docs>/api/docs</a>\n"


@site.post("/say")
def say():
    for queue in listeners:
        queue.put_nowait(request.get_data(as_text=True))
    return f"told {len(listeners)}\n"


@site.get("/squares")
def squares():
    """Three requests at once; only this greenlet waits for them."""

    async def ask():
        async with httpx.AsyncClient(base_url=request.host_url, trust_env=False) as client:
            answers = await asyncio.gather(*(client.get(f"/api/square/{number}") for number in (1, 2, 3)))
        return [answer.json()["square"] for answer in answers]

    return geventgate.run_async(ask())


asgi_side = geventgate.asgi(api)


def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/api" or path.startswith("/api/"):
        environ["SCRIPT_NAME"], environ["PATH_INFO"] = environ["SCRIPT_NAME"] + "/api", path[4:] or "/"
        return asgi_side(environ, start_response)
    return site(environ, start_response)
