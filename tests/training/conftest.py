from tests.emitting.conftest import store

__all__ = ["store"]
