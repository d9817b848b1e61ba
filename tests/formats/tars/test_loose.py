import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipdre.errors import InputError
from clipdre.formats.tars.places import expand_shards
from tests.helpers import pair, png, write_tar

RECORDS = {"url": ["u"], "key": ["000000000"], "status": ["success"], "caption": ["red"]}


def write_output(folder, output_format):
    """One shard as img2dataset writes it."""
    (folder / "00000_stats.json").write_text(json.dumps({"count": 1, "successes": 1}))
    images = {"jpg": [png()]} if output_format == "parquet" else {}
    pq.write_table(pa.table({**RECORDS, **images}), folder / "00000.parquet")
    if output_format == "files":
        (folder / "00000").mkdir()
        for suffix, content in {"jpg": png(), "txt": b"red", "json": b"{}"}.items():
            (folder / "00000" / f"000000000.{suffix}").write_bytes(content)
    if output_format == "webdataset":
        write_tar(folder / "00000.tar", pair("000000000"))


@pytest.mark.parametrize(
    ("output_format", "argument"),
    [
        ("parquet", ""),
        ("parquet", "/00000.parquet"),
        ("parquet", "/*.parquet"),
        ("files", ""),
        ("files", "/00000"),
        ("files", "/0000?"),
        ("files", "/00000/000000000.jpg"),
    ],
)
def test_output_without_tars_is_answered_with_the_option(tmp_path, output_format, argument):
    write_output(tmp_path, output_format)
    with pytest.raises(InputError, match=f"--output_format {output_format}: ") as caught:
        expand_shards([f"{tmp_path}{argument}"])
    assert "use --output_format webdataset, or pack images" in caught.value.cure


def test_tars_are_taken_from_their_folder(tmp_path):
    write_output(tmp_path, "webdataset")
    assert expand_shards([str(tmp_path)]) == [f"{tmp_path}/00000.tar"]


def test_other_files_are_none_of_img2datasets(tmp_path):
    (tmp_path / "00000.parquet").write_bytes(b"PAR1")
    (tmp_path / "notes.json").write_text("{}")
    (tmp_path / "photo.jpg").write_bytes(png())
    (tmp_path / "sub").mkdir()
    with pytest.raises(InputError, match=r"no \.tar files in"):
        expand_shards([str(tmp_path)])
