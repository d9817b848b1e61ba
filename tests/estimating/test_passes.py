"""A reference has the same bytes whoever built it, in how many parts, and after any kill."""

import subprocess
import sys

import numpy as np
import pytest

from clipdre.config import EstimateConfig, ReferenceMethod
from clipdre.engines.local import InProcess, ProcessPerDevice
from clipdre.errors import ScoresError
from clipdre.estimating import alike, reference, runs
from clipdre.estimating.estimate import Estimator, estimate_rows
from clipdre.estimating.reference import build_reference, leaders_of
from clipdre.formats.folders.reference import ReferenceFolder
from tests.core.oracle import clustered_pool
from tests.estimating.engines import KilledError, Scrambled
from tests.estimating.stored import store

N, D = 5000, 16
STRATIFIED = EstimateConfig(ReferenceMethod.STRATIFIED, neighbors=40, bulk=128)
METHODS = [STRATIFIED, EstimateConfig(ReferenceMethod.EXACT)]
METHODS += [EstimateConfig(ReferenceMethod.SAMPLE, bulk=128)]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A pool with groups, of which one is larger than a tile."""
    images, texts = clustered_pool(seed=4, n=N, d=D, noise=0.5)
    for vectors in (images, texts):
        vectors[1000:3200] = vectors[0]
        vectors[3500:3600] = vectors[3400:3500]
    folder = tmp_path_factory.mktemp("passes")
    return store(folder, images, texts, (1500, 0, 1, 2600, 899))


@pytest.fixture
def small(monkeypatch):
    """Make a small pool pass for a large one: every limit is one of the driver."""
    monkeypatch.setattr(runs, "HANDED_OUT", 0)
    monkeypatch.setattr(runs, "TILES_PER_BLOCK", 1)
    monkeypatch.setattr(alike, "ONE_CELL_UP_TO", 50)


def built(stored, folder, engine, config=STRATIFIED):
    inputs = stored.pool, stored.hashes
    leaders = leaders_of(*inputs, stored.model, config.alike, folder, engine)
    build_reference(*inputs, leaders, stored.model, config, folder, engine)
    return {path.name: path.read_bytes() for path in folder.path.iterdir()}


@pytest.fixture(scope="module")
def expected(stored):
    """What one process makes of the pool as a single block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alike, "ONE_CELL_UP_TO", 50)
        patch.setattr(reference, "blocks_of", lambda pairs: [range(pairs)])
        patch.setattr(alike, "blocks_of", lambda pairs: [range(pairs)])
        folders = [ReferenceFolder(stored.folder / c.method.value) for c in METHODS]
        return {
            config.method: built(stored, folder, InProcess("cpu"), config)
            for config, folder in zip(METHODS, folders, strict=True)
        }


def without(files, *names):
    return {name: content for name, content in files.items() if name not in names}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("config", METHODS)
def test_files_do_not_depend_on_the_engine_or_the_blocks(stored, expected, tmp_path, config):
    found = built(stored, ReferenceFolder(tmp_path), Scrambled(), config)
    whole = expected[config.method]
    assert found.keys() == whole.keys()  # nothing else is left
    # Moments of blocks are merged; those of one block differ in the last bits.
    assert without(found, "moments.npz") == without(whole, "moments.npz")
    assert found == built(stored, ReferenceFolder(tmp_path / "again"), InProcess("cpu"), config)


@pytest.mark.usefixtures("small")
def test_two_processes_build_what_one_does(stored, tmp_path):
    inputs = stored.pool, stored.hashes, stored.leaders, stored.model, METHODS[1]
    folders = [ReferenceFolder(tmp_path / name) for name in "12"]
    engines = InProcess("cpu"), ProcessPerDevice(("cpu", "cpu"))
    for folder, engine in zip(folders, engines, strict=True):
        build_reference(*inputs, folder, engine)
    one, two = ({p.name: p.read_bytes() for p in folder.path.iterdir()} for folder in folders)
    assert one == two


@pytest.mark.usefixtures("small")
def test_a_killed_run_resumes(stored, tmp_path):
    whole = Scrambled()
    files = built(stored, ReferenceFolder(tmp_path / "whole"), whole)
    for most in range(1, len(whole.done), 4):
        folder, killed = ReferenceFolder(tmp_path / str(most)), Scrambled(most)
        with pytest.raises(KilledError):
            built(stored, folder, killed)
        assert folder.record() is None
        again = Scrambled()
        assert built(stored, folder, again) == files
        assert sorted(killed.done + again.done) == sorted(whole.done)


