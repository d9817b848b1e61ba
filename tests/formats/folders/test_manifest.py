import dataclasses
import json

import pytest

from clipdre.errors import ScoresError
from clipdre.formats.folders.manifest import MANIFEST, read_complete_manifest, read_manifest


def test_a_manifest_is_read_back_as_it_was_written(scored, tmp_path):
    _, manifest = scored
    manifest.write(tmp_path)
    assert read_manifest(tmp_path) == dataclasses.replace(
        manifest, settings=json.loads(json.dumps(manifest.settings))
    )


def test_counts_add_up(scored):
    _, manifest = scored
    shard = dataclasses.replace(manifest.shards[0], rows=5, failures={"a": 2, "b": 1})
    assert shard.samples == 8
    assert manifest.with_shards((shard, shard)).samples == 16
    assert manifest.with_shards((shard, shard)).rows == 10


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is no score folder"),
        ("{", "cannot read"),
        ("[]", "has schema version None"),
        ('{"schema_version": 99}', "has schema version 99, this clipdre reads 1"),
        ('{"schema_version": 1, "shards": []}', "is damaged"),
    ],
)
def test_what_is_no_manifest_is_refused_with_the_cure(tmp_path, content, message):
    if content is not None:
        (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(ScoresError, match=message):
        read_manifest(tmp_path)


def test_an_unfinished_folder_is_to_be_continued(scored, tmp_path):
    _, manifest = scored
    dataclasses.replace(manifest, complete=False).write(tmp_path)
    with pytest.raises(ScoresError, match="is unfinished: run the same 'clipdre score' again"):
        read_complete_manifest(tmp_path)
