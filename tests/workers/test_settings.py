"""What a `client_config` tells workers that can't read our plans; who the clients of a training are."""

from __future__ import annotations

import pytest

from gridkit.errors import UsageError
from gridkit.workers.settings import hosted_config, roster
from tests.training import mlp, plan_of, shards

PLAN = plan_of(mlp(), shards(3))


def test_what_our_own_workers_know_from_the_plan_is_told_to_others() -> None:
    features = int(shards(3)[0][0].shape[1])
    assert hosted_config(PLAN, {}) == {"batch_size": 32, "lr": PLAN.lr, "features": features}
    said = {"batch_size": 4, "lr": 0.5, "features": 7, "max_updates": 3, "my own": "key"}
    assert hosted_config(PLAN, said) == said


@pytest.mark.parametrize("wrong", [{"batch_size": "8"}, {"lr": -1}, {"max_epochs": 0}])
def test_wrong_values_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        hosted_config(PLAN, wrong)


def test_without_clients_both_kinds_are_advised() -> None:
    with pytest.raises(UsageError, match="there are no clients") as nobody:
        roster([])
    assert "(x, y)" in str(nobody.value) and "grid.push_participant" in str(nobody.value)


def test_clients_that_are_no_list_are_named() -> None:
    for wrong in (lambda: [], iter([]), None):
        with pytest.raises(UsageError, match=f"clients is a {type(wrong).__name__}") as caught:
            roster(wrong)  # type: ignore[arg-type]
        assert "await grid.participants()" in str(caught.value)
