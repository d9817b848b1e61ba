import json
from dataclasses import dataclass
from enum import StrEnum

import msgspec
import pytest

from clipdre.core.modality import Modality
from clipdre.formats.folders.records import (
    NearRecord,
    ReferenceRecord,
    ShardRecord,
    builtins,
    upgraded,
)

NEAR = NearRecord(cells=3, margin=4.5, mass=0.99, share=0.1)
REFERENCE = {
    "method": "stratified",
    "pairs": 100,
    "bulk": 32,
    "folds": 16,
    "neighbors": 10,
    "model_digest": "abc",
    "logit_scale": 100.0,
    "logit_bias": -2.5,
    "embedding_dim": 512,
    "digest": "def",
    "near": {"image": {"cells": 3, "margin": 4.5, "mass": 0.99, "share": 0.1}},
    "fingerprint": [0.5, 0.25],
}


def test_records_are_indented_json():
    own = {"near": {Modality.IMAGE: NEAR}, "fingerprint": (0.5, 0.25)}
    record = ReferenceRecord(**{**REFERENCE, **own})
    text = record.encoded().decode()
    assert text.startswith('{\n  "method": "stratified",\n')
    assert text.endswith("}\n")
    assert json.loads(text) == REFERENCE | {
        "version": 1,
        "alike": 1.0,
        "own": "left-out",
        "inner_product": False,
    }
    assert ReferenceRecord.decoded(text.encode()) == record


@pytest.mark.parametrize(
    "change",
    [
        {"pairs": "100"},
        {"pairs": 100.5},
        {"near": {"audio": REFERENCE["near"]["image"]}},
        {"near": {"image": {"cells": 3}}},
        {"near": None},
        {"another": 1},
    ],
)
def test_wrong_fields_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        ReferenceRecord.decoded(json.dumps(REFERENCE | change).encode())


def test_missing_fields_are_refused():
    raw = {name: value for name, value in REFERENCE.items() if name != "digest"}
    with pytest.raises(ValueError, match="digest"):
        ReferenceRecord.decoded(json.dumps(raw).encode())


def test_samples_are_rows_and_failures():
    shard = ShardRecord(name="a", url="a.tar", nbytes=1, modified="", rows=5)
    assert shard.samples == 5
    failed = msgspec.structs.replace(shard, failures={"empty_caption": 2, "broken_tar": 1})
    assert failed.samples == 8


def test_records_of_schema_1_have_the_modality_renamed():
    old = {**REFERENCE, "near": {"img": 1, "text": 2}}
    assert upgraded(old) == {**REFERENCE, "near": {"image": 1, "text": 2}}
    assert upgraded(REFERENCE) == REFERENCE


def test_builtins_are_plain_json_values():
    class Choice(StrEnum):
        A = "a"

    @dataclass(frozen=True)
    class Settings:
        choice: Choice = Choice.A
        names: tuple[str, ...] = ("x", "y")
        limit: int | None = None
        share: float = 0.5

    expected = {"choice": "a", "names": ["x", "y"], "limit": None, "share": 0.5}
    assert json.dumps(builtins(Settings())) == json.dumps(expected)
    assert builtins(NEAR) == {"cells": 3, "margin": 4.5, "mass": 0.99, "share": 0.1}
