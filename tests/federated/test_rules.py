from __future__ import annotations

import json
from typing import Any

import pytest

from gridkit.errors import ErrorCode, UsageError
from gridkit.federated.rules import CycleRules


def test_defaults() -> None:
    rules = CycleRules.from_config({})
    assert rules == CycleRules()
    assert (rules.num_cycles, rules.min_diffs, rules.weighting, rules.strategy) == (0, 1, "equal", "fedavg")
    assert rules.cycle_length is rules.max_diffs is rules.clients is None


def test_everything_that_can_be_set() -> None:
    config = {
        "num_cycles": 5,
        "cycle_length": 30,
        "min_diffs": 2,
        "max_diffs": 4,
        "min_workers": 3,
        "max_workers": 8,
        "pool_selection": "random",
        "selection_length": 0.5,
        "do_not_reuse_workers_until_cycle": 2,
        "minimum_download_speed": 1.5,
        "minimum_upload_speed": 0.5,
        "weighting": "samples",
        "max_samples": 100,
        "max_norm": 2.5,
        "strategy": "fedavg",
        "keep_last": 3,
        "keep_every": 10,
        "seed": 7,
    }
    rules = CycleRules.from_config(config)
    assert {key: value for key, value in rules.to_json().items() if key in config} == config
    assert CycleRules(**json.loads(json.dumps(rules.to_json()))) == rules


def test_pygrids_own_configuration() -> None:
    """As its documents have it."""
    config = {
        "min_workers": None,
        "max_workers": 5,
        "pool_selection": "iterate",
        "do_not_reuse_workers_until_cycle": 0,
        "cycle_length": None,
        "num_cycles": 5,
        "max_diffs": 1,
        "minimum_upload_speed": 0,
        "minimum_download_speed": 0,
        "iterative_plan": False,
        "authentication": {},
    }
    assert CycleRules.from_config(config) == CycleRules(max_workers=5, num_cycles=5, max_diffs=1)


@pytest.mark.parametrize("nothing", [None, 0, False, {}, []])
def test_what_asks_for_nothing_is_left_out(nothing: Any) -> None:
    keys = ("min_workers", "pool_selection", "do_not_reuse_workers_until_cycle")
    keys += ("minimum_upload_speed", "minimum_download_speed")
    for config in ({}, {"clients": 3}):
        assert CycleRules.from_config({**config, **dict.fromkeys(keys, nothing)}) == CycleRules(**config)
    assert not CycleRules(**config).requires_speed_test


def test_the_window_of_a_draw_is_at_most_a_tenth_of_the_cycle() -> None:
    assert CycleRules(pool_selection="random").selection_window == 2.0
    assert CycleRules(pool_selection="random", selection_length=5.0, cycle_length=100.0).selection_window == 5.0
    assert CycleRules(pool_selection="random", cycle_length=10.0).selection_window == 1.0


@pytest.mark.parametrize("key", ["minimum_download_speed", "minimum_upload_speed"])
def test_a_minimum_speed_asks_for_a_speed_test(key: str) -> None:
    assert CycleRules.from_config({key: 0.5}).requires_speed_test


