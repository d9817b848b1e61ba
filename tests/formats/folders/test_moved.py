import pytest

from clipdre.formats.folders.moved import find_moved
from clipdre.formats.folders.records import ShardRecord


def records(*urls):
    return [ShardRecord(name=f"n{n}", url=url, nbytes=1, modified="") for n, url in enumerate(urls)]


TWO = records("/old/cc3m/0.tar", "/old/cc12m/0.tar")


@pytest.mark.parametrize(
    ("urls", "found"),
    [
        (["/b/cc12m/0.tar", "/b/cc3m/0.tar"], {"n0": "/b/cc3m/0.tar", "n1": "/b/cc12m/0.tar"}),
        (["s3://b/cc3m/0.tar"], {"n0": "s3://b/cc3m/0.tar"}),
        (["/x/0.tar", "/y/0.tar"], {}),
        (["/old/cc3m/1.tar", "/old/cc12m/00.tar"], {}),
        ([], {}),
    ],
)
def test_folders_tell_shards_of_one_name_apart(urls, found):
    assert find_moved(TWO, urls, lambda shard, url: True) == found


def test_others_are_not_looked_at_if_they_are_not_the_same():
    urls = ["/x/0.tar", "/y/0.tar"]
    same = {("n0", "/y/0.tar"), ("n1", "/x/0.tar")}
    found = find_moved(TWO, urls, lambda shard, url: (shard.name, url) in same)
    assert found == {"n0": "/y/0.tar", "n1": "/x/0.tar"}