@pytest.mark.usefixtures("small")
def test_a_shard_that_changed_is_read_again(stored, tmp_path):
    images, texts = clustered_pool(seed=5, n=N, d=D, noise=0.5)
    pool = store(tmp_path, images, texts, (N // 2, N // 2))
    folder = ReferenceFolder(tmp_path / "reference")
    with pytest.raises(KilledError):
        built(pool, folder, Scrambled(6))
    images[:10] = images[10:20]
    pool = store(tmp_path, images, texts, (N // 2, N // 2))
    (folder.path / "alike.npz").unlink(missing_ok=True)
    found = built(pool, folder, InProcess("cpu"))
    assert found == built(pool, ReferenceFolder(tmp_path / "other"), InProcess("cpu"))


def estimates(stored, folder):
    estimator = Estimator(folder, stored.model)
    return estimate_rows(stored.pool, stored.hashes, estimator, 0, 300).columns


def test_large_references_are_in_several_files(stored, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "SEGMENT_BYTES", N * D * 2 // 3)
    folder, whole = ReferenceFolder(tmp_path), ReferenceFolder(stored.folder / "stratified")
    (tmp_path / "pool_image.npy").touch()  # an earlier one was in one file
    found = built(stored, folder, Scrambled())
    names = sorted(name for name in found if name.startswith("pool_image"))
    assert names[0] == "pool_image_00000.npy"
    assert len(names) > 1
    for name in ("pool_image", "pool_text"):
        rows = folder.rows(name, np.float16, N, D)
        assert np.array_equal(rows[:], np.load(whole.path / f"{name}.npy"))
        places = np.random.default_rng(0).integers(N, size=100)
        assert np.array_equal(rows[places], rows[:][places])
        assert rows[7:7].shape == (0, D)
    one, several = (estimates(stored, each) for each in (whole, folder))
    for name, values in several.items():
        np.testing.assert_array_equal(values, one[name], err_msg=name)
    (tmp_path / names[1]).unlink()
    with pytest.raises(ScoresError, match=r"of 5,000 rows of pool_image"):
        estimates(stored, folder)


GROWTH = """
import resource
import sys
from pathlib import Path

import numpy as np
import torch

from clipdre.core.modality import Modality
from clipdre.engines.base import silent
from clipdre.estimating.passes import CENTROIDS, Block, BlockWork
from clipdre.formats.folders.parts import Parts
from tests.estimating.stored import store

folder, cells = Path(sys.argv[1]), 2048
vectors = np.random.default_rng(0).normal(size=(60_000, 8))
stored = store(folder, vectors, vectors, (60_000,))
parts = Parts(folder / "parts", "")
for m in Modality:
    parts.write(f"{CENTROIDS}-{m}", {CENTROIDS: vectors[:cells].astype(np.float32)}, "")
parts.share("hashes", stored.hashes)
parts.share("groups", np.arange(60_000))
do = BlockWork(stored.pool, parts, cells).start("cpu", silent)


def peak(rows):
    do(Block(f"{rows}", "", rows, Modality.IMAGE, "run", range(rows)))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


print(-peak(10_000) + peak(60_000))
"""


def test_memory_does_not_grow_with_rows_times_cells(tmp_path):
    """It did in half of all processes, by where the system had placed their heaps."""
    command = [sys.executable, "-c", GROWTH]
    runs = [
        subprocess.Popen([*command, tmp_path / str(n)], stdout=subprocess.PIPE, text=True)
        for n in range(3)
    ]
    grown = [float(run.communicate()[0]) for run in runs]
    assert max(grown) < 150  # MB; the products are 410


def test_blocks_grow_with_the_root_of_the_pool():
    sizes = {n: len(runs.blocks_of(n)[0]) for n in (10**5, 10**7, 10**9)}
    assert sizes == {10**5: 16_384, 10**7: 16_384, 10**9: 126_976}
    for pairs in (0, 1, 16_384, 16_385):
        blocks = runs.blocks_of(pairs)
        assert [row for block in blocks for row in block] == list(range(pairs))
