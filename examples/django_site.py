"""Django in one file: ``geventgate --chdir examples django_site:app``, and open two windows.

What one says over its WebSocket reaches both by long polling. The views are plain blocking code: one that waits costs
a greenlet. A WebSocket is a request like any other, with one more key in its META.
"""

import secrets
import time
from collections import deque
from itertools import count

import gevent
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, JsonResponse
from django.urls import path
from gevent.event import Event

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY=secrets.token_hex())

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>A board in Django</title>
<link rel="icon" href="data:,">
<style>
  :root { color-scheme: light dark; font: 1.1rem/1.5 system-ui, sans-serif }
  body { max-width: 40rem; margin: 2rem auto; padding: 0 1rem }
  input { font: inherit; width: 100%; box-sizing: border-box; padding: .4em }
</style>
<h1>A board in Django</h1>
<form><label>Say something <input id="text" autocomplete="off" maxlength="1000" autofocus></label></form>
<ol id="said" aria-live="polite"></ol>
<script>
  const text = document.getElementById("text"), said = document.getElementById("said")
  const pause = () => new Promise(resolve => setTimeout(resolve, 1000))
  let ws
  function open() {
    ws = new WebSocket(`${location.protocol.replace("http", "ws")}//${location.host}/say`)
    ws.onclose = () => pause().then(open)
  }
  async function follow(number) {
    for (;;) {
      try {
        const answer = await (await fetch(`after/${number}`)).json()
        for (const [next, line] of answer.said) {
          said.append(Object.assign(document.createElement("li"), { textContent: line }))
          number = next
        }
      } catch {
        await pause()
      }
    }
  }
  document.forms[0].onsubmit = event => {
    event.preventDefault()
    if (text.value && ws.readyState == WebSocket.OPEN) { ws.send(text.value); text.value = "" }
  }
  open()
  follow(0)
</script>
</html>
"""

numbers = count(int(time.time() * 1000))  # so that they go on behind a restart
said = deque(maxlen=100)  # (number, text), the latest last
news = Event()  # set when something more is said, and another takes its place


def page(request):
    return HttpResponse(PAGE)


def say(request):
    global news
    ws = request.META.get("wsgi.websocket")
    if ws is None:
        return HttpResponse("Open a WebSocket here.\n", status=426, headers={"Upgrade": "websocket"})
    for message in ws:
        said.append((next(numbers), str(message)[:1000]))
        told, news = news, Event()
        told.set()
    return HttpResponse()


def after(request, number):
    """What was said after *number*: as soon as there is something, or nothing after 20 seconds."""
    if not said or said[-1][0] <= number:
        ends = request.META["geventgate.disconnected"], request.META["geventgate.draining"]
        gevent.wait([news, *ends], timeout=20, count=1)
    return JsonResponse({"said": [one for one in said if one[0] > number]})


urlpatterns = [path("", page), path("say", say), path("after/<int:number>", after)]
app = get_wsgi_application()
