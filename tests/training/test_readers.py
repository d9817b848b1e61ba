"""Other libraries read emitted tars as docs/training.md shows."""

import re
from pathlib import Path

import pytest

from clipdre.config import EmitConfig
from clipdre.emitting.emit import write_tar_folder
from tests.helpers import rows_of, subset_of

KEPT = 64
DOCUMENT = Path(__file__).parents[2] / "docs" / "training.md"
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.fixture
def captions(scored, tmp_path, monkeypatch):
    """The captions by key of the tars in `kept`, below the working directory."""
    subset = subset_of(scored, by="log_ratio", top=KEPT)
    write_tar_folder(subset, tmp_path / "kept", EmitConfig(shard_size=25))
    monkeypatch.chdir(tmp_path)
    return {row["key"]: row["caption"] for row in rows_of(subset).to_pylist()}


def shown(library):
    """Run the document's only block that imports `library`; return its `data`."""
    blocks = BLOCK.findall(DOCUMENT.read_text(encoding="utf-8"))
    (block,) = (block for block in blocks if f"import {library}\n" in block)
    names = {}
    exec(block, names)
    return names["data"]


def test_hugging_face_datasets(captions, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", "cache")
    samples = list(shown("load_dataset"))
    assert {sample["__key__"]: sample["txt"] for sample in samples} == captions
    assert {sample["png"].size for sample in samples} == {(64, 64)}


@pytest.mark.filterwarnings("ignore:String specifications:UserWarning")  # of wids' own defaults
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its open files
def test_wids(captions):
    data = shown("wids")
    assert len(data) == KEPT
    samples = [data[n] for n in range(KEPT)]
    assert {sample["__key__"]: sample[".txt"] for sample in samples} == captions
