"""A FastAPI application, from what its documentation shows."""

import asyncio
import time
from contextlib import asynccontextmanager
from typing import Annotated

import httpx
from fastapi import (
    BackgroundTasks,
    Cookie,
    Depends,
    FastAPI,
    File,
    Header,
    HTTPException,
    Query,
    Request,
    UploadFile,
    WebSocket,
    WebSocketDisconnect,
    WebSocketException,
    status,
)
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.security import OAuth2PasswordBearer
from pydantic import BaseModel

models = {}
written: list[str] = []


@asynccontextmanager
async def lifespan(app: FastAPI):
    models["answer"] = lambda x: x * 42
    async with httpx.AsyncClient() as client:
        yield {"client": client}
    models.clear()


app = FastAPI(lifespan=lifespan)


class Item(BaseModel):
    name: str
    price: float
    tags: list[str] = []


class Unicorn(Exception):
    pass


@app.exception_handler(Unicorn)
async def unicorn(request: Request, error: Unicorn):
    return JSONResponse(status_code=418, content={"message": "a rainbow"})


@app.middleware("http")
async def add_process_time(request: Request, call_next):
    began = time.perf_counter()
    response = await call_next(request)
    response.headers["X-Process-Time"] = f"{time.perf_counter() - began:.4f}"
    return response


@app.get("/items/{item_id}")
async def read_item(item_id: int, q: Annotated[str | None, Query(max_length=5)] = None):
    if item_id == 404:
        raise HTTPException(404, "no such item", {"X-Error": "there is none"})
    return {"item_id": item_id, "q": q}


@app.post("/items/", status_code=201)
async def create_item(item: Item) -> Item:
    return item


@app.get("/predict")
async def predict(x: float):
    return {"result": models["answer"](x)}


@app.get("/unicorn")
async def make_rainbow():
    raise Unicorn


# Functions run in anyio's worker threads, which are greenlets here.


@app.get("/blocking")
def blocking(seconds: float):
    time.sleep(seconds)
    return {"slept": seconds}


def session():
    opened = {"open": True}
    written.append("opened")
    try:
        yield opened
    finally:
        written.append("closed")


async def async_session(blocking_one: Annotated[dict, Depends(session)]):
    await asyncio.sleep(0)
    yield {**blocking_one, "async": True}
    written.append("async closed")


@app.get("/dependencies")
async def dependencies(opened: Annotated[dict, Depends(async_session)], user_agent: Annotated[str, Header()]):
    return {**opened, "agent": user_agent}


token = OAuth2PasswordBearer(tokenUrl="token")


@app.get("/secret")
def secret(token: Annotated[str, Depends(token)]):
    return token


def write(message: str):
    time.sleep(0.05)
    written.append(message)


async def write_async(message: str):
    await asyncio.sleep(0.05)
    written.append(message)


@app.post("/notify/{email}")
async def notify(email: str, tasks: BackgroundTasks):
    tasks.add_task(write, f"told {email}")
    tasks.add_task(write_async, f"told {email} again")
    return {"message": "sent in the background"}


@app.get("/written")
def read_written():
    return written


@app.post("/files")
async def files(files: list[UploadFile], small: Annotated[bytes, File()]):
    return {"sizes": [len(await file.read()) for file in files], "small": len(small)}


@app.get("/stream")
async def stream():
    async def body():
        for _ in range(10):
            yield b"some bytes"
            await asyncio.sleep(0)

    return StreamingResponse(body(), media_type="text/plain")


@app.get("/file")
def file():
    return FileResponse(__file__)


@app.get("/fetch")
async def fetch(request: Request, url: str):
    """httpx in the loop; the server asks itself."""
    answers = await asyncio.gather(*(request.state.client.get(url) for _ in range(4)))
    return [answer.json() for answer in answers]


# --- WebSockets


class ConnectionManager:
    def __init__(self):
        self.active: list[WebSocket] = []

    async def connect(self, websocket: WebSocket):
        await websocket.accept()
        self.active.append(websocket)

    async def broadcast(self, message: str):
        for connection in self.active:
            await connection.send_text(message)


manager = ConnectionManager()


@app.websocket("/ws/{client_id}")
async def chat(websocket: WebSocket, client_id: int):
    await manager.connect(websocket)
    try:
        while True:
            data = await websocket.receive_text()
            await websocket.send_text(f"You wrote: {data}")
            await manager.broadcast(f"Client #{client_id} says: {data}")
    except WebSocketDisconnect:
        manager.active.remove(websocket)
        await manager.broadcast(f"Client #{client_id} left the chat")


async def cookie_or_token(websocket: WebSocket, session: Annotated[str | None, Cookie()] = None, token: str = ""):
    if session is None and not token:
        raise WebSocketException(code=status.WS_1008_POLICY_VIOLATION)
    return session or token


@app.websocket("/items/{item_id}/ws")
async def item(websocket: WebSocket, item_id: str, who: Annotated[str, Depends(cookie_or_token)]):
    await websocket.accept()
    await websocket.send_json({"item": item_id, "who": who})
    await websocket.send_bytes(await websocket.receive_bytes())
    raise WebSocketException(code=4000, reason="that was all")
