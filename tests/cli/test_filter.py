import json
import os
import pty
import subprocess
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.cli.running import CLIPDRE, TINY, error_of, printed
from tests.helpers import all_files, pair, read_scores, tiny_score, write_tar


@pytest.fixture
def table(scored):
    return read_scores(*scored)


def best(table, column, n):
    """Keys of the n largest, in pool order; the columns of this pool have no ties there."""
    places = np.sort(np.argsort(-table[column].to_numpy(), kind="stable")[:n])
    shards, keys = table["shard"].to_pylist(), table["key"].to_pylist()
    return [f"{shards[n]}/{keys[n]}" for n in places.tolist()]


def test_writes_tars_and_prints_their_folder(run, scored, tmp_path):
    found = run(f"filter {scored[0]} --by log_ratio --top 30% -o kept")
    assert printed(found) == "kept\n"
    first, cut = found.stderr.splitlines()
    assert first == "keeping 90 of 300 pairs (30.0%)"
    assert cut.startswith("cut: log_ratio >= ")
    with tarfile.open(tmp_path / "kept" / "00000000.tar") as tar:
        assert len(tar.getmembers()) == 3 * 90


@pytest.mark.parametrize("amount", ["--top 20%", "--bottom 13"])
@pytest.mark.parametrize("by", ["kl_text", "kl_image - log_ratio"])
def test_the_cut_is_a_condition_that_keeps_the_same(run, scored, tmp_path, by, amount):
    ranked = run(f"filter {scored[0]} --by '{by}' {amount} --format keys -o -")
    (cut,) = [line for line in ranked.stderr.splitlines() if line.startswith("cut: ")]
    condition = cut.removeprefix("cut: ")
    same = run(f"filter {scored[0]} --where '{condition}' --format keys -o -")
    assert printed(same) == printed(ranked)
    written = run(f"filter {scored[0]} --by '{by}' {amount} -o kept")
    assert written.exit_code == 0
    (step,) = json.loads((tmp_path / "kept" / "summary.json").read_text())["steps"]
    assert step["threshold"] == pytest.approx(float(condition.split()[-1]), rel=1e-7)


def test_each_step_of_a_recipe_reports_its_cut(run, scored):
    command = f"filter {scored[0]} --recipe log-ratio-then-kl --budget 20%"
    found = run(f"{command} --dry-run --json")
    (selection,) = json.loads(printed(found))["selections"]
    distinct, *ranked = selection["steps"]
    assert distinct["threshold"] is None
    lines = [line.strip() for line in run(f"{command} --format keys -o -").stderr.splitlines()]
    for step, column in zip(ranked, ("log_ratio", "kl_text"), strict=True):
        (line,) = [line for line in lines if line.startswith(f"top by {column}: ")]
        shown = line.rpartition(f"({column} >= ")[2].rstrip(")")
        assert float(shown) == pytest.approx(step["threshold"], rel=1e-7)


def test_keys_on_stdout_are_those_of_a_plain_sort(run, scored, table):
    found = run(f"filter {scored[0]} --by kl_text --top 12 --format keys -o -")
    assert printed(found).splitlines() == best(table, "kl_text", 12)


def test_conditions_and_amounts_combine(run, scored, table):
    command = f"filter {scored[0]} --where 'similarity > 0.55' --sample 50% --seed 3"
    keys = printed(run(f"{command} --format keys -o -")).splitlines()
    passing = [
        f"{shard}/{key}"
        for shard, key, similarity in zip(
            *(table[name].to_pylist() for name in ("shard", "key", "similarity")), strict=True
        )
        if similarity > 0.55
    ]
    assert 100 < len(passing) < 300
    assert len(keys) == (len(passing) + 1) // 2
    assert set(keys) < set(passing)
    other = command.replace("--seed 3", "--seed 4")
    assert printed(run(f"{other} --format keys -o -")).splitlines() != keys


def test_a_draw_is_repeated_by_its_seed(run, scored):
    command = f"filter {scored[0]} --where 'draw(0.4)' --format keys -o -"
    kept = [printed(run(f"{command} --seed {seed}")).splitlines() for seed in (1, 1, 2)]
    assert kept[0] == kept[1] != kept[2]
    assert all(80 < len(keys) < 160 for keys in kept)


