"""Several runs that write one subset, a slice each."""

import dataclasses

import pytest

from clipdre.config import EmitConfig
from clipdre.emitting.emit import write_tar_folder, write_tar_slice
from clipdre.emitting.write import write_subset
from clipdre.errors import OutputError, UsageError
from clipdre.formats.files.storage import exclusive, shared
from clipdre.slices import Slice
from tests.emitting.contents import contents, stored
from tests.helpers import all_files, chosen, subset_of

CONFIG = EmitConfig(shard_size=10)


def slices(subset, output, count, config=CONFIG):
    parts = [Slice(n, count) for n in range(1, count + 1)]
    return [write_tar_slice(subset, output, config, part) for part in parts]


@pytest.mark.parametrize("shuffle_seed", [None, 3])
def test_slices_and_one_whole_run_write_the_same_bytes(scored, tmp_path, shuffle_seed):
    config = dataclasses.replace(CONFIG, shuffle_seed=shuffle_seed)
    subset = subset_of(scored, by="kl_text", top=95)
    whole = write_tar_folder(subset, tmp_path / "whole", config)
    assert slices(subset, tmp_path / "kept", 3, config) == [35, 30, 30]
    assert "summary.json" not in contents(tmp_path / "kept")
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").glob("*.tar")}
    assert len(written) == 10
    assert write_tar_folder(subset, tmp_path / "kept", config) == whole
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert contents(tmp_path / "kept") == contents(tmp_path / "whole")


def test_a_whole_run_writes_what_slices_did_not(scored, tmp_path):
    subset = subset_of(scored, by="kl_text", top=95)
    write_tar_folder(subset, tmp_path / "whole", CONFIG)
    write_tar_slice(subset, tmp_path / "kept", CONFIG, Slice(2, 3))
    (tmp_path / "kept" / "00000004.tar").write_bytes(b"cut")
    write_tar_folder(subset, tmp_path / "kept", CONFIG)
    assert contents(tmp_path / "kept") == contents(tmp_path / "whole")


def test_slices_in_a_store(scored, tmp_path, store):
    subset = subset_of(scored, by="kl_text", top=50)
    slices(subset, "memory://kept", 2)
    write_tar_folder(subset, "memory://kept", CONFIG)
    write_tar_folder(subset, tmp_path / "kept", CONFIG)
    assert stored(store, "/kept") == contents(tmp_path / "kept")


def test_a_slice_of_a_finished_subset_changes_nothing(scored, tmp_path):
    subset = subset_of(scored, by="kl_text", top=50)
    write_tar_folder(subset, tmp_path / "kept", CONFIG)
    before = all_files(tmp_path / "kept")
    assert write_tar_slice(subset, tmp_path / "kept", CONFIG, Slice(1, 2)) == 30
    assert all_files(tmp_path / "kept") == before


def test_a_slice_of_another_subset_is_refused(scored, tmp_path):
    subset = subset_of(scored, by="kl_text", top=50)
    write_tar_slice(subset, tmp_path / "kept", CONFIG, Slice(1, 2))
    before = all_files(tmp_path / "kept")
    for other, config, difference in (
        (subset, EmitConfig(shard_size=20), "shard_size 10 then, shard_size 20 now"),
        (subset_of(scored, by="kl_text", top=49), CONFIG, "other samples"),
    ):
        with pytest.raises(OutputError, match=difference):
            write_tar_slice(other, tmp_path / "kept", config, Slice(2, 2))
    assert all_files(tmp_path / "kept") == before


def test_slices_run_at_the_same_time_but_not_beside_a_whole_run(scored, tmp_path):
    subset = subset_of(scored, by="kl_text", top=20)
    with shared(tmp_path / "kept"):
        write_tar_slice(subset, tmp_path / "kept", CONFIG, Slice(1, 2))
        with pytest.raises(OutputError, match="another run is writing"):
            write_tar_folder(subset, tmp_path / "kept", CONFIG)
    with exclusive(tmp_path / "kept"), pytest.raises(OutputError, match="another run is writing"):
        write_tar_slice(subset, tmp_path / "kept", CONFIG, Slice(1, 2))


def test_only_folders_of_tars_have_slices(scored, tmp_path):
    config = EmitConfig(slice=Slice(1, 2))
    selection = chosen(scored, by="kl_text", top=20)
    for name, problem in (
        ("a.tar", "`slice` cannot be used with `output`"),
        ("a.txt", "`slice` can only be used with `format` tar"),
    ):
        with pytest.raises(UsageError, match=problem):
            write_subset(selection, tmp_path / name, config=config)
    with pytest.raises(UsageError, match="`slice` cannot be used with `overwrite`"):
        write_subset(selection, tmp_path / "kept", config=config, overwrite=True)
    assert write_subset(selection, tmp_path / "kept", config=config).summary is None
