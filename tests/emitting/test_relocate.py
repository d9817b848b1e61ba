import shutil
from pathlib import Path

import numpy as np
import pytest

from clipdre.config import EmitConfig
from clipdre.emitting.emit import write_tar_folder
from clipdre.emitting.relocate import relocated
from clipdre.errors import InputError
from tests.emitting.contents import expected_members, members
from tests.helpers import chosen, pair, rows_of, subset_of, tiny_score, write_tar


def paths_of(folder):
    return sorted(str(path) for path in folder.glob("*.tar"))


def emitted(subset, folder):
    write_tar_folder(subset, folder, EmitConfig())
    return members(folder / "00000000.tar")


@pytest.fixture
def repacked(pool, tmp_path):
    """The samples of the pool in one other tar, in reverse order of shards."""
    source = [m for path in reversed(paths_of(pool)) for m in members(path)]
    (tmp_path / "other").mkdir()
    return write_tar(tmp_path / "other" / "all.tar", [(name, data) for name, _, data in source])


def test_finds_moved_shards_by_name_and_size(pool, tmp_path):
    shutil.copytree(pool, tmp_path / "old")
    scored = tmp_path / "s", tiny_score(tmp_path / "old", tmp_path / "s")
    (tmp_path / "old").rename(tmp_path / "new")
    subset = subset_of(scored, by="log_ratio", top=20)
    with pytest.raises(InputError, match="00000"):
        write_tar_folder(subset, tmp_path / "kept", EmitConfig())
    assert not (tmp_path / "kept").exists()
    moved = relocated(subset.selection, paths_of(tmp_path / "new"))
    assert emitted(moved, tmp_path / "kept") == expected_members(subset, tmp_path / "new")
    there, here = rows_of(moved), rows_of(subset)
    assert there.drop_columns("path").equals(here.drop_columns("path"))
    assert [Path(path).parent for path in there["path"].to_pylist()] == [tmp_path / "new"] * 20
    assert [Path(path).parent for path in here["path"].to_pylist()] == [tmp_path / "old"] * 20


def test_finds_samples_in_other_tars_by_uid_or_key(scored, pool, repacked, tmp_path):
    subset = subset_of(scored, by="log_ratio", top=30)
    moved = relocated(subset.selection, [str(repacked)])
    found = emitted(moved, tmp_path / "kept")
    assert sorted(found) == sorted(expected_members(subset, pool))
    kept = {name for name, _, _ in found}
    assert found == [member for member in members(repacked) if member[0] in kept]
    rows = rows_of(moved)
    assert set(rows["shard"].to_pylist()) == {"all"}
    assert set(rows["path"].to_pylist()) == {str(repacked)}
    images = {name: data for name, _, data in found if name.endswith(".png")}
    data = repacked.read_bytes()
    for key, offset, nbytes in zip(
        *(rows[name].to_pylist() for name in ("key", "image_offset", "image_nbytes")), strict=True
    ):
        assert data[offset : offset + nbytes] == images[f"{key}.png"]


def test_selects_columns_and_shuffles_found_samples(scored, repacked):
    moved = relocated(chosen(scored, by="log_ratio", top=30), [str(repacked)])
    straight = rows_of(moved)["key"].to_pylist()
    (batch,) = moved.batches(["key"])
    assert batch.schema.names == ["file_index", "file_row_number", "key"]
    assert batch["key"].to_pylist() == straight
    once, again, other = (
        [key for batch in moved.batches(["key"], seed) for key in batch["key"].to_pylist()]
        for seed in (1, 1, 2)
    )
    assert once == again
    assert straight != once != other
    assert sorted(once) == sorted(straight) == sorted(other)


def test_finds_all_samples_of_a_shared_uid(tmp_path):
    (tmp_path / "pool").mkdir()
    samples = [m for n in range(4) for m in pair(str(n), f"c {n}", seed=n, uid="a" * 32)]
    tar = write_tar(tmp_path / "pool" / "a.tar", samples)
    scored = tmp_path / "s", tiny_score(tmp_path / "pool", tmp_path / "s")
    moved = relocated(chosen(scored), [str(tar.rename(tmp_path / "pool" / "b.tar"))])
    assert rows_of(moved)["key"].to_pylist() == ["0", "1", "2", "3"]
    assert np.all(np.diff(rows_of(moved)["offset"].to_numpy()) > 0)


def test_finds_a_uid_in_another_spelling(tmp_path):
    for name, uids in (("scored", ["0ab", "12", "Not-Hex"]), ("new", ["AB", "00012", "Not-Hex"])):
        (tmp_path / name).mkdir()
        samples = [m for n, uid in enumerate(uids) for m in pair(f"{name}-{n}", uid=uid)]
        write_tar(tmp_path / name / "a.tar", samples)
    selection = chosen((tmp_path / "s", tiny_score(tmp_path / "scored", tmp_path / "s")))
    assert len(rows_of(relocated(selection, paths_of(tmp_path / "new")))) == 3


def test_refuses_tars_that_lack_a_sample(scored, pool):
    selection = chosen(scored, by="log_ratio", top=30)
    with pytest.raises(InputError) as caught:
        relocated(selection, paths_of(pool)[:1])
    missing = (selection.places[0] > 0).sum()
    expected = f"{missing} of 30 kept samples are in none of the `shards` (for instance "
    assert caught.value.problem.startswith(expected)
    assert caught.value.cure == "pass all tars of the pool"


def test_another_tar_of_the_same_name_is_searched(pool, scored, tmp_path):
    shutil.copytree(pool, tmp_path / "new")
    first = tmp_path / "new" / "00000.tar"
    samples = [(name, data) for name, _, data in members(first)]
    extra = [member for n in range(9) for member in pair(f"extra-{n}")]
    write_tar(first, [*extra, *samples])
    assert first.stat().st_size != (pool / "00000.tar").stat().st_size
    subset = subset_of(scored, where="shard = '00000'")
    found = emitted(relocated(subset.selection, paths_of(tmp_path / "new")), tmp_path / "kept")
    assert found == expected_members(subset, pool)
