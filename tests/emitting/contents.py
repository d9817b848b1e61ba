"""What tars and folders hold, as the emitting tests compare it."""

import io
import tarfile

from tests.helpers import rows_of

SUFFIXES = ("png", "txt", "json")


def members(source):
    """Return (name, size, content) of each member of a tar: a path, or bytes."""
    file = io.BytesIO(source) if isinstance(source, bytes) else None
    with tarfile.open(None if file else source, fileobj=file) as tar:
        return [(m.name, m.size, tar.extractfile(m).read()) for m in tar.getmembers()]


def expected_members(subset, pool):
    """Return the members that the rows of `subset` have in the source shards."""
    by_name = {}
    for path in sorted(pool.glob("*.tar")):
        by_name |= {(path.stem, name): (name, size, data) for name, size, data in members(path)}
    table = rows_of(subset)
    return [
        by_name[shard, f"{key}.{suffix}"]
        for shard, key in zip(table["shard"].to_pylist(), table["key"].to_pylist(), strict=True)
        for suffix in SUFFIXES
    ]


def contents(folder, but=None):
    """Return the bytes of each file of a folder by name, except one."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != but}


def stored(files, folder, but=None):
    """Return the bytes of each object of a folder in an fsspec store by name, except one."""
    paths = {path.rpartition("/")[2]: path for path in files.ls(folder, detail=False)}
    return {name: files.cat(path) for name, path in paths.items() if name != but}
