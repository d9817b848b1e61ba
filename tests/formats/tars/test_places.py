import json
import os
from pathlib import Path

import pytest

from clipdre.config import ReadConfig
from clipdre.errors import InputError
from clipdre.formats.files.storage import identify
from clipdre.formats.tars.places import (
    expand_shards,
    is_harmless,
    shard_name,
    shard_names,
    shard_of_file,
)
from clipdre.formats.tars.shards import read_samples
from tests.helpers import pair, write_tar


@pytest.fixture
def folder(tmp_path):
    for name in ("00001", "00000", "00010"):
        write_tar(tmp_path / f"{name}.tar", pair("a"))
    (tmp_path / "notes.txt").write_text("not a shard")
    return tmp_path


class TestExpandShards:
    def test_folder_expands_to_its_sorted_tars(self, folder):
        names = [shard_name(url) for url in expand_shards([str(folder)])]
        assert names == ["00000", "00001", "00010"]

    def test_globs_braces_files_and_stdin_expand(self, folder):
        assert len(expand_shards([f"{folder}/0000*.tar"])) == 2
        braces = expand_shards([f"{folder}/{{00001,00000}}.tar"])
        assert [shard_name(url) for url in braces] == ["00000", "00001"]
        assert expand_shards([f"{folder}/00001.tar"]) == [f"{folder}/00001.tar"]
        lines = [f"{folder}/00001.tar\n", "\n", f"{folder}/00010.tar\n"]
        assert [shard_name(url) for url in expand_shards(["-"], lines)] == ["00001", "00010"]

    def test_shards_count_once_in_any_order(self, folder):
        places = [f"{folder}/00010.tar", str(folder), f"{folder}/00000.tar"]
        assert expand_shards(places) == expand_shards([str(folder)])

    @pytest.mark.parametrize("text", ["{0}\0{1}\0", "\ufeff{0}\r\n\r\n{1}", " {0} \n{1}\n"])
    def test_stdin_may_come_from_any_tool(self, folder, text):
        text = text.format(f"{folder}/00001.tar", f"{folder}/00010.tar")
        urls = expand_shards(["-"], text.splitlines(keepends=True))
        assert [shard_name(url) for url in urls] == ["00001", "00010"]

    @pytest.mark.parametrize(
        ("argument", "message"),
        [
            ("nowhere", "no such shard or folder: .*nowhere"),
            ("*.zip", "no file matches"),
            ("{00000,00003}.tar", "no such shard or folder: .*00003.tar"),
        ],
    )
    def test_missing_shards_are_refused(self, folder, argument, message):
        with pytest.raises(InputError, match=message):
            expand_shards([f"{folder}/{argument}"])

    def test_folder_without_tars_is_refused(self, tmp_path):
        with pytest.raises(InputError, match=r"no \.tar files in"):
            expand_shards([str(tmp_path)])

    def test_empty_list_is_refused(self):
        with pytest.raises(InputError, match="no shards were given"):
            expand_shards(["-"], ["\n"])

    def test_two_shards_of_one_name_are_refused(self, folder):
        (folder / "00000.tgz").write_bytes(b"")
        with pytest.raises(InputError, match="two shards are named '00000'"):
            expand_shards([str(folder)])

    def test_paths_hold_in_any_working_directory(self, folder, monkeypatch):
        monkeypatch.chdir(folder)
        (folder / "below").mkdir()
        here = [str(folder / f"{name}.tar") for name in ("00000", "00001", "00010")]
        assert expand_shards(["."]) == here
        places = ["00000.tar", f"file://{folder}/00000.tar", "below/../00000.tar"]
        assert expand_shards(places) == here[:1]

    def test_hidden_files_are_not_shards_unless_they_are_named(self, folder):
        hidden = folder / "._00000.tar"
        hidden.write_bytes(b"AppleDouble")
        assert len(expand_shards([str(folder)])) == 3
        assert len(expand_shards([f"{folder}/*.tar"])) == 3
        assert expand_shards([str(hidden)]) == [str(hidden)]
        for path in folder.glob("0*.tar"):
            path.unlink()
        with pytest.raises(InputError, match=r"no \.tar files in"):
            expand_shards([str(folder)])

    def test_names_that_are_not_utf8_are_escaped_and_found(self, folder):
        shard = str(folder / os.fsdecode(b"caf\xe9.tar"))
        write_tar(Path(shard), pair("a"))
        escaped = f"{folder}/caf\\udce9.tar"
        for argument in (str(folder), f"{folder}/c*.tar", shard, escaped):
            *_, url = expand_shards([argument])
            assert url == escaped
            assert shard_name(url) == "caf\\udce9"
        assert identify(url) == identify(shard)
        (sample,) = read_samples(url, ReadConfig())
        assert sample.key == "a"
        write_tar(Path(escaped), pair("b"))
        (sample,) = read_samples(url, ReadConfig())
        assert sample.key == "b"
        with pytest.raises(InputError, match="two shards are named"):
            expand_shards([str(folder)])

    def test_urls_are_not_looked_up(self):
        assert expand_shards(["s3://bucket/{0..1}.tar"]) == [
            "s3://bucket/0.tar",
            "s3://bucket/1.tar",
        ]


