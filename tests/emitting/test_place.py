"""What an output may replace, and that nothing is lost when it does."""

import shutil
from contextlib import suppress

import pytest

from clipdre.config import EmitConfig, SubsetFormat
from clipdre.emitting import emit
from clipdre.emitting.emit import write_tar_folder
from clipdre.emitting.shard import ShardWork
from clipdre.emitting.subset import Subset
from clipdre.emitting.write import write_subset
from clipdre.errors import InputError, OutputError
from clipdre.formats.files import outputs
from clipdre.formats.files.outputs import output_folder
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.pipelines.score import score
from clipdre.selecting.rules import Rule
from clipdre.selecting.select import select
from clipdre.sql.query import ScoreQuery
from tests.emitting.contents import contents, stored
from tests.helpers import TINY, all_files, chosen, pair, subset_of, tiny_score, write_tar

OLD, NEW = EmitConfig(shard_size=10), EmitConfig(shard_size=8)


@pytest.fixture
def rescored(scored, tmp_path):
    """A subset that was scored in turn: its shards have the names that emission gives."""
    write_tar_folder(subset_of(scored, by="log_ratio", top=40), tmp_path / "kept", OLD)
    return tmp_path / "s", tiny_score(tmp_path / "kept", tmp_path / "s")


@pytest.fixture(params=["disk", "store"])
def place(request, tmp_path, store):
    """A place to write to, and what reads its files."""
    if request.param == "disk":
        return str(tmp_path / "out"), lambda but=None: contents(tmp_path / "out", but)
    return "memory://out", lambda but=None: stored(store, "/out", but)


class TestSources:
    @pytest.mark.parametrize("overwrite", [False, True])
    @pytest.mark.parametrize("spelling", ["kept", "./kept/", "link", "file://{}/kept"])
    def test_stay(self, rescored, tmp_path, overwrite, spelling):
        (tmp_path / "link").symlink_to(tmp_path / "kept")
        before = contents(tmp_path / "kept")
        output = spelling.format(tmp_path) if "{" in spelling else f"{tmp_path}/{spelling}"
        subset = subset_of(rescored, by="kl_text", top=5)
        with pytest.raises(OutputError, match=r"holds 00000000\.tar, which the scores were made"):
            write_tar_folder(subset, output, NEW, overwrite=overwrite)
        assert contents(tmp_path / "kept") == before

    def test_stay_if_they_moved_into_the_output(self, rescored, tmp_path):
        subset_of(rescored)
        shutil.copytree(tmp_path / "kept", tmp_path / "moved")
        before = contents(tmp_path / "moved")
        shards = [str(path) for path in sorted((tmp_path / "moved").glob("*.tar"))]
        with pytest.raises(OutputError, match=r"holds 00000000\.tar"):
            write_subset(
                chosen(rescored, top=5, by="kl_text"),
                tmp_path / "moved",
                shards=shards,
                overwrite=True,
            )
        assert contents(tmp_path / "moved") == before

    def test_stay_in_a_store(self, scored, store, tmp_path):
        write_tar_folder(subset_of(scored, by="log_ratio", top=40), "memory://kept", OLD)
        before = stored(store, "/kept")
        urls = [f"memory://kept/{n:08d}.tar" for n in range(4)]
        rescored = tmp_path / "s", score(urls, tmp_path / "s", TINY)
        with pytest.raises(OutputError, match=r"memory://kept holds 00000000\.tar"):
            write_tar_folder(subset_of(rescored), "memory://kept/", NEW, overwrite=True)
        with pytest.raises(OutputError, match=r"00000001\.tar is what the scores were made from"):
            write_subset(chosen(rescored), urls[1], format=SubsetFormat.KEYS, overwrite=True)
        assert stored(store, "/kept") == before

    def test_a_missing_source_leaves_the_old_subset(self, tmp_path):
        (tmp_path / "pool").mkdir()
        for name in "ab":
            write_tar(tmp_path / "pool" / f"{name}.tar", pair(name, f"{name} circle"))
        scored = tmp_path / "s", tiny_score(tmp_path / "pool", tmp_path / "s")
        write_tar_folder(subset_of(scored, by="log_ratio", top=1), tmp_path / "out", OLD)
        before = contents(tmp_path / "out")
        (tmp_path / "pool" / "b.tar").unlink()
        with pytest.raises(InputError, match=r"b\.tar"):
            write_tar_folder(subset_of(scored), tmp_path / "out", OLD, overwrite=True)
        assert contents(tmp_path / "out") == before


