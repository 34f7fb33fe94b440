"""What a policy says, and what it can't be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gridkit.errors import UsageError
from gridkit.plans.plan import Input, Node, Output, Plan, Ref
from gridkit.policy import Policy, plan_digest

PLAN = Plan(
    "twice",
    (Input(0, "x", "arg", "float32", ("B",)),),
    (Output(1, "result.0", "result"),),
    (Node("aten.add.Tensor", (Ref(0), Ref(0)), (), (1,)),),
)


def test_by_default_accounts_see_and_nobody_gets_anything() -> None:
    policy = Policy()
    assert policy.audience == "everyone"
    assert not policy.may_fetch("alice") and not policy.may_run(plan_digest(PLAN), "alice")
    assert policy.max_values == 1000


@pytest.mark.parametrize(
    ("who", "alice", "nobody_in_particular"),
    [("anyone", True, True), ("everyone", True, False), ("nobody", False, False), (["alice"], True, False),
     (["bob", "anyone"], False, False), ([], False, False)],
)  # fmt: skip
def test_groups_and_names(who: Any, alice: bool, nobody_in_particular: bool) -> None:
    """An account may be called like a group: in a list it is that account and nobody else."""
    policy = Policy(fetch=who)
    assert policy.may_fetch("alice") is alice
    assert policy.may_fetch(None) is nobody_in_particular


def test_a_plan_is_known_by_its_bytes() -> None:
    policy = Policy(run={PLAN: ["alice"], "any": ["carol"]})
    again = Plan.from_bytes(PLAN.to_bytes())
    assert policy.may_run(plan_digest(again), "alice")
    assert not policy.may_run("0" * 64, "alice") and not policy.may_run(plan_digest(PLAN), "bob")
    assert policy.may_run("0" * 64, "carol")
    assert policy.plans_for("alice") == [plan_digest(PLAN)] and policy.plans_for("carol") == ["any"]


@pytest.mark.parametrize(
    ("policy", "audience"),
    [
        (Policy(see="nobody"), "nobody"),
        (Policy(see="nobody", fetch=["alice"], run={"any": ["bob", "alice"]}), ("alice", "bob")),
        (Policy(see=["alice"], run={"any": "everyone"}), "everyone"),
        (Policy(see="everyone", fetch="anyone"), "anyone"),
    ],
)
def test_who_may_use_it_sees_it(policy: Policy, audience: Any) -> None:
    assert policy.audience == audience


def test_it_survives_the_wire() -> None:
    policy = Policy(see=["é", "b"], fetch="anyone", run={PLAN: "everyone"}, results=[2, 0, 0], max_values=None)
    assert Policy.from_json(json.loads(json.dumps(policy.to_json()))) == policy
    assert policy.results == (0, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"see": "Everyone"},
        {"see": "alice"},
        {"see": 5},
        {"see": None},
        {"see": {"alice": True}},
        {"fetch": [5]},
        {"fetch": [""]},
        {"fetch": ["a\nb"]},
        {"fetch": [str(n) for n in range(1001)]},
        {"run": "everyone"},
        {"run": ["any"]},
        {"run": {"ANY": "everyone"}},
        {"run": {"0" * 63: "everyone"}},
        {"run": {"0" * 63 + "G": "everyone"}},
        {"run": {"any": 1}},
        {"results": []},
        {"results": "0"},
        {"results": [-1]},
        {"results": [True]},
        {"results": 3},
        {"max_values": -1},
        {"max_values": True},
        {"max_values": 1.5},
        {"max_values": "10"},
        {"sea": "everyone"},
        {"audience": "anyone"},
    ],
)
def test_what_no_policy_is(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as error:
        Policy.from_json(wrong)
    assert error.value.hint
