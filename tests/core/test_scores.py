import subprocess
import sys

import numpy as np
import pytest
import torch

from clipdre.core.columns import Column
from clipdre.core.scores import ERROR_COLUMNS, SCORE_COLUMNS, SCORES, half_columns, score_columns
from tests.core import oracle
from tests.core.pair_cases import BIAS, SCALE, N, exact_pairs, sampled_pairs, small_pool

# The order and units in score files, which other programs rely on.
UNITS = {
    "similarity": "cosine",
    "log_partition_image": "nats",
    "log_partition_text": "nats",
    "log_ratio_image": "nats",
    "log_ratio_image_se": "nats",
    "log_ratio_text": "nats",
    "log_ratio_text_se": "nats",
    "log_ratio": "nats",
    "log_ratio_se": "nats",
    "negcliploss": "nats",
    "negcliploss_se": "nats",
    "kl_contribution": "nats",
    "kl_image": "nats",
    "kl_image_se": "nats",
    "klr_image": "nats",
    "klr_image_se": "nats",
    "dw_image": "nats",
    "dc_image": "nats",
    "ess_image": "pairs",
    "kl_text": "nats",
    "kl_text_se": "nats",
    "klr_text": "nats",
    "klr_text_se": "nats",
    "dw_text": "nats",
    "dc_text": "nats",
    "ess_text": "pairs",
}
WITH_TAU = {
    "log_ratio_tau": "nats",
    "kl_image_tau": "nats",
    "kl_image_tau_all": "nats",
    "klr_image_tau": "nats",
    "kl_text_tau": "nats",
    "kl_text_tau_all": "nats",
    "klr_text_tau": "nats",
}


def test_columns_come_in_a_fixed_order_with_their_units():
    found = [(score.column.name, score.column.unit) for score in SCORES]
    assert found == list((UNITS | WITH_TAU).items())
    assert list(SCORE_COLUMNS) == list(UNITS)
    assert list(ERROR_COLUMNS) == [name for name in UNITS if name.endswith("_se")]


@pytest.mark.parametrize("column", [score.column for score in SCORES], ids=lambda c: c.name)
def test_each_column_has_one_line_of_meaning(column: Column):
    assert column.meaning
    assert "\n" not in column.meaning
    assert not column.meaning.endswith(".")
    if column.name.endswith("_se"):
        assert column.better == "low"
        assert column.meaning.startswith(f"standard error of {column.name.removesuffix('_se')} ")


def test_only_columns_that_need_tau_depend_on_it():
    assert [score.column.name for score in SCORES if score.needs_tau] == list(WITH_TAU)


@pytest.mark.parametrize("tau", [None, 32_768])
def test_all_columns_match_the_oracle(tau):
    images, texts = small_pool()
    expected = oracle.scores(images, texts, SCALE, BIAS, tau=tau)
    found = score_columns(exact_pairs(images, texts, tau))
    assert list(found) == [name for name in UNITS | WITH_TAU if name in expected]
    for name, values in found.items():
        assert values.shape == (N,)
        np.testing.assert_allclose(values, expected[name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_contributions_sum_to_the_mean_log_ratio():
    found = score_columns(exact_pairs(*small_pool()))
    mean = found["log_ratio"].mean()
    torch.testing.assert_close(found["kl_contribution"].sum(), mean)


def test_errors_of_a_sampled_reference_belong_to_their_column():
    pairs = sampled_pairs(*small_pool())
    found = score_columns(pairs)
    expected = {
        "log_ratio_image_se": pairs.image.log_partition_se,
        "log_ratio_text_se": pairs.text.log_partition_se,
        "log_ratio_se": pairs.log_ratio_se,
        "negcliploss_se": pairs.negcliploss_se,
        "kl_image_se": pairs.image.kl_se,
        "kl_text_se": pairs.text.kl_se,
        "klr_image_se": pairs.image.log_partition_se,
        "klr_text_se": pairs.text.log_partition_se,
    }
    assert set(expected) == set(ERROR_COLUMNS)
    for name, values in expected.items():
        assert values.min() > 0
        assert torch.equal(found[name], values), name


def test_halves_are_the_columns_against_each_half_of_the_pool():
    images, texts = small_pool()
    found = half_columns(exact_pairs(images, texts))
    assert set(found) == {name.removesuffix("_se") for name in ERROR_COLUMNS}
    logits = SCALE * images @ texts.T + BIAS
    for half in (0, 1):
        others = [[m for m in range(half, N, 2) if m != n] for n in range(N)]
        of_half = oracle.of_queries(logits[n, m] for n, m in enumerate(others))
        np.testing.assert_allclose(found["kl_image"][half], of_half["kl"], rtol=1e-9)
        ratio = np.diag(logits) - of_half["log_partition"]
        np.testing.assert_allclose(found["log_ratio_image"][half], ratio, rtol=1e-9)


def test_negcliploss_is_minus_the_clip_loss_with_the_pool_as_batch():
    images, texts = small_pool()
    logits = torch.from_numpy(SCALE * images @ texts.T + BIAS)
    target = torch.arange(N)
    losses = [
        torch.nn.functional.cross_entropy(rows, target, reduction="none")
        for rows in (logits, logits.T)
    ]
    found = score_columns(exact_pairs(images, texts))["negcliploss"]
    torch.testing.assert_close(found, np.log(N) - (losses[0] + losses[1]) / 2)
    assert found.max() < np.log(N)


@pytest.mark.parametrize("module", ["clipdre.core.scores", "clipdre.core.columns"])
def test_naming_columns_does_not_load_torch(module):
    code = f"import sys, {module}; print({{'torch', 'numpy', 'duckdb'}} & sys.modules.keys())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
