import shutil
import sys

import pytest

from tests.cli.running import error_of, printed


def test_writes_a_lance_table(run, scored, tmp_path):
    lance = pytest.importorskip("lance", reason="needs the extra lance")
    found = run(f"export {scored[0]} -o x.lance")
    assert printed(found) == "x.lance\n"
    assert found.stderr == "wrote 300 rows\n"
    assert lance.dataset("x.lance").count_rows() == 300
    assert "pass --overwrite" in error_of(run(f"export {scored[0]} -o x.lance"), 1)
    assert printed(run(f"export {scored[0]} -o x.lance --overwrite")) == "x.lance\n"


def test_reads_tars_that_moved(run, scored, pool, tmp_path):
    pytest.importorskip("lance", reason="needs the extra lance")
    shutil.copytree(pool, tmp_path / "moved")
    assert printed(run(f"export {scored[0]} -o x.lance --shards moved")) == "x.lance\n"


def test_without_pylance_the_error_names_the_extra(run, scored, monkeypatch):
    monkeypatch.setitem(sys.modules, "lance", None)
    assert "pip install 'clipdre[lance]'" in error_of(run(f"export {scored[0]} -o x.lance"), 1)
