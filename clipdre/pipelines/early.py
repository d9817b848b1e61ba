"""What a run can refuse before the libraries of models are imported, which takes seconds."""

from __future__ import annotations

from collections.abc import Sequence

from clipdre.config import EstimateConfig
from clipdre.errors import OutputError, UsageError
from clipdre.formats.files.remote import redacted
from clipdre.formats.files.storage import REPLACEMENT, absolute, identify, real, real_paths
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.layout import ABANDONED, MANIFEST, PARTS
from clipdre.formats.folders.records import ShardRecord
from clipdre.formats.folders.working_copy import local_copy
from clipdre.formats.tars.places import shard_names
from clipdre.formats.tars.samples import printable


def check_output(folder: ScoreFolder, urls: Sequence[str], config: EstimateConfig) -> None:
    """Refuse an output that is not a score folder, or that holds what the scores are made from."""
    if folder.is_foreign():
        damaged = ", or its manifest is damaged" if (folder.path / MANIFEST).exists() else ""
        raise OutputError(
            f"{folder.path} exists and is not a score folder{damaged}", "choose another `output`"
        )
    if config.saved is not None and redacted(config.saved) != config.saved:
        raise UsageError(
            "`reference` is a URL with a password or a query, which the manifest would record",
            "give them to the store's client by environment variables or its configuration",
        )
    folder.store.check_writable()
    here = real(folder.path)
    written = {here / part for part in (*PARTS, REPLACEMENT, ABANDONED)}
    refused = []
    inputs = (not written.isdisjoint(path.parents) for _, path in real_paths(urls))
    if any(inputs) or any(map(folder.store.holds, urls)):
        refused.append("the input")
    if config.saved is not None and real(local_copy(config.saved)).is_relative_to(here):
        refused.append("`reference`")
    if refused:
        raise OutputError(f"{refused[0]} is in `output` {folder.path}", "choose another `output`")


def shard_records(urls: Sequence[str]) -> tuple[ShardRecord, ...]:
    """Return the shards as they are now; `InputError` if one is missing."""
    urls = [printable(absolute(url)) for url in urls]
    found = zip(shard_names(urls), urls, map(identify, urls), strict=True)
    return tuple(
        ShardRecord(name=name, url=url, nbytes=identity.nbytes, modified=identity.modified)
        for name, url, identity in found
    )
