import io
import os

import pytest

from clipdre.config import EmitConfig, SubsetFormat
from clipdre.emitting import write
from clipdre.emitting.emit import write_tar_folder
from clipdre.emitting.export import WRITERS
from clipdre.emitting.subset import Subset
from clipdre.emitting.write import Written, write_subset
from clipdre.errors import InputError, OutputError, UsageError
from clipdre.formats.files.storage import HOST
from tests.emitting.contents import contents, members
from tests.helpers import chosen

FILES = [each for each in SubsetFormat if each is not SubsetFormat.TAR]


@pytest.fixture(scope="module")
def selection(scored):
    return chosen(scored, by="kl_text", top=30)


def bytes_of(selection, format):
    """Return what the writer of a format writes."""
    out = io.BytesIO()
    WRITERS[format](Subset(selection), out)
    return out.getvalue()


class TestPlaces:
    def test_tars_go_to_a_folder(self, selection, tmp_path):
        config = EmitConfig(shard_size=20)
        written = write_subset(selection, str(tmp_path / "kept"), config=config)
        summary = write_tar_folder(Subset(selection), tmp_path / "same", config)
        assert written == Written(str(tmp_path / "kept"), 30, summary, 0)
        assert contents(tmp_path / "kept") == contents(tmp_path / "same")
        assert len(summary["shards"]) == 2

    @pytest.mark.parametrize("format", FILES)
    def test_other_formats_go_to_a_file(self, selection, tmp_path, format):
        path = tmp_path / "new" / "file"
        assert write_subset(selection, path, format=format) == Written(str(path), 30)
        assert path.read_bytes() == bytes_of(selection, format)
        assert os.listdir(path.parent) == ["file"]

    @pytest.mark.parametrize("format", SubsetFormat)
    def test_a_dash_is_stdout(self, selection, capsysbinary, format):
        assert write_subset(selection, "-", format=format) == Written("-", 30)
        assert capsysbinary.readouterr().out == bytes_of(selection, format)

    @pytest.mark.parametrize("format", SubsetFormat)
    def test_open_files_stay_open(self, selection, tmp_path, format):
        with open(tmp_path / "file", "wb") as file:
            file.write(b"before")
            assert write_subset(selection, file, format=format).place == "-"
            assert not file.closed
            assert (tmp_path / "file").read_bytes() == b"before" + bytes_of(selection, format)

    def test_urls_are_objects_in_a_store(self, selection, store):
        url = "memory://bucket/kept.txt"
        assert write_subset(selection, url, format=SubsetFormat.KEYS) == Written(url, 30)
        assert store.cat("/bucket/kept.txt") == bytes_of(selection, SubsetFormat.KEYS)
        write_subset(selection, "memory://bucket/kept")
        assert members(store.cat("/bucket/kept/00000000.tar")) == members(
            bytes_of(selection, SubsetFormat.TAR)
        )

    def test_nothing_is_printed(self, selection, tmp_path, capfd):
        write_subset(selection, tmp_path / "kept")
        write_subset(selection, tmp_path / "keys", format=SubsetFormat.KEYS)
        assert capfd.readouterr() == ("", "")


def test_counts_renamed_keys_in_tars_only(colliding, tmp_path):
    selection = chosen(colliding)
    assert write_subset(selection, tmp_path / "kept").renamed == 4
    assert write_subset(selection, io.BytesIO()).renamed == 4
    assert write_subset(selection, io.BytesIO(), format=SubsetFormat.KEYS).renamed == 0


def test_takes_samples_from_other_tars(scored, pool, tmp_path):
    selection = chosen(scored, where="shard = '00002'")
    source = [(name, size, data) for name, size, data in members(pool / "00002.tar")]
    moved = tmp_path / "moved.tar"
    moved.write_bytes((pool / "00002.tar").read_bytes())
    write_subset(selection, tmp_path / "kept", shards=[str(moved)])
    assert members(tmp_path / "kept" / "00000000.tar") == source
    out = io.BytesIO()
    write_subset(selection, out, format=SubsetFormat.KEYS, shards=[str(moved)])
    assert out.getvalue().startswith(b"moved/")