def test_balance_caps_each_value(run, scored, table):
    command = f"filter {scored[0]} --balance caption --cap 1 --by log_ratio --format jsonl -o -"
    rows = [json.loads(line) for line in printed(run(command)).splitlines()]
    largest = {}
    for row in table.to_pylist():
        largest[row["caption"]] = max(largest.get(row["caption"], -1e9), row["log_ratio"])
    assert {row["caption"]: row["log_ratio"] for row in rows} == largest
    assert len(rows) == len(largest)


def test_a_joined_file_adds_columns(run, scored, table, tmp_path):
    extra = {"key_hash": table["key_hash"], "extra": np.arange(300)[::-1]}
    pq.write_table(pa.table(extra), tmp_path / "extra.parquet")
    options = "--with extra.parquet --by extra --top 3 --format keys -o -"
    keys = printed(run(f"filter {scored[0]} {options}")).splitlines()
    assert keys == [f"00000/{key}" for key in table["key"].to_pylist()[:3]]


@pytest.fixture
def sidecars(table, tmp_path):
    """A table beside each shard, as img2dataset writes them; the first pairs lack a row."""
    (tmp_path / "sidecars").mkdir()
    wanted = table.select(["key", "caption", "shard"]).append_column("row", pa.array(range(300)))
    for shard in ("00000", "00001", "00002"):
        rows = wanted.filter(pc.equal(wanted["shard"], shard)).drop_columns("shard")
        pq.write_table(rows.slice(4), tmp_path / "sidecars" / f"{shard}.parquet")
    return "sidecars"


def test_sidecars_are_joined_and_reported(run, scored, table, sidecars, tmp_path):
    rule = "--with 'sidecars/*.parquet' --by=-row --top 3"
    found = run(f"filter {scored[0]} {rule} --on shard,key -o kept")
    assert found.stderr.splitlines() == [
        "joined 00000.parquet and 2 more by shard and key: 288 of 300 pairs found a row",
        "columns of 00000.parquet and 2 more that the scores have too are renamed: caption to "
        '"sidecars_caption"',
        "keeping 3 of 300 pairs (1.0%)",
        "cut: -row >= -6",
        "not kept: 12 rows without a value of -row",
    ]
    kept = pq.read_table(tmp_path / "kept" / "00000000.parquet")
    assert kept["key"].to_pylist() == table["key"].to_pylist()[4:7]
    assert kept["sidecars_caption"].to_pylist() == kept["caption"].to_pylist()
    record = {
        "files": [str(tmp_path / sidecars / f"0000{n}.parquet") for n in range(3)],
        "by": ["shard", "key"],
        "pool": 300,
        "matched": 288,
        "renamed": {"caption": "sidecars_caption"},
    }
    assert json.loads((tmp_path / "kept" / "summary.json").read_text())["joined"] == [record]
    shown = json.loads(printed(run(f"filter {scored[0]} {rule} --dry-run --json")))
    assert shown["selections"][0]["joined"] == [record]


def test_a_sidecar_of_another_shard_is_refused(run, scored, sidecars, tmp_path):
    (tmp_path / sidecars / "00002.parquet").rename(tmp_path / "00007.parquet")
    error = error_of(run(f"filter {scored[0]} --with 00007.parquet --on shard,key --all -o out"), 1)
    assert error == (
        f"--with {tmp_path}/00007.parquet names none of the pairs by shard and key, only others "
        "such as '00007/000020004': join files of this pool, or set another --on"
    )


def test_shuffled_tars_hold_the_same_samples_in_another_order(run, scored, tmp_path):
    command = f"filter {scored[0]} --by log_ratio --top 40"
    printed(run(f"{command} -o plain"))
    printed(run(f"{command} -o shuffled --shuffle --seed 5"))
    names = []
    for folder in ("plain", "shuffled"):
        with tarfile.open(tmp_path / folder / "00000000.tar") as tar:
            names.append(tar.getnames())
    assert sorted(names[0]) == sorted(names[1])
    assert names[0] != names[1]


def test_size_of_tars(run, scored, tmp_path):
    printed(run(f"filter {scored[0]} --sample 10 -o kept --shard-size 4 --writers 1"))
    assert len(list((tmp_path / "kept").glob("*.tar"))) == 3
    printed(run(f"filter {scored[0]} --sample 10 -o small --max-bytes 10kB"))
    assert len(list((tmp_path / "small").glob("*.tar"))) > 3


