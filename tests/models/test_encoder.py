import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torchvision.transforms import Compose, Normalize, ToTensor

from clipdre.models.encoder import split_transform

CPU = torch.device("cpu")


@pytest.fixture
def image():
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
def test_split_transform_gives_the_pixels_of_the_whole_one(image, resize_mode):
    whole = open_clip.image_transform(32, is_train=False, resize_mode=resize_mode)
    geometry, scaling = split_transform(whole, CPU)
    pixels = geometry(image)
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (3, 32, 32)
    torch.testing.assert_close(scaling(pixels[None])[0], whole(image), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "transform",
    [ToTensor(), Compose([ToTensor()]), Compose([torch.nn.Identity(), Normalize(0.5, 0.5)])],
    ids=["not a Compose", "no Normalize", "no ToTensor"],
)
def test_transform_with_other_last_steps_stays_whole(transform):
    assert split_transform(transform, CPU) == (transform, None)