@pytest.mark.parametrize("name", ["kept.txt", "kept.tar"])
def test_leftovers_of_a_killed_run_to_the_same_file_are_removed(selection, tmp_path, name):
    killed = f".unfinished-{HOST}-999999999-0123abcd"
    for other in (name, "mine.txt"):
        (tmp_path / f"{killed}-{other}").write_text("half")
    write_subset(selection, tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == sorted([f"{killed}-mine.txt", name])


class TestRefusals:
    @pytest.mark.parametrize("format", [SubsetFormat.TAR, SubsetFormat.KEYS])
    def test_refuses_an_empty_selection(self, scored, tmp_path, format):
        with pytest.raises(OutputError, match="nothing is kept"):
            write_subset(chosen(scored, where="false"), tmp_path / "kept", format=format)
        assert not list(tmp_path.iterdir())

    def test_refuses_an_existing_file(self, selection, tmp_path):
        path = tmp_path / "keys.txt"
        path.write_text("mine")
        with pytest.raises(OutputError) as caught:
            write_subset(selection, path, format=SubsetFormat.KEYS)
        assert caught.value.problem == f"{path} exists"
        assert caught.value.cure == "choose another `output`, or pass `overwrite`"
        assert path.read_text() == "mine"
        write_subset(selection, path, format=SubsetFormat.KEYS, overwrite=True)
        assert path.read_bytes() == bytes_of(selection, SubsetFormat.KEYS)

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_refuses_a_folder_for_a_file(self, selection, tmp_path, overwrite):
        with pytest.raises(OutputError, match="is a folder: choose a file as `output`"):
            write_subset(selection, tmp_path, format=SubsetFormat.KEYS, overwrite=overwrite)
        assert not list(tmp_path.iterdir())

    def test_refuses_an_existing_object(self, selection, store):
        url = "memory://bucket/kept.txt"
        store.pipe("/bucket/kept.txt", b"mine")
        with pytest.raises(OutputError, match=r"memory://bucket/kept\.txt exists: choose another"):
            write_subset(selection, url, format=SubsetFormat.KEYS)
        assert store.cat("/bucket/kept.txt") == b"mine"
        write_subset(selection, url, format=SubsetFormat.KEYS, overwrite=True)
        assert store.cat("/bucket/kept.txt") == bytes_of(selection, SubsetFormat.KEYS)

    def test_looks_at_the_output_before_it_reads_tars(self, selection, tmp_path):
        (tmp_path / "keys.txt").write_text("mine")
        nowhere = [str(tmp_path / "nowhere.tar")]
        with pytest.raises(OutputError, match="exists"):
            write_subset(selection, tmp_path / "keys.txt", format=SubsetFormat.KEYS, shards=nowhere)
        with pytest.raises(InputError, match="nowhere"):
            write_subset(selection, tmp_path / "new.txt", format=SubsetFormat.KEYS, shards=nowhere)

    def test_a_failure_leaves_no_file(self, selection, tmp_path, monkeypatch):
        def failing(subset, out):
            out.write(b"half")
            raise InputError("gone", "look for it")

        monkeypatch.setitem(write.WRITERS, SubsetFormat.KEYS, failing)
        with pytest.raises(InputError, match="gone"):
            write_subset(selection, tmp_path / "keys.txt", format=SubsetFormat.KEYS)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("setting", ["shard_size", "max_bytes", "shuffle_seed"])
    @pytest.mark.parametrize("format", FILES)
    def test_refuses_settings_that_a_format_does_not_use(
        self, selection, tmp_path, setting, format
    ):
        config = EmitConfig(**{setting: 5})
        with pytest.raises(UsageError) as caught:
            write_subset(selection, tmp_path / "kept", format=format, config=config)
        assert caught.value.problem == f"`{setting}` can only be used with `format` tar"
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("setting", ["shard_size", "max_bytes", "shuffle_seed"])
    @pytest.mark.parametrize("stream", ["-", "a file"])
    def test_refuses_settings_that_a_stream_does_not_use(
        self, selection, capsysbinary, setting, stream
    ):
        out = "-" if stream == "-" else io.BytesIO()
        # A seed of 0 is a seed.
        config = EmitConfig(**{setting: 0})
        with pytest.raises(UsageError) as caught:
            write_subset(selection, out, config=config)
        problem = f"`{setting}` cannot be used with `output` -, a single tar in pool order"
        assert caught.value.problem == problem
        assert capsysbinary.readouterr().out == b""

    def test_accepts_a_number_of_writers_anywhere(self, selection):
        out = io.BytesIO()
        write_subset(selection, out, format=SubsetFormat.KEYS, config=EmitConfig(writers=7))
        assert out.getvalue() == bytes_of(selection, SubsetFormat.KEYS)
