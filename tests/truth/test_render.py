import numpy as np
import pytest

from clipdre.truth.render import IMAGE_SIZE, RGB, render_scene
from clipdre.truth.world import BACKGROUNDS, COLOURS, POSITIONS, SHAPES, SIZES


def render(shape="square", colour="red", size="large", position="top left", ground="white", seed=0):
    values = (
        SHAPES.index(shape),
        COLOURS.index(colour),
        SIZES.index(size),
        POSITIONS.index(position),
        BACKGROUNDS.index(ground),
    )
    image = render_scene(np.array(values), np.random.default_rng(seed))
    assert image.mode == "RGB"
    assert image.size == (IMAGE_SIZE, IMAGE_SIZE)
    return np.asarray(image).astype(int)


def is_shape(pixels, colour):
    """Mask of the pixels within the jitter of a colour."""
    return (np.abs(pixels - RGB[colour]) <= 12).all(axis=2)


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("shape", SHAPES)
def test_draws_every_shape_in_its_colour(shape, colour):
    others = [is_shape(render(shape, colour), other).sum() for other in COLOURS if other != colour]
    assert is_shape(render(shape, colour), colour).sum() > 100
    assert max(others) == 0


@pytest.mark.parametrize("position", POSITIONS)
def test_draws_in_the_named_corner(position):
    rows, columns = np.nonzero(is_shape(render(position=position), "red"))
    assert (rows.mean() < IMAGE_SIZE / 2) == ("top" in position)
    assert (columns.mean() < IMAGE_SIZE / 2) == ("left" in position)


def test_large_shapes_cover_more_than_small_ones():
    small, large = (is_shape(render(size=size), "red").sum() for size in ("small", "large"))
    assert large > 1.5 * small


def test_backgrounds_differ():
    corners = {ground: render(ground=ground)[-8:, -8:].mean() for ground in BACKGROUNDS}
    assert corners["black"] < 30 < corners["grey"] < 160 < 230 < corners["white"]
    assert np.ptp(render(ground="striped")[:, -1, 0]) > 100


def test_details_vary_with_the_generator_only():
    assert (render(seed=1) == render(seed=1)).all()
    assert (render(seed=1) != render(seed=2)).any()
