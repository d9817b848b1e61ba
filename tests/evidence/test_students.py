import numpy as np
import pytest
import torch

from evidence.benches import marks, pixels
from evidence.own import retrieval
from evidence.students import UNKNOWN, Pairs, Recipe, Trainer, Vocabulary, encode, terms
from evidence.weighted import macro_f1
from evidence.worlds import SMALL

QUICK = Recipe(steps=12, batch=32)


def pairs_of(n, seed=0):
    rng = np.random.default_rng(seed)
    drawn = SMALL.draw(n, rng)
    return Pairs(pixels([SMALL.render(values, rng) for values in drawn.values]), drawn.captions)


def test_terms_are_words_and_near_pairs_in_their_order():
    assert terms("Red circle, left") == [
        "red",
        "circle",
        "left",
        "red circle",
        "red left",
        "circle left",
    ]
    assert terms("circle red") != terms("red circle")


def test_unknown_words_are_left_out():
    vocabulary = Vocabulary(["red circle"])
    assert len(vocabulary) == 4
    known, unknown = vocabulary(["red circle", "blue"])
    assert (known != UNKNOWN).all()
    assert (unknown == UNKNOWN).all()


def test_a_student_is_the_same_again_and_another_by_seed():
    trainer = Trainer(pairs_of(64), QUICK)
    rows = np.arange(50)
    first, again, other = (trainer.train(rows, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["log_scale"], other["log_scale"])


def test_a_student_learns_from_its_rows_alone():
    pairs = pairs_of(200)
    spoiled = Pairs(pairs.images.copy(), pairs.captions)
    spoiled.images[100:] = 0
    rows = np.arange(100)
    one, other = (Trainer(p, QUICK).train(rows, 0) for p in (pairs, spoiled))
    assert torch.equal(one.log_scale, other.log_scale)


def test_a_student_learns():
    pairs = pairs_of(300)
    student = (trainer := Trainer(pairs, Recipe(steps=100, batch=32))).train(np.arange(300), 0)
    test = pairs_of(100, seed=1)
    found = retrieval(
        *encode(student, torch.from_numpy(test.images), trainer.vocabulary(test.captions))
    )
    assert found.accuracy > 0.25  # by chance 0.1


def test_weights_of_one_change_nothing():
    trainer, rows = Trainer(pairs_of(64), QUICK), np.arange(64)
    plain = trainer.train(rows, 0)
    weighted = trainer.train(rows, 0, np.ones(64, np.float32), clip=10.0, normalize=True)
    assert weighted.log_scale.item() == pytest.approx(plain.log_scale.item(), abs=1e-5)


def test_marks_are_means_over_attributes():
    values = np.array([[0, 1], [0, 1], [0, 0], [1, 0]])
    found = marks({"a": np.array([0, 0, 0, 0]), "b": np.array([1, 1, 1, 0])}, values)
    assert found.attributes == {"a": 0.75, "b": 0.75}
    assert found.accuracy == 0.75
    assert found.macro == pytest.approx(((1 + 0) / 2 + (0.5 + 1) / 2) / 2)


def test_macro_f1_is_that_of_its_definition():
    true = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([0, 0, 1, 1, 0, 0])
    # 0: precision 2/4, recall 2/3; 1: 1/2 and 1/2; 2: never predicted.
    expected = (2 * (0.5 * 2 / 3) / (0.5 + 2 / 3) + 0.5 + 0) / 3
    assert macro_f1(predicted, true) == pytest.approx(expected)


def test_recall_counts_ties_against_the_student():
    vectors = torch.eye(20)
    assert retrieval(vectors, vectors).attributes == {"recall at 1": 1.0, "recall at 10": 1.0}
    same = torch.ones(20, 1)
    assert retrieval(same, same).attributes == {"recall at 1": 0.0, "recall at 10": 0.0}
