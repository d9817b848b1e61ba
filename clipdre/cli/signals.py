"""Ctrl-C and SIGTERM: an end within a second, with nothing half-written under a final name."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from types import FrameType
from typing import NoReturn

GRACE = 0.6
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_said = threading.Event()
SAID = "clipdre: interrupted; the same command goes on where it was\n"


class Interrupted(BaseException):
    """SIGINT or SIGTERM; no `KeyboardInterrupt`, which libraries take for theirs to handle."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def install() -> None:
    """Turn both signals into an exception, and end the process when it is not heeded.

    The exception is raised between two steps of the interpreter. One step may be a batch on a large
    model; so a thread, which hears of the signal at once, waits a little and then ends all.
    """
    heard, tells = socket.socketpair()
    tells.setblocking(False)
    for number in SIGNALS:
        signal.signal(number, _interrupt)
    signal.set_wakeup_fd(tells.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(heard, tells), daemon=True).start()


def say() -> None:
    """Tell the user on stderr; once, whoever comes first."""
    if not _said.is_set():
        _said.set()
        os.write(2, SAID.encode())


def _interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    raise Interrupted(number)


def _watch(heard: socket.socket, tells: socket.socket) -> None:
    while number := heard.recv(1):
        if number[0] in SIGNALS:
            time.sleep(GRACE)
            _end(number[0])
    tells.close()


def _end(number: int) -> NoReturn:
    from clipdre.formats.files.storage import abandon

    abandon()
    say()
    os._exit(128 + number)
