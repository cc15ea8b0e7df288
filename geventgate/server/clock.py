"""The time, once a second: enough for deadlines and for Date (RFC 9110 §6.6.1)."""

import time
from email.utils import formatdate

SERVER = b"Server: geventgate\r\n"


class Clock:
    """``now``: monotonic seconds; ``date``: a Date field line; ``server_and_date``: both lines and a head's end;
    ``date_field``: Date for HTTP/2."""

    def __init__(self) -> None:
        self.tick()

    def tick(self) -> None:
        self.now = time.monotonic()
        date = formatdate(usegmt=True).encode("ascii")
        self.date_field = (b"date", date)
        self.date = b"Date: %b\r\n" % date
        self.server_and_date = SERVER + self.date + b"\r\n"


CLOCK = Clock()
