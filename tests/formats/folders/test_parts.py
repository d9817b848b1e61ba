import resource

import numpy as np
import pytest

from clipdre.errors import OutputError
from clipdre.formats.folders.parts import Parts


def test_a_part_is_that_of_its_stamp(tmp_path):
    parts = Parts(tmp_path / "parts", "settings")
    assert not parts.has("a", "rows")
    parts.write("a", {"x": np.arange(6, dtype=np.uint64).reshape(2, 3).T}, "rows")
    assert parts.has("a", "rows")
    assert parts.read("a")["x"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert not parts.has("a", "other rows")
    assert not Parts(parts.path, "other settings").has("a", "rows")
    content = parts.file("a").read_bytes()
    parts.file("a").write_bytes(content[:-1])  # cut off
    assert not parts.has("a", "rows")
    parts.remove()
    assert not parts.path.exists()


def test_a_full_disk_is_one_line(tmp_path):
    parts, most = Parts(tmp_path, ""), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, most[1]))
    try:
        with pytest.raises(OutputError, match=r"cannot write .*a\.safetensors"):
            parts.write("a", {"x": np.zeros(1000)}, "")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
    assert list(tmp_path.iterdir()) == []
