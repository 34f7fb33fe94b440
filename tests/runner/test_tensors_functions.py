"""Every function that a session may call gives what torch gives, with its gradients, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gridkit.errors import PlanError
from gridkit.runner.tensors.arguments import tensors_in, with_tensors
from gridkit.runner.tensors.functions import FUNCTIONS
from tests.runner.tensors_cases import calls_of
from tests.runner.tensors_peer import Both


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def check(name: str, args: list[Any], kwargs: dict[str, Any]) -> None:
    """A function's results, what it did to its arguments, and the gradients behind it."""
    both = Both()
    leaves = [t for t in tensors_in([args, kwargs]) if t.requires_grad]
    # functions in place refuse leaves
    copies = {id(leaf): both.run("torch.Tensor.clone", [leaf], {})[0] for leaf in leaves}
    args, kwargs = with_tensors([args, kwargs], lambda t: copies.get(id(t), t))
    results = both.run(name, args, kwargs)
    both.check(results)
    both.check(tensors_in([args, kwargs]))
    roots = [result for result in results if result.requires_grad]
    if roots:
        both.backward(roots)
        both.check_grads(leaves)


SPACES = sorted({name.removesuffix(".__get__").rpartition(".")[0] for name in FUNCTIONS})


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.filterwarnings("ignore")
def test_results_and_gradients_are_those_of_torch(space: str, half: int) -> None:
    names = [name for name in FUNCTIONS if name.removesuffix(".__get__").rpartition(".")[0] == space]
    wrong = {}
    for name in names[half::2]:
        calls = calls_of(name)
        if not calls:
            wrong[name] = "no arguments are known for it"
        for args, kwargs in calls:
            try:
                check(name, args, kwargs)
            except (AssertionError, PlanError) as error:
                wrong[name] = str(error)
    assert wrong == {}
