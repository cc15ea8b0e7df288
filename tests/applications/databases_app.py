"""Databases whose libraries know only asyncio, in a Starlette application and in a Flask one: side by side, by path.

The pools are made in the thread's loop and outlive the requests; the URLs are in the environment.
"""

import asyncio
import os
from functools import cache

import asyncpg
import flask
import redis.asyncio
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, selectinload
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute

from geventgate import asgi, run_async

POSTGRES, REDIS = os.environ.get("TEST_POSTGRES", ""), os.environ.get("TEST_REDIS", "")
SQLITE = os.environ["TEST_SQLITE"]


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    books: Mapped[list["Book"]] = relationship()


class Book(Base):
    __tablename__ = "book"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    author_id: Mapped[int] = mapped_column(sqlalchemy.ForeignKey("author.id"))


@cache
def client() -> redis.asyncio.Redis:
    return redis.asyncio.from_url(REDIS, decode_responses=True)


pools: dict[str, asyncpg.Pool] = {}
making = asyncio.Lock()


async def pool() -> asyncpg.Pool:
    async with making:
        if not pools:
            pools["one"] = await asyncpg.create_pool(POSTGRES, min_size=2, max_size=5)
    return pools["one"]


@cache
def sessions(kind: str) -> async_sessionmaker[AsyncSession]:
    url = f"sqlite+aiosqlite:///{SQLITE}" if kind == "sqlite" else POSTGRES.replace("://", "+asyncpg://")
    return async_sessionmaker(create_async_engine(url), expire_on_commit=False)


async def use_redis(name: str):
    key = f"test:{name}"
    await client().delete(key)
    async with client().pipeline(transaction=True) as pipe:
        for number in range(3):
            pipe.rpush(key, number)
        await pipe.execute()
    await asyncio.gather(*(client().incr(f"{key}:count") for _ in range(10)))
    return [await client().lrange(key, 0, -1), int(await client().getdel(f"{key}:count"))]


async def use_pubsub(name: str):
    async with client().pubsub() as listener:
        await listener.subscribe(f"test:{name}")
        await client().publish(f"test:{name}", "news")
        async for message in listener.listen():
            if message["type"] == "message":
                return message["data"]
    return None


async def use_asyncpg(name: str):
    async def slept(number: int):
        async with (await pool()).acquire() as connection:
            await connection.execute("select pg_sleep(0.05)")
            return await connection.fetchval("select $1::int * 2", number)

    answers = await asyncio.gather(*(slept(number) for number in range(10)))
    async with (await pool()).acquire() as connection:
        async with connection.transaction():
            rows = [row["n"] async for row in connection.cursor("select generate_series(1, 3) as n")]
        try:
            await asyncio.wait_for(connection.execute("select pg_sleep(10)"), 0.05)
        except TimeoutError:
            rows.append("timed out")
    return [answers, rows]


async def use_sqlalchemy(kind: str, name: str):
    async with sessions(kind)() as session:
        author = Author(name=name, books=[Book(title="one"), Book(title="two")])
        session.add(author)
        await session.commit()
        found = await session.scalars(
            sqlalchemy.select(Author).where(Author.id == author.id).options(selectinload(Author.books))
        )
        books = [book.title for book in found.one().books]
        # Synchronous code of the ORM, in SQLAlchemy's own greenlet in this task's.
        count = await session.run_sync(lambda sync: sync.query(Book).filter_by(author_id=author.id).count())
    return [books, count]


async def create_tables(kind: str) -> None:
    async with sessions(kind).kw["bind"].begin() as connection:
        await connection.run_sync(Base.metadata.create_all)


USES = {
    "redis": use_redis,
    "pubsub": use_pubsub,
    "asyncpg": use_asyncpg,
    "sqlite": lambda name: use_sqlalchemy("sqlite", name),
    "postgres": lambda name: use_sqlalchemy("postgres", name),
}


async def by_coroutine(request):
    return JSONResponse(await USES[request.path_params["kind"]](request.path_params["name"]))


async def tell(websocket):
    """What is published to the channel."""
    await websocket.accept()
    async with client().pubsub() as listener:
        await listener.subscribe("told")
        await websocket.send_text("listening")
        async for message in listener.listen():
            if message["type"] == "message":
                await websocket.send_text(message["data"])
                if message["data"] == "end":
                    break
    await websocket.close()


starlette = asgi(Starlette(routes=[Route("/asgi/{kind}/{name}", by_coroutine), WebSocketRoute("/asgi/tell", tell)]))
app = flask.Flask(__name__)


@app.get("/wsgi/<kind>/<name>")
def by_view(kind, name):
    return flask.jsonify(run_async(USES[kind](name)))


@app.get("/wsgi/tell/<text>")
def publish(text):
    return str(run_async(client().publish("told", text)))


@app.get("/create/<kind>")
def create(kind):
    run_async(create_tables(kind))
    return "created"


def application(environ, start_response):
    under = starlette if environ["PATH_INFO"].startswith("/asgi/") else app
    return under(environ, start_response)
