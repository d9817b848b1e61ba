import pytest

from clipdre.errors import SelectionError
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.selecting.recipes import read_recipe, recipe_names, recipe_text
from clipdre.selecting.rules import Amount
from clipdre.selecting.select import select
from clipdre.sql.query import ScoreQuery
from tests.helpers import read_scores, write_score_folder

PLAIN = """
title = "a title"
source = "a paper"
expects = ["kl_text"]

[options]
budget = "10%"
low = 0.5

[[steps]]
where = "kl_text > {low}"

[[steps]]
by = "kl_text"
top = "budget"
"""


@pytest.fixture
def query(scored):
    return ScoreQuery(ScoreFolder(scored[0]), scored[1])


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return str(path)

    return write


def test_each_published_method_has_one():
    assert recipe_names() == [
        "clipscore",
        "clipscore-then-kl",
        "dc",
        "kl-text",
        "klr-text",
        "laion",
        "log-ratio",
        "log-ratio-then-kl",
        "log-ratio-weighted",
        "uniform-kl",
    ]
    for name in recipe_names():
        assert read_recipe(name).source
        assert recipe_text(name).startswith("title = ")


@pytest.mark.parametrize("name", sorted(set(recipe_names()) - {"laion", "log-ratio-weighted"}))
def test_each_runs_and_keeps_its_budget(name, query):
    recipe = read_recipe(name)
    selection = select(query, recipe.rule(query))
    share = float(str(recipe.options["budget"]).rstrip("%")) / 100
    assert len(selection) == round(300 * share)
    assert len(select(query, recipe.rule(query, budget=Amount(17)))) == 17


def test_the_recommended_one_is_the_ratio_and_then_the_kl(query, scored):
    recipe = read_recipe("log-ratio-then-kl")
    selection = select(query, recipe.rule(query, {"widen": "2"}, Amount(0.1)))
    table = read_scores(*scored)
    ratio, kl = table["log_ratio"].to_numpy(), table["kl_text"].to_numpy()
    shard, row = selection.places
    kept = shard * 100 + row
    wide = ratio >= sorted(ratio)[-60]
    assert len(kept) == 30
    assert wide[kept].all()
    assert kl[kept].min() >= max(kl[n] for n in set(range(300)) - set(kept) if wide[n])


def test_options_a_budget_and_a_condition_before(query, written):
    recipe = read_recipe(written(PLAIN))
    rule = recipe.rule(query, {"low": "3.5", "budget": "20%"}, where="width > 0", seed=4)
    assert [step.where for step in rule.steps] == ["width > 0", "kl_text > 3.5", None]
    assert (rule.budget, rule.seed, rule.name) == (Amount(0.2), 4, "mine")
    selection = select(query, rule)
    assert len(selection) == int(0.2 * selection.steps[1].kept + 0.5)


def test_numbers_of_another_model_are_refused(query, tmp_path):
    recipe = read_recipe("laion")
    with pytest.raises(SelectionError, match=r"are of clipdre-tiny, .* by --set threshold=NUMBER"):
        recipe.rule(query)
    rule = recipe.rule(query, {"threshold": "0.5"})
    assert rule.steps[0].where == "similarity >= 0.5"
    manifest = write_score_folder(tmp_path, [{"key": ["a"], "similarity": [0.3], "key_hash": [1]}])
    with pytest.raises(SelectionError, match="these scores are of made-up"):
        recipe.rule(ScoreQuery(ScoreFolder(tmp_path), manifest))


def test_columns_that_are_not_there_are_named(query):
    with pytest.raises(SelectionError, match="reads weight, which these scores have not: join a"):
        read_recipe("log-ratio-weighted").rule(query)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("title", "titel"), "has no field 'titel'; did you mean title?"),
        (("[options]", "[option]"), "has no field 'option'; did you mean options?"),
        (("by =", "bye ="), "step 2 has no field 'bye'; did you mean by?"),
        (("{low}", "{lwo}"), "has no option 'lwo'; did you mean low?"),
        (('top = "budget"', 'top = "lots"'), "step 2: top lots is no number"),
        (('by = "kl_text"', "by = 3"), "step 2: by = 3 is not of the right type"),
        (('by = "kl_text"\n', ""), "--by and --top belong together"),
        (("[[steps]]", "[steps"), "cannot be read"),
        (('source = "a paper"', ""), "has no 'source'"),
        (("low = 0.5", "low = [1]"), "names with numbers or strings"),
    ],
)
def test_a_mistake_in_a_recipe_is_one_line(query, written, change, said):
    with pytest.raises(SelectionError) as caught:
        read_recipe(written(PLAIN.replace(*change))).rule(query)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "settings", "budget", "said"),
    [
        ("kl-txt", {}, None, "clipdre has no recipe 'kl-txt'; did you mean kl-text?"),
        ("none.toml", {}, None, "no recipe file none.toml"),
        ("kl-text", {"bugdet": "3"}, None, "has no option 'bugdet'; did you mean budget?"),
        ("dc", {"side": "text) OR (1=1"}, None, "is no number or name"),
        ("laion", {"threshold": "0.1"}, Amount(3), "has no budget"),
        ("dc", {"side": "sound"}, None, "there is no column dc_sound"),
    ],
)
def test_a_users_mistake_is_one_line(query, name, settings, budget, said):
    with pytest.raises(SelectionError) as caught:
        select(query, read_recipe(name).rule(query, settings, budget))
    assert said in str(caught.value)
