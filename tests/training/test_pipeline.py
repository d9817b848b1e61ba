"""A subset as webdataset has it, read where it lies."""

import math
import os
import pickle
import shutil
import subprocess
import sys
from functools import cache
from itertools import chain

import msgspec
import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import webdataset as wds

from clipdre import training
from clipdre.api.scores import open_scores
from clipdre.api.subsets import select
from clipdre.config import EmitConfig
from clipdre.emitting.write import write_subset
from clipdre.errors import InputError, SelectionError, UsageError
from clipdre.formats.folders.manifest import read_manifest
from clipdre.formats.tars import spans
from clipdre.training import spans as training_spans
from clipdre.truth.pool import write_pool
from tests.helpers import chosen, pair, read_scores, tiny_score, write_score_folder, write_tar

pytestmark = pytest.mark.filterwarnings(
    "ignore:This DataLoader:UserWarning",
    "ignore::DeprecationWarning",
    # webdataset leaves its files to the garbage collector.
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
HALF = {"by": "kl_text", "top": 0.5}


@cache
def half_of(folder):
    return select(open_scores(folder), **HALF)


def half(scored, **options):
    """Half of the pairs, from a buffer of 20; selected once."""
    return training.dataset(half_of(scored[0]), **{"shuffle": 20, **options})


def keys(data):
    return [sample["__key__"] for sample in data]


def batches(data, workers, size=8, **options):
    """Keys of the batches of a loader."""
    loader = wds.WebLoader(
        data.to_tuple("__key__").batched(size), batch_size=None, num_workers=workers, **options
    )
    return [list(found) for (found,) in loader]


class TestSamples:
    def test_are_those_of_webdataset_on_the_emitted_tars(self, scored, tmp_path):
        selection = chosen(scored, by="kl_text", top=0.5)
        write_subset(selection, tmp_path / "kept")
        tar = str(tmp_path / "kept" / "00000000.tar")
        expected = list(wds.WebDataset(tar, shardshuffle=False))
        found = list(training.dataset(selection, shuffle=0))
        assert len(found) == 150
        source = {"__url__", "__local_path__"}
        for sample, other in zip(found, expected, strict=True):
            assert {n: v for n, v in sample.items() if n not in source} == {
                n: v for n, v in other.items() if n not in source
            }

    def test_have_the_asked_columns_and_the_path_of_their_tar(self, scored, pool):
        rows = {row["key"]: row for row in read_scores(*scored).to_pylist()}
        for sample in half(scored, columns=["log_ratio", "caption", "log_ratio"]):
            row = rows[sample["__key__"]]
            assert sample["log_ratio"] == row["log_ratio"]
            assert sample["txt"].decode() == sample["caption"] == row["caption"]
            assert sample["__url__"] == str(pool / f"{row['shard']}.tar")

    def test_no_member_of_a_tar_stands_for_a_column(self, tmp_path):
        (tmp_path / "pool").mkdir()
        odd = [m for n in range(3) for m in [*pair(f"{n}", seed=n), (f"{n}.similarity", b"9")]]
        write_tar(tmp_path / "pool" / "a.tar", odd)
        tiny_score(tmp_path / "pool", tmp_path / "s")
        for sample in training.dataset(tmp_path / "s", columns=["similarity"]):
            assert isinstance(sample["similarity"], float)

    def test_several_captions_of_an_image_are_several_samples(self, scored):
        data = training.dataset(scored[0], columns=["key"], where="log_ratio > 0 OR true")
        assert sorted(keys(data)) == sorted(read_scores(*scored)["key"].to_pylist())

    def test_pipelines_are_webdatasets(self, scored):
        data = (
            half(scored, columns=["log_ratio"]).decode("rgb8").to_tuple("png", "txt", "log_ratio")
        )
        images, texts, weights = next(iter(data.batched(4)))
        assert (images.shape, len(texts), weights.shape) == ((4, 64, 64, 3), 4, (4,))


class TestReading:
    @pytest.fixture
    def read(self, monkeypatch):
        """Bytes of each read of a tar."""
        found = []
        plain = os.pread

        def counted(fd, nbytes, offset):
            found.append(nbytes)
            return plain(fd, nbytes, offset)

        monkeypatch.setattr(spans.os, "pread", counted)
        return found

    def test_reads_the_kept_bytes_once(self, scored, monkeypatch, read):
        data = half(scored)
        monkeypatch.setattr(spans, "content_sample", lambda url: "")
        read.clear()
        assert len(keys(data)) == 150
        selection = chosen(scored, by="kl_text", top=0.5)
        assert sum(read) == sum(selection.table(["nbytes"])["nbytes"].to_pylist())

    def test_a_continued_pass_does_not_read_what_was_handed_out(self, scored, read):
        data = half(scored)
        assert len(keys(data)) == 150
        half(scored).load_state_dict(data.state_dict())
        other = half(scored)
        other.load_state_dict(data.state_dict())
        read.clear()
        assert keys(other) == read == []

    def test_gaps_of_remote_tars_add_at_most_a_tenth(self, scored, pool, store, monkeypatch):
        for path in pool.glob("*.tar"):
            store.pipe(f"/far/{path.name}", path.read_bytes())
        asked = []
        plain = spans.read_ranges

        def counted(url, runs, public=False):
            asked.extend(nbytes for _, nbytes in runs)
            return plain(url, runs, public)

        monkeypatch.setattr(spans, "read_ranges", counted)
        rule = {"by": "key_hash", "top": 0.25}
        far = [f"memory://far/{n:05d}.tar" for n in range(3)]
        data = training.dataset(scored[0], shards=far, **rule)
        asked.clear()
        found = keys(data)
        assert found == keys(training.dataset(scored[0], **rule))
        kept = select(open_scores(scored[0]), **rule).table(["nbytes"])["nbytes"].to_pylist()
        assert sum(kept) < sum(asked) < 1.1 * sum(kept) + 3 * 2
        assert len(asked) < len(kept) + 3  # fewer than one for each sample, and one for the magic

    def test_a_pool_that_moved(self, scored, pool, tmp_path):
        shutil.copytree(pool, tmp_path / "moved")
        data = half(scored, shards=tmp_path / "moved")
        assert keys(data) == keys(half(scored))
        assert next(iter(data))["__url__"].startswith(str(tmp_path / "moved"))
        data.load_state_dict(half(scored).state_dict())  # the same subset, elsewhere

    def test_tars_that_were_never_scored(self, scored, tmp_path):
        write_subset(half_of(scored[0]), tmp_path / "copy", config=EmitConfig(shard_size=40))
        data = half(scored, shards=tmp_path / "copy", columns=["log_ratio"])
        mine = {
            s["__key__"]: (s["log_ratio"], s["png"]) for s in half(scored, columns=["log_ratio"])
        }
        assert {s["__key__"]: (s["log_ratio"], s["png"]) for s in data} == mine
        assert {len(rows) for _, rows in data._spans.index.shards} == {30, 40}

    def test_workers_need_no_database(self, scored, tmp_path):
        (tmp_path / "data").write_bytes(pickle.dumps(half(scored)))
        code = (
            "import pickle, sys\n"
            "print(len(list(pickle.load(open(sys.argv[1], 'rb')))))\n"
            "assert not sys.modules.keys() & {'duckdb', 'open_clip'}"
        )
        command = [sys.executable, "-c", code, str(tmp_path / "data")]
        assert subprocess.run(command, capture_output=True, check=True).stdout == b"150\n"


class TestOrder:
    def test_depends_on_seed_and_epoch_only(self, scored):
        first = keys(half(scored))
        assert first == keys(half(scored))
        assert len({tuple(first), *(tuple(keys(half(scored, seed=s))) for s in (1, -1))}) == 3
        later = keys(half(scored, epoch=3))
        assert sorted(later) == sorted(first) != later != first
        data = half(scored)
        data.set_epoch(3)
        assert keys(data) == later

    def test_a_buffer_of_one_shuffles_shards_and_none_shuffles_nothing(self, scored):
        rows = chosen(scored, by="kl_text", top=0.5).table(["key"])["key"].to_pylist()
        assert keys(half(scored, shuffle=0)) == rows
        orders = [keys(half(scored, shuffle=1, seed=seed)) for seed in range(5)]
        assert all(sorted(order) == rows for order in orders)
        assert any(order != rows for order in orders)
        inside = [[k for k in order if k < "000000100"] for order in orders]
        assert all(part == sorted(part) for part in inside)

    @pytest.mark.parametrize("world", [2, 3])
    def test_ranks_share_the_samples(self, scored, monkeypatch, world):
        parts = []
        for rank in range(world):
            monkeypatch.setenv("RANK", str(rank))
            monkeypatch.setenv("WORLD_SIZE", str(world))
            parts.append(keys(half(scored)))
        monkeypatch.delenv("RANK")
        assert sorted(chain(*parts)) == sorted(keys(half(scored)))
        assert {len(part) for part in parts} == {150 // world}

    def test_workers_share_the_samples_of_their_rank(self, scored, monkeypatch):
        # Only this process knows the rank, as with a process group without these variables.
        plain = wds.utils.pytorch_worker_info
        monkeypatch.setattr(wds.utils, "pytorch_worker_info", lambda: (1, 2, *plain()[2:]))
        expected = keys(half(scored))
        assert len(expected) == 75
        assert sorted(chain(*batches(half(scored), 2))) == sorted(expected)
        sent = pickle.dumps(half(scored))
        monkeypatch.setattr(wds.utils, "pytorch_worker_info", plain)
        assert len(keys(pickle.loads(sent))) == 150  # a process of another run
        monkeypatch.setattr(training_spans, "get_worker_info", lambda: "a worker")
        assert keys(pickle.loads(sent)) == expected

    def test_ranks_with_unequal_shares_make_as_many_batches(self, scored, monkeypatch):
        counts = []
        for rank in range(2):
            monkeypatch.setenv("RANK", str(rank))
            monkeypatch.setenv("WORLD_SIZE", "2")
            data = training.dataset(scored[0], by="kl_text", top=51)  # shares of 25 and 26
            pipeline = data.batched(13, partial=False)
            assert data.even_batches(13) == 1
            counts.append((len(list(pipeline)), len(list(pipeline.with_epoch(1)))))
        assert counts == [(1, 1), (2, 1)]
        with pytest.raises(UsageError, match="51 samples are no batch of 26 for each of 2 workers"):
            data.even_batches(26)

    def test_workers_that_run_on_see_the_next_epoch(self, scored):
        data = half(scored)
        loader = wds.WebLoader(
            data.to_tuple("__key__"), batch_size=None, num_workers=2, persistent_workers=True
        )
        first, again = list(loader), list(loader)
        data.set_epoch(1)
        second = list(loader)
        assert first == again != second
        assert sorted(first) == sorted(second)


class TestContinuing:
    @pytest.mark.parametrize("position", [0, 1, 19, 20, 77, 149, 150])
    def test_is_exact(self, scored, position):
        data = half(scored, epoch=2)
        running = iter(data)
        whole = [next(running)["__key__"] for _ in range(position)]
        other = half(scored)
        other.load_state_dict(pickle.loads(pickle.dumps(data.state_dict())))
        rest = keys(other)
        assert whole + rest == keys(half(scored, epoch=2))
        assert keys(other) == rest  # until the epoch changes
        other.set_epoch(0)
        assert keys(other) == keys(half(scored))

    def test_twice(self, scored):
        whole = keys(half(scored))
        state = None
        for begin, end in ((0, 40), (40, 90), (90, 150)):
            data = half(scored)
            if state:
                data.load_state_dict(state)
            running = iter(data)
            assert [next(running)["__key__"] for _ in range(end - begin)] == whole[begin:end]
            state = data.state_dict()

    @pytest.mark.parametrize(("workers", "seen"), [(0, 5), (2, 7), (3, 19)])
    def test_behind_a_loader(self, scored, workers, seen):
        whole = batches(half(scored), workers)
        data = half(scored)
        state = data.state_after(seen, batch_size=8, workers=workers)
        data.load_state_dict(state)
        assert batches(data, workers) == whole[seen:]
        again = half(scored)
        again.load_state_dict(data.state_after(1, batch_size=8, workers=workers))
        assert batches(again, workers) == whole[seen + 1 :]

    def test_every_step_of_a_pipeline_has_the_state(self, scored):
        data = half(scored).to_tuple("__key__").batched(8)
        running = iter(data)
        next(running)
        assert data.state_dict()["positions"] == (8,)
        assert [len(batch) for batch in half(scored).listed(64, partial=False)] == [64, 64]


class TestRefusals:
    def test_names_a_moved_tar_before_the_first_batch(self, tmp_path):
        write_pool(tmp_path / "pool", 40, seed=1, noise={}, shard_size=20)
        tiny_score(tmp_path / "pool", tmp_path / "s")
        (tmp_path / "pool" / "00001.tar").rename(tmp_path / "other.tar")
        with pytest.raises(InputError, match=r"00001\.tar.*`shards`"):
            training.dataset(tmp_path / "s")

    def test_names_a_changed_tar_before_the_first_batch_and_when_it_is_opened(self, tmp_path):
        write_pool(tmp_path / "pool", 40, seed=1, noise={}, shard_size=20)
        tiny_score(tmp_path / "pool", tmp_path / "s")
        data = training.dataset(tmp_path / "s", shuffle=0)
        tar = tmp_path / "pool" / "00001.tar"
        content = tar.read_bytes()
        tar.write_bytes(content + b"\0" * 512)
        with pytest.raises(InputError, match=r"00001\.tar has changed since it was scored"):
            training.dataset(tmp_path / "s")
        found = []
        with pytest.raises(InputError, match=r"00001\.tar has changed since it was scored"):
            found.extend(data)

    def test_a_tar_with_other_samples_of_the_same_size_and_time(self, tmp_path):
        (tmp_path / "pool").mkdir()
        tar = write_tar(tmp_path / "pool" / "a.tar", [*pair("a"), *pair("b")])
        tiny_score(tmp_path / "pool", tmp_path / "s")
        times = tar.stat()
        write_tar(tar, [*pair("a"), *pair("c")])
        os.utime(tar, ns=(times.st_atime_ns, times.st_mtime_ns))
        with pytest.raises(InputError, match="where 'b' was, there is 'c'"):
            list(training.dataset(tmp_path / "s"))

    @pytest.mark.parametrize("workers", [0, 1])
    def test_fewer_samples_than_workers(self, scored, monkeypatch, workers):
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("WORLD_SIZE", "2")
        data = training.dataset(scored[0], by="kl_text", top=1)
        message = "1 sample cannot be shared by 2 workers: use fewer workers or ranks"
        with pytest.raises(UsageError, match=message):
            batches(data, workers)

    @pytest.mark.parametrize("lacking", [None, float("nan")])
    def test_a_column_without_some_values(self, tmp_path, lacking):
        tar = write_tar(tmp_path / "00000.tar", [*pair("a"), *pair("b")])
        spans = {
            "offset": [0, 2048],
            "nbytes": [2048] * 2,
            "key_hash": pa.array([1, 2], pa.uint64()),
        }
        columns = {"key": ["a", "b"], "uid": [None] * 2, "shard": ["00000"] * 2, **spans}
        write_score_folder(tmp_path / "s", [columns | {"weight": [1.0, lacking]}])
        options = {"columns": ["weight"], "shards": tar}
        manifest = read_manifest(tmp_path / "s")
        shard = msgspec.structs.replace(manifest.shards[0], nbytes=tar.stat().st_size)
        msgspec.structs.replace(manifest, shards=(shard,)).write(tmp_path / "s")
        with pytest.raises(
            SelectionError, match="column weight has no value in 1 kept row"
        ) as found:
            training.dataset(tmp_path / "s", **options)
        assert found.value.cure == (
            "leave them out with `where` 'isfinite(weight)', or drop it from `columns`"
        )
        (sample,) = training.dataset(tmp_path / "s", where="isfinite(weight)", **options)
        assert sample["weight"] == 1.0

    def test_an_unknown_column(self, scored):
        with pytest.raises(SelectionError, match="log_ratoi"):
            half(scored, columns=["log_ratoi"])

    def test_no_rows(self, scored):
        with pytest.raises(SelectionError, match="nothing is kept"):
            training.dataset(scored[0], where="false")

    def test_scores_that_do_not_say_where_samples_are(self, scored, tmp_path):
        shutil.copytree(scored[0], tmp_path / "s")
        path = tmp_path / "s" / "scores" / "00001.parquet"
        table = pq.read_table(path)
        at = table.schema.get_field_index("offset")
        offsets = pa.array([None, *table["offset"].to_pylist()[1:]], pa.int64())
        pq.write_table(table.set_column(at, "offset", offsets), path)
        with pytest.raises(InputError, match=r"do not say where the samples of .*00001\.tar are"):
            training.dataset(tmp_path / "s")

    def test_a_rule_beside_a_selection(self, scored):
        with pytest.raises(UsageError, match="`top` cannot be used with a selection"):
            training.dataset(chosen(scored, where="true"), top=3)
        with pytest.raises(UsageError, match="`shuffle` is -1"):
            half(scored, shuffle=-1)

    @pytest.mark.parametrize(
        ("other", "message"),
        [
            ({"top": 0.4}, "another subset"),
            ({"seed": 1}, r"another `seed` \(0 then, 1 now\)"),
            ({"shuffle": 21}, r"another `shuffle` \(20 then, 21 now\)"),
        ],
    )
    def test_a_state_of_another_pass(self, scored, other, message):
        state = half(scored).state_dict()
        options = {**HALF, "shuffle": 20, **other}
        with pytest.raises(UsageError, match=message):
            training.dataset(scored[0], **options).load_state_dict(state)

    def test_a_state_of_other_ranks_or_workers(self, scored, monkeypatch):
        data = half(scored)
        data.load_state_dict(data.state_after(3, batch_size=8, workers=3))
        monkeypatch.setenv("WORKER", "1")
        monkeypatch.setenv("NUM_WORKERS", "2")
        with pytest.raises(UsageError, match=r"another number of workers \(3 then, 2 now\)"):
            keys(data)
        state = data.state_dict()
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(UsageError, match=r"another number of ranks \(1 then, 2 now\)"):
            half(scored).load_state_dict(state)

    @pytest.mark.parametrize("change", [{"positions": [-1]}, {"first": 7}, {"x": 1}])
    def test_what_is_no_state(self, scored, change):
        with pytest.raises(UsageError, match="this is not a state of a dataset"):
            half(scored).load_state_dict(half(scored).state_dict() | change)
        with pytest.raises(UsageError, match="this is not a state of a dataset"):
            half(scored).load_state_dict({})


def test_trains_a_model(scored):
    """A small model learns from weighted pairs: its loss falls below that of chance, log 32."""
    torch.manual_seed(0)
    vision = {"image_size": 64, "layers": 1, "width": 64, "head_width": 16, "patch_size": 16}
    text = {"context_length": 16, "layers": 1, "width": 64, "heads": 2}
    model = open_clip.CLIP(32, vision, text)
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    data = (
        training.dataset(scored[0], columns=["log_ratio"], by="log_ratio", top=128)
        .decode("torchrgb8")
        .map_dict(png=lambda image: image.float() / 128 - 1, txt=lambda text: tokenizer(text)[0])
        .to_tuple("png", "txt", "log_ratio")
        .batched(32, partial=False)
    )
    loss_of = training.ClipLoss(clip=8.0, normalize=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for epoch in range(8):
        data.set_epoch(epoch)
        for images, texts, weights in data:
            loss = loss_of(*model(images, texts)[:3], weights=torch.as_tensor(weights))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert len(losses) == 32
    assert np.mean(losses[:4]) > math.log(32) > np.mean(losses[-4:]) + 0.2
