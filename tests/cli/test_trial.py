"""`clipdre score --dry-run`."""

import json
import re

from tests.cli.running import TINY, error_of, printed, rows_of


def test_reports_on_stdout_and_writes_nothing(run, pool, tmp_path):
    found = run(f"score {pool} --dry-run {TINY} --workers 2")
    lines = printed(found).splitlines()
    assert not list(tmp_path.iterdir())
    assert lines[0] == "Tried: 300 pairs from 3 shards"
    rows = rows_of(found.stdout)
    assert rows["reading and decoding"][0] == "2 workers"
    assert rows["encoding"][0] == "cpu"
    assert all(int(row[-1].replace(",", "")) > 0 for row in list(rows.values())[-3:])
    text = "\n".join(lines[-6:])
    assert re.search(r"^limited by (decoding|encoding): ", text, re.MULTILINE)
    assert re.search(r"^the pool: about 300 pairs in 3 shards, \d+ kB$", text, re.MULTILINE)
    assert re.search(r"^time: about \d\d:\d\d to encode it", text, re.MULTILINE)
    assert re.search(r"^disk: about \d+ kB$", text, re.MULTILINE)
    assert lines[-1] == "nothing was written"
    # An output may be named; it is not touched.
    printed(run(f"score {pool} --dry-run {TINY} --limit 5 -o s"))
    assert not (tmp_path / "s").exists()


def test_limit_and_json(run, pool):
    found = json.loads(printed(run(f"score {pool} --dry-run --limit 30 --json {TINY}")))
    assert found["rows"] == 30
    assert found["model"]["name"] == "clipdre-tiny"
    assert found["seconds"] * found["rate"] > 200


def test_needs(run, pool, tmp_path):
    assert error_of(run(f"score {pool} {TINY}"), 2) == (
        "no --output: name a folder for the scores, or add --dry-run"
    )
    error = error_of(run(f"score {pool} -o s --limit 3"), 2)
    assert error.startswith("--limit can only be used with --dry-run, ")
    error = error_of(run(f"score {pool} -o s --json"), 2)
    assert error.startswith("--json can only be used with --dry-run")
    error = error_of(run("score --embeddings x --dry-run"), 2)
    assert error.startswith("--dry-run cannot be used with --embeddings, ")
    assert "`" not in error
