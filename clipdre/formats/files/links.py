"""Hard links, on file systems that have them."""

from __future__ import annotations

import os
from pathlib import Path


def put_first(temporary: Path, path: Path) -> None:
    """Give a file its final name unless another writer was first; that one's file stays.

    The file may keep its temporary name too. Without hard links, two writers that come at the same
    moment are not told apart: the later one's file stays.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:
        if not path.exists():
            temporary.replace(path)