@pytest.mark.parametrize(
    "config",
    [
        {"min_workers": -1},
        {"min_workers": 1.5},
        {"min_workers": True},
        {"pool_selection": "fastest"},
        {"pool_selection": ["random"]},
        {"pool_selection": "random", "selection_length": 0},
        {"pool_selection": "random", "selection_length": 10_000},
        {"selection_length": 5},
        {"do_not_reuse_workers_until_cycle": -1},
        {"do_not_reuse_workers_until_cycle": "6"},
        {"minimum_upload_speed": -1},
        {"minimum_download_speed": "2"},
        {"minimum_download_speed": float("nan")},
        {"iterative_plan": "yes"},
        {"authentication": {"secret": "s"}},
        {"num_cycles": -1},
        {"num_cycles": 1.5},
        {"num_cycles": True},
        {"num_cycles": "5"},
        {"num_cycles": None},
        {"num_cycles": 10**400},
        {"cycle_length": 0},
        {"cycle_length": float("nan")},
        {"cycle_length": float("inf")},
        {"cycle_length": 10**400},
        {"cycle_length": [10]},
        {"min_diffs": 0},
        {"max_diffs": 0},
        {"min_diffs": 3, "max_diffs": 2},
        {"max_workers": 0},
        {"clients": 0},
        {"clients": 10**9},
        {"clients": 4, "fraction": 0},
        {"clients": 4, "fraction": 1.01},
        {"clients": 4, "tolerate": 4},
        {"clients": 4, "fraction": 0.5, "tolerate": 2},
        {"tolerate": -1},
        {"seed": -1},
        {"seed": 2**64},
        {"weighting": "loss"},
        {"weighting": None},
        {"weighting": ["samples"]},
        {"max_samples": 0},
        {"max_norm": 0},
        {"max_norm": -1.0},
        {"strategy": "median"},
        {"strategy": ["fedavg"]},
        {"strategy": None},
        {"keep_last": 0},
        {"keep_every": -1},
        {"cycle_lenght": 10},
        {"x" * 10_000: 1},
    ],
    ids=lambda config: str(config)[:60],
)
def test_what_is_refused_names_the_key(config: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as raised:
        CycleRules.from_config(config)
    assert raised.value.code is ErrorCode.BAD_CONFIG
    assert any(key[:20] in raised.value.message for key in config)
    assert len(raised.value.message) < 300 and "\n" not in raised.value.message


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        ("min_diffs", 2),
        ("max_diffs", 2),
        ("min_workers", 2),
        ("pool_selection", "random"),
        ("do_not_reuse_workers_until_cycle", 2),
        ("minimum_download_speed", 1),
        ("minimum_upload_speed", 1),
    ],
)
def test_rules_of_visitors_say_nothing_to_a_roster(rule: str, value: Any) -> None:
    """They would be silently without effect, or leave a round that can't close."""
    with pytest.raises(UsageError, match=rule):
        CycleRules.from_config({"clients": 4, rule: value})


@pytest.mark.parametrize("config", [{"fraction": 0.5}, {"tolerate": 1}])
def test_rules_of_a_roster_need_one(config: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(config))):
        CycleRules.from_config(config)


@pytest.mark.parametrize(
    ("clients", "fraction", "tolerate", "cohort", "quorum"),
    [(10, 1.0, 0, 10, 10), (10, 0.25, 0, 2, 2), (10, 0.01, 0, 1, 1), (10, 0.5, 2, 5, 3), (3, 1.0, 2, 3, 1)],
)
def test_quorum(clients: int, fraction: float, tolerate: int, cohort: int, quorum: int) -> None:
    rules = CycleRules.from_config({"clients": clients, "fraction": fraction, "tolerate": tolerate})
    assert (rules.cohort_size, rules.quorum) == (cohort, quorum)


@pytest.mark.parametrize(
    ("config", "fewest", "most"),
    [
        ({}, 1, None),
        ({"min_diffs": 3, "max_diffs": 5}, 3, 5),
        ({"clients": 10, "fraction": 0.5, "tolerate": 2}, 3, 5),
    ],
)
def test_how_many_reports_a_round_may_have(config: dict[str, Any], fewest: int, most: int | None) -> None:
    rules = CycleRules.from_config(config)
    assert (rules.fewest, rules.most) == (fewest, most)


def test_an_iterative_plan_is_told_of_no_weights() -> None:
    assert CycleRules.from_config({"iterative_plan": True}).iterative_plan is True
    for nothing in (None, False, 0, {}, []):  # as PyGrid's users write it
        assert CycleRules.from_config({"iterative_plan": nothing, "weighting": "samples"}).iterative_plan is False
    with pytest.raises(UsageError, match="isn't told of weights"):
        CycleRules.from_config({"iterative_plan": True, "weighting": "samples"})
    with pytest.raises(UsageError, match="iterative_plan"):
        CycleRules.from_config({"iterative_plan": "yes"})
