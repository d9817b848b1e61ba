"""Gzip files that can be read a little backwards."""

from __future__ import annotations

import gzip
import os
from typing import BinaryIO, Self

KEPT = 2 << 20  # bytes of decompressed data


class Gunzipped:
    """The content of a gzip file, which closes the compressed one together with itself.

    `gzip` goes back by decompressing everything again, so what was read last is kept: whoever looks
    ahead for a header, and goes back to it, would do so again and again.
    """

    def __init__(self, compressed: BinaryIO) -> None:
        self._compressed = compressed
        self._file = gzip.GzipFile(fileobj=compressed, mode="rb")
        self._held = bytearray()
        self._start = self._at = 0  # place of what is held, and of the next byte to read

    def tell(self) -> int:
        """Return the place of the next byte to read."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a place, at no cost if it is among the last `KEPT` bytes."""
        end = self._start + len(self._held)
        if whence == os.SEEK_SET and self._start <= offset <= end:
            self._at = offset
        else:
            self._start = self._at = self._file.seek(offset, whence)
            self._held.clear()
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes, or all that are left."""
        place = self._at - self._start
        data = bytes(self._held[place:] if size < 0 else self._held[place : place + size])
        if size < 0 or len(data) < size:
            more = self._file.read(size - len(data) if size >= 0 else -1)
            data += more
            self._hold(more)
        self._at += len(data)
        return data

    def _hold(self, more: bytes) -> None:
        end = self._start + len(self._held) + len(more)
        if len(more) >= KEPT:
            self._held = bytearray(more[-KEPT:])
        else:
            self._held += more
            if len(self._held) > 2 * KEPT:  # rarely, since it moves what is left
                del self._held[:-KEPT]
        self._start = end - len(self._held)

    def close(self) -> None:
        """Close both files."""
        self._file.close()
        self._compressed.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
