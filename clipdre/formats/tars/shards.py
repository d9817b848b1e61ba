"""WebDataset shards: which there are, and what samples each holds."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from braceexpand import braceexpand

from clipdre.config import ReadConfig
from clipdre.errors import InputError
from clipdre.formats.files.remote import is_remote
from clipdre.formats.files.storage import open_source
from clipdre.formats.tars.samples import Failure, Reason, Sample, Stage, printable
from clipdre.formats.tars.tar import BrokenTarError, Gap, Member, iter_members

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
GLOB_CHARACTERS = frozenset("*?[")


def expand_shards(arguments: Sequence[str], stdin: Iterable[str] = ()) -> list[str]:
    """Paths and URLs of the shards that `arguments` name, in order.

    Each argument is a folder (its ``*.tar`` and ``*.tar.gz``, sorted), a tar, a glob, a brace
    pattern, a URL, or ``-``: one of these per line of `stdin`.

    Raises
    ------
    InputError
        When an argument names no tar, or two shards share a name.
    """
    urls: list[str] = []
    for argument in arguments:
        if argument == "-":
            lines = [line.strip() for line in stdin]
            urls += [url for line in lines if line for url in _expand(line)]
        else:
            urls += _expand(argument)
    if not urls:
        raise InputError("no shards were named: give folders, tars, globs or '-' with a list")
    by_name: dict[str, str] = {}
    for url in urls:
        name = shard_name(url)
        if name in by_name:
            raise InputError(
                f"two shards are named {name!r} ({by_name[name]} and {url}): "
                "scores are kept by shard name, so rename one or score them apart"
            )
        by_name[name] = url
    return urls


def _expand(pattern: str) -> list[str]:
    if Path(pattern).exists() and not is_remote(pattern):
        if not Path(pattern).is_dir():
            return [pattern]
        tars = sorted(str(p) for p in Path(pattern).iterdir() if p.name.endswith(TAR_SUFFIXES))
        if not tars:
            raise InputError(f"no .tar files in {pattern}: name the folder that holds the shards")
        return tars
    expanded = list(braceexpand(pattern)) if "{" in pattern else [pattern]
    urls: list[str] = []
    for name in expanded:
        if is_remote(name):
            urls.append(name)
        elif GLOB_CHARACTERS & set(name):
            urls += sorted(glob.glob(name))
        elif Path(name).exists():
            urls.append(name)
        else:
            raise InputError(f"no such shard or folder: {name}")
    if not urls:
        raise InputError(f"no file matches {pattern}")
    return urls


def shard_name(url: str) -> str:
    """Name of a shard: the last part of its path without ``.tar``, its like, or ``.parquet``."""
    name = url.rstrip("/").rpartition("/")[2]
    suffix = next((s for s in (*TAR_SUFFIXES, ".parquet") if name.endswith(s)), "")
    return name.removesuffix(suffix)


@dataclass
class _Group:
    """Adjacent members of one key."""

    key: str
    offset: int
    end: int = 0
    content: dict[str, bytes] = field(default_factory=dict)
    failure: tuple[Reason, str] | None = None

    def fail(self, reason: Reason, message: str) -> None:
        self.failure = self.failure or (reason, message)


def read_samples(url: str, config: ReadConfig) -> Iterator[Sample | Failure]:
    """`iter_samples` of a shard; one that cannot be opened or read to its end is a `Failure`."""
    try:
        with open_source(url) as file:
            yield from iter_samples(file, config)
    except (InputError, OSError) as error:
        yield Failure("", 0, Stage.READ, Reason.UNREADABLE_SHARD, str(error))


def iter_samples(file: BinaryIO, config: ReadConfig) -> Iterator[Sample | Failure]:
    """Samples of a tar in order, with a `Failure` for each that cannot be used.

    A sample is a run of adjacent members of one key, as webdataset groups them.
    """
    group: _Group | None = None
    gap = False
    try:
        for member in iter_members(file):
            if isinstance(member, Gap):
                message = f"{member.message}; {member.end - member.offset} bytes are lost"
                yield Failure("", member.offset, Stage.READ, Reason.GARBAGE, message)
                gap = True
                continue
            if group is None or member.key != group.key:
                if group is not None:
                    yield _finish(group, config)
                group = _Group(member.key, member.offset)
            elif gap:
                group.fail(Reason.GARBAGE, "there is garbage between its members")
            gap = False
            group.end = member.end
            _add(group, member, config)
    except BrokenTarError as error:
        key = group.key if group is not None and group.offset <= error.offset < group.end else ""
        if group is not None and not key:
            yield _finish(group, config)
        message = f"{error}; what follows in the shard is lost"
        yield Failure(key, error.offset, Stage.READ, error.reason, message)
        return
    if group is not None:
        yield _finish(group, config)


def _add(group: _Group, member: Member, config: ReadConfig) -> None:
    is_image = member.suffix in config.image_suffixes
    if not is_image and member.suffix not in (config.caption_suffix, "json"):
        return
    if member.odd:
        message = f"its {member.suffix} is {member.odd}: only plain files are read"
        group.fail(Reason.NOT_A_FILE, message)
        return
    most = config.max_json_bytes if member.suffix == "json" else config.max_member_bytes
    if member.size > most:
        message = f"{member.suffix} of {member.size} bytes; at most {most} are read"
        group.fail(Reason.MEMBER_TOO_LARGE, message)
        return
    slot = "image" if is_image else member.suffix
    if slot in group.content:
        group.fail(Reason.DUPLICATE_MEMBER, f"more than one {slot} member")
        return
    group.content[slot] = member.read()


def _finish(group: _Group, config: ReadConfig) -> Sample | Failure:
    caption = None
    metadata = json_object(group.content.get("json"))
    if group.failure is None and "image" not in group.content:
        accepted = ", ".join(config.image_suffixes)
        group.fail(Reason.MISSING_IMAGE, f"no member with one of the suffixes {accepted}")
    if group.failure is None:
        caption = _caption(group, metadata, config)
    if group.failure is not None or caption is None:
        reason, message = group.failure or (Reason.MISSING_CAPTION, "no caption")
        return Failure(group.key, group.offset, Stage.READ, reason, message)
    uid = metadata.get("uid")
    return Sample(
        key=group.key,
        offset=group.offset,
        nbytes=group.end - group.offset,
        image=group.content["image"],
        caption=printable(caption),
        uid=uid if isinstance(uid, str) else None,
    )


def _caption(group: _Group, metadata: dict[str, object], config: ReadConfig) -> str | None:
    if config.caption_field is not None:
        value = metadata.get(config.caption_field)
        if not isinstance(value, str):
            group.fail(
                Reason.MISSING_CAPTION, f"no json member with text in {config.caption_field!r}"
            )
            return None
        text = value
    else:
        raw = group.content.get(config.caption_suffix)
        if raw is None:
            group.fail(Reason.MISSING_CAPTION, f"no {config.caption_suffix} member")
            return None
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            group.fail(Reason.INVALID_CAPTION, f"caption is not UTF-8: {error}")
            return None
    if len(text.encode("utf-8", "backslashreplace")) > config.max_caption_bytes:
        message = f"caption of {len(text)} characters; at most {config.max_caption_bytes} bytes are"
        group.fail(Reason.CAPTION_TOO_LARGE, message)
        return None
    if not text.strip():
        group.fail(Reason.EMPTY_CAPTION, "caption is empty or blank")
        return None
    return text


def json_object(raw: bytes | None) -> dict[str, object]:
    """The json member as a dict; empty when there is none or it is no json object."""
    try:
        value = json.loads(raw) if raw is not None else {}
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
