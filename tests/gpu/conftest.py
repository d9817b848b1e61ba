import pytest
import torch

from tests.gpu import CUDA


def pytest_collection_modifyitems(items):
    """Mark every test of this folder, and skip it without a device."""
    for item in items:
        if item.path.parent.name == "gpu":
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def device():
    torch.cuda.empty_cache()
    return torch.device(CUDA)
