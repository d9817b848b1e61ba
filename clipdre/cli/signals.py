"""Ctrl-C and SIGTERM: end within a second, with nothing half-written under a final name."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import NoReturn

GRACE = 0.6
SIGNALS = (signal.SIGINT, signal.SIGTERM)
MESSAGE = "interrupted; run the same command again to resume"
_announced = threading.Event()
_received: list[int] = []


class Interrupted(BaseException):
    """SIGINT or SIGTERM; not a `KeyboardInterrupt`, which libraries handle themselves."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def install() -> None:
    """Turn both signals into an exception, and end the process if it is not raised in time.

    The exception is raised between two steps of the interpreter, and one step may be a batch on a
    large model. So a thread, which learns of the signal immediately, waits a little and then ends
    the process.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    for number in SIGNALS:
        signal.signal(number, _interrupt)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader, writer), daemon=True).start()


def announce() -> None:
    """Report that the run was interrupted; once, whichever thread comes first.

    Also in log files, past their handlers, whose locks another thread may hold.
    """
    if _announced.is_set():
        return
    _announced.set()
    os.write(2, f"clipdre: {MESSAGE}\n".encode())
    for handler in logging.getLogger("clipdre").handlers:
        if isinstance(handler, logging.FileHandler):
            fields = {"levelno": logging.ERROR, "levelname": "ERROR", "msg": MESSAGE}
            line = handler.format(logging.makeLogRecord(fields))
            with suppress(OSError), open(handler.baseFilename, "ab", buffering=0) as file:
                file.write(f"{line}\n".encode())


def received() -> int | None:
    """Return the number of the signal that came, if any.

    A library may turn the exception into one of its own, for example while it is imported.
    """
    return _received[0] if _received else None


def _interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    _received.append(number)
    raise Interrupted(number)


def _watch(reader: socket.socket, writer: socket.socket) -> None:
    while number := reader.recv(1):
        if number[0] in SIGNALS:
            time.sleep(GRACE)
            _end(number[0])
    writer.close()


def _end(number: int) -> NoReturn:
    announce()
    end(128 + number)


def end(code: int, message: str = "") -> NoReturn:
    """End the process at once, whatever its other threads do."""
    from clipdre.formats.files.storage import abandon

    abandon()
    os.write(2, message.encode())
    os._exit(code)
