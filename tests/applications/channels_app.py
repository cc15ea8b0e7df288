"""Django with Channels, in one file: async views, the async ORM, and the chat of Channels' tutorial.

The layer is Redis' where TEST_REDIS is its URL, otherwise the one in memory; the database is the file TEST_SQLITE.
"""

import asyncio
import json
import os

import django
from channels.auth import AuthMiddlewareStack
from channels.consumer import AsyncConsumer
from channels.db import database_sync_to_async
from channels.exceptions import StopConsumer
from channels.generic.http import AsyncHttpConsumer
from channels.generic.websocket import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer, WebsocketConsumer
from channels.layers import get_channel_layer
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.conf import settings
from django.core.asgi import get_asgi_application

REDIS = os.environ.get("TEST_REDIS", "")
LAYERS = {
    "redis": {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": [REDIS]}},
    "pubsub": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": {"hosts": [REDIS]}},
    "memory": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
}

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="for tests only",
    INSTALLED_APPS=["channels", "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.middleware.common.CommonMiddleware",
    ],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["TEST_SQLITE"]}},
    CHANNEL_LAYERS={"default": LAYERS[os.environ["TEST_LAYER"]]},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
)
django.setup()

from asgiref.sync import async_to_sync, sync_to_async  # noqa: E402
from django.contrib.auth import aauthenticate, alogin  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import transaction  # noqa: E402
from django.http import FileResponse, HttpResponse, JsonResponse, StreamingHttpResponse  # noqa: E402
from django.urls import path  # noqa: E402
from django.views import View  # noqa: E402

if os.environ.get("TEST_MIGRATE"):
    call_command("migrate", verbosity=0)


async def index(request):
    await asyncio.sleep(0.01)
    return HttpResponse(f"async hello from {request.get_host()} over {request.scheme}")


def blocking(request):
    """A view that is not async: asgiref calls it in a thread, which here is a greenlet."""
    return HttpResponse(f"blocking hello from {request.path}")


async def echo(request):
    return HttpResponse(request.body, content_type="application/octet-stream")


echo.csrf_exempt = True


async def stream(request):
    async def lines():
        for number in range(100):
            yield f"{number}\n"
            await asyncio.sleep(0)

    return StreamingHttpResponse(lines(), content_type="text/plain")


def file(request):
    return FileResponse(open(__file__, "rb"))


async def count(request):
    visits = await request.session.aget("visits", 0) + 1
    await request.session.aset("visits", visits)
    return JsonResponse({"visits": visits})


async def orm(request):
    """Django's async ORM, over and over."""
    name = request.GET["name"]
    user = await User.objects.acreate_user(name, password=None)
    user.email = f"{name}@here.example"
    await user.asave()
    found = await User.objects.aget(username=name)
    names = [one.username async for one in User.objects.filter(username=name)]
    exists = await User.objects.filter(username="nobody").aexists()
    await User.objects.filter(pk=user.pk).aupdate(first_name="é")
    await user.arefresh_from_db()
    deleted, _ = await user.adelete()
    return JsonResponse(
        {"email": found.email, "names": names, "exists": exists, "first": user.first_name, "n": deleted}
    )


async def atomic(request):
    """A transaction is synchronous code: it is undone as a whole."""

    def work():
        try:
            with transaction.atomic():
                User.objects.create(username="undone")
                raise ValueError("undo")
        except ValueError:
            return User.objects.filter(username="undone").count()

    return JsonResponse({"left": await sync_to_async(work)()})


async def log_in(request):
    await User.objects.filter(username="ann").adelete()
    await User.objects.acreate_user("ann", password="secret")
    user = await aauthenticate(request, username="ann", password="secret")
    await alogin(request, user)
    return HttpResponse((await request.auser()).username)


def nested(request):
    """Back and forth between the two, four deep."""

    async def deepest():
        return await User.objects.acount() >= 0

    def inner():
        return async_to_sync(deepest)()

    async def outer():
        return await sync_to_async(inner)()

    return JsonResponse({"nested": async_to_sync(outer)()})


class Both(View):
    async def get(self, request, *, number):
        results = await asyncio.gather(*(sync_to_async(pow)(number, 2) for _ in range(3)))
        return JsonResponse({"squares": results})


