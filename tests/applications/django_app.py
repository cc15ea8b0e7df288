"""A Django project in one file."""

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import FileResponse, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="for tests only",
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.gzip.GZipMiddleware",
        "django.middleware.http.ConditionalGetMiddleware",
    ],
    DATA_UPLOAD_MAX_MEMORY_SIZE=None,
    USE_TZ=True,
)
django.setup()


def index(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"hello from {request.get_host()} over {request.scheme}")


def count(request: HttpRequest) -> JsonResponse:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JsonResponse({"visits": request.session["visits"]})


@csrf_exempt
def upload(request: HttpRequest) -> JsonResponse:
    files = {name: [file.name, file.size] for name, file in request.FILES.items()}
    return JsonResponse({"files": files, "fields": dict(request.POST.lists())})


@csrf_exempt
def echo(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.body, content_type="application/octet-stream")


def stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse((f"{number}\n" for number in range(1000)), content_type="text/plain")


def file(request: HttpRequest) -> FileResponse:
    return FileResponse(open(__file__, "rb"))


def fail(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("as the test asked")


def websocket(request: HttpRequest) -> HttpResponse:
    for message in request.META["wsgi.websocket"]:
        request.META["wsgi.websocket"].send(message)
    return HttpResponse()


urlpatterns = [
    path("", index),
    path("count", count),
    path("upload", upload),
    path("echo", echo),
    path("stream", stream),
    path("file", file),
    path("fail", fail),
    path("ws", websocket),
]
app = get_wsgi_application()
