"""Django with Channels in one file: ``geventgate --chdir examples channels_chat:app``, and open two windows.

Rooms are in memory. With a Redis, worker processes share them: set REDIS_URL, and add ``--workers 2``.
"""

import json
import os
import secrets

from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse
from django.urls import path

REDIS = {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": [os.environ.get("REDIS_URL")]}}
MEMORY = {"BACKEND": "channels.layers.InMemoryChannelLayer"}

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["localhost", "127.0.0.1", "[::1]"],
    SECRET_KEY=secrets.token_hex(),
    CHANNEL_LAYERS={"default": REDIS if os.environ.get("REDIS_URL") else MEMORY},
)

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>A chat by Channels</title>
<link rel="icon" href="data:,">
<style>
  :root { color-scheme: light dark; font: 1.1rem/1.5 system-ui, sans-serif }
  body { max-width: 40rem; margin: 2rem auto; padding: 0 1rem }
  input { font: inherit; width: 100%; box-sizing: border-box; padding: .4em }
</style>
<h1>A chat by Channels</h1>
<form><label>Say something <input id="text" autocomplete="off" maxlength="1000" autofocus></label></form>
<ol id="said" aria-live="polite"></ol>
<script>
  const text = document.getElementById("text"), said = document.getElementById("said")
  let ws
  function open() {
    ws = new WebSocket(`${location.protocol.replace("http", "ws")}//${location.host}/ws${location.pathname}`)
    ws.onmessage = event =>
      said.append(Object.assign(document.createElement("li"), { textContent: JSON.parse(event.data).message }))
    ws.onclose = () => setTimeout(open, 1000)
  }
  document.forms[0].onsubmit = event => {
    event.preventDefault()
    if (!text.value || ws.readyState != WebSocket.OPEN) return
    ws.send(JSON.stringify({ message: text.value }))
    text.value = ""
  }
  open()
</script>
</html>
"""


async def page(request, room="lobby"):
    return HttpResponse(PAGE)


class Chat(AsyncWebsocketConsumer):
    """As in the tutorial of Channels."""

    async def connect(self):
        self.group = f"chat_{self.scope['url_route']['kwargs'].get('room', 'lobby')}"
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()

    async def disconnect(self, code):
        await self.channel_layer.group_discard(self.group, self.channel_name)

    async def receive(self, text_data=None, bytes_data=None):
        try:
            message = str(json.loads(text_data)["message"])[:1000]
        except (TypeError, ValueError, KeyError):
            await self.close(1007)
        else:
            await self.channel_layer.group_send(self.group, {"type": "chat.message", "message": message})

    async def chat_message(self, event):
        await self.send(json.dumps({"message": event["message"]}))


urlpatterns = [path("", page), path("<slug:room>", page)]
sockets = URLRouter([path("ws/", Chat.as_asgi()), path("ws/<slug:room>", Chat.as_asgi())])
app = ProtocolTypeRouter({"http": get_asgi_application(), "websocket": AllowedHostsOriginValidator(sockets)})
