"""What is known of an averaging plan before a round: which ones fit a model, which ones a training's rounds."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from torch import nn

import gridkit as gk
from gridkit.errors import ErrorCode, NodeError, PlanError
from gridkit.plans.averaging_form import check_averaging, check_rounds, failure, is_iterative
from gridkit.plans.plan import Plan
from tests.plans.rules import mean, running, trimmed
from tests.support import tiny_plan
from tests.training import plan_of, shards

MODEL = nn.Linear(3, 2)
AT_ONCE, ITERATIVE = gk.averaging_plan(mean, MODEL), gk.averaging_plan(running, MODEL, iterative=True)


def test_both_forms_fit_the_model_that_they_were_made_for() -> None:
    assert [is_iterative(plan) for plan in (AT_ONCE, ITERATIVE)] == [False, True]
    for plan in (AT_ONCE, ITERATIVE):
        check_averaging(plan, 8)
        with pytest.raises(PlanError, match="for this model of 9 averaged values it must take"):
            check_averaging(plan, 9)


@pytest.mark.parametrize(
    "plan",
    [
        gk.Plan.from_bytes(tiny_plan()),
        plan_of(nn.Linear(12, 4), shards(1)),
        gk.plan(args=[gk.spec("B", 8, dtype="float64"), gk.spec("B")])(lambda u, n: u.mean(0).float()),
        gk.plan(args=[gk.spec(4, 8), gk.spec(4)])(lambda u, n: u.mean(0)),
        gk.plan(args=[gk.spec(8)])(lambda u: u + 1),
        gk.plan(args=[gk.spec("B", 8), gk.spec("B"), gk.spec(1)])(lambda u, n, c: u.mean(0)),
    ],
)
def test_other_plans_average_nothing(plan: Plan) -> None:
    with pytest.raises(PlanError):
        check_averaging(plan, 8)


@pytest.mark.parametrize(
    ("fewest", "most", "says"),
    [(3, 5, ""), (3, None, ""), (3, 3, ""), (2, 5, r"B >= 3, but a round of this training may have 2"), (1, 1, "1")],
)
def test_a_condition_must_hold_for_every_round_that_may_be(fewest: int, most: int | None, says: str) -> None:
    plan = gk.averaging_plan(trimmed, MODEL)
    if not says:
        return check_rounds(plan, fewest, most)
    with pytest.raises(PlanError, match=re.escape(says)) as caught:
        check_rounds(plan, fewest, most)
    assert "min_diffs" in str(caught.value.hint)


def test_the_largest_round_must_fit_into_memory() -> None:
    with pytest.raises(PlanError) as caught:
        check_rounds(AT_ONCE, 1, 1000, budget=32_000)
    assert caught.value.code is ErrorCode.OUT_OF_MEMORY
    check_rounds(ITERATIVE, 1, 1000, budget=32_000)
    check_rounds(AT_ONCE, 1, None, budget=32_000)  # nobody knows how many there will be


def test_the_reason_of_a_failure_says_what_helps() -> None:
    slow = NodeError("the computation took longer than 2 s", "fewer samples", code=ErrorCode.TIMED_OUT, status=504)
    assert failure(slow) == (
        "the averaging plan failed: the computation took longer than 2 s "
        "(start the node with a larger --limit run_seconds=…)"
    )
    assert failure(PlanError("it gave nothing")) == "the averaging plan failed: it gave nothing"


def test_it_needs_no_torch() -> None:
    code = "import sys, gridkit.plans.averaging_form; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
