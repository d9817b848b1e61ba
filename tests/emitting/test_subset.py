from collections import Counter

import numpy as np
import pytest
from msgspec import structs

from clipdre.emitting.subset import Subset
from clipdre.errors import InputError, OutputError
from clipdre.formats.tars.spans import Source
from clipdre.pipelines.score import score
from clipdre.truth.pool import write_pool
from tests.helpers import TINY, chosen, rows_of, subset_of, tiny_score, write_score_folder


def keys_of(subset, **options):
    return [key for batch in subset.batches(["key"], **options) for key in batch["key"].to_pylist()]


def test_digest_depends_on_the_rows_and_not_on_the_rule(scored):
    digest = subset_of(scored, by="log_ratio", top=10).digest
    assert subset_of(scored, where="true", by="log_ratio", top=10).digest == digest
    assert subset_of(scored, by="-log_ratio", bottom=10).digest == digest
    assert subset_of(scored, by="log_ratio", top=11).digest != digest
    assert subset_of(scored, by="log_ratio", bottom=10).digest != digest


def test_digest_depends_on_the_model_and_the_reference(tmp_path):
    columns = {"key": ["a"], "key_hash": np.array([1], np.uint64)}
    scored = tmp_path, write_score_folder(tmp_path, [columns])
    digest = subset_of(scored).digest
    folder, manifest = scored
    reference = structs.replace(manifest.reference, digest="another")
    changed = folder, structs.replace(manifest, reference=reference)
    assert subset_of(changed).digest != digest


def test_summary_records_rule_counts_and_model(scored):
    summary = subset_of(scored, where="width > 0", by="log_ratio", top=0.1).summary()
    assert summary["rule"]["steps"][0]["top"] == {"value": 0.1, "of_budget": False}
    assert (summary["pool"], summary["kept"]) == (300, 30)
    assert (summary["steps"][0]["after_where"], summary["steps"][0]["asked"]) == (300, 30)
    assert summary["scores"] == str(scored[0].resolve())
    assert summary["model"]["name"] == "clipdre-tiny"


def test_batches_come_in_pool_order_or_shuffled(scored):
    subset = subset_of(scored, by="kl_text", top=50)
    straight = keys_of(subset)
    # The keys of the pool are numbered in its order.
    assert straight == sorted(straight)
    shuffled = keys_of(subset, shuffle_seed=1)
    assert shuffled == keys_of(subset, shuffle_seed=1)
    assert sorted(shuffled) == straight
    assert straight != shuffled != keys_of(subset, shuffle_seed=2)


def test_collisions_tell_shards_apart(tmp_path):
    keys = [["a", "b", "b", "c"], ["a", "d", "c", "e"]]
    tables = [
        {"key": part, "key_hash": np.arange(4 * n, 4 * n + 4, dtype=np.uint64)}
        for n, part in enumerate(keys)
    ]
    subset = subset_of((tmp_path, write_score_folder(tmp_path, tables)))
    assert subset.collisions == {"a": 1, "b": 2, "c": 1}
    counts = Counter(key for part in keys for key in part)
    assert subset.renamed == sum(n for n in counts.values() if n > 1) == 6
    alone = subset_of((subset.selection.query.folder.path, subset.manifest), where="key > 'c'")
    assert (alone.collisions, alone.renamed) == ({}, 0)


def test_moved_shards_replace_the_scored_ones(scored, pool):
    moved = Source("elsewhere/00001.tar", 5, None)
    subset = Subset(chosen(scored), {"00001": moved})
    assert subset.source(1) == moved
    path = pool / "00000.tar"
    source, found = subset.source(0), path.stat()
    assert (source.url, source.nbytes) == (str(path), found.st_size)
    assert source.modified == str(found.st_mtime_ns)
    assert source.public


def test_scores_from_embeddings_have_no_tars(tmp_path):
    columns = {"key": ["a"], "key_hash": np.array([1], np.uint64)}
    manifest = write_score_folder(tmp_path, [columns])
    manifest.settings["read"]["embeddings"] = "folder"
    subset = subset_of((tmp_path, manifest))
    for look in (subset.check, lambda: subset.source(0)):
        with pytest.raises(OutputError, match="from embeddings, so there are no tars") as caught:
            look()
        assert "`shards`" in caught.value.cure


class TestCheck:
    @pytest.fixture
    def two_shards(self, tmp_path):
        write_pool(tmp_path / "p", 20, seed=1, noise={}, shard_size=10)
        return tmp_path / "s", tiny_score(tmp_path / "p", tmp_path / "s")

    def test_finds_a_missing_tar(self, two_shards, tmp_path):
        subset_of(two_shards).check()
        (tmp_path / "p" / "00001.tar").unlink()
        with pytest.raises(InputError, match=r"00001\.tar"):
            subset_of(two_shards).check()

    def test_looks_at_tars_of_kept_samples_only(self, two_shards, tmp_path):
        (tmp_path / "p" / "00001.tar").unlink()
        subset_of(two_shards, where="shard = '00000'").check()

    def test_looks_at_the_first_remote_tar_only(self, tmp_path, store):
        write_pool(tmp_path / "p", 20, seed=1, noise={}, shard_size=10)
        urls = [f"memory://p/{n:05d}.tar" for n in range(2)]
        for url in urls:
            store.pipe(url, (tmp_path / "p" / url.rpartition("/")[2]).read_bytes())
        subset = subset_of((tmp_path / "s", score(urls, tmp_path / "s", TINY)))
        store.rm("/p/00001.tar")
        subset.check()
        store.rm("/p/00000.tar")
        with pytest.raises(InputError, match=r"00000\.tar"):
            subset.check()


def test_rows_hold_all_columns(scored):
    table = rows_of(subset_of(scored, where="similarity > 0.5"))
    assert table.column_names[:2] == ["file_index", "file_row_number"]
    assert {"key", "uid", "shard", "offset", "nbytes", "log_ratio"} <= set(table.column_names)
