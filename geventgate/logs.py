"""Where the logs go: files that can be reopened, and lines that a peer cannot forge.

Logger ``geventgate`` is the error log; ``geventgate.access`` is there for applications that want the access log in
their own logging (accesslog.py otherwise writes its file directly). Import this after monkey-patching.
"""

import io
import logging
import os
import time

from geventgate.config import Config
from geventgate.errors import ConfigError

log = logging.getLogger("geventgate")
access = logging.getLogger("geventgate.access")

# What a terminal or a reader of lines would act upon: C0, DEL, C1, and Unicode's own line ends.
CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))} | {
    code: f"\\u{code:04x}" for code in (0x2028, 0x2029)
}
CONTROLS_IN_LINES = {code: text for code, text in CONTROLS.items() if code not in (0x09, 0x0A)}


class LogFile(io.TextIOBase):
    """Text appended to *path*, or to an open descriptor for "-"; one write(2) each, so that lines stay whole.

    Writing never raises: what a full disk or a closed pipe did not take is lost, and that is logged once.
    """

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, path: str, standard: int, option: str) -> None:
        """*standard* is the descriptor "-" stands for. Raises ConfigError, naming *option*."""
        self.name = os.path.abspath(path) if path != "-" else "the standard stream"
        self._path = os.path.abspath(path) if path != "-" else os.devnull if _is_closed(standard) else ""
        self._failed = False
        try:
            self._fd = _open(self._path) if self._path else standard
        except OSError as error:
            raise ConfigError(f"{option} {path}: {error.strerror}") from None
        files.append(self)

    def write(self, text: str) -> int:
        data = text.encode("utf-8", "backslashreplace")
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            if not self._failed:
                self._failed = True  # before the line below, which may come back here
                log.error("cannot write to %s: %s; lines are lost (said once)", self.name, error.strerror)
        return len(text)

    def reopen(self) -> None:
        """Open the path again, for log rotation. When that fails the old file stays."""
        self._failed = False
        if self._path:
            try:
                fd = _open(self._path)
            except OSError as error:
                log.error("cannot reopen %s: %s; the old file stays", self.name, error.strerror)
                return
            os.dup2(fd, self._fd, inheritable=False)
            os.close(fd)

    @property
    def ours(self) -> bool:
        """Whether it is a file we opened."""
        return bool(self._path)

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        """Nothing is ever held back."""

    def close(self) -> None:
        """Nothing: this is ``wsgi.errors`` too, and no application may close it (PEP 3333)."""


files: list[LogFile] = []


def _open(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _is_closed(descriptor: int) -> bool:
    """Started with ``2>&-``, a connection could be given its number, and the log with it."""
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False


def reopen() -> None:
    for file in files:
        file.reopen()


class LineFormatter(logging.Formatter):
    """``[2026-01-01 12:00:00 +0000] [pid] [INFO] text``; control characters become \\xNN (CVE-2020-7694).

    Tracebacks keep their lines.
    """

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(record.created))
        text = f"[{stamp}] [{record.process}] [{record.levelname}] {record.getMessage().translate(CONTROLS)}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info).translate(CONTROLS_IN_LINES)
        if record.stack_info:
            text += "\n" + self.formatStack(record.stack_info).translate(CONTROLS_IN_LINES)
        return text


def open_error_log(config: Config, *, yield_to_program: bool = False) -> LogFile:
    """Send logger ``geventgate`` to ``config.error_logfile``; the file is ``wsgi.errors``. Raises ConfigError.

    With *yield_to_program*, logging that the program has set up stays as it is unless a file is named.
    """
    file = LogFile(config.error_logfile, 2, "--error-logfile")
    if yield_to_program and config.error_logfile == "-" and log.hasHandlers():
        return file
    handler = logging.StreamHandler(file)
    handler.setFormatter(LineFormatter())
    log.handlers = [handler]
    log.propagate = False
    log.setLevel(config.log_level.upper())
    return file


def open_access_log(config: Config) -> LogFile | None:
    """The file of ``config.access_logfile``, or None when none is named. Raises ConfigError."""
    return LogFile(config.access_logfile, 1, "--access-logfile") if config.access_logfile else None


def revive() -> None:
    """Undo ``disable_existing_loggers`` of an application's dictConfig(): True by default, and it means its own."""
    log.disabled = access.disabled = False
