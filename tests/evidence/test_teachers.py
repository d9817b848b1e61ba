"""Models that score pools."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

import clipdre
from evidence import teachers
from evidence.benches import as_pairs
from evidence.pools import PoolPlan
from evidence.students import Recipe, Trainer
from evidence.teachers import TEACHERS, Teacher, score_student
from evidence.worlds import SMALL


def test_a_model_like_the_embedded_one_is_trained_once(tmp_path, monkeypatch):
    commands = []

    def run(command, check):
        commands.append([str(word) for word in command])
        Path(command[command.index("-o") + 1]).mkdir()

    monkeypatch.setattr(subprocess, "run", run)
    teacher = Teacher(tiny_steps=7)
    for _ in range(2):
        assert teacher.model_below(tmp_path) == f"local-dir:{tmp_path}/tiny-7"
    (command,) = commands
    assert command[1:] == [
        str(teachers.TRAIN_TINY),
        "-o",
        f"{tmp_path}/tiny-7.unfinished",
        "--steps",
        "7",
    ]
    assert teachers.TRAIN_TINY.exists()


def test_students_are_no_models_of_clipdre(tmp_path):
    assert TEACHERS["strong"].model_below(tmp_path) is None
    assert TEACHERS["clipdre-tiny"].model_below(tmp_path) == "clipdre-tiny"


def test_a_factor_changes_the_scale_and_not_the_similarity(tmp_path):
    pairs = as_pairs(PoolPlan("tiny", SMALL, 60).draw())
    trainer = Trainer(pairs, Recipe(steps=2, batch=8))
    student = trainer.train(np.arange(60), 0)
    found = []
    for factor in (1.0, 0.5):
        score_student(trainer, student, pairs, tmp_path / str(factor), factor)
        found.append(clipdre.open_scores(tmp_path / str(factor)))
    scales = [scores.manifest.model.logit_scale for scores in found]
    assert scales[1] == pytest.approx(scales[0] / 2)
    one, other = (scores.to_arrow(["similarity"]) for scores in found)
    assert one.equals(other)
