"""How many samples a shard should hold, as the tools that wrote it recorded beside it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from clipdre.errors import InputError
from clipdre.formats.files.remote import is_remote
from clipdre.formats.files.storage import SourceIdentity, identify, open_source
from clipdre.formats.tars.samples import json_object
from clipdre.formats.tars.tar import COMPRESSION_ERRORS

# img2dataset's counts of one shard; sizes of all shards in a folder (webdataset, open_clip).
STATS, SIZES = "_stats.json", "sizes.json"
MAX_BYTES = 64 * 1024 * 1024


class Stated(NamedTuple):
    """A number of samples, and the name of the file that states it."""

    samples: int
    by: str


def stated_count(url: str, name: str) -> Stated | None:
    """Return what is stated about the shard `name` at `url`; None if nothing can be read."""
    if is_remote(url) and "?" in url:  # a signature is for the shard alone
        return None
    folder, slash, file = url.rpartition("/")
    for beside, field in ((f"{name}{STATS}", "successes"), (SIZES, file)):
        samples = _object(f"{folder}{slash}{beside}").get(field)
        if isinstance(samples, int):
            return Stated(samples, beside)
    return None


def _object(url: str) -> dict[str, Any]:
    """Return a JSON file; empty if there is none, it cannot be read, or it is not an object."""
    try:
        return _parsed(url, identify(url))
    except (InputError, OSError, *COMPRESSION_ERRORS):
        return {}


@lru_cache(maxsize=16)  # the shards of a folder share their sizes
def _parsed(url: str, _: SourceIdentity) -> dict[str, Any]:
    with open_source(url) as file:
        return json_object(file.read(MAX_BYTES))