def tell(request, room, text):
    """From a view that blocks to the WebSockets of a room."""
    async_to_sync(get_channel_layer().group_send)(f"chat_{room}", {"type": "chat.message", "message": text})
    return HttpResponse("told")


def work(request, text):
    async_to_sync(get_channel_layer().send)("worker", {"type": "work", "text": text})
    return HttpResponse("sent")


async def fail(request):
    raise RuntimeError("as the test asked")


urlpatterns = [
    path("", index),
    path("blocking", blocking),
    path("echo", echo),
    path("stream", stream),
    path("file", file),
    path("count", count),
    path("orm", orm),
    path("atomic", atomic),
    path("log-in", log_in),
    path("nested", nested),
    path("squares/<int:number>", Both.as_view()),
    path("tell/<room>/<text>", tell),
    path("fail", fail),
]


class ChatConsumer(AsyncWebsocketConsumer):
    """The tutorial's, part 3."""

    async def connect(self):
        self.room_name = self.scope["url_route"]["kwargs"]["room_name"]
        self.room_group_name = f"chat_{self.room_name}"
        await self.channel_layer.group_add(self.room_group_name, self.channel_name)
        await self.accept()

    async def disconnect(self, close_code):
        await self.channel_layer.group_discard(self.room_group_name, self.channel_name)

    async def receive(self, text_data):
        message = json.loads(text_data)["message"]
        await self.channel_layer.group_send(self.room_group_name, {"type": "chat.message", "message": message})

    async def chat_message(self, event):
        await self.send(text_data=json.dumps({"message": event["message"]}))


class BlockingChatConsumer(WebsocketConsumer):
    """The tutorial's, part 2."""

    def connect(self):
        self.room_group_name = f"chat_{self.scope['url_route']['kwargs']['room_name']}"
        async_to_sync(self.channel_layer.group_add)(self.room_group_name, self.channel_name)
        self.accept()

    def disconnect(self, close_code):
        async_to_sync(self.channel_layer.group_discard)(self.room_group_name, self.channel_name)

    def receive(self, text_data):
        message = json.loads(text_data)["message"]
        async_to_sync(self.channel_layer.group_send)(self.room_group_name, {"type": "chat.message", "message": message})

    def chat_message(self, event):
        self.send(text_data=json.dumps({"message": event["message"]}))


class Whoami(AsyncJsonWebsocketConsumer):
    async def connect(self):
        if self.scope["query_string"] == b"refuse":
            await self.close()
            return
        protocols = self.scope["subprotocols"]
        await self.accept(protocols[-1] if protocols else None)

    async def receive_json(self, content):
        if "close" in content:
            await self.close(content["close"])
        else:
            users = await database_sync_to_async(User.objects.count)()
            await self.send_json({"user": str(self.scope["user"]), "users": users >= 0, "got": content})


class Events(AsyncHttpConsumer):
    """Server-sent events, as Channels' documentation shows them."""

    async def handle(self, body):
        await self.send_headers(headers=[(b"Content-Type", b"text/event-stream")])
        for number in range(3):
            await self.send_body(f"data: {number}\n\n".encode(), more_body=True)
            await asyncio.sleep(0.01)
        await self.send_body(b"")


class Other(AsyncConsumer):
    async def websocket_connect(self, event):
        await self.send({"type": "websocket.accept"})
        await self.send({"type": "websocket.send", "bytes": b"\0\xff"})
        await self.send({"type": "websocket.close", "code": 4000, "reason": "é"})

    async def websocket_disconnect(self, event):
        raise StopConsumer


django_application = get_asgi_application()
app = ProtocolTypeRouter(
    {
        "http": URLRouter(
            [path("events", Events.as_asgi()), path("", django_application), path("<path:_>", django_application)]
        ),
        "websocket": AllowedHostsOriginValidator(
            AuthMiddlewareStack(
                URLRouter(
                    [
                        path("ws/chat/<room_name>/", ChatConsumer.as_asgi()),
                        path("ws/blocking-chat/<room_name>/", BlockingChatConsumer.as_asgi()),
                        path("ws/whoami", Whoami.as_asgi()),
                        path("ws/other", Other.as_asgi()),
                    ]
                )
            )
        ),
    }
)
