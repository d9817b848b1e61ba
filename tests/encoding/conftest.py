"""The embedded model, loaded once."""

from __future__ import annotations

import pytest

from clipdre.models.encoder import Encoder
from clipdre.models.load import load_encoder
from tests.helpers import TINY


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """The embedded model on the CPU."""
    return load_encoder(TINY.encode)
