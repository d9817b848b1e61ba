"""Subset files in DataComp's format: the sorted uids of the kept samples."""

from __future__ import annotations

import re
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

# High and low 64 bits of a uid of 128 bits, or 32 hex digits.
UID_DTYPE = np.dtype("u8,u8")
DIGITS = 32
BYTES = DIGITS // 2
CHUNK = 1 << 16
UID = f"^[0-9a-fA-F]{{1,{DIGITS}}}$"


def canonical_uid(uid: str) -> str:
    """Return a uid as 32 lower-case digits, or as it is if it is not of up to 32 hex digits."""
    return uid.lower().rjust(DIGITS, "0") if re.fullmatch(UID, uid) else uid


class UidFile:
    """Collects uids. Leading zeros may be missing, as in DataComp's own files.

    Parameters
    ----------
    rows : int
        Upper bound on the number of rows; each takes 16 bytes of memory.

    Attributes
    ----------
    without : int
        Number of rows so far without a uid of up to 32 hex digits.
    """

    def __init__(self, rows: int) -> None:
        self.without = 0
        self._bytes = bytearray(BYTES * rows)
        self._end = 0

    def add(self, uids: pa.Array) -> None:
        """Add the uids of some rows."""
        digits = _digits(uids)
        if digits is None:  # some are shorter, missing or malformed
            good = pc.fill_null(pc.match_substring_regex(uids, UID), False)
            self.without += pc.sum(pc.invert(good)).as_py()
            digits = _digits(pc.utf8_lpad(uids.filter(good), DIGITS, "0"))
        assert digits is not None  # the regular expression has checked them
        self._bytes[self._end : self._end + len(digits)] = digits
        self._end += len(digits)

    def write(self, out: BinaryIO) -> None:
        """Write the uids as DataComp's resharder reads them: sorted, unique, dtype ``u8,u8``."""
        # As big-endian byte strings they can be sorted in place.
        uids = np.frombuffer(self._bytes, f"S{BYTES}", self._end // BYTES)
        uids.sort()
        chunks = [slice(start, start + CHUNK) for start in range(0, len(uids), CHUNK)]
        new = [_is_new(uids, chunk) for chunk in chunks]
        unique = sum(int(mask.sum()) for mask in new)
        header = {"descr": UID_DTYPE.descr, "fortran_order": False, "shape": (unique,)}
        np.lib.format.write_array_header_1_0(out, header)
        for chunk, mask in zip(chunks, new, strict=True):
            out.write(uids[chunk][mask].view(">u8").astype("<u8").tobytes())


def _is_new(uids: npt.NDArray[np.bytes_], chunk: slice) -> npt.NDArray[np.bool_]:
    """Return for each uid of a chunk whether it differs from the one before; uids are sorted."""
    halves = uids[max(0, chunk.start - 1) : chunk.stop].view("u8").reshape(-1, 2)
    new: npt.NDArray[np.bool_] = (halves[1:] != halves[:-1]).any(axis=1)
    return new if chunk.start else np.concatenate([[True], new])


def _digits(uids: pa.Array) -> bytes | None:
    """Return the 16 bytes of each uid, concatenated; None unless all have exactly 32 digits."""
    if uids.null_count:
        return None
    uids = uids.cast(pa.large_string())
    _, ends, text = uids.buffers()
    at = np.frombuffer(ends, np.int64)[uids.offset : uids.offset + len(uids) + 1]
    if not len(uids) or (np.diff(at) != DIGITS).any():
        return None if len(uids) else b""
    try:
        digits = bytes.fromhex(str(memoryview(text)[at[0] : at[-1]], "ascii"))
    except ValueError:  # not ASCII, or not hex digits
        return None
    # fromhex skips spaces, so fewer bytes mean that there were some.
    return digits if len(digits) == BYTES * len(uids) else None


def uid_digits(array: npt.NDArray[np.void]) -> pa.Array:
    """Return the uids of a DataComp subset file as 32 lower-case hex digits each."""
    pairs = np.stack([array["f0"], array["f1"]], axis=1).astype(">u8")
    text = pa.py_buffer(pairs.tobytes().hex().encode())
    offsets = np.arange(len(array) + 1, dtype=np.int64) * DIGITS
    buffers = [None, pa.py_buffer(offsets), text]
    return pa.Array.from_buffers(pa.large_string(), len(array), buffers)
