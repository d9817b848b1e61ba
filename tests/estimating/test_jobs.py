import json
import pickle
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipdre.core.scores import ESTIMATED_COLUMNS
from clipdre.engines.base import silent
from clipdre.engines.local import local_engine
from clipdre.estimating import estimate
from clipdre.estimating.jobs import (
    EstimateWork,
    encoded,
    pool_reliability,
    shard_ranges,
)
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.records import ShardRecord
from clipdre.formats.folders.tables import SAMPLE_SCHEMA
from tests.formats.folders.measured import key_hashes_of, rows_stamp


def shards_of(sizes):
    return [
        ShardRecord(name=f"{n:05d}", url="", nbytes=0, modified="", rows=rows)
        for n, rows in enumerate(sizes)
    ]


@pytest.fixture
def copied(scored, tmp_path):
    """The scored pool, to write to."""
    folder, manifest = scored
    shutil.copytree(folder, tmp_path / "scores")
    return ScoreFolder(tmp_path / "scores"), manifest


def work_on(copied, tau=None):
    folder, manifest = copied
    return EstimateWork(folder, manifest, folder.reference, tau)


def files_of(copied):
    folder, manifest = copied
    return [folder.scores(shard.name) for shard in manifest.shards]


def modified(copied):
    return [file.stat().st_mtime_ns for file in files_of(copied)]


def restamp(file, name, value):
    table = pq.read_table(file)
    metadata = table.schema.metadata | {name.encode(): value.encode()}
    pq.write_table(table.replace_schema_metadata(metadata), file)


class TestRanges:
    @pytest.mark.parametrize(
        ("sizes", "expected"),
        [
            ([100, 100, 100], [(0, 1), (1, 2), (2, 3)]),
            ([40, 40, 40, 40, 40], [(0, 3), (3, 5)]),
            ([99, 1, 300, 0, 0], [(0, 2), (2, 3), (3, 5)]),
            ([0, 0], [(0, 2)]),
            ([5], [(0, 1)]),
            ([], []),
        ],
    )
    def test_cover_all_shards_once(self, scored, monkeypatch, sizes, expected):
        monkeypatch.setattr(estimate, "QUERY_ROWS", 100)
        folder, manifest = scored
        found = shard_ranges(shards_of(sizes), ScoreFolder(folder).reference, manifest, "cpu")
        assert [(shards.start, shards.stop) for shards in found] == expected

    def test_of_many_random_sizes_cover_all_shards_once(self, scored, monkeypatch):
        folder, manifest = scored
        monkeypatch.setattr(estimate, "QUERY_ROWS", 500)
        sizes = np.random.default_rng(0).integers(0, 300, 200).tolist()
        found = shard_ranges(shards_of(sizes), ScoreFolder(folder).reference, manifest, "cpu")
        assert [n for shards in found for n in shards] == list(range(200))
        totals = [sum(sizes[n] for n in shards) for shards in found]
        assert min(totals[:-1]) >= 500
        assert max(totals) < 800


