import numpy as np
import pytest

from clipdre.config import EncodeConfig
from clipdre.core.modality import Modality
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.models.load import load_encoder
from clipdre.scorers.prompt_weight import PromptWeight
from tests.scorers.measuring import measured, stored_vectors

ENCODER = load_encoder(EncodeConfig(model="clipdre-tiny", device="cpu"))


def naive_log_weights(vectors, prompts, scale, bias=0.0):
    """Row by row, prompt by prompt, in float64."""
    tokens = [ENCODER.tokenize(prompt) for prompt in prompts]
    targets = ENCODER.encode_texts(tokens).double().numpy()
    return np.array(
        [np.log(np.mean([np.exp(scale * (v @ t) + bias) for t in targets])) for v in vectors]
    )


@pytest.mark.parametrize("modality", list(Modality))
def test_weights_are_those_of_the_definition(scores, modality):
    scorer = PromptWeight(
        prompt=("a red circle", "a blue square"),
        logit_scale=7.0,
        logit_bias=-1.0,
        modality=modality,
    )
    found, record = measured(scores, scorer)
    expected = naive_log_weights(stored_vectors(scores, modality), scorer.prompt, 7.0, -1.0)
    np.testing.assert_allclose(found["prompt_log_weight"], expected, atol=1e-5)
    weights = np.exp(expected)
    np.testing.assert_allclose(found["prompt_weight"], weights / weights.mean(), rtol=1e-4)
    ess = weights.sum() ** 2 / (weights**2).sum()
    assert record.figures["prompt_weight_ess"] == pytest.approx(ess, rel=1e-4)


def test_a_negative_prompt_divides(scores):
    vectors = stored_vectors(scores, Modality.IMAGE)
    scorer = PromptWeight(prompt=("red circle",), negative_prompt=("blue square",))
    found, _ = measured(scores, scorer)
    target, avoided = (
        naive_log_weights(vectors, (p,), 10.0) for p in ("red circle", "blue square")
    )
    np.testing.assert_allclose(found["prompt_log_weight"], target - avoided, atol=1e-5)


def test_a_prompt_favours_the_pairs_it_describes(scores):
    found, _ = measured(scores, PromptWeight(prompt=("red circle",)))
    captions = [c for s in ("00000", "00001", "00002") for c in captions_of(scores, s)]
    described = np.array(["red" in c and "circle" in c for c in captions])
    assert found["prompt_weight"][described].mean() > 3 * found["prompt_weight"][~described].mean()


def captions_of(scores, shard):
    import pyarrow.parquet as pq

    return pq.read_table(ScoreFolder(scores).scores(shard))["caption"].to_pylist()
