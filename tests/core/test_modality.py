import json

import pytest

from clipdre.core.modality import Modality


def test_each_modality_has_the_other():
    assert Modality.IMAGE.other is Modality.TEXT
    assert Modality.TEXT.other is Modality.IMAGE
    assert list(Modality) == [Modality.IMAGE, Modality.TEXT]


@pytest.mark.parametrize("name", ["image", "text"])
def test_modalities_are_their_names(name):
    modality = Modality(name)
    assert f"kl_{modality}" == f"kl_{name}"
    assert str(modality) == name
    assert {modality: 1}[name] == 1
    assert json.dumps({"m": modality}) == json.dumps({"m": name})
