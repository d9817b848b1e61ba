"""Read the samples of WebDataset shards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from clipdre.config import ReadConfig
from clipdre.errors import InputError
from clipdre.formats.files.storage import open_source
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
    stated = stated_count(url, shard_name(url))
    if stated is not None and found < stated.samples:
        all_of_them = count(stated.samples, "sample")
        message = (
            f"the tar holds {found:,} of {all_of_them} that {stated.by} counts; "
            "copy or download it again"
        )
        yield Note(NoteKind.FEWER_SAMPLES, 0, stated.samples - found, message)


def iter_samples(file: BinaryIO, config: ReadConfig) -> Iterator[Sample | Failure | Note]:
    """Yield the samples of a tar in order, with a `Failure` for each that cannot be used."""
    for group in iter_groups(file, lambda group, member: _add(group, member, config)):
        yield _finish(group, config) if isinstance(group, Group) else group


def _add(group: Group, member: Member, config: ReadConfig) -> None:
    is_image = member.suffix in config.image_suffixes
    is_caption = member.suffix == config.caption_suffix and config.caption_field is None
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
        _fail_long_caption(group, member.size, config)
        return
    slot = "image" if is_image else member.suffix
    if slot in group.content:
        group.fail(Reason.DUPLICATE_MEMBER, f"more than one {slot} member")
        return
    group.content[slot] = member.read()


def _fail_long_caption(group: Group, size: int, config: ReadConfig) -> None:
    message = f"caption of {size} bytes, above the limit of {config.max_caption_bytes}"
    group.fail(Reason.CAPTION_TOO_LARGE, message)


def _finish(group: Group, config: ReadConfig) -> Sample | Failure:
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


def _caption(group: Group, metadata: dict[str, object], config: ReadConfig) -> str | None:
    if config.caption_field is not None:
        value = metadata.get(config.caption_field)
        if not isinstance(value, str):
            message = f"no json member with text in field {config.caption_field!r}"
            group.fail(Reason.MISSING_CAPTION, message)
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
    size = len(text.encode("utf-8", "backslashreplace"))
    if size > config.max_caption_bytes:
        _fail_long_caption(group, size, config)
        return None
    if says_nothing(text):
        group.fail(Reason.EMPTY_CAPTION, "caption is empty, blank or invisible")
        return None
    return text