class TestWork:
    def test_writes_the_scores_of_a_range(self, copied):
        before = [pq.read_table(file) for file in files_of(copied)]
        shutil.rmtree(copied[0].path / "scores")
        reports = []
        do = work_on(copied).start("cpu", lambda *report: reports.append(report))
        assert do(range(1, 3)) is None
        assert reports == [(200, 200)]
        assert [file.exists() for file in files_of(copied)] == [False, True, True]
        for file, expected in zip(files_of(copied)[1:], before[1:], strict=True):
            found = pq.read_table(file)
            assert found.schema.equals(expected.schema)
            for name in found.column_names:
                if found.schema.field(name).type == "float":
                    np.testing.assert_allclose(found[name], expected[name], atol=1e-4, rtol=1e-4)
                else:
                    assert found[name].equals(expected[name])

    def test_stamps_files_with_reference_tau_and_rows(self, copied):
        folder, manifest = copied
        hashes = key_hashes_of(folder.path, manifest)
        shutil.rmtree(folder.path / "scores")
        work_on(copied, tau=64).start("cpu", silent)(range(3))
        for file, own in zip(files_of(copied), hashes, strict=True):
            stamped = dict(pq.read_schema(file).metadata)
            assert set(json.loads(stamped.pop(b"clipdre.halves"))) == set(ESTIMATED_COLUMNS)
            assert stamped == {
                b"clipdre.reference": manifest.reference.digest.encode(),
                b"clipdre.tau": b"64",
                b"clipdre.rows": rows_stamp(own).encode(),
                b"clipdre.pairs": b"300",
                b"clipdre.place": manifest.shards[files_of(copied).index(file)].place.encode(),
                b"clipdre.samples": json.dumps(SAMPLE_SCHEMA.names).encode(),
            }
            assert "log_ratio_tau" in pq.read_schema(file).names

    def test_keeps_files_with_the_right_stamp(self, copied):
        before = modified(copied)
        do = work_on(copied).start("cpu", silent)
        for shards in (range(1), range(1, 3)):
            do(shards)
        assert modified(copied) == before

    @pytest.mark.parametrize(
        "name", ["clipdre.reference", "clipdre.tau", "clipdre.rows", "clipdre.samples"]
    )
    def test_rewrites_files_with_a_wrong_stamp(self, copied, name):
        files = files_of(copied)
        expected = pq.read_schema(files[1]).metadata
        restamp(files[1], name, "other")
        before = modified(copied)
        do = work_on(copied).start("cpu", silent)
        for n in range(3):
            do(range(n, n + 1))
        after = modified(copied)
        assert [one == two for one, two in zip(before, after, strict=True)] == [True, False, True]
        assert pq.read_schema(files[1]).metadata == expected

    def test_rewrites_damaged_and_missing_files(self, copied):
        files = files_of(copied)
        expected = [pq.read_table(file) for file in files]
        files[0].unlink()
        files[2].write_bytes(files[2].read_bytes()[:1000])
        do = work_on(copied).start("cpu", silent)
        for n in range(3):
            do(range(n, n + 1))
        for file, table in zip(files, expected, strict=True):
            found = pq.read_table(file)
            np.testing.assert_allclose(found["kl_text"], table["kl_text"], rtol=1e-4)
            assert found["key"].equals(table["key"])

    def test_another_tau_rewrites_all_files(self, copied):
        before = modified(copied)
        work_on(copied, tau=64).start("cpu", silent)(range(3))
        assert not set(modified(copied)) & set(before)

    def test_can_be_sent_to_other_processes(self, copied):
        work = work_on(copied, tau=64)
        assert pickle.loads(pickle.dumps(work)) == work


def test_several_devices_write_the_same_files(copied):
    folder, _ = copied
    before = [pq.read_table(file) for file in files_of(copied)]
    shutil.rmtree(folder.path / "scores")
    ranges = [range(n, n + 1) for n in range(3)]
    reports = []
    engine = local_engine(["cpu", "cpu"])
    done = engine.run(work_on(copied), ranges, lambda *report: reports.append(report))
    assert sorted(index for index, _ in done) == [0, 1, 2]
    assert reports == [(100, 100, 0)] * 3
    for file, expected in zip(files_of(copied), before, strict=True):
        found = pq.read_table(file)
        assert found.schema.equals(expected.schema, check_metadata=True)
        for name in ("similarity", "log_ratio", "kl_image", "klr_text", "dw_text", "ess_image"):
            np.testing.assert_allclose(found[name], expected[name], atol=1e-4, rtol=1e-4)
        assert found["key_hash"].equals(expected["key_hash"])


class TestPoolReliability:
    def test_correlates_each_column_between_the_halves_of_the_pool(self):
        rng = np.random.default_rng(0)
        halves = rng.normal(size=(300, 2)) + 3 * rng.normal(size=(300, 1))
        halves[7, 1] = np.nan
        parts = np.split(halves, [120, 120])
        found = pool_reliability(encoded({"a": part, "b": np.ones_like(part)}) for part in parts)
        kept = np.delete(halves, 7, axis=0)
        assert found == {"a": pytest.approx(np.corrcoef(kept.T)[0, 1])}  # b does not vary

    def test_of_scores_from_before_is_unknown(self):
        assert pool_reliability(["{}"]) == {}
