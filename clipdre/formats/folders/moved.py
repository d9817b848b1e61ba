"""Which tars are the shards of a score folder, wherever they lie now."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile

from clipdre.formats.files.content import content_sample
from clipdre.formats.files.remote import is_remote
from clipdre.formats.folders.records import ShardRecord
from clipdre.formats.tars.places import parts_of


def find_moved(
    shards: Sequence[ShardRecord], urls: Iterable[str], is_same: Callable[[ShardRecord, str], bool]
) -> dict[str, str]:
    """Return the URL of each shard that is found among `urls`, by the shard's name.

    It has the file name of the shard and is the same by `is_same`. If several are, it is the one
    whose folders are called as before. A shard that could be several of them is not found, nor is
    one whose file is rather that of another shard.
    """
    named = defaultdict[str, list[str]](list)
    for url in urls:
        named[parts_of(url)[-1]].append(url)
    of_shards, of_urls = (defaultdict[str, dict[str, int]](dict) for _ in range(2))
    for shard in shards:
        before = parts_of(shard.url)
        for url in named[before[-1]]:
            if is_same(shard, url):
                common = _in_common(before, parts_of(url))
                of_shards[shard.name][url] = of_urls[url][shard.name] = common
    best = {name: _best(found) for name, found in of_shards.items()}
    return {name: url for name, url in best.items() if url and _best(of_urls[url]) == name}


def has_content_of(shard: ShardRecord, url: str, nbytes: int) -> bool:
    """Return whether a file of `nbytes` has the size of a shard, and its content if it is known."""
    if nbytes != shard.nbytes:
        return False
    return not shard.sample or is_remote(url) or content_sample(url) == shard.sample


def _best(found: Mapping[str, int]) -> str | None:
    """Return what has most in common; None if several have."""
    most = max(found.values())
    best = [name for name, common in found.items() if common == most]
    return best[0] if len(best) == 1 else None


def _in_common(before: Sequence[str], now: Sequence[str]) -> int:
    """Return how many folders above two files have the same names."""
    pairs = zip(reversed(before), reversed(now), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
