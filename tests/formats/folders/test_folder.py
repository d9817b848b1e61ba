import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipdre.formats.folders.folder import ScoreFolder


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_run_finds_its_files(scored):
    path, manifest = scored
    folder = ScoreFolder(path)
    found = {folder.scores(shard.name) for shard in manifest.shards}
    found |= {folder.failures(shard.name) for shard in manifest.shards}
    assert found == {*path.glob("scores/*"), *path.glob("failures/*")}
    assert len(found) == 6
    assert folder.embeddings.is_dir()
    assert folder.reference.is_dir()
    assert [path.name for path in folder.columns.iterdir()] == ["near-duplicates"]


def test_counts_failures_by_reason(tmp_path):
    folder = ScoreFolder(tmp_path)
    folder.failures("a").parent.mkdir()
    reasons = ["empty_caption", "broken_tar", "empty_caption"]
    pq.write_table(pa.table({"reason": reasons}), folder.failures("a"))
    assert folder.failure_counts("a") == {"broken_tar": 1, "empty_caption": 2}
    assert list(folder.failure_counts("a")) == ["broken_tar", "empty_caption"]


@pytest.mark.parametrize(
    ("content", "foreign"),
    [
        ([], False),
        (["thesis.tex", "manifest.json"], True),
        ([".unfinished-1-manifest.json"], False),
        (["thesis.tex"], True),
        (["scores/00000.parquet"], True),
        ([".git/config"], True),
    ],
)
def test_other_folders_are_foreign(tmp_path, content, foreign):
    for name in content:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert ScoreFolder(tmp_path).is_foreign() is foreign


@pytest.mark.parametrize(
    ("manifest", "foreign"),
    [
        ('{"schema_version": 2}', False),
        ('{"schema_version": 99, "shards": 3}', False),
        ('{"name": "web app", "icons": []}', True),
        ('{"schema_version"', True),
        ("[]", True),
        ("", True),
    ],
)
def test_folders_with_another_manifest_are_foreign(tmp_path, manifest, foreign):
    (tmp_path / "manifest.json").write_text(manifest)
    (tmp_path / "notes.txt").write_text("mine")
    assert ScoreFolder(tmp_path).is_foreign() is foreign


def test_files_are_foreign_and_missing_paths_are_not(tmp_path):
    (tmp_path / "file").write_text("")
    assert ScoreFolder(tmp_path / "file").is_foreign()
    assert not ScoreFolder(tmp_path / "missing").is_foreign()
