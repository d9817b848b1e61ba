import pytest

from clipdre.errors import UsageError
from clipdre.slices import Slice, parse_slice


def of_array(task, first=1, tasks=8, **others):
    variables = {"ID": task, "MIN": first, "COUNT": tasks, **others}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in variables.items()}


@pytest.mark.parametrize("count", [1, 3, 8, 20])
def test_every_item_is_in_one_slice(count):
    slices = [Slice(n, count) for n in range(1, count + 1)]
    for position in range(17):
        assert sum(part.takes(position) for part in slices) == 1


def test_slices_differ_by_one_item_at_most():
    sizes = [sum(map(Slice(n, 5).takes, range(17))) for n in range(1, 6)]
    assert sorted(sizes) == [3, 3, 3, 4, 4]


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        (of_array(1), "1/8"),
        (of_array(8), "8/8"),
        (of_array(0, first=0), "1/8"),
        (of_array(7, first=0), "8/8"),
        (of_array(30, first=10, tasks=5, STEP=10), "3/5"),
        ({"CLIPDRE_SLICE": "2/3"}, "2/3"),
        ({**of_array(4), "CLIPDRE_SLICE": "2/3"}, "2/3"),
    ],
)
def test_auto_is_what_the_environment_says(variables, found):
    assert str(parse_slice("auto", variables)) == found


@pytest.mark.parametrize(
    ("text", "variables", "problem"),
    [
        ("9/8", {}, "`slice` 9/8 does not exist: use one of 1/8 to 8/8"),
        ("0/8", {}, "`slice` 0/8 does not exist: use one of 1/8 to 8/8"),
        ("1/0", {}, "`slice` 1/0 does not exist"),
        ("3", {}, "`slice` '3' is not a slice: use 1/8 to 8/8, or auto"),
        ("-1/8", {}, "`slice` '-1/8' is not a slice"),
        ("auto", {}, "neither CLIPDRE_SLICE nor a SLURM job array"),
        ("auto", {"CLIPDRE_SLICE": "auto"}, "`slice` 'CLIPDRE_SLICE=auto' is not a slice"),
        ("auto", {"CLIPDRE_SLICE": "abc"}, "`slice` 'CLIPDRE_SLICE=abc' is not a slice"),
        ("auto", {"CLIPDRE_SLICE": "4/3"}, "`slice` 4/3 does not exist"),
        ("auto", of_array("four"), "SLURM_ARRAY_TASK_ID is 'four', not a number"),
        ("auto", of_array(7, first=1, tasks=3), "`slice` 7/3 does not exist"),
        ("auto", of_array(7, first=0, tasks=3, STEP=2), "7 is not a step of 2 from 0"),
    ],
)
def test_what_is_not_a_slice_is_refused(text, variables, problem):
    with pytest.raises(UsageError, match=problem):
        parse_slice(text, variables)
