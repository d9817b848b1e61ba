import tarfile

import pytest

from clipdre.config import EmitConfig
from clipdre.emitting.emit import write_tar_folder
from clipdre.emitting.read_back import read_back
from clipdre.emitting.write import write_subset
from clipdre.errors import OutputError
from tests.helpers import chosen, pair, subset_of, write_tar

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("key", ["k", "d.e/k", "é", "n" * 180])
def test_whole_tars_have_their_samples(tmp_path, format, key):
    if format == tarfile.USTAR_FORMAT:
        key = key[:90]
    members = [m for n in range(5) for m in pair(f"{key}{n}", uid="1")]
    path = write_tar(tmp_path / "a.tar", members, format)
    assert read_back(path, "a.tar", 5) == {"png", "txt", "json"}
    with pytest.raises(OutputError, match=r"a\.tar was written with 6 samples"):
        read_back(path, "a.tar", 6)


@pytest.mark.parametrize("key", ["k", "é"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data.rstrip(b"\0"),
        lambda data: data.replace(b"ustar", b"USTAR", 1),
        lambda data: data[:600] + b"\0" * 512 + data[600:],
    ],
)
def test_damaged_tars_are_refused(tmp_path, key, damage):
    path = write_tar(tmp_path / "a.tar", [m for n in range(5) for m in pair(f"{key}{n}")])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(OutputError, match="does not read back"):
        read_back(path, "a.tar", 5)


def test_no_tar_gets_its_name_that_does_not_read_back(scored, tmp_path, monkeypatch):
    def writes_nonsense(out, samples):
        list(samples)
        return out.write(b"x" * 512)

    monkeypatch.setattr("clipdre.emitting.shard.write_tar", writes_nonsense)
    with pytest.raises(OutputError, match=r"00000000\.tar was written with 300 samples"):
        write_tar_folder(subset_of(scored), tmp_path / "kept", EmitConfig())
    assert not list((tmp_path / "kept").glob("*.tar"))
    monkeypatch.setattr("clipdre.emitting.export.write_tar", writes_nonsense)
    with pytest.raises(OutputError, match=r"one\.tar was written with 300 samples"):
        write_subset(chosen(scored), tmp_path / "one.tar")
    assert not (tmp_path / "one.tar").exists()
