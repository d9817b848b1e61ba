"""DataComp's subset file: the uids of the kept samples."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

# High and low 64 bits of the 128 that 32 hex digits say.
UID_DTYPE = np.dtype("u8,u8")
UID = re.compile(r"[0-9a-fA-F]{1,32}")


def uid_array(uids: Iterable[str | None]) -> tuple[npt.NDArray[np.void], int]:
    """The uids as DataComp's resharder reads them: sorted, each once; and how many are none.

    Leading zeros may be missing, as they are in DataComp's own files.
    """
    values, without = set(), 0
    for uid in uids:
        if uid is None or not UID.fullmatch(uid):
            without += 1
        else:
            values.add(divmod(int(uid, 16), 2**64))
    return np.array(sorted(values), dtype=UID_DTYPE), without
