"""What a notebook's variables offer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

import gridkit as gk
from gridkit.widgets import found
from tests.training import cnn, mlp, plan_of, shards


def test_models_are_paired_with_the_plans_that_fit_them() -> None:
    data, images = shards(2), shards(2, image=True)
    small, large, image = mlp(), mlp(24), cnn()
    space = {
        "small": small,
        "large": large,
        "image": image,
        "plan": plan_of(small, data),
        "image_plan": plan_of(image, images),
        "other_plan": plan_of(small, data, momentum=0.9),
        "_hidden": small,
        "number": 3,
        "Module": nn.Linear,
        "layer": nn.Linear(2, 3),
        "lazy": nn.LazyLinear(3),
    }
    pairs = [(each.name, each.plan_name) for each in found.trainables(space)]
    assert pairs == [("small", "plan"), ("small", "other_plan"), ("image", "image_plan")]
    assert [each.label for each in found.trainables(space, model=image)] == ["image with image_plan"]
    assert [each.plan_name for each in found.trainables(space, plan=space["other_plan"])] == ["other_plan"]
    unnamed = found.trainables({}, small, space["plan"])
    assert [(each.name, each.plan_name) for each in unnamed] == [("the model", "the plan")]
    assert unnamed[0].model is small


def test_a_plan_fits_by_names_shapes_and_dtypes() -> None:
    data = shards(2)
    plan = plan_of(mlp(), data)
    assert found.fits(mlp(), plan) and not found.fits(mlp().double(), plan)
    assert not found.fits(nn.Sequential(mlp()), plan)
    assert not found.fits(nn.Sequential(*mlp(), nn.Linear(4, 4)), plan)
    assert not found.fits(nn.ReLU(), plan)


def test_lists_of_shards_are_found_with_their_counts() -> None:
    data = shards(3)
    space: dict[str, Any] = {
        "data": data,
        "tensors": tuple((torch.from_numpy(x), torch.from_numpy(y)) for x, y in data[:1]),
        "empty": [],
        "numbers": [1, 2],
        "pairs": [(1, 2)],
        "uneven": [(np.zeros((3, 2)), np.zeros(2))],
        "none_in_it": [(np.zeros((0, 2)), np.zeros(0))],
        "array": np.zeros((4, 2, 3)),
        "text": "ab",
        "texts": ["north", "south"],
        "mixed": [data[0], "north", "south"],
        "_old": data,
    }
    count = sum(len(x) for x, _ in data)
    labels = [each.label for each in found.client_lists(space)]
    one = f"1 client, {len(data[0][0])} samples"
    assert labels == [f"data: 3 clients, {count} samples", f"tensors: {one}", f"mixed: {one}, 2 participants"]
    assert found.Clients("names", ["north"]).label == "names: 1 participant" and found.is_clients(("north",))


def test_functions_of_one_argument_are_found() -> None:
    space: dict[str, Any] = {"__name__": "__main__", "torch": torch, "gk": gk}
    exec(  # as a notebook would: functions of __main__
        "def evaluate(model, digits=3): return {}\n"
        "def two(a, b): return a\n"
        "def none(): return 1\n"
        "def named(*, model): return {}\n"
        "def _own(model): return {}\n",
        space,
    )
    space["imported"] = torch.nn.functional.relu
    assert list(found.evaluators(space)) == ["evaluate"]
