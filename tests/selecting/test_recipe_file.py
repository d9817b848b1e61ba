import pytest

from clipdre.errors import SelectionError
from clipdre.selecting.recipe_file import read_recipe_file

PLAIN = """
title = "a title"
source = "a paper"
models = ["ViT-B-32 (openai)"]
scales = ["low"]

[options]
low = 0.5

[[steps]]
where = "kl_text > {low}"

[[steps]]
by = "kl_text"
top = 10
"""


def read(folder, text):
    path = folder / "mine.toml"
    path.write_bytes(text.encode("latin-1"))
    return read_recipe_file(path)


def test_reads_all_fields(tmp_path):
    assert read(tmp_path, PLAIN) == {
        "title": "a title",
        "source": "a paper",
        "expects": [],
        "models": ["ViT-B-32 (openai)"],
        "scales": ["low"],
        "measures": {},
        "options": {"low": 0.5},
        "steps": [{"where": "kl_text > {low}"}, {"by": "kl_text", "top": 10}],
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("title =", "titel ="), "has no field 'titel': did you mean title?"),
        (("[options]", "[option]"), "has no field 'option': did you mean options?"),
        (("by =", "bye ="), ", step 2 has no field 'bye': did you mean by?"),
        (('source = "a paper"', ""), "has no source: add it"),
        (('source = "a paper"', 'source = ""'), "has no source: add it"),
        (('"a title"', "3"), ": title = 3 has the wrong type: use a string"),
        (('models = ["ViT-B-32 (openai)"]', 'models = "x"'), ": models is not a list of strings"),
        (('scales = ["low"]', "scales = [1]"), ": scales is not a list of strings"),
        (('scales = ["low"]', 'scales = ["lwo"]'), "has no option 'lwo': did you mean low?"),
        (('scales = ["low"]', ""), ": models can only be used with scales"),
        (('models = ["ViT-B-32 (openai)"]', ""), ": scales can only be used with models"),
        (("low = 0.5", "low = [1]"), ", options: low = [1] has the wrong type: use a string or a"),
        (("low = 0.5", "low = true"), ", options: low = True has the wrong type"),
        (("[options]\nlow = 0.5", "[[options]]"), ": options is not a table"),
        (('where = "kl_text > {low}"', "where = 3"), ", step 1: where = 3 has the wrong type: use"),
        (('by = "kl_text"', "by = true"), ", step 2: by = True has the wrong type: use a string"),
        (("top = 10", "top = true"), ", step 2: top = True has the wrong type: use a string or a"),
        (("top = 10", "top = 1979-05-27"), ", step 2: top = datetime.date"),
        (("top = 10", "top = 10\nbins = 2.5"), ", step 2: bins = 2.5 has the wrong type: use a st"),
        (("top = 10", "top = 10\nuniform = 1"), ", step 2: uniform = 1 has the wrong type: use tr"),
        (("[options]", "[measures]\nx = 'a'\n[options]"), ", expects has no column 'x': "),
        (("[options]", "[measures]\nx = 1\n[options]"), ", measures: x = 1 has the wrong type"),
        (("[options]", "expects = ['x']\nmeasures = 1\n[options]"), ": measures is not a table"),
        (
            ("[options]", "expects = ['x']\nmeasures.x = \"a\\nb\"\n[options]"),
            ", measures: x is not one line",
        ),
        (("[[steps]]", "[steps"), "cannot read recipe file"),
        (("a title", "\xe9"), "cannot read recipe file"),
    ],
)
def test_reports_mistakes_in_one_line(tmp_path, change, message):
    assert change[0] in PLAIN
    with pytest.raises(SelectionError) as caught:
        read(tmp_path, PLAIN.replace(*change))
    assert message in str(caught.value)
    assert "mine" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.cure


@pytest.mark.parametrize("steps", ["steps = 3", "steps = [3]", "[steps]\nby = 'x'"])
def test_steps_are_tables(tmp_path, steps):
    with pytest.raises(SelectionError, match="steps is not a list of tables: start each with"):
        read(tmp_path, f"title = 'a'\nsource = 'b'\n{steps}")


def test_a_recipe_needs_steps(tmp_path):
    with pytest.raises(SelectionError, match="recipe mine has no steps"):
        read(tmp_path, "title = 'a'\nsource = 'b'\nsteps = []")
