import re

import numpy as np
import pytest

from clipdre.errors import SelectionError
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.selecting.recipes import read_recipe, recipe_names, recipe_text
from clipdre.selecting.rules import Amount, Step
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
number = 7

[[steps]]
where = "kl_text > {low}"

[[steps]]
by = "kl_text"
top = "budget"
uniform = true
bins = "{number}"
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


def test_there_is_a_recipe_for_each_published_method():
    assert recipe_names() == [
        "clipscore",
        "clipscore-and-kl",
        "clipscore-then-kl",
        "datacomp-basic",
        "dc",
        "density-pruning",
        "digits-masked",
        "dsir",
        "dw",
        "image-based-and-clipscore",
        "kl",
        "klr",
        "laion2b",
        "lemon",
        "log-ratio",
        "log-ratio-copies-last",
        "log-ratio-then-kl",
        "log-ratio-weighted",
        "metaclip",
        "negcliploss",
        "negcliploss-normsim",
        "negcliploss-normsim-d",
        "semdedup",
        "similarity-threshold",
        "soft-cap",
        "uniform-kl",
        "union",
        "wfpp",
    ]


@pytest.mark.parametrize("name", recipe_names())
def test_each_recipe_cites_its_source(name):
    recipe = read_recipe(name)
    assert re.search(r"arXiv \d{4}\.\d{5}|docs/design\.md", recipe.source)
    assert re.search(r'^title = "(.*)"$', recipe_text(name), re.MULTILINE)[1] == recipe.title


WITH_BUDGET = [
    name
    for name in recipe_names()
    if "budget" in read_recipe(name).options and not read_recipe(name).measures
]


@pytest.mark.parametrize("name", WITH_BUDGET)
def test_each_recipe_keeps_its_budget(name, query):
    recipe = read_recipe(name)
    selection = select(query, recipe.rule(query))
    share = float(str(recipe.options["budget"]).rstrip("%")) / 100
    pool = selection.steps[0].after_where  # distinct pairs, if the recipe wants them
    assert len(selection) == int(pool * share + 0.5)
    assert len(select(query, recipe.rule(query, budget=Amount(17)))) == 17


def test_ratio_then_kl_ranks_by_the_ratio_and_then_the_kl(query, scored):
    recipe = read_recipe("log-ratio-then-kl")
    selection = select(query, recipe.rule(query, {"widen": 2}, Amount(0.1)))
    table = read_scores(*scored)
    ratio, kl = table["log_ratio"].to_numpy(), table["kl_text"].to_numpy()
    ((ranks,),) = query.fetchall('SELECT list(duplicate_rank ORDER BY shard, "offset") FROM pool')
    distinct = np.flatnonzero(np.array(ranks) == 1)
    assert len(distinct) < 300
    shard, row = selection.places
    kept = shard * 100 + row
    budget = int(0.1 * len(distinct) + 0.5)
    wide = distinct[np.argsort(-ratio[distinct])][: 2 * budget]
    assert sorted(kept) == sorted(wide[np.argsort(-kl[wide])][:budget])


def test_copies_come_after_distinct_pairs_and_before_what_does_not_match(query, scored):
    recipe = read_recipe("log-ratio-copies-last")
    table = read_scores(*scored)
    ((ranks,),) = query.fetchall('SELECT list(duplicate_rank ORDER BY shard, "offset") FROM pool')
    ratio, ranks = table["log_ratio"].to_numpy().astype(float), np.array(ranks)
    assert (ranks > 1).any()
    for n in (20, 299):  # the best of all, and all but the worst
        shard, row = select(query, recipe.rule(query, budget=Amount(n))).places
        valued = np.where(ratio > 0, ratio / ranks, ratio)
        assert sorted(shard * 100 + row) == sorted(np.argsort(-valued)[:n])


def test_settings_fill_in_the_steps(query, written):
    recipe = read_recipe(written(PLAIN))
    rule = recipe.rule(
        query, {"low": "3.5", "budget": "20%"}, first=[Step(where="width > 0")], seed=4
    )
    assert [step.where for step in rule.steps] == ["width > 0", "kl_text > 3.5", None]
    assert rule.steps[2].bins == 7
    assert (rule.budget, rule.seed, rule.name) == (Amount(0.2), 4, "mine")
    selection = select(query, rule)
    assert len(selection) == int(0.2 * selection.steps[1].kept + 0.5)


def test_messages_count_the_steps_of_the_recipe_only(query):
    recipe = read_recipe("dc")
    with pytest.raises(SelectionError, match=r"^cannot use recipe dc, step 1: by 'dc_sound'"):
        select(query, recipe.rule(query, {"side": "sound"}, first=[Step(where="width > 0")]))
    with pytest.raises(SelectionError, match=r"^cannot use `where` 'widht > 0'"):
        select(query, recipe.rule(query, first=[Step(where="widht > 0")]))


