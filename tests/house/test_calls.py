"""How many files a call goes through: few, so that a person can follow it."""

import pytest

from tools.trace_calls import measure


@pytest.fixture(scope="module")
def calls():
    measure()  # what only the first calls of a process go through is not counted
    return measure()


# As few as it is today: what adds a file to the way should know why.
@pytest.mark.parametrize(
    ("name", "most"), [("eager grad", 18), ("jit, call 1", 22)], ids=["grad", "jit"]
)
def test_a_call_goes_through_few_files(calls, name, most):
    files = calls[name].files
    assert 1 < len(files) <= most, f"{len(files)} files: {', '.join(files)}"


def test_a_second_call_is_as_a_tenth(calls):
    names = [[code.co_qualname for code in calls[f"jit, call {n}"].codes] for n in (2, 10)]
    assert names[0] == names[1]
