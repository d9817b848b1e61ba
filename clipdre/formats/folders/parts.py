"""Parts of a result, each in a file of its own, kept until the result is complete."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from clipdre.formats.files.storage import committed
from clipdre.formats.folders.embeddings import map_array
from clipdre.words import one_line

STAMP = "stamp"
Arrays = dict[str, npt.NDArray[Any]]


def digest_of(value: object) -> str:
    """Return a digest of settings, records and strings."""
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()


def digest_of_numbers(settings: str, values: npt.NDArray[np.integer]) -> str:
    """Return a digest of settings and an array."""
    digest = hashlib.sha256(settings.encode())
    digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def write_part(
    path: Path, arrays: Mapping[str, npt.NDArray[Any]], stamp: str, *, first: bool = False
) -> None:
    """Write a part with what it was made from; with `first`, another writer's comes first."""
    whole = {name: np.asarray(value, order="C") for name, value in arrays.items()}
    with committed(path, durable=False, first=first) as temporary:
        try:
            safetensors.numpy.save_file(whole, temporary, {STAMP: stamp})
        except safetensors.SafetensorError as error:  # such as a full disk
            raise OSError(one_line(error)) from error


def read_part(path: Path) -> Arrays:
    """Read a part that is there."""
    found: Arrays = safetensors.numpy.load_file(path)
    return found


def stamp_of(path: Path) -> str | None:
    """Return the stamp of a part; None if there is none that can be read."""
    try:
        with safetensors.safe_open(path, "numpy") as file:
            return (file.metadata() or {}).get(STAMP)
    except (OSError, safetensors.SafetensorError):
        return None


@dataclass(frozen=True)
class Parts:
    """The parts of one result.

    Attributes
    ----------
    path : Path
    stamp : str
        What they are made from, in common.
    """

    path: Path
    stamp: str

    def _stamp_of(self, made_of: str) -> str:
        return digest_of([self.stamp, made_of])

    def file(self, name: str) -> Path:
        """Return the path of a part."""
        return self.path / f"{name}.safetensors"

    def has(self, name: str, made_of: str) -> bool:
        """Whether a part is there, and made from this."""
        return stamp_of(self.file(name)) == self._stamp_of(made_of)

    def write(self, name: str, arrays: Mapping[str, npt.NDArray[Any]], made_of: str) -> None:
        """Write a part."""
        write_part(self.file(name), arrays, self._stamp_of(made_of))

    def read(self, name: str) -> Arrays:
        """Read a part that is there."""
        return read_part(self.file(name))

    def digest(self, name: str) -> str:
        """Return a digest of the content of a part; empty if there is none."""
        path = self.file(name)
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""

    def share(self, name: str, array: npt.NDArray[Any]) -> None:
        """Write an array of which workers read a few rows each."""
        path = self.path / f"{name}.npy"
        with committed(path, durable=False) as temporary, open(temporary, "wb") as file:
            np.save(file, array)

    def shared(self, name: str) -> npt.NDArray[Any]:
        """Map what `share` wrote."""
        return map_array(self.path / f"{name}.npy")

    def remove(self) -> None:
        """Remove all parts: the result is complete."""
        shutil.rmtree(self.path, ignore_errors=True)
