import dataclasses

import pytest

from clipdre.core.columns import Column


def test_columns_are_values():
    column = Column("x", "nats", "meaning")
    assert column.better == "neither"
    assert column == Column("x", "nats", "meaning", "neither")
    with pytest.raises(dataclasses.FrozenInstanceError):
        column.name = "y"
