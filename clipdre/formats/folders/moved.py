"""Which tars are the shards of a score folder, wherever they lie now."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile

from clipdre.formats.folders.records import ShardRecord
from clipdre.formats.tars.places import parts_of


def find_moved(
    shards: Sequence[ShardRecord], urls: Iterable[str], is_same: Callable[[ShardRecord, str], bool]
) -> dict[str, str]:
    """Return the URL of each shard that is found among `urls`, by the shard's name.

    It has the file name of the shard and is the same by `is_same`. If several are, it is the one
    whose folders are called as before; a shard that could be several of them is not found.
    """
    named = defaultdict[str, list[str]](list)
    for url in urls:
        named[parts_of(url)[-1]].append(url)
    found = {}
    for shard in shards:
        before = parts_of(shard.url)
        same = [url for url in named[before[-1]] if is_same(shard, url)]
        close = {url: _in_common(before, parts_of(url)) for url in same}
        best = [url for url in same if close[url] == max(close.values())]
        if len(best) == 1:
            found[shard.name] = best[0]
    return found


def _in_common(before: Sequence[str], now: Sequence[str]) -> int:
    """Return how many folders above two files have the same names."""
    pairs = zip(reversed(before), reversed(now), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
