"""Each kind of damage to a shard gets its reason, and the neighbouring samples are unharmed."""

import io
import tarfile
from collections import Counter
from itertools import groupby

import pytest

from clipdre.config import EmitConfig, ReadConfig
from clipdre.emitting.emit import write_tar_folder
from clipdre.formats.files.storage import open_source
from clipdre.formats.tars.images import ImageError, decode_image
from clipdre.formats.tars.samples import Failure, Note, printable
from clipdre.formats.tars.shards import iter_samples
from clipdre.formats.tars.tar import split_name
from tests.corpus import GOOD, KINDS
from tests.helpers import read_failures, read_scores, subset_of, tiny_score

READ = ReadConfig()


def outcomes(path):
    """Yield (key, reason or ``good``) of each sample, without a model."""
    with open_source(str(path)) as file:
        for record in iter_samples(file, READ):
            if isinstance(record, Note):
                continue
            if isinstance(record, Failure):
                yield printable(record.key), record.reason.value
                continue
            try:
                decode_image(record.image, max_pixels=READ.max_pixels, max_aspect_ratio=200)
                yield printable(record.key), GOOD
            except ImageError as error:
                yield printable(record.key), error.reason.value


def test_corpus_is_large_and_its_names_are_unique():
    assert len(KINDS) >= 60
    assert len({kind.name for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_kind_has_its_reason_and_its_neighbours_are_read(kind, tmp_path):
    path = tmp_path / f"shard{kind.suffix}"
    path.write_bytes(kind.data)
    assert sorted(outcomes(path)) == sorted(kind.outcomes)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """All kinds in one pool, scored."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "pool").mkdir()
    for n, kind in enumerate(KINDS):
        (folder / "pool" / f"{n:03d}{kind.suffix}").write_bytes(kind.data)
    with pytest.warns(UserWarning, match="may have been cut off"):
        return folder / "s", tiny_score(folder / "pool", folder / "s")


def test_rows_and_failures_add_up_to_the_samples(scored):
    """For each kind, no sample is lost or counted twice."""
    folder, manifest = scored
    assert len(manifest.shards) == len(KINDS)
    for record, kind in zip(manifest.shards, KINDS, strict=True):
        expected = Counter(reason for _, reason in kind.outcomes)
        assert record.rows == expected.pop(GOOD, 0), kind.name
        assert record.failures == expected, kind.name
    assert len(read_scores(folder, manifest)) == manifest.rows
    assert len(read_failures(folder, manifest)) == manifest.samples - manifest.rows


def test_emitted_samples_read_back(scored, tmp_path):
    """Keys such as ``../../tmp/b`` are names only, and every emitted sample is intact."""
    subset = subset_of(scored)
    write_tar_folder(subset, tmp_path / "kept", EmitConfig(shard_size=20))
    count = 0
    for path in sorted((tmp_path / "kept").glob("*.tar")):
        found = list(outcomes(path))
        assert {reason for _, reason in found} == {GOOD}
        count += len(found)
        with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as tar:
            assert len(set(tar.getnames())) == len(tar.getnames())
            assert not any(name.rpartition("/")[2][0] == "." for name in tar.getnames())
            keys = [key for key, _ in groupby(split_name(name)[0] for name in tar.getnames())]
            assert len(keys) == len(found)
    assert count == scored[1].rows
    assert not (tmp_path / "b.png").exists()
