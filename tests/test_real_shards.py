"""Shards from elsewhere: palette, grey and RGBA PNGs, odd sizes, repeated uids."""

import io
import tarfile

import numpy as np
import pytest
from scipy.special import logsumexp

import clipdre
from clipdre.config import EmitConfig
from clipdre.core.modality import Modality
from clipdre.core.scores import SCORE_COLUMNS
from clipdre.emitting.emit import write_tar_folder
from tests.helpers import read_failures, read_scores, subset_of, tiny_score
from tests.scorers.measuring import stored_vectors

SAMPLES = 5111


@pytest.fixture(scope="module")
def scored_real(real_shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real") / "scores"
    return folder, tiny_score(real_shards, folder)


def test_every_sample_is_a_row_or_a_failure(scored_real):
    folder, manifest = scored_real
    table = read_scores(folder, manifest)
    assert len(table) + len(read_failures(folder, manifest)) == SAMPLES == manifest.samples
    assert all(np.isfinite(table[name]).all() for name in SCORE_COLUMNS)
    uids = table["uid"].to_pylist()
    assert all(uid is not None and len(uid) == 32 for uid in uids)
    assert len(set(uids)) < len(uids)


def test_spans_hold_exactly_the_members_of_their_sample(scored_real, real_shards):
    folder, manifest = scored_real
    table = read_scores(folder, manifest)
    for shard in manifest.shards:
        data = (real_shards / f"{shard.name}.tar").read_bytes()
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            source = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}
        seen = {}
        for row in table.filter([s == shard.name for s in table["shard"].to_pylist()]).to_pylist():
            span = data[row["offset"] : row["offset"] + row["nbytes"]]
            with tarfile.open(fileobj=io.BytesIO(span)) as tar:
                members = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}
            assert {name.partition(".")[0] for name in members} == {row["key"]}
            assert members[f"{row['key']}.txt"].decode() == row["caption"]
            seen |= members
        if not shard.failures:
            assert seen == source


def test_a_subset_copies_samples_byte_for_byte(scored_real, real_shards, tmp_path):
    subset = subset_of(scored_real, where="width >= 64", by="log_ratio", top=0.2)
    write_tar_folder(subset, tmp_path / "kept", EmitConfig(shard_size=300))
    source = {}
    for path in real_shards.glob("*.tar"):
        with tarfile.open(path) as tar:
            source |= {(m.name, m.size): tar.extractfile(m).read() for m in tar.getmembers()}
    count = 0
    for path in sorted((tmp_path / "kept").glob("*.tar")):
        with tarfile.open(path) as tar:
            for m in tar.getmembers():
                assert source[m.name, m.size] == tar.extractfile(m).read()
                count += 1
    assert count == 3 * len(subset.selection)


def test_the_best_by_the_ratio_are_those_of_negcliploss_with_the_pool_as_batch(scored_real):
    """On 2,000 pairs, against the loss as published, in numpy."""
    folder, manifest = scored_real
    images, texts = (stored_vectors(folder, m)[:2000] for m in Modality)
    scale = manifest.model.logit_scale
    ratio = clipdre.density_ratio(images, texts, logit_scale=scale)
    logits = scale * images @ texts.T
    losses = logsumexp(logits, axis=1) + logsumexp(logits, axis=0)
    # The published score in nats, as the mean of both sides.
    published = np.diag(logits) - losses / 2
    best = [set(np.argsort(-values)[:600].tolist()) for values in (ratio, published)]
    assert len(best[0] & best[1]) >= 0.98 * 600
