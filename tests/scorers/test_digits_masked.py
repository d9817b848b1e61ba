import numpy as np
import pyarrow.parquet as pq
import pytest

import clipdre
from clipdre.config import EncodeConfig
from clipdre.core.modality import Modality
from clipdre.models.load import load_encoder
from clipdre.pipelines.rows import StoredRows
from clipdre.scorers.digits_masked import DigitsMasked
from tests.scorers.captions import recaptioned
from tests.scorers.measuring import measured, stored_vectors

CAPTIONS = ("red circle 12", "2024-05-01", "a blue square", "", "٣ red squares 4", "1" * 500)


def naive(vectors, captions, mask):
    """Caption by caption, with each run of digits replaced by hand."""
    encoder = load_encoder(EncodeConfig(model="clipdre-tiny", device="cpu"))
    values = []
    for vector, caption in zip(vectors, captions, strict=True):
        text, last = "", ""
        for letter in caption:
            if not letter.isdigit():
                text += letter
            elif not last.isdigit():
                text += mask
            last = letter
        encoded = encoder.encode_texts([encoder.tokenize(text)]).double().numpy()[0]
        values.append(vector @ encoded)
    return np.array(values)


@pytest.mark.parametrize("mask", ["", r"\1 g<0>"])
def test_it_is_the_similarity_to_the_caption_without_digits(scores, mask):
    captions = recaptioned(scores, CAPTIONS)
    found, _ = measured(scores, DigitsMasked(mask=mask))
    with_digits = [n for n, c in enumerate(captions) if any(map(str.isdigit, c))]
    images = stored_vectors(scores, Modality.IMAGE)
    expected = naive(images[with_digits], [captions[n] for n in with_digits], mask)
    np.testing.assert_allclose(found["similarity_masked"][with_digits], expected, atol=1e-5)
    others = np.setdiff1d(np.arange(300), with_digits)
    stored = (images * stored_vectors(scores, Modality.TEXT)).sum(axis=1)
    np.testing.assert_allclose(found["similarity_masked"][others], stored[others], atol=1e-6)


def test_its_log_ratio_is_that_of_the_new_caption_against_the_old_ones(scores):
    """The image's partition is that of the scores, over the captions as they are."""
    recaptioned(scores, CAPTIONS)
    found, _ = measured(scores, DigitsMasked())
    columns = ["similarity", "log_ratio_image", "log_partition_image"]
    table = clipdre.open_scores(scores).to_arrow(columns)
    similarity, before, partition = (table[name].to_numpy() for name in columns)
    scale = clipdre.open_scores(scores).manifest.model.logit_scale
    stored = (stored_vectors(scores, Modality.IMAGE) * stored_vectors(scores, Modality.TEXT)).sum(1)
    masked = found["similarity_masked"]
    np.testing.assert_allclose(before, scale * similarity - partition, atol=2e-3)
    expected = scale * (similarity + masked - stored) - partition
    np.testing.assert_allclose(found["log_ratio_image_masked"], expected, atol=2e-3)
    assert np.abs(found["log_ratio_image_masked"] - before).max() > 1


def test_captions_without_digits_are_not_encoded(scores, monkeypatch):
    refused = property(lambda _: pytest.fail("the model was asked for"))
    monkeypatch.setattr(StoredRows, "encoder", refused)
    found, _ = measured(scores, DigitsMasked())
    assert np.isfinite(found["similarity_masked"]).all()


def test_it_is_that_of_the_scores_without_digits(scores):
    found, _ = measured(scores, DigitsMasked())
    tables = [pq.read_table(path) for path in sorted((scores / "scores").glob("*.parquet"))]
    similarity = np.concatenate([table["similarity"].to_numpy() for table in tables])
    np.testing.assert_allclose(found["similarity_masked"], similarity, atol=1e-6)