def test_a_file_is_replaced_only_if_asked(run, scored, tmp_path):
    command = f"filter {scored[0]} --by kl_text --top 7 --format parquet -o top.parquet"
    assert printed(run(command)) == "top.parquet\n"
    assert len(pq.read_table(tmp_path / "top.parquet")) == 7
    error = error_of(run(command), 1)
    assert error == "top.parquet exists: choose another --output, or pass --overwrite"
    assert printed(run(f"{command.replace('top 7', 'top 8')} --overwrite")) == "top.parquet\n"
    assert len(pq.read_table(tmp_path / "top.parquet")) == 8


def test_a_finished_subset_is_kept_and_another_is_refused(run, scored):
    command = f"filter {scored[0]} --by kl_text --top 7 -o kept"
    assert printed(run(command)) == printed(run(command)) == "kept\n"
    error = error_of(run(command.replace("top 7", "top 8")), 1)
    assert error.endswith("choose another --output, or pass --overwrite")


def test_rows_without_a_value_are_counted(run, scored, table):
    lowest = table["kl_text"].to_numpy()[100:200].min()
    by = "CASE WHEN shard = '00001' THEN kl_text END"
    found = run(f'filter {scored[0]} --by "{by}" --top 150 --format keys -o -')
    assert len(printed(found).splitlines()) == 100
    assert found.stderr.splitlines() == [
        "keeping 100 of 300 pairs (33.3%)",
        f"cut: {by} >= {lowest!s}",
        f"not kept: 200 rows without a value of {by}",
        "asked for 150, but only 100 are left to choose from",
    ]


def test_a_soft_cap_writes_how_often_a_pair_was_drawn(run, scored, tmp_path):
    command = f"filter {scored[0]} --by-log kl_text --sample 400 --penalty 0.15 --per-round 50"
    found = run(f"{command} --format jsonl -o -")
    rows = [json.loads(line) for line in printed(found).splitlines()]
    times = {f"{row['shard']}/{row['key']}": row["times"] for row in rows}
    assert (sum(times.values()), max(times.values()) > 1, len(times) < 300) == (400, True, True)
    assert found.stderr.splitlines() == [
        f"keeping {len(rows)} of 300 pairs ({len(rows) / 300:.1%})",
        "drawn 400 times: column times says how often each pair was",
    ]
    assert run(f"{command} --shuffle -o kept").exit_code == 0
    written = pq.read_table(tmp_path / "kept" / "00000000.parquet")
    assert len(written) == len(rows)
    named = zip(*(written[n].to_pylist() for n in ("shard", "key", "times")), strict=True)
    assert {f"{shard}/{key}": n for shard, key, n in named} == times


