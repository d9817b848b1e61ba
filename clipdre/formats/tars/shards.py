"""Read the samples of WebDataset shards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from clipdre.config import CaptionSource, ReadConfig
from clipdre.errors import InputError
from clipdre.formats.files.storage import is_compressed, open_source
from clipdre.formats.tars.captions import says_nothing
from clipdre.formats.tars.groups import Group, iter_groups
from clipdre.formats.tars.places import shard_name
from clipdre.formats.tars.samples import (
    Failure,
    Note,
    NoteKind,
    Reason,
    Sample,
    Stage,
    json_object,
    kept_json,
    printable,
)
from clipdre.formats.tars.stated import stated_count
from clipdre.formats.tars.tar import SPARSE_FILE, Member
from clipdre.words import count

# Failures of an archive, not of one of its samples.
DAMAGE = {
    Reason.BROKEN_TAR,
    Reason.GARBAGE,
    Reason.NOT_A_TAR,
    Reason.COMPRESSED_TAR,
    Reason.EMPTY_FILE,
}


def read_samples(url: str, config: ReadConfig) -> Iterator[Sample | Failure | Note]:
    """Yield the samples of a shard, and a `Failure` if it cannot be read to its end.

    A `Note` follows if a file beside the shard counts more samples.
    """
    found = 0
    try:
        with open_source(url) as file:
            for record in iter_samples(file, config):
                damage = isinstance(record, Failure) and record.reason in DAMAGE
                found += not damage and not isinstance(record, Note)
                yield record
    except Exception as error:  # whatever one shard does to the reader, the others are read
        known = isinstance(error, InputError | OSError)
        message = str(error) if known else f"{type(error).__name__}: {error}"
        yield Failure("", 0, Stage.READ, Reason.UNREADABLE_SHARD, message)
        return
    found //= len(config.captions)
    stated = stated_count(url, shard_name(url))
    if stated is not None and found < stated.samples:
        all_of_them = count(stated.samples, "sample")
        message = (
            f"the tar holds {found:,} of {all_of_them} that {stated.by} counts; "
            "copy or download it again"
        )
        yield Note(NoteKind.FEWER_SAMPLES, 0, stated.samples - found, message)


def iter_samples(file: BinaryIO, config: ReadConfig) -> Iterator[Sample | Failure | Note]:
    """Yield the samples of a tar in order, with a `Failure` for each that cannot be used.

    If several captions are read, a sample comes once for each of them, with the same image.
    """
    for group in iter_groups(file, lambda group, member: _add(group, member, config)):
        if isinstance(group, Group):
            yield from _finish(group, config, in_place=not is_compressed(file))
        else:
            yield group


def _add(group: Group, member: Member, config: ReadConfig) -> None:
    is_image = member.suffix in config.image_suffixes
    is_caption = any(c.suffix == member.suffix and c.field is None for c in config.captions)
    used = is_image or is_caption or member.suffix == "json"
    # Whoever reads the kept sample would also read the map of a sparse file, however long.
    if not used and member.odd != SPARSE_FILE:
        return
    if member.odd:
        message = f"its {member.suffix} member is {member.odd}, not a regular file"
        group.fail(Reason.NOT_A_FILE, message)
        return
    limit = config.max_json_bytes if member.suffix == "json" else config.max_member_bytes
    if member.size > limit:
        message = f"{member.suffix} member of {member.size} bytes, above the limit of {limit}"
        group.fail(Reason.MEMBER_TOO_LARGE, message)
        return
    if is_caption and member.size > config.max_caption_bytes:
        group.too_long[member.suffix] = member.size
        return
    slot = "image" if is_image else member.suffix
    if slot in group.content:
        group.fail(Reason.DUPLICATE_MEMBER, f"more than one {slot} member")
        return
    group.content[slot] = member.read()
    if is_image:
        group.image_span = (member.data, member.size)


def _long_caption(size: int, config: ReadConfig) -> tuple[Reason, str]:
    message = f"caption of {size} bytes, above the limit of {config.max_caption_bytes}"
    return Reason.CAPTION_TOO_LARGE, message


def _finish(group: Group, config: ReadConfig, *, in_place: bool) -> Iterator[Sample | Failure]:
    """Yield the sample once for each of its captions."""
    metadata = json_object(group.content.get("json"))
    if group.failure is None and "image" not in group.content:
        accepted = ", ".join(config.image_suffixes)
        group.fail(Reason.MISSING_IMAGE, f"no member with one of the suffixes {accepted}")
    uid = metadata.get("uid")
    several = len(config.captions) > 1
    kept = tuple(kept_json(metadata.get(f), config.max_caption_bytes) for f in config.keep)
    for source in config.captions:
        caption = group.failure or _caption(group, metadata, source, config)
        if not isinstance(caption, str):
            yield Failure(group.key, group.offset, Stage.READ, *caption)
            continue
        yield Sample(
            key=group.key,
            offset=group.offset,
            nbytes=group.end - group.offset,
            image=group.content["image"],
            caption=printable(caption),
            uid=uid if isinstance(uid, str) else None,
            image_span=group.image_span if in_place else None,
            kept=kept,
            caption_source=str(source) if several else "",
        )


def _caption(
    group: Group, metadata: dict[str, object], source: CaptionSource, config: ReadConfig
) -> str | tuple[Reason, str]:
    """Return a caption, or why there is none that can be used."""
    text = (
        _of_json(metadata, source.field)
        if source.field is not None
        else _of_member(group, source, config)
    )
    if not isinstance(text, str):
        return text
    size = len(text.encode("utf-8", "backslashreplace"))
    if size > config.max_caption_bytes:
        return _long_caption(size, config)
    if says_nothing(text):
        return Reason.EMPTY_CAPTION, "caption is empty, blank or invisible"
    return text


def _of_json(metadata: dict[str, object], field: str) -> str | tuple[Reason, str]:
    value = metadata.get(field)
    if not isinstance(value, str):
        return Reason.MISSING_CAPTION, f"no json member with text in field {field!r}"
    return value


def _of_member(group: Group, source: CaptionSource, config: ReadConfig) -> str | tuple[Reason, str]:
    if source.suffix in group.too_long:
        return _long_caption(group.too_long[source.suffix], config)
    raw = group.content.get(source.suffix)
    if raw is None:
        return Reason.MISSING_CAPTION, f"no {source.suffix} member"
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return Reason.INVALID_CAPTION, f"caption is not UTF-8: {error}"
