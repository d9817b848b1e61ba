import dataclasses
import io
import threading
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image

from clipdre.config import Decode, EncodeConfig, ReadConfig
from clipdre.core.modality import Modality
from clipdre.encoding import batch, encode
from clipdre.encoding import decode as decoding
from clipdre.encoding.encode import Decoded, ShardEncoder, commit_shard, decode, failed_shard
from clipdre.engines.base import silent
from clipdre.errors import ModelError
from clipdre.formats.files.content import content_sample
from clipdre.formats.folders.embeddings import EmbeddingFiles
from clipdre.formats.folders.records import ShardRecord
from clipdre.formats.folders.tables import SAMPLE_SCHEMA, key_hash
from clipdre.formats.tars.images import decoded_image
from clipdre.formats.tars.samples import Failure, Reason, Sample, Stage
from tests.encoding.shards import encoded, encoded_together, shard_of
from tests.helpers import pair, png, read_failures, read_scores, tiny_score, write_tar

SIZE = 21


@pytest.fixture
def shard(tmp_path):
    members = [m for n in range(SIZE) for m in pair(f"k{n:02d}", f"red {n}", seed=n)]
    return shard_of(tmp_path / "a.tar", members)


def jpeg(width, height):
    """A smooth JPEG, as large as a photograph."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    buffer = io.BytesIO()
    pixels = np.stack([x, y, (x + y) / 2], axis=2).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


class TestShard:
    def test_rows_are_the_samples_in_order(self, shard, encoder, tmp_path):
        found = encoded(shard, encoder)
        assert found.seen == SIZE
        assert found.failures == []
        assert found.samples.schema.equals(SAMPLE_SCHEMA)
        data = (tmp_path / "a.tar").read_bytes()
        for n, row in enumerate(found.samples.to_pylist()):
            assert row["key"] == f"k{n:02d}"
            assert (row["caption"], row["shard"], row["uid"]) == (f"red {n}", "a", None)
            assert (row["width"], row["height"]) == (8, 6)
            assert row["key_hash"] == key_hash("a", f"k{n:02d}")
            assert png(n) in data[row["offset"] : row["offset"] + row["nbytes"]]

    def test_vectors_are_those_of_the_encoder(self, shard, encoder):
        found = encoded(shard, encoder)
        images = [encoder.preprocess(Image.open(io.BytesIO(png(n)))) for n in range(SIZE)]
        texts = [encoder.tokenize(f"red {n}") for n in range(SIZE)]
        assert found.images.dtype == found.texts.dtype == np.float16
        np.testing.assert_allclose(found.images, encoder.encode_images(images), atol=2e-3)
        np.testing.assert_allclose(found.texts, encoder.encode_texts(texts), atol=2e-3)

    @pytest.mark.parametrize("captions", [1, 4, 4096])
    @pytest.mark.parametrize("batch_size", [1, 7, 100])
    def test_batches_change_nothing(self, shard, encoder, monkeypatch, captions, batch_size):
        whole = encoded(shard, encoder)
        monkeypatch.setattr(batch, "CAPTIONS", captions)
        found = encoded(shard, encoder, batch_size)
        assert found.samples.equals(whole.samples)
        np.testing.assert_allclose(found.images, whole.images, atol=1e-3)
        np.testing.assert_allclose(found.texts, whole.texts, atol=1e-3)

    def test_bad_samples_are_failures(self, tmp_path, encoder):
        bad = [
            ("b0.png", b"<html>"),
            ("b0.txt", b"x"),
            ("b1.png", png(1)),
            ("b1.txt", b"  "),
        ]
        members = [*pair("a"), *bad, *pair("z")]
        found = encoded(shard_of(tmp_path / "a.tar", members), encoder, batch_size=2)
        assert found.seen == 4
        assert found.samples["key"].to_pylist() == ["a", "z"]
        assert len(found.images) == len(found.texts) == 2
        failures = {f.key: (f.stage, f.reason) for f in found.failures}
        assert failures == {
            "b0": (Stage.DECODE, Reason.UNREADABLE_IMAGE),
            "b1": (Stage.READ, Reason.EMPTY_CAPTION),
        }

    @pytest.mark.parametrize("content", [b"", b"not a tar" * 100, None])
    def test_unusable_shards_are_one_failure(self, tmp_path, encoder, content):
        shard = shard_of(tmp_path / "a.tar", [])
        (tmp_path / "a.tar").unlink()
        if content is not None:
            (tmp_path / "a.tar").write_bytes(content)
        found = encoded(shard, encoder)
        assert found.seen == 1
        assert found.images.shape == found.texts.shape == (0, 128)
        assert len(found.samples) == 0
        (failure,) = found.failures
        assert failure.stage is Stage.READ

    def test_captions_that_tokenize_to_nothing_are_failures(self, tmp_path, encoder):
        """For a tokenizer that drops punctuation, as those of SigLIP do."""
        shard = shard_of(tmp_path / "a.tar", [*pair("a", "..."), *pair("b", "red...")])
        assert encoded(shard, encoder).failures == []
        picky = dataclasses.replace(encoder, tokenizer=SimpleTokenizer(clean="canonicalize"))
        found = encoded(shard, picky)
        assert (found.seen, found.samples["key"].to_pylist()) == (2, ["b"])
        (failure,) = found.failures
        assert (failure.key, failure.reason) == ("a", Reason.EMPTY_CAPTION)

    def test_repeated_keys_have_different_hashes(self, tmp_path, encoder):
        members = [*pair("a", seed=1), *pair("b", seed=2), *pair("a", seed=3)]
        found = encoded(shard_of(tmp_path / "a.tar", members), encoder)
        rows = found.samples.to_pylist()
        assert len({row["key_hash"] for row in rows}) == len(rows) == 3

    def test_vectors_that_are_not_finite_are_failures(self, shard, encoder):
        found = encoded(shard, Spoilt(encoder, bad=(3, 20)))
        assert found.seen == SIZE
        assert [f.key for f in found.failures] == ["k03", "k20"]
        assert {(f.stage, f.reason) for f in found.failures} == {
            (Stage.ENCODE, Reason.NON_FINITE_EMBEDDING)
        }
        assert "precision fp32" in found.failures[0].message
        assert len(found.samples) == len(found.images) == len(found.texts) == SIZE - 2
        assert np.isfinite(found.images).all()
        assert found.samples["key_hash"][3].as_py() == key_hash("a", "k04")

    @pytest.mark.parametrize("batch_size", [1, 4, 100])
    def test_progress_adds_up(self, tmp_path, encoder, batch_size):
        members = [*pair("a"), ("b.png", png(1)), *pair("c"), ("d.txt", b"x")]
        shard = shard_of(tmp_path / "a.tar", members)
        reports = []
        encoded(shard, encoder, batch_size, lambda *report: reports.append(report))
        assert [sum(column) for column in zip(*reports, strict=True)] == [shard.nbytes, 4, 2]
        assert min(report[0] for report in reports) >= 0
        assert len(reports) == 2 // batch_size + 1  # the batches of two images, and the end


class TestManyShards:
    @pytest.fixture
    def shards(self, tmp_path):
        """Shards of 3, 1, 0, 9 and 1 good pairs, one of them cut off, and one that is missing."""
        shards = []
        for name, size in zip("abcde", (3, 1, 0, 9, 1), strict=True):
            keys = [f"{name}{n}" for n in range(size)]
            good = [
                m for n, k in enumerate(keys) for m in pair(k, f"red {k}", seed=10 * ord(name) + n)
            ]
            shards.append(shard_of(tmp_path / f"{name}.tar", [*good, ("bad.png", png(1))]))
        content = (tmp_path / "b.tar").read_bytes()
        (tmp_path / "b.tar").write_bytes(content[:1600])
        missing = ShardRecord(name="f", url=str(tmp_path / "f.tar"), nbytes=0, modified="")
        return [*shards[:3], missing, *shards[3:]]

    @pytest.mark.parametrize("captions", [1, 5, 4096])
    @pytest.mark.parametrize("batch_size", [1, 4, 100])
    def test_give_what_each_gives_alone(self, shards, encoder, monkeypatch, captions, batch_size):
        alone = [encoded(shard, encoder, 10) for shard in shards]
        monkeypatch.setattr(batch, "CAPTIONS", captions)
        together = encoded_together(shards, encoder, batch_size)
        assert [len(found.samples) for found in together] == [3, 0, 0, 0, 9, 1]
        for found, expected in zip(together, alone, strict=True):
            assert found.samples.equals(expected.samples)
            assert (found.seen, found.failures) == (expected.seen, expected.failures)
            assert found.warnings == expected.warnings
            np.testing.assert_allclose(found.images, expected.images, atol=1e-3)
            np.testing.assert_allclose(found.texts, expected.texts, atol=1e-3)

    def test_share_their_batches(self, shards, encoder):
        roomy = Cramped(encoder, room=100)
        encoded_together(shards, roomy, batch_size=4)
        assert roomy.sizes == [4, 4, 4, 1]

    @pytest.mark.parametrize(("captions", "batch_size"), [(2, 100), (4096, 2)])
    def test_come_out_before_the_last_is_read(
        self, shards, encoder, monkeypatch, captions, batch_size
    ):
        monkeypatch.setattr(batch, "CAPTIONS", captions)
        read = []
        original = encode.read_samples
        monkeypatch.setattr(
            encode, "read_samples", lambda url, config: read.append(url) or original(url, config)
        )
        config = EncodeConfig(batch_size=batch_size, workers=1)
        found = ShardEncoder(encoder, ReadConfig(), config, silent).encode(shards * 20)
        assert next(found)[0] == 0
        assert len(read) < 20 * len(shards)

    def test_a_dying_worker_leaves_the_others_alone(self, shards, encoder, monkeypatch):
        tries = []

        def dying(data, **limits):
            tries.append(data)
            if data == png(10 * ord("d") + 1):
                raise MemoryError("no room")
            return decoded_image(data, **limits)

        monkeypatch.setattr(decoding, "decoded_image", dying)
        found = encoded_together(shards, encoder, batch_size=4)
        assert [len(shard.samples) for shard in found] == [3, 0, 0, 0, 0, 1]
        assert [failure.reason for failure in found[4].failures] == [Reason.WORKER_DIED]
        assert len(tries) == 13 + 9  # that shard alone is tried again


class Wrapped:
    """An encoder that behaves like another one."""

    def __init__(self, encoder):
        self._encoder = encoder

    def __getattr__(self, name):
        return getattr(self._encoder, name)


class Spoilt(Wrapped):
    """An encoder that returns NaN for some images."""

    def __init__(self, encoder, bad):
        super().__init__(encoder)
        self.bad, self.seen = bad, 0

    def encode_images(self, pixels):
        vectors = self._encoder.encode_images(pixels).clone()
        for n in range(len(pixels)):
            if self.seen + n in self.bad:
                vectors[n] = float("nan")
        self.seen += len(pixels)
        return vectors


class Cramped(Wrapped):
    """An encoder on a device with room for a few images."""

    def __init__(self, encoder, room):
        super().__init__(encoder)
        self.room, self.sizes = room, []

    def encode_images(self, pixels):
        self.sizes.append(len(pixels))
        if len(pixels) > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return self._encoder.encode_images(pixels)


class TestMemory:
    def test_halves_a_batch_that_does_not_fit_with_a_warning(self, shard, encoder):
        cramped = Cramped(encoder, room=3)
        with pytest.warns(UserWarning, match="does not fit") as caught:
            found = encoded(shard, cramped)
        assert cramped.sizes == [10, 5, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1]
        assert [str(warning.message) for warning in caught] == [
            f"a batch of {size} does not fit into the device's memory, continuing with {half}: "
            f"pass `batch_size` {half} to start there"
            for size, half in ((10, 5), (5, 2))
        ]
        whole = encoded(shard, encoder)
        np.testing.assert_allclose(found.images, whole.images, atol=1e-3)
        assert found.samples.equals(whole.samples)

    def test_no_room_for_one_pair_is_a_model_error(self, shard, encoder):
        with (
            pytest.warns(UserWarning, match="continuing with"),
            pytest.raises(ModelError, match="one pair alone does not fit") as caught,
        ):
            encoded(shard, Cramped(encoder, room=0))
        assert caught.value.cure.startswith("choose a smaller model, `precision` bf16")


class TestWorkers:
    def test_a_dying_worker_fails_its_shard_after_a_second_attempt(self, tmp_path, monkeypatch):
        (tmp_path / "pool").mkdir()
        for start, name in ((0, "a"), (5, "b")):
            members = [m for n in range(5) for m in pair(f"{name}{n}", f"x {n}", seed=start + n)]
            write_tar(tmp_path / "pool" / f"{name}.tar", members)
        lock, attempts = threading.Lock(), []

        def dying(data, **limits):
            with lock:
                if data == png(2) and len(attempts) < 2:  # the third image of the first shard
                    attempts.append(1)
                    raise MemoryError("no room")
            return decoded_image(data, **limits)

        monkeypatch.setattr(decoding, "decoded_image", dying)
        manifest = tiny_score(tmp_path / "pool", tmp_path / "s")
        assert len(attempts) == 2
        assert [shard.rows for shard in manifest.shards] == [0, 5]
        (failure,) = read_failures(tmp_path / "s", manifest)
        assert failure["reason"] == "worker_died"
        assert failure["message"] == "a decoding worker died, 2 times: MemoryError: no room"
        manifest = tiny_score(tmp_path / "pool", tmp_path / "s")  # the next run tries again
        assert [shard.rows for shard in manifest.shards] == [5, 5]
        assert len(read_scores(tmp_path / "s", manifest)) == 10

    def test_one_death_is_survived(self, shard, encoder, monkeypatch):
        deaths = []

        def dying(data, **limits):
            if data == png(4) and not deaths:
                deaths.append(1)
                raise RuntimeError("once")
            return decoded_image(data, **limits)

        monkeypatch.setattr(decoding, "decoded_image", dying)
        found = encoded(shard, encoder)
        assert deaths == [1]
        assert len(found.samples) == found.seen == SIZE
        assert found.failures == []

    def test_samples_are_decoded_in_parallel_but_stay_in_order(self, shard, encoder, monkeypatch):
        running, most, lock = set(), [], threading.Lock()

        def slow(data, **limits):
            with lock:
                running.add(data)
                most.append(len(running))
            time.sleep(0.03 if data == png(0) else 0.01)
            with lock:
                running.discard(data)
            return decoded_image(data, **limits)

        monkeypatch.setattr(decoding, "decoded_image", slow)
        found = encoded(shard, encoder)
        assert max(most) == 2  # the workers
        assert found.samples["key"].to_pylist() == [f"k{n:02d}" for n in range(SIZE)]

    def test_reads_only_a_few_samples_ahead(self, shard, encoder, monkeypatch):
        read = []
        original = encode.read_samples

        def counted(*args):
            for sample in original(*args):
                read.append(sample)
                yield sample

        monkeypatch.setattr(encode, "read_samples", counted)
        at_first_batch = []
        wrapped = Wrapped(encoder)
        wrapped.encode_images = lambda pixels: (
            at_first_batch.append(len(read)) or encoder.encode_images(pixels)
        )
        encoded(shard, wrapped, batch_size=2)
        # Three batches are decoded ahead.
        assert at_first_batch[0] <= 3 * 2 + 2 < SIZE

    def test_reads_only_a_few_bytes_ahead(self, shard, encoder, monkeypatch):
        read, while_decoding = [], []
        original = encode.read_samples

        def counted(*args):
            for sample in original(*args):
                read.append(len(sample.image))
                yield sample

        def slow(data, **limits):
            if data == png(0):
                time.sleep(0.5)
                while_decoding.append(sum(read))
            return decoded_image(data, **limits)

        monkeypatch.setattr(encode, "AHEAD_BYTES", 1000)
        monkeypatch.setattr(encode, "read_samples", counted)
        monkeypatch.setattr(decoding, "decoded_image", slow)
        found = encoded(shard, encoder, batch_size=SIZE)
        assert len(found.samples) == SIZE
        assert sum(read) > 4000
        assert while_decoding[0] <= 1000 + max(read)


class TestDecode:
    def sample(self, image):
        return Sample("k", 512, 2048, image, "red", "u")

    def test_keeps_the_sample_without_its_image(self, encoder):
        (found,) = decode([self.sample(png(1))], encoder, ReadConfig())
        assert isinstance(found, Decoded)
        assert found.sample == Sample("k", 512, 2048, b"", "red", "u")
        assert (found.width, found.height) == (8, 6)
        assert found.pixels.shape == (3, 32, 32)
        assert torch.equal(found.tokens, encoder.tokenize("red"))

    @pytest.mark.parametrize(
        ("image", "config", "reason"),
        [
            (b"<html>", ReadConfig(), Reason.UNREADABLE_IMAGE),
            (png(1)[:60], ReadConfig(), Reason.UNREADABLE_IMAGE),
            (png(1), ReadConfig(max_pixels=47), Reason.IMAGE_TOO_LARGE),
            (png(1, (30, 2)), ReadConfig(max_aspect_ratio=10), Reason.EXTREME_ASPECT_RATIO),
        ],
    )
    def test_bad_images_are_failures(self, encoder, image, config, reason):
        (found,) = decode([self.sample(image)], encoder, config)
        assert isinstance(found, Failure)
        assert (found.key, found.offset) == ("k", 512)
        assert (found.stage, found.reason) == (Stage.DECODE, reason)

    def test_fast_decoding_gives_almost_the_same_pixels(self, encoder):
        sample = self.sample(jpeg(600, 400))
        exact, fast = (
            decode([sample], encoder, ReadConfig(decode=method))[0]
            for method in (Decode.EXACT, Decode.FAST)
        )
        assert (exact.width, exact.height) == (fast.width, fast.height) == (600, 400)
        apart = (exact.pixels.double() - fast.pixels.double()).square().mean().sqrt() / 255
        assert 0 < apart < 0.01


class TestCommit:
    def commit(self, found, shard, tmp_path):
        files = EmbeddingFiles(tmp_path / "embeddings", 0, 1)
        failures = tmp_path / "failures" / "a.parquet"
        return commit_shard(found, shard, files, failures, {"clipdre.encoded": "x"}), files

    def test_writes_rows_failures_and_counts(self, tmp_path, encoder):
        members = [*pair("a"), ("x.txt", b"no image"), *pair("b"), ("y.png", png(1))]
        shard = shard_of(tmp_path / "a.tar", [*members, ("z.png", png(1))])
        found = encoded(shard, encoder)
        found.failures.reverse()
        record, files = self.commit(found, shard, tmp_path)
        assert record.rows == 2
        assert record.failures == {"missing_caption": 2, "missing_image": 1}
        assert list(record.failures) == sorted(record.failures)
        assert (record.name, record.url, record.nbytes) == (shard.name, shard.url, shard.nbytes)
        rows = pq.read_table(tmp_path / "failures" / "a.parquet").to_pylist()
        assert [row["key"] for row in rows] == ["x", "y", "z"]  # in shard order
        np.testing.assert_array_equal(np.load(files.array(Modality.IMAGE)), found.images)
        np.testing.assert_array_equal(np.load(files.array(Modality.TEXT)), found.texts)
        assert files.samples().equals(found.samples)
        sample = content_sample(shard.url)
        assert record.sample == sample != ""
        assert files.stamp() == {"clipdre.encoded": "x", "clipdre.sample": sample}

    def test_a_lost_sample_is_a_bug(self, tmp_path, shard, encoder):
        found = encoded(shard, encoder)
        found.failures.append(Failure("k", 0, Stage.READ, Reason.GARBAGE, ""))
        with pytest.raises(RuntimeError, match="21 rows and 1 failures of 21 samples"):
            self.commit(found, shard, tmp_path)
        assert not (tmp_path / "embeddings").exists()

    def test_a_failed_shard_has_one_failure(self, tmp_path, shard, encoder):
        failure = Failure("", 0, Stage.READ, Reason.UNREADABLE_SHARD, "gone")
        record, files = self.commit(failed_shard(failure, encoder.record), shard, tmp_path)
        assert (record.rows, record.failures) == (0, {"unreadable_shard": 1})
        assert np.load(files.array(Modality.IMAGE)).shape == (0, 128)