class TestRecipes:
    def test_a_recipe_keeps_what_its_file_says(self, run, scored, table):
        command = f"filter {scored[0]} --recipe kl --budget 10% --format keys -o -"
        found = run(command)
        assert printed(found).splitlines() == best(table, "kl_text", 30)
        lowest = np.sort(table["kl_text"].to_numpy())[-30]
        assert found.stderr.splitlines() == [
            "kl: keeping 30 of 300 pairs (10.0%)",
            f"cut: kl_text >= {lowest!s}",
        ]

    def test_a_copy_can_be_changed(self, run, scored, tmp_path):
        text = printed(run("recipes log-ratio-then-kl"))
        (tmp_path / "mine.toml").write_text(text.replace("25%", "10%"))
        keys = printed(run(f"filter {scored[0]} --recipe mine.toml --format keys -o -"))
        assert len(keys.splitlines()) == 30

    def test_settings_replace_options(self, run, scored, table):
        recipe = "--recipe similarity-threshold --set threshold=0.55"
        command = f"filter {scored[0]} {recipe} --format jsonl -o -"
        rows = [json.loads(line) for line in printed(run(command)).splitlines()]
        assert len(rows) == (table["similarity"].to_numpy() >= 0.55).sum()
        assert all(row["similarity"] >= 0.55 for row in rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--where 'random() < 0.5'",
            "cannot use --where 'random() < 0.5': random has another value in each pass over the "
            "scores: write a fixed value, or draw rows with --sample or draw(p)",
        ),
        ("--where 'simlarity > 1'", "did you mean similarity?"),
        ("--by nosuch --top 3", "cannot use --by 'nosuch': there is no column nosuch: see "),
        ("--by caption --top 3", "cannot use --by 'caption': it has type VARCHAR: use a number"),
        ("--by width --top 150%", "--top 150% is above 100%: use a count such as 1000 or "),
        ("--by width --top some", "--top 'some' is not a number: use a count such as 1000 or "),
        ("--balance caption --cap 0", "--cap is 0: use a count between 1 and "),
        ("--sample 0", "--sample 0 keeps nothing: use a count such as 1000 or 10k, or a share"),
        ("--where 'width < 0'", "nothing is kept, so there is nothing to write: loosen the "),
        ("--recipe klx", "clipdre has no recipe 'klx': did you mean kl or klr?"),
        ("--recipe none.toml", "there is no recipe file none.toml: check the path"),
        (
            "--recipe similarity-threshold",
            "pass --set threshold=NUMBER, or rank with --by and --top",
        ),
        ("--recipe dc --set sides=text", "recipe dc has no option 'sides': did you mean side?"),
        ("--recipe dc --budget 300%", "--budget 300% is above 100%: use a count such as 1000"),
        ("--with text.txt --by x --top 3", "cannot read --with {tmp}/text.txt as Parquet: "),
        ("--with none.parquet --by x --top 3", "--with none.parquet does not exist: check the "),
        ("--with 'n*.parquet' --by x --top 3", "no file matches --with n*.parquet: check the "),
        ("--with . --by x --top 3", "folder --with . and its subfolders hold no .parquet files: "),
    ],
)
def test_a_selection_that_cannot_be_met_is_refused(run, scored, tmp_path, options, message):
    (tmp_path / "text.txt").write_text("not parquet")
    error = error_of(run(f"filter {scored[0]} {options} -o out"), 1)
    assert message.format(tmp=tmp_path) in error
    assert not (tmp_path / "out").exists()


def test_a_score_folder_is_not_joined_as_a_whole(run, scored):
    error = error_of(run(f"filter {scored[0]} --with {scored[0]} --by x --top 3 -o out"), 1)
    assert error == f"--with {scored[0]} is a score folder: name its scores: {scored[0]}/scores"


