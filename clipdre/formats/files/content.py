"""A sample of a file's content: enough to tell a file that was copied or touched from another."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress

from clipdre.formats.files.storage import local_path, regular

# Parts that are read, evenly from head to tail, and bytes of each.
PARTS, PART_BYTES = 5, 16 * 1024


def content_sample(url: str) -> str:
    """Return a digest of a local file's size and of parts of its content.

    It is empty for a remote file, whose time of change comes from its store, and for one that
    cannot be read.
    """
    path = local_path(url)
    if path is None:
        return ""
    with suppress(OSError), open(regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.blake2b(str(size).encode(), digest_size=16)
        last = max(0, size - PART_BYTES)
        for n in range(PARTS):
            digest.update(os.pread(file.fileno(), PART_BYTES, last * n // (PARTS - 1)))
        return digest.hexdigest()
    return ""
