import open_clip
import pytest

from clipdre.config import EncodeConfig
from clipdre.errors import ModelError
from clipdre.models.names import check_name, known_models


def test_models_are_those_of_open_clip():
    assert set(known_models()) == set(open_clip.list_models())


@pytest.mark.parametrize("model", ["ViT-B-32", "ViT-B/32", "clipdre-tiny", "hf-hub:any/thing"])
def test_known_names_pass(model):
    check_name(EncodeConfig(model=model))


def test_a_missing_checkpoint_is_named(tmp_path):
    weights = tmp_path / "weights.pt"
    with pytest.raises(ModelError, match="no checkpoint"):
        check_name(EncodeConfig(model="ViT-B-32", pretrained=str(weights)))
    weights.touch()
    check_name(EncodeConfig(model="ViT-B-32", pretrained=str(weights)))