def test_a_folder_without_scores_is_refused(run, pool):
    error = error_of(run(f"filter {pool} --sample 3 -o out"), 1)
    assert (
        error == f"{pool} is not a score folder (no manifest.json): make one with 'clipdre score'"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--sample 3", "no --output: name a folder or file, or - for stdout"),
        ("--sample 3 --on words --with a.parquet -o out", "invalid value for --on: 'words' is"),
        ("--max-bytes lots -o out", "invalid size 'lots': use bytes or a suffix, e.g. 500MB"),
        ("--recipe dc --set side -o out", "invalid --set side: use NAME=VALUE"),
        (
            "--recipe dc --recipe similarity-threshold -o out",
            "several --recipe options can only be compared: add --dry-run",
        ),
        (
            "--recipe dc --recipe dc --dry-run",
            "a --recipe is given twice: drop one of them",
        ),
        ("--bins 0 --uniform -o out", "use a value greater than or equal to 1"),
    ],
)
def test_wrong_usage(run, scored, tmp_path, options, message):
    assert message in error_of(run(f"filter {scored[0]} {options}"), 2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "unused", "needs"),
    [
        ("--by width --top 3 --bins 5", "--bins", "--uniform"),
        ("--by width --sample 3 --uniform", "--uniform", "--top"),
        ("--top 3", "--top", "--by"),
        ("--bottom 3", "--bottom", "--by"),
        ("--by width", "--by", "--top, --bottom, --sample or --balance"),
        ("--cap 3", "--cap", "--balance"),
        ("--balance caption", "--balance", "--cap"),
        ("--by-log width --sample 3 --per-round 5", "--per-round", "--penalty"),
        ("--by width --sample 3 --penalty 1", "--penalty", "--by-log"),
        ("--sample 3 --json", "--json", "--dry-run"),
        ("--sample 3 --on uid", "--on", "--with, whose rows it matches"),
        ("--sample 3 --budget 10%", "--budget", "--recipe"),
        ("--sample 3 --set a=1", "--set", "--recipe"),
        ("--by width --top 3 --seed 0", "--seed", "--sample, --uniform, --balance, --recipe or "),
        ("--where 'width > 3' --seed 0", "--seed", "--sample, --uniform, --balance, --recipe or "),
        ("--sample 3 --shuffle --format keys", "--shuffle", "--format tar"),
        ("--sample 3 --shard-size 5 --format keys", "--shard-size", "--format tar"),
        ("--sample 3 --max-bytes 5 --format csv", "--max-bytes", "--format tar"),
        ("--sample 3 --writers 2 --format uids", "--writers", "--format tar"),
    ],
)
def test_an_option_without_the_one_it_needs_is_refused(
    run, scored, tmp_path, options, unused, needs
):
    error = error_of(run(f"filter {scored[0]} {options} -o out"), 2)
    assert error.startswith(f"{unused} can only be used with {needs}")
    assert error.endswith(f", or drop {unused}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "unused", "other"),
    [
        ("--by width --top 3 --bottom 3", "--top", "--bottom"),
        ("--by width --top 3 --sample 3", "--top", "--sample"),
        ("--by width --bottom 3 --sample 3", "--bottom", "--sample"),
        *(
            (f"--recipe dc {option}", option.split()[0], "--recipe")
            for option in (
                "--top 3",
                "--bottom 3",
                "--sample 3",
                "--by width",
                "--uniform",
                "--bins 5",
                "--balance caption",
                "--cap 3",
            )
        ),
        ("--sample 3 --shuffle -o -", "--shuffle", "--output -"),
        ("--sample 3 --shard-size 5 -o -", "--shard-size", "--output -"),
        ("--sample 3 --max-bytes 5 -o -", "--max-bytes", "--output -"),
        ("--sample 3 --writers 2 -o -", "--writers", "--output -"),
        ("--sample 3 --overwrite -o -", "--overwrite", "--output -"),
        ("--sample 3 --engine ray -o -", "--engine", "--output -"),
        ("--sample 3 --engine ray --writers 2", "--writers", "--engine ray"),
        ("--sample 3 --engine ray --dry-run", "--engine", "--dry-run"),
    ],
)
def test_an_option_that_another_rules_out_is_refused(run, scored, tmp_path, options, unused, other):
    output = "" if " -o " in options else "-o out"
    error = error_of(run(f"filter {scored[0]} {options} {output}"), 2)
    assert error.startswith(f"{unused} cannot be used with {other}")
    assert f"drop {unused}" in error
    assert not list(tmp_path.iterdir())


def test_usage_is_checked_before_the_scores_are_read(run):
    error = error_of(run("filter nowhere --sample 3 --shuffle --format keys -o out"), 2)
    assert error.startswith("--shuffle can only be used with --format tar")


def test_a_rule_is_needed_or_all(run, scored, tmp_path):
    assert error_of(run(f"filter {scored[0]} -o kept"), 2) == (
        "nothing says which pairs to keep: add --where, --by with --top, --sample or --recipe, or "
        "--all to keep all"
    )
    assert error_of(run(f"filter {scored[0]} --all --top 3 --by width -o kept"), 2).startswith(
        "--all cannot be used with --by, which keeps only some pairs"
    )
    assert not list(tmp_path.iterdir())
    assert len(printed(run(f"filter {scored[0]} --all -o - --format keys")).splitlines()) == 300


def test_the_suffix_of_a_file_is_its_format(run, scored, tmp_path):
    command = f"filter {scored[0]} --by kl_text --top 6 -o"
    for name in ("a.csv", "a.jsonl", "a.txt", "a.npy", "a.parquet", "a.arrow", "a.tar", "b.CSV"):
        printed(run(f"{command} {name}"))
        assert (tmp_path / name).is_file()
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.CSV").read_bytes()
    assert len(np.load(tmp_path / "a.npy")) == 6
    assert pq.read_table(tmp_path / "a.parquet").num_rows == 6
    assert pa.ipc.open_stream(tmp_path / "a.arrow").read_all().num_rows == 6
    assert len((tmp_path / "a.txt").read_text().splitlines()) == 6
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert len(tar.getmembers()) == 3 * 6
    printed(run(f"{command} c.csv --format keys"))
    assert (tmp_path / "c.csv").read_text() == (tmp_path / "a.txt").read_text()
    printed(run(f"{command} kept"))
    assert (tmp_path / "kept").is_dir()
    for name in ("a.tar.gz", "s3://bucket/a.csv.zst"):
        error = error_of(run(f"{command} {name}"), 2)
        assert error.startswith(f"--output {name} is a compressed file, which clipdre does not")
    error = error_of(run(f"{command} d.tar --shard-size 3"), 2)
    assert error.startswith("--shard-size cannot be used with --output d.tar, a single tar")
    assert not (tmp_path / "d.tar").exists()


