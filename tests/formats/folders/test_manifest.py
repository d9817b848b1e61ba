import json

import msgspec
import pytest
from msgspec import structs

from clipdre.errors import ScoresError
from clipdre.formats.folders.manifest import MANIFEST, read_complete_manifest, read_manifest


def test_a_manifest_is_read_back_as_it_was_written(scored, tmp_path):
    _, manifest = scored
    manifest.write(tmp_path)
    assert read_manifest(tmp_path) == manifest


def test_counts_add_up(scored):
    _, manifest = scored
    shard = structs.replace(manifest.shards[0], rows=5, failures={"a": 2, "b": 1})
    both = structs.replace(manifest, shards=(shard, shard))
    assert shard.samples == 8
    assert both.samples == 16
    assert both.rows == 10


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a score folder"),
        ("{", "cannot read"),
        ("[]", "has schema version None"),
        ('{"schema_version": 99}', "has schema version 99, this clipdre reads 4"),
        ('{"schema_version": 2, "shards": []}', "is damaged"),
        ('{"schema_version": 1, "shards": []}', "is damaged"),
        ("[" * 100_000, "cannot read"),
    ],
)
def test_a_foreign_or_damaged_manifest_is_refused_with_a_cure(tmp_path, content, message):
    if content is not None:
        (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(ScoresError, match=message) as caught:
        read_manifest(tmp_path)
    assert caught.value.cure


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("complete",), "no"),
        (("shards", 0, "rows"), "100"),
        (("shards", 0, "failures"), {"broken_tar": 1.5}),
        (("model", "logit_scale"), None),
        (("reference", "pairs"), "all"),
        (("settings",), []),
        (("extra",), 1),
    ],
)
def test_a_field_of_the_wrong_type_is_damage_not_a_guess(scored, tmp_path, path, value):
    raw = msgspec.to_builtins(scored[1])
    place = raw
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    (tmp_path / MANIFEST).write_text(json.dumps(raw))
    with pytest.raises(ScoresError, match="is damaged"):
        read_manifest(tmp_path)


def test_folders_of_schema_1_can_be_read(scored, tmp_path):
    raw = msgspec.to_builtins(scored[1])
    near = {"cells": 3, "margin": 2.0, "mass": 0.99, "share": 0.1}
    raw["schema_version"] = 1
    raw["reference"]["near"] = {"img": near, "text": near}
    (tmp_path / MANIFEST).write_text(json.dumps(raw))
    found = read_complete_manifest(tmp_path)
    assert found.shards == scored[1].shards
    assert {str(m): record.cells for m, record in found.reference.near.items()} == {
        "image": 3,
        "text": 3,
    }


def test_an_unfinished_folder_is_refused_and_can_be_resumed(scored, tmp_path):
    structs.replace(scored[1], complete=False).write(tmp_path)
    with pytest.raises(ScoresError, match="is unfinished: run the same 'clipdre score' again"):
        read_complete_manifest(tmp_path)
    structs.replace(scored[1], reference=None).write(tmp_path)
    with pytest.raises(ScoresError, match="no reference"):
        read_complete_manifest(tmp_path)