class TestOtherPeoplesFiles:
    @pytest.mark.parametrize("name", ["00000000.tar", "00000000_stats.json", "thesis.tex"])
    def test_a_folder_without_a_subset_is_refused(self, scored, tmp_path, name):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / name).write_text("years of work")
        with pytest.raises(OutputError, match="does not hold a subset: choose a new folder"):
            write_tar_folder(subset_of(scored), tmp_path / "out", OLD, overwrite=True)
        assert contents(tmp_path / "out") == {name: b"years of work"}

    @pytest.mark.parametrize("part", ["", "scores", "embeddings/metadata", "failures"])
    def test_score_folders_are_refused(self, scored, tmp_path, part):
        shutil.copytree(scored[0], tmp_path / "s")
        before = all_files(tmp_path / "s")
        with pytest.raises(OutputError, match=r"is a score folder|does not hold a subset"):
            write_tar_folder(subset_of(scored), tmp_path / "s" / part, OLD, overwrite=True)
        assert all_files(tmp_path / "s") == before

    def test_a_tar_beside_the_old_subset_is_refused(self, scored, place):
        url, files = place
        write_tar_folder(subset_of(scored, by="kl_text", top=10), url, OLD)
        with output_folder(url).committed("00000007.tar") as temporary:
            temporary.write_text("mine")
        before = files()
        with pytest.raises(OutputError, match=r"holds 00000007\.tar, which is not part of"):
            write_tar_folder(subset_of(scored), url, NEW, overwrite=True)
        assert files() == before

    @pytest.mark.parametrize("emitted", ["{}", '"x"', "[3]"])
    @pytest.mark.parametrize(
        "shards",
        ['[{"name": "../mine.tar"}, {"name": "/etc/passwd.tar"}]', '"x"', "[3]", "{}", "null"],
    )
    def test_a_planted_summary_reaches_no_other_file(self, scored, tmp_path, shards, emitted):
        for name in ("mine.tar", "mine.parquet", "mine_stats.json"):
            (tmp_path / name).write_text("mine")
        (tmp_path / "out").mkdir()
        text = f'{{"shards": {shards}, "emitted": {emitted}}}'
        (tmp_path / "out" / "summary.json").write_text(text)
        write_tar_folder(
            subset_of(scored, by="kl_text", top=5), tmp_path / "out", OLD, overwrite=True
        )
        assert contents(tmp_path, but="out") == dict.fromkeys(
            ("mine.tar", "mine.parquet", "mine_stats.json"), b"mine"
        )
        assert "00000000.tar" in contents(tmp_path / "out")

    @pytest.mark.parametrize("name", ["00000000.tar", "thesis.tex"])
    def test_a_folder_of_the_users_is_no_replacement(self, scored, place, name):
        url, files = place
        write_tar_folder(subset_of(scored, by="kl_text", top=10), url, OLD)
        with output_folder(f"{url}/.replacement").committed(name) as temporary:
            temporary.write_text("mine")
        before = files(but=".replacement")
        with pytest.raises(OutputError, match=r"replacement is not clipdre's: move it elsewhere"):
            write_tar_folder(subset_of(scored), url, NEW, overwrite=True)
        assert files(but=".replacement") == before
        assert output_folder(f"{url}/.replacement").text(name) == "mine"