@pytest.mark.parametrize("options", ["", "--format npy", "--format parquet"])
def test_binary_output_is_not_printed_on_a_terminal(scored, options):
    parent, child = pty.openpty()
    options = options.replace("npy", "uids")
    done = subprocess.run(
        [CLIPDRE, "filter", scored[0], "--sample", "3", "-o", "-", *options.split()],
        stdout=child,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(child)
    with pytest.raises(OSError, match="Input/output error"):  # nothing was written, and it closed
        os.read(parent, 1)
    os.close(parent)
    assert done.returncode == 2
    name = options.partition(" ")[2] or "tar"
    assert done.stderr == (
        f"clipdre: error: --format {name} is binary, which a terminal cannot show: redirect "
        "stdout, or name a file as --output\n"
    )


@pytest.mark.parametrize("format", ["keys", "csv", "jsonl"])
def test_names_do_not_steer_the_terminal(tmp_path, format):
    (tmp_path / "pool").mkdir()
    steering = "\N{PILE OF POO}\x1b]0;title\x07\x9b2J\N{RIGHT-TO-LEFT OVERRIDE}"
    samples = [*pair(steering), *pair("other")]
    write_tar(tmp_path / "pool" / "a.tar", samples, tarfile.PAX_FORMAT)
    tiny_score(tmp_path / "pool", tmp_path / "s")
    command = [CLIPDRE, "filter", tmp_path / "s", "--all", "-o", "-", "--format", format]
    parent, child = pty.openpty()
    subprocess.run(command, stdout=child, stderr=subprocess.PIPE, check=True)
    os.close(child)
    shown = os.read(parent, 1 << 16).decode()
    os.close(parent)
    assert "\N{PILE OF POO}" in shown
    assert not set("\x1b\x07\x9b\N{RIGHT-TO-LEFT OVERRIDE}") & set(shown)
    piped = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" in piped


def test_keeps_and_writes_the_best_of_several_captions(run, tmp_path):
    (tmp_path / "pool").mkdir()
    colours = ("red", "blue", "green", "yellow")
    members = [
        m
        for n, colour in enumerate(colours)
        for m in pair(f"{n}", f"a {colour} circle", seed=n, recaption=f"{colour} star")
    ]
    write_tar(tmp_path / "pool" / "a.tar", members)
    printed(run(f"score pool -o s {TINY} --text-key txt --text-key json:recaption"))
    found = run("filter s --best caption --best-by=-kl_text --write-caption -o kept")
    assert printed(found) == "kept\n"
    assert "keeping 4 of 8 pairs (50.0%)" in found.stderr
    rows = pq.read_table(tmp_path / "kept" / "00000000.parquet").to_pylist()
    with tarfile.open(tmp_path / "kept" / "00000000.tar") as tar:
        texts = [tar.extractfile(f"{n}.txt").read().decode() for n in range(4)]
    assert texts == [row["caption"] for row in rows]
    printed(run(f"score pool -o one {TINY}"))
    error = error_of(run("filter one --best caption -o k"), 1)
    assert error.endswith("of several captions per image: score with several --text-key")


def test_slices_write_and_the_same_command_without_them_finishes(run, scored, tmp_path):
    command = f"filter {scored[0]} --by kl_text --top 50 --shard-size 10 -o"
    printed(run(f"{command} whole"))
    for n in (1, 2):
        part = run(f"{command} kept --slice {n}/2")
        assert printed(part) == ""
        assert f"slice {n}/2 is written: {(30, 20)[n - 1]} samples" in part.stderr.splitlines()
    assert printed(run(f"{command} kept")) == "kept\n"
    assert all_files(tmp_path / "kept") == all_files(tmp_path / "whole")
