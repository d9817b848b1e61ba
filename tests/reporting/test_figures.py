import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from clipdre.reporting import figures
from clipdre.reporting.figures import Panel, plot_agreement

EXPECTED = np.array([0.0, 1.0, 2.0, 4.0])
ESTIMATED = np.array([0.5, 1.0, 1.5, 5.0])
PANELS = [
    Panel("kl_text", "true", EXPECTED, ESTIMATED),
    Panel("log_ratio", "exact", EXPECTED, -EXPECTED),
]


@pytest.fixture
def drawn(monkeypatch):
    """Figures that were drawn."""
    made = []

    def figure(*args, **kwargs):
        made.append(Figure(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(figures, "Figure", figure)
    return made


@pytest.mark.parametrize("count", [1, 2])
def test_writes_a_png_as_wide_as_its_panels(tmp_path, count):
    plot_agreement(PANELS[:count], tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        assert image.format == "PNG"
        assert image.size == (440 * count, 484)  # 4 x 4.4 inches per panel at 110 dots per inch
        assert len(image.convert("RGB").getcolors(1 << 20)) > 10


def test_panels_show_estimates_against_expected_values(tmp_path, drawn):
    plot_agreement(PANELS, tmp_path / "plot.png")
    (figure,) = drawn
    assert len(figure.axes) == 2
    for axes, panel in zip(figure.axes, PANELS, strict=True):
        points = axes.collections[0].get_offsets()
        np.testing.assert_array_equal(points, np.stack([panel.expected, panel.estimated], axis=1))
        assert axes.get_xlabel() == f"{panel.against} (nats)"
        assert axes.get_ylabel() == "estimated (nats)"


def test_titles_name_the_column_and_its_correlation(tmp_path, drawn):
    plot_agreement(PANELS, tmp_path / "plot.png")
    titles = [axes.get_title() for axes in drawn[0].axes]
    expected, estimated = EXPECTED - EXPECTED.mean(), ESTIMATED - ESTIMATED.mean()
    norms = np.sqrt((expected**2).sum() * (estimated**2).sum())
    pearson = (expected * estimated).sum() / norms
    assert titles == [f"kl_text: Pearson {pearson:.3f}", "log_ratio: Pearson -1.000"]


def test_line_of_equality_spans_both_ranges(tmp_path, drawn):
    plot_agreement(PANELS, tmp_path / "plot.png")
    lines = [axes.lines[0].get_xydata().tolist() for axes in drawn[0].axes]
    assert lines == [[[0, 0], [5, 5]], [[-4, -4], [4, 4]]]