def test_thresholds_apply_to_their_own_model_only(query, tmp_path):
    recipe = read_recipe("similarity-threshold")
    with pytest.raises(SelectionError, match=r"not of clipdre-tiny: pass `settings` threshold=NUM"):
        recipe.rule(query)
    rule = recipe.rule(query, {"threshold": 0.5})
    assert rule.steps[0].where == "similarity >= 0.5"
    manifest = write_score_folder(tmp_path, [{"key": ["a"], "similarity": [0.3], "key_hash": [1]}])
    with pytest.raises(SelectionError, match="not of made-up"):
        recipe.rule(ScoreQuery(ScoreFolder(tmp_path), manifest))


def test_a_folder_does_not_hide_a_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kl").mkdir()
    (tmp_path / "log-ratio").write_text("title = 'mine'")
    assert read_recipe("kl").title == "D_KL of the caption (or image), top 25%"
    assert "mine" not in read_recipe("log-ratio").title


def test_names_with_a_slash_or_suffix_are_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kl").write_text(PLAIN)
    (tmp_path / "mine.toml").write_text(PLAIN)
    assert read_recipe("./kl").title == "a title"
    assert read_recipe("mine.toml").title == "a title"
    for name in ("none.toml", "none/kl"):
        with pytest.raises(SelectionError, match=f"there is no recipe file {name}"):
            read_recipe(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("{low}", "{lwo}"), "recipe mine, step 1 has no option 'lwo': did you mean low?"),
        (('top = "budget"', 'top = "lots"'), "recipe mine, step 2: top 'lots' is not a number: "),
        (('top = "budget"', "top = 130.0"), "recipe mine, step 2: top 130.0 is above 100%: "),
        (('by = "kl_text"\n', ""), "recipe mine, step 2: top can only be used with by"),
        (("uniform = true\n", ""), "recipe mine, step 2: bins can only be used with uniform"),
        (('uniform = true\nbins = "{number}"', "bins = 100"), "recipe mine, step 2: bins can only"),
        (("number = 7", "number = 2.5"), "recipe mine, step 2: bins '2.5' is not a count: "),
        (("number = 7", "number = 0"), "recipe mine, step 2: bins is 0: "),
        (('budget = "10%"', 'budget = "much"'), "recipe mine: budget 'much' is not a number: "),
        (('budget = "10%"\n', ""), "recipe mine: a step keeps a multiple of the budget, which"),
    ],
)
def test_reports_mistakes_in_the_steps_of_a_recipe(query, written, change, message):
    assert change[0] in PLAIN
    with pytest.raises(SelectionError) as caught:
        read_recipe(written(PLAIN.replace(*change))).rule(query)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "settings", "budget", "message"),
    [
        ("klx", {}, None, "clipdre has no recipe 'klx': did you mean kl or klr?"),
        ("qqq", {}, None, "clipdre has no recipe 'qqq': choose from clipscore, "),
        ("kl", {"bugdet": "3"}, None, "recipe kl has no option 'bugdet': did you mean"),
        ("dc", {"side": "text) OR (1=1"}, None, "`settings` side=text) OR (1=1 is not a number"),
        (
            "similarity-threshold",
            {"threshold": "0.1"},
            Amount(3),
            "recipe similarity-threshold does not take a `budget`: drop",
        ),
        ("dc", {"side": "sound"}, None, "cannot use recipe dc, step 1: by 'dc_sound'"),
        ("log-ratio-weighted", {}, None, "recipe log-ratio-weighted needs prompt_weight, which"),
    ],
)
def test_reports_mistakes_in_using_a_recipe(query, name, settings, budget, message):
    with pytest.raises(SelectionError) as caught:
        select(query, read_recipe(name).rule(query, settings, budget))
    assert str(caught.value).startswith(message)


def test_names_the_commands_that_measure_what_is_missing(query, written, scored):
    needs = 'expects = ["kl_text", "wfpp", "x", "y"]\nmeasures = {wfpp = "a", x = "b c", y = "a"}'
    path = written(PLAIN.replace('expects = ["kl_text"]', needs))
    with pytest.raises(SelectionError) as caught:
        read_recipe(path).rule(query)
    assert str(caught.value) == (
        "recipe mine needs wfpp, x, y, which these scores do not have: run 'clipdre measure "
        f"{scored[0]} a' and 'clipdre measure {scored[0]} b c', or join a file that has them with "
        "`joined`"
    )