@pytest.fixture
def sources(tmp_path):
    """A pool of two sources whose shards have the same names, with img2dataset's sidecars."""
    for name in ("cc3m/00000", "cc3m/00001", "cc12m/00000", "cc12m/deep/er/00000"):
        path = tmp_path / "pool" / f"{name}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tar(path, pair("a"))
        path.with_name(f"{path.stem}_stats.json").write_text("{}")
    for hidden in (".cache/00000.tar", "cc3m/.old/00000.tar"):
        path = tmp_path / "pool" / hidden
        path.parent.mkdir()
        path.write_bytes(b"not a shard")
    return tmp_path / "pool"


ALL = ["cc12m/00000", "cc12m/deep/er/00000", "cc3m/00000", "cc3m/00001"]


class TestSubfolders:
    @pytest.mark.parametrize(
        ("arguments", "names"),
        [
            ([""], ALL),
            (["/cc3m", "/cc12m"], ALL),
            (["/*"], ALL),
            (["/**"], ALL),
            (["/**/*.tar"], ALL),
            (["/**/00001.tar", "/cc12m/*.tar"], ["cc12m/00000", "cc3m/00001"]),
            (["/**/deep/**/*.tar"], ["00000"]),
            (["/**/deep"], ["00000"]),
            (["/{cc3m,cc12m}/00000.tar"], ["cc12m/00000", "cc3m/00000"]),
            (["/cc3m"], ["00000", "00001"]),
            (["/.cache/00000.tar", "/cc3m"], ["_cache/00000", "cc3m/00000", "cc3m/00001"]),
        ],
    )
    def test_are_searched_and_name_their_shards(self, sources, arguments, names):
        urls = expand_shards([f"{sources}{argument}" for argument in arguments])
        assert shard_names(urls) == names

    def test_a_pattern_in_the_working_directory(self, sources, monkeypatch):
        monkeypatch.chdir(sources)
        assert expand_shards(["**/*.tar"]) == expand_shards([str(sources)])

    def test_links_are_followed_once_and_never_in_a_circle(self, sources, tmp_path):
        (sources / "again").symlink_to(sources)
        (sources / "cc3m" / "again").symlink_to(sources / "cc12m")
        (sources / "cc12m" / "again").symlink_to(sources / "cc3m")
        (tmp_path / "elsewhere").mkdir()
        write_tar(tmp_path / "elsewhere" / "00000.tar", pair("a"))
        (sources / "linked").symlink_to(tmp_path / "elsewhere")
        for argument in (sources, sources / "**", sources / "**" / "*.tar"):
            assert shard_names(expand_shards([str(argument)])) == [*ALL, "linked/00000"]

    @pytest.mark.parametrize(
        ("record", "content", "warned"),
        [
            ("summary.json", {"clipdre_version": "0.1.0"}, 1),
            ("unfinished.json", {"schema": 1, "digest": "0"}, 1),
            ("manifest.json", {"clipdre_version": "0.1.0"}, 0),
        ],
    )
    def test_that_clipdre_wrote_are_read_only_by_name(
        self, sources, recwarn, record, content, warned
    ):
        for name in ("kept/00000", "kept/deep/00000"):
            (sources / name).parent.mkdir()
            write_tar(sources / f"{name}.tar", pair("a"))
        (sources / "kept" / record).write_text(json.dumps(content, indent=2))
        for argument in ("", "/**", "/**/*.tar"):
            assert shard_names(expand_shards([f"{sources}{argument}"])) == ALL
        subset = f"{sources}/kept, a subset that clipdre wrote: name it to read it too"
        assert {str(w.message) for w in recwarn} == {
            f"passing over {subset}" for _ in range(warned)
        }
        named = expand_shards([str(sources / "kept"), str(sources / "cc3m")])
        assert shard_names(named)[-2:] == ["kept/00000", "kept/deep/00000"]

    def test_a_summary_of_other_tools_says_nothing(self, sources):
        (sources / "cc3m" / "summary.json").write_text('{"kept": 3}')
        os.mkfifo(sources / "cc12m" / "summary.json")
        assert shard_names(expand_shards([str(sources)])) == ALL

    def test_a_folder_that_cannot_be_read_is_named(self, sources, monkeypatch):
        scandir = os.scandir

        def refuse(place):
            if Path(place).name == "deep":
                raise PermissionError(13, "Permission denied")
            return scandir(place)

        monkeypatch.setattr(os, "scandir", refuse)
        with pytest.warns(UserWarning, match="look into .*deep: Permission denied"):
            assert len(expand_shards([str(sources)])) == 3


