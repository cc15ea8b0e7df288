"""``python serve_once.py [native|pure]``: an installed geventgate serves one request, and says what it is.

For wheels, in environments that hold nothing else (cibuildwheel's); without a word either kind will do.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.request import urlopen

HELLO = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello over ", environ["SERVER_PROTOCOL"].encode()]
"""


def main(wanted: str = "") -> str:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "hello.py").write_text(HELLO)
        geventgate = (sys.executable, "-m", "geventgate")
        version = subprocess.check_output([*geventgate, "--version"], cwd=folder, text=True).strip()
        if f"({wanted}" not in version:
            sys.exit(f"not {wanted}: {version}")
        command = [*geventgate, "--bind", "127.0.0.1:0", "hello:app"]
        server = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
        assert server.stderr is not None
        try:
            lines = iter(server.stderr.readline, "")
            started = next((line for line in lines if " serves hello:app on " in line), "")
            url = started.partition(" on ")[2].partition(": ")[0].strip()
            with urlopen(url, timeout=10) as answer:
                content = answer.read()
        finally:
            server.terminate()
            status = server.wait(10)
    if (content, status) != (b"hello over HTTP/1.1", 0):
        sys.exit(f"{content!r}, and exit status {status}")
    return version


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
