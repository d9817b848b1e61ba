"""Which shards a user means, and what they are called."""

from __future__ import annotations

import glob
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path

from braceexpand import braceexpand

from clipdre.errors import InputError
from clipdre.formats.files.lines import split_lines
from clipdre.formats.files.remote import is_remote, redacted
from clipdre.formats.files.storage import absolute, unescaped_path
from clipdre.formats.files.subfolders import folders_below
from clipdre.formats.tars.loose import refuse_loose
from clipdre.formats.tars.samples import printable

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
TABLE_SUFFIX = ".parquet"
GLOB_CHARACTERS = frozenset("*?[")
ANY_DEPTH = "**"


def expand_shards(arguments: Sequence[str], stdin: Iterable[str] = ()) -> list[str]:
    """Return the paths and URLs of the shards that `arguments` name, each once, sorted by name.

    Each argument is a folder (the tars in it and in its subfolders), a tar, a glob, a brace
    pattern, a URL, or ``-``, which stands for the lines of `stdin`, see
    `clipdre.formats.files.lines`. Paths are absolute. Bytes that are not UTF-8 are escaped, see
    `clipdre.formats.files.storage.unescaped_path`.

    Raises
    ------
    InputError
        If an argument names no tar, or two shards have the same name.
    """
    urls: list[str] = []
    for argument in arguments:
        if argument == "-":
            lines = split_lines("".join(stdin))
            urls += [url for line in lines for url in _expand(line.strip())]
        else:
            urls += _expand(argument)
    if not urls:
        raise InputError("no shards were given", "pass folders, tars, globs, or '-' with a list")
    urls = list(map(printable, dict.fromkeys(map(absolute, urls))))
    # Sorted, so that a run resumes in whatever order the same shards are given.
    return [url for _, url in sorted(zip(shard_names(urls), urls, strict=True))]


def _expand(pattern: str) -> list[str]:
    path = unescaped_path(pattern)
    if not is_remote(pattern) and path.is_dir():
        tars = _tars_below(path)
        if not tars:
            refuse_loose(path)
            raise InputError(
                f"no .tar files in {pattern} and its subfolders",
                "pass the folder that holds the shards",
            )
        return tars
    if not is_remote(pattern) and path.exists():
        refuse_loose(path)
        return [pattern]
    urls: list[str] = []
    for name in braceexpand(pattern) if "{" in pattern else [pattern]:
        if is_remote(name):
            urls.append(name)
        elif GLOB_CHARACTERS & set(name):
            urls += _matches(name)
        elif unescaped_path(name).exists():
            urls.append(name)
        else:
            raise InputError(f"no such shard or folder: {name}", "check the path")
    if not urls:
        raise InputError(f"no file matches {pattern}", "check the pattern")
    return urls


def _matches(pattern: str) -> list[str]:
    """Return the tars that match a glob pattern, or other files if it matches no tars.

    A folder that matches stands for its tars, as one that is named does.
    """
    found = sorted(dict.fromkeys(_globbed(pattern)))
    files = [name for name in found if not Path(name).is_dir()]
    tars = [name for name in files if name.endswith(TAR_SUFFIXES)]
    tars += _tars_below(*(Path(name) for name in found if Path(name).is_dir()))
    if found and not tars:
        refuse_loose(Path(found[0]))
    return tars or files


def _globbed(pattern: str) -> Iterator[str]:
    """Yield what matches a glob pattern; ``**`` is any number of folders that are not hidden."""
    parts = pattern.split("/")
    if ANY_DEPTH not in parts:
        yield from glob.glob(pattern)
        return
    # Links may run in a circle, in which glob's own `**` would be lost.
    at = parts.index(ANY_DEPTH)
    rest = "/".join(parts[at + 1 :])
    for top in glob.glob("/".join(parts[:at]) + "/" if at else "./"):
        for folder in folders_below(Path(top)):
            found = _globbed(f"{glob.escape(str(folder))}/{rest or '*'}")
            # Without a rest, folders are among those below.
            yield from found if rest else (name for name in found if not Path(name).is_dir())


def _tars_below(*tops: Path) -> list[str]:
    """Return the tars in folders and their subfolders; nothing hidden, and no subset in them."""
    return [
        str(path)
        for folder in folders_below(*tops)
        for path in sorted(folder.iterdir())
        if path.name.endswith(TAR_SUFFIXES) and not path.name.startswith(".") and not path.is_dir()
    ]


def shard_name(url: str) -> str:
    """Return the name of a shard by itself: the last part of its path without its suffix.

    Passwords and signatures of URLs are in no name: it is shown, and files are named by it.
    """
    name = _public(url).rstrip("/").rpartition("/")[2]
    suffix = next((s for s in (*TAR_SUFFIXES, TABLE_SUFFIX) if name.endswith(s)), "")
    return name.removesuffix(suffix)


def shard_names(urls: Sequence[str], kept: Mapping[str, str] | None = None) -> list[str]:
    """Return the names of the shards of a pool, by which their files are named too.

    If they lie in several folders, a name is the path without suffix from the folder that has all
    of them: ``cc3m/00000``. It begins further up if another shard has this name in `kept`.

    Parameters
    ----------
    kept : mapping of str to str, optional
        URL to name, of shards that are named already.

    Raises
    ------
    InputError
        If two shards have the same name.
    """
    places = [parts_of(url) for url in urls]
    folders = {parts[:-1] for parts in places}
    shared = len(list(takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False))))
    names = dict(kept or {})
    by_name = {name: url for url, name in names.items()}
    for url, parts in zip(urls, places, strict=True):
        if url in names:
            continue
        longer = [_joined(parts[start:]) for start in range(shared, -1, -1)]
        name = next((name for name in longer if by_name.get(name) not in names), longer[0])
        if name in by_name:
            raise InputError(
                f"two shards are named {name!r}: {_public(by_name[name])} and {_public(url)}",
                "rename one of them, or score them into different folders",
            )
        by_name[name] = url
    named = names | {url: name for name, url in by_name.items()}
    return [named[url] for url in urls]


def parts_of(url: str) -> tuple[str, ...]:
    """Return the folders that lead to a shard, and its name by itself."""
    protocol, found, path = _public(url).partition("://")
    folders = [protocol, *path.split("/")] if found else absolute(url).split("/")[1:]
    return (*folders[:-1], shard_name(url))


def _public(url: str) -> str:
    return redacted(url) if is_remote(url) else url


def _joined(parts: Sequence[str]) -> str:
    *folders, name = parts
    return "/".join([*map(_harmless, folders), name])


def _harmless(folder: str) -> str:
    """Return the name of a folder as files of a score folder may be below it.

    It must not lead elsewhere or be hidden, nor have the name of another shard's file.
    """
    name = f"_{folder[1:]}" if folder[:1] in ("", ".") else folder
    return f"{name.removesuffix(TABLE_SUFFIX)}_parquet" if name.endswith(TABLE_SUFFIX) else name


def is_harmless(name: str) -> bool:
    """Return whether files of a score folder may have a shard's name."""
    folders = name.split("/")[:-1]
    return "\0" not in name and all(_harmless(folder) == folder for folder in folders)


def shard_of_file(file: str, shards: Collection[str]) -> str | None:
    """Return which of the `shards` a file beside them belongs to by its path; None if to none.

    That is the longest name that the path ends in, without its suffix.
    """
    *folders, name = parts_of(file)
    names = ("/".join([*folders[start:], name]) for start in range(len(folders) + 1))
    return next((name for name in names if name in shards), None)