class TestNames:
    def test_of_remote_and_local_shards(self, sources):
        assert shard_names(["s3://b/x/0.tar", "s3://b/y/z/0.tar.gz"]) == ["x/0", "y/z/0"]
        signed = ["https://me:pw@h/x/0.tar?X-Amz-Credential=a/b", "https://h/y/0.tar?sig=1#/z"]
        assert shard_names(signed) == ["x/0", "y/0"]
        assert shard_names([signed[0], "s3://b/x/0.tar"]) == ["https/h/x/0", "s3/b/x/0"]
        mixed = shard_names(["s3://b/x/0.tar", f"{sources}/cc3m/00000.tar"])
        assert mixed == ["s3/b/x/0", f"{str(sources)[1:]}/cc3m/00000"]

    def test_that_others_have_kept_begin_further_up(self):
        urls = ["/pool/0.tar", "/pool/a/0.tar", "/pool/a/1.tar"]
        assert shard_names(urls, {urls[1]: "0"}) == ["pool/0", "0", "a/1"]
        assert shard_names(urls, {urls[0]: "a/0"}) == ["a/0", "pool/a/0", "a/1"]
        with pytest.raises(InputError, match=r"two shards are named '0': /b/0.tar and /0.tar"):
            shard_names(["/b/0.tar", "/0.tar"], {"/b/0.tar": "0"})

    @pytest.mark.parametrize("folder", ["..", ".", "", ".fit", "x.parquet"])
    def test_never_lead_out_of_the_score_folder(self, folder):
        harmless, _ = shard_names([f"s3://b/{folder}/0.tar", "s3://b/y/0.tar"])
        assert is_harmless(harmless)
        assert not is_harmless(f"{folder}/0")
        assert harmless == {"": "_/0", ".": "_/0", "..": "_./0", ".fit": "_fit/0"}.get(
            folder, "x_parquet/0"
        )

    @pytest.mark.parametrize(
        ("file", "shard"),
        [
            ("/elsewhere/cc3m/00000.parquet", "cc3m/00000"),
            ("/elsewhere/cc12m/00000.parquet", "cc12m/00000"),
            ("/elsewhere/00000.parquet", None),
            ("/elsewhere/cc3m/00009.parquet", None),
            ("/elsewhere/cc3m/1.parquet", "1"),
        ],
    )
    def test_are_those_of_the_files_beside_shards(self, file, shard):
        assert shard_of_file(file, {"cc3m/00000", "cc12m/00000", "1"}) == shard
