"""A Flask application, under WSGI, whose views use asyncio: libraries through run_async(), and loops of their own."""

import asyncio
import threading

import aiohttp
import aiosqlite
import flask
import gevent
import httpx
from asgiref.sync import async_to_sync, sync_to_async

from geventgate import run_async

app = flask.Flask(__name__)
seen_in_siblings: list[str] = []


def loop_in_sight() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio._get_running_loop() is not None
    return True


@app.before_request
def no_loop():
    if loop_in_sight():
        seen_in_siblings.append(flask.request.path)


@app.get("/seen")
def seen():
    return seen_in_siblings


@app.get("/number/<int:number>")
def number(number):
    gevent.sleep(0.05)
    return {"number": number}


@app.get("/httpx")
def by_httpx():
    async def fetch():
        async with httpx.AsyncClient(base_url=flask.request.host_url) as client:
            answers = await asyncio.gather(*(client.get(f"/number/{n}") for n in range(5)))
            return [answer.json()["number"] for answer in answers]

    return run_async(fetch())


@app.get("/aiohttp")
def by_aiohttp():
    host = flask.request.host_url

    async def fetch(session, number):
        async with session.get(f"{host}number/{number}") as answer:
            return (await answer.json())["number"]

    async def fetch_all():
        async with aiohttp.ClientSession() as session:
            return await asyncio.gather(*(fetch(session, n) for n in range(5)))

    return run_async(fetch_all())


@app.get("/aiosqlite")
def by_aiosqlite():
    async def query():
        async with aiosqlite.connect(":memory:") as db:
            await db.execute("create table t (x integer)")
            await db.executemany("insert into t values (?)", [(n,) for n in range(3)])
            async with db.execute("select x from t") as cursor:
                return [x async for (x,) in cursor]

    return run_async(query())


async def work(seconds: float) -> str:
    assert loop_in_sight()
    async with asyncio.timeout(5):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(asyncio.sleep(seconds, "done"))
    assert await asyncio.to_thread(loop_in_sight) is False
    return task.result()


@app.get("/run")
def run():
    """A loop of its own, in this greenlet."""
    return asyncio.run(work(0.2))


@app.get("/new-loop")
def new_loop():
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work(0.2))
    finally:
        loop.close()


@app.get("/async-to-sync")
def to_sync():
    return async_to_sync(work)(0.2)


@app.get("/async-view")
async def async_view():
    """Flask runs it by asgiref's async_to_sync."""
    return await work(0.2)


@app.get("/nested")
def nested():
    """In both directions, twice each; a function called by sync_to_async is in the view's thread."""
    here = threading.get_ident()

    def deepest():
        return f"deepest {threading.get_ident() == here} {loop_in_sight()}"

    async def inner():
        await asyncio.sleep(0.01)
        return await sync_to_async(deepest)()

    def middle():
        return async_to_sync(inner)()

    async def outer():
        return await sync_to_async(middle)()

    return async_to_sync(outer)()


@app.get("/fail")
def fail():
    async def fail():
        await asyncio.sleep(0)
        raise KeyError("from the coroutine")

    try:
        return run_async(fail())
    except KeyError as error:
        return error.args[0]


@app.get("/timeout")
def timeout():
    """What is thrown into the greenlet cancels the coroutine."""
    cancelled = []

    async def wait():
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            cancelled.append("cancelled")
            raise

    with gevent.Timeout(0.05, False):
        run_async(wait())
    gevent.sleep(0)
    return cancelled
