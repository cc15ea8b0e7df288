"""A Starlette application, from what its documentation shows."""

import asyncio
import contextlib
from contextvars import ContextVar

import anyio
import sniffio
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

events: list[str] = []
request_name: ContextVar[str] = ContextVar("request_name", default="nobody")


@contextlib.asynccontextmanager
async def lifespan(app):
    events.append("started")
    async with anyio.create_task_group() as group:
        send, receive = anyio.create_memory_object_stream[str](10)

        async def work():
            async for item in receive:
                events.append(f"worked at {item}")

        group.start_soon(work)
        yield {"items": ["of the lifespan"], "work": send}
        send.close()
    print("shut down", flush=True)


class Named(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        request_name.set(request.headers.get("x-name", "nobody"))
        response = await call_next(request)
        response.headers["x-middleware"] = request_name.get()
        return response


async def home(request):
    return PlainTextResponse(f"{request.method} {request.url.path} from {request.client.host}")


async def echo(request):
    return PlainTextResponse(await request.body(), media_type="application/octet-stream")


async def form(request):
    async with request.form() as form:
        content = await form["file"].read()
        return JSONResponse({"name": form["name"], "filename": form["file"].filename, "size": len(content)})


async def count(request):
    size = 0
    async for piece in request.stream():
        size += len(piece)
    return JSONResponse({"size": size})


async def stream(request):
    async def numbers():
        for number in range(int(request.query_params["to"])):
            yield f"{number}\n"
            await asyncio.sleep(0.01)

    return StreamingResponse(numbers(), media_type="text/plain")


def blocking_stream(request):
    """Iterated in anyio's worker threads."""
    return StreamingResponse((f"{number}\n" for number in range(5)), media_type="text/plain")


def blocking(request):
    """A function of the threads too, and in it the loop is not running."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return PlainTextResponse("no loop")
    return PlainTextResponse("a loop")


async def later(request):
    async def work():
        await asyncio.sleep(0.05)
        events.append(f"behind {request_name.get()}")

    return PlainTextResponse("soon", background=BackgroundTask(work))


async def put_to_work(request):
    await request.state.work.send(request.path_params["item"])
    return PlainTextResponse("queued")


async def happened(request):
    return JSONResponse(events)


async def file(request):
    return FileResponse(__file__, filename="source.py")


async def state(request):
    return JSONResponse(request.state.items)


async def watch(request):
    """Ends when the client goes."""
    while not await request.is_disconnected():
        await asyncio.sleep(0.02)
    events.append("the client went")
    return PlainTextResponse("to nobody")


async def endless(request):
    async def numbers():
        try:
            while True:
                yield b"more\n"
                await asyncio.sleep(0.01)
        finally:
            events.append("the stream ended")

    return StreamingResponse(numbers())


async def fail(request):
    raise RuntimeError("as the test asked")


class Item(HTTPEndpoint):
    async def get(self, request):
        return JSONResponse({"item": request.path_params["item"]})

    async def delete(self, request):
        return PlainTextResponse(status_code=204)


# --- anyio and asyncio


async def task_group(request):
    results = []

    async def work(number):
        await anyio.sleep(0.01 * (3 - number))
        results.append(number)

    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(work, number)
    return JSONResponse(results)


async def cancelled_group(request):
    seen = []

    async def wait():
        try:
            await anyio.sleep(10)
        except anyio.get_cancelled_exc_class():
            seen.append("cancelled")
            raise

    async def fail():
        await anyio.sleep(0.01)
        raise ValueError("one of the group")

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            group.start_soon(fail)
    except* ValueError as errors:
        seen.append(str(errors.exceptions[0]))
    return JSONResponse(seen)


async def scopes(request):
    seen = {}
    with anyio.move_on_after(0.02) as scope:
        await anyio.sleep(10)
    seen["move_on_after"] = scope.cancelled_caught
    try:
        with anyio.fail_after(0.02):
            await anyio.sleep(10)
    except TimeoutError:
        seen["fail_after"] = True
    try:
        async with asyncio.timeout(0.02):
            await asyncio.sleep(10)
    except TimeoutError:
        seen["timeout"] = True
    try:
        await asyncio.wait_for(asyncio.Event().wait(), 0.02)
    except TimeoutError:
        seen["wait_for"] = True
    with anyio.CancelScope(shield=True):
        await anyio.sleep(0.01)
        seen["shield"] = True
    async with asyncio.TaskGroup() as group:
        task = group.create_task(asyncio.sleep(0.01, "done"))
    seen["TaskGroup"] = task.result()
    return JSONResponse(seen)


async def threads(request):
    import time

    def block(number):
        time.sleep(0.1)
        return f"{number} {request_name.get()}"

    async def work(number):
        results[number] = await anyio.to_thread.run_sync(block, number)

    def call_back():
        return anyio.from_thread.run(asyncio.sleep, 0.01, "from the thread")

    results = {}
    async with anyio.create_task_group() as group:
        for number in range(4):
            group.start_soon(work, number)
    answer = await anyio.to_thread.run_sync(call_back)
    loop = asyncio.get_running_loop()
    more = [
        await asyncio.to_thread(block, 4),
        await loop.run_in_executor(None, len, "four"),
        answer,
    ]
    return JSONResponse([results[number] for number in range(4)] + more)


async def library(request):
    return PlainTextResponse(f"{sniffio.current_async_library()} {type(asyncio.get_running_loop()).__name__}")


async def subprocess(request):
    process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    out, _ = await process.communicate(b"through a pipe")
    return PlainTextResponse(out + b" %d" % process.returncode)


async def streams(request):
    """asyncio's own server and client, in one loop."""

    async def answer(reader, writer):
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1")
    async with server:
        reader, writer = await asyncio.open_connection("localhost", server.sockets[0].getsockname()[1])
        writer.write(b"line\n")
        text = await reader.read()
        writer.close()
        await writer.wait_closed()
    return PlainTextResponse(text)


# --- WebSockets


async def chat(websocket):
    await websocket.accept("v2" if "v2" in websocket.scope["subprotocols"] else None, headers=[(b"x-extra", b"yes")])
    async for text in websocket.iter_text():
        if text == "close":
            await websocket.close(4001, "as asked")
            return
        if text == "fail":
            raise RuntimeError("as the test asked")
        if text == "return":
            return
        await websocket.send_text(text.upper())
    events.append("the WebSocket's client went")


async def refuse(websocket):
    await websocket.close()


async def refuse_in_words(websocket):
    await websocket.send_denial_response(JSONResponse({"why": "not you"}, 401, {"x-why": "because"}))


class Counter(WebSocketEndpoint):
    encoding = "json"

    async def on_connect(self, websocket):
        await websocket.accept()
        self.count = 0

    async def on_receive(self, websocket, data):
        self.count += data["add"]
        await websocket.send_json({"count": self.count})

    async def on_disconnect(self, websocket, close_code):
        events.append(f"closed with {close_code}")


async def ticks(websocket):
    """Sends by itself, while another task receives."""
    await websocket.accept()
    async with anyio.create_task_group() as group:

        async def tick():
            with contextlib.suppress(WebSocketDisconnect):  # either task may be the first to hear of the end
                for number in range(1000):
                    await websocket.send_json(number)
                    await anyio.sleep(0.01)

        group.start_soon(tick)
        told = await websocket.receive()
        group.cancel_scope.cancel()
    if told["type"] == "websocket.receive":
        await websocket.close()


named = Mount(
    "/",
    routes=[
        Route("/", home),
        Route("/echo", echo, methods=["POST"]),
        Route("/form", form, methods=["POST"]),
        Route("/count", count, methods=["POST"]),
        Route("/stream", stream),
        Route("/blocking-stream", blocking_stream),
        Route("/blocking", blocking),
        Route("/later", later),
        Route("/work/{item}", put_to_work),
        Route("/events", happened),
        Route("/file", file),
        Route("/state", state),
        Route("/endless", endless),
        Route("/fail", fail),
        Route("/task-group", task_group),
        Route("/cancelled-group", cancelled_group),
        Route("/scopes", scopes),
        Route("/threads", threads),
        Route("/library", library),
        Route("/subprocess", subprocess),
        Route("/streams", streams),
        Mount("/items", routes=[Route("/{item:int}", Item)]),
        WebSocketRoute("/chat", chat),
        WebSocketRoute("/refuse", refuse),
        WebSocketRoute("/refuse-in-words", refuse_in_words),
        WebSocketRoute("/counter", Counter),
        WebSocketRoute("/ticks", ticks),
    ],
    middleware=[Middleware(Named), Middleware(GZipMiddleware, minimum_size=100_000)],
)
# Behind BaseHTTPMiddleware is_disconnected() is never true, wherever it is served.
app = Starlette(lifespan=lifespan, routes=[Route("/watch", watch), named])