class TestReplacing:
    def test_leaves_the_new_subset_and_other_files(self, scored, place):
        url, files = place
        write_tar_folder(subset_of(scored), url, OLD)
        with output_folder(url).committed("notes.txt") as temporary:
            temporary.write_text("mine")
        new = subset_of(scored, by="kl_text", top=20)
        summary = write_tar_folder(new, url, NEW, overwrite=True)
        assert summary == write_tar_folder(new, f"{url}-fresh", NEW)
        fresh = output_folder(f"{url}-fresh")
        assert set(files()) == {*fresh.names(), "notes.txt"}
        assert output_folder(url).text("summary.json") == fresh.text("summary.json")

    def test_the_old_subset_stays_until_the_new_one_is_complete(
        self, scored, place, monkeypatch, tmp_path
    ):
        url, files = place
        write_tar_folder(subset_of(scored, by="log_ratio", top=30), url, OLD)
        before, written = files(), []
        new, write = subset_of(scored, by="kl_text", top=60), ShardWork._write

        def dying(self, stem, rows):
            if len(written) == 4:
                raise KeyboardInterrupt
            written.append(stem)
            return write(self, stem, rows)

        config = EmitConfig(shard_size=8, writers=1)
        with monkeypatch.context() as patch:
            patch.setattr(ShardWork, "_write", dying)
            with pytest.raises(KeyboardInterrupt):
                write_tar_folder(new, url, config, overwrite=True)
            assert files(but=".replacement") == before
            with pytest.raises(OutputError, match="pass `overwrite`"):
                write_tar_folder(new, url, config)
            written[:] = range(-10, -1)  # no longer dying
            write_tar_folder(new, url, config, overwrite=True)
            assert written[9:] == [f"{n:08d}" for n in range(4, 8)]  # it resumed
        write_tar_folder(new, tmp_path / "fresh", config)
        assert files() == contents(tmp_path / "fresh")

    def test_a_killed_exchange_is_finished(self, scored, place, monkeypatch, tmp_path):
        url, files = place
        old = subset_of(scored, by="log_ratio", top=30)
        new = subset_of(scored, by="kl_text", top=20)
        write_tar_folder(new, tmp_path / "fresh", NEW)
        fresh, steps = contents(tmp_path / "fresh"), 0
        kinds = (outputs._LocalFolder, outputs._RemoteFolder)
        changing = {(kind, name): getattr(kind, name) for kind in kinds for name in CHANGES}
        while True:
            write_tar_folder(old, url, OLD, overwrite=True)
            left = [steps]

            def dying(change, left=left):
                def call(*args):
                    if left[0] == 0:
                        raise KeyboardInterrupt
                    left[0] -= 1
                    return change(*args)

                return call

            with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
                for (kind, name), change in changing.items():
                    patch.setattr(kind, name, dying(change))
                write_tar_folder(new, url, NEW, overwrite=True)
            if left[0]:
                break  # the run has fewer steps than these
            write_tar_folder(new, url, NEW, overwrite=True)
            assert files() == fresh
            steps += 1
        assert steps > 11  # the summary twice, and nine files to move

    def test_a_finished_replacement_comes_before_any_other_run(self, scored, place, monkeypatch):
        url, _ = place
        write_tar_folder(subset_of(scored), url, OLD)
        new = subset_of(scored, by="kl_text", top=20)
        with monkeypatch.context() as patch:
            patch.setattr(emit, "finish_replacement", lambda folder: None)
            write_tar_folder(new, url, NEW, overwrite=True)
        assert len(output_folder(url).names()) > 60
        with pytest.raises(OutputError, match="does not hold a part of this subset"):
            write_tar_folder(subset_of(scored, by="kl_text", top=3), url, NEW)
        assert write_tar_folder(new, url, NEW)["kept"] == 20


class TestFiles:
    def test_inputs_stay(self, rescored, tmp_path):
        joined = tmp_path / "joined.parquet"
        write_subset(chosen(rescored), joined, format=SubsetFormat.PARQUET)
        query = ScoreQuery(ScoreFolder(rescored[0]), rescored[1])
        selection = select(query, Rule())
        selection.query.joined.append(joined)
        source = tmp_path / "kept" / "00000001.tar"
        for path in (source, joined):
            before = path.read_bytes()
            with pytest.raises(OutputError, match="is what the scores were made from"):
                write_subset(selection, path, format=SubsetFormat.PARQUET, overwrite=True)
            assert path.read_bytes() == before
        assert Subset(selection).check() is None

    def test_parts_of_scores_and_subsets_stay(self, scored, tmp_path):
        shutil.copytree(scored[0], tmp_path / "s")
        write_tar_folder(subset_of(scored), tmp_path / "kept", OLD)
        write_subset(chosen(scored), tmp_path / "s" / "mine.txt", format=SubsetFormat.KEYS)
        before = all_files(tmp_path)
        for path, what in [
            ("s/manifest.json", "a score folder"),
            ("s/scores/00000.parquet", "a score folder"),
            ("s/embeddings/metadata/metadata_0.parquet", "a score folder"),
            ("kept/00000000.parquet", "a subset"),
            ("kept/summary.json", "a subset"),
        ]:
            with pytest.raises(OutputError, match=f"is part of {what}: choose another `output`"):
                write_subset(
                    chosen(scored), tmp_path / path, format=SubsetFormat.KEYS, overwrite=True
                )
        assert all_files(tmp_path) == before


CHANGES = ("remove", "take", "rmdir")
