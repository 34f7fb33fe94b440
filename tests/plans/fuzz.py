"""Foreign plans that are almost right: real ones, changed where it hurts.

As a program it reads, dry-runs and runs such plans in a process of its own, with a memory limit, so that a kernel that
ends the process is seen: ``python -m tests.plans.fuzz SEED COUNT SECONDS``. It prints what it did and the seed of each.
"""

from __future__ import annotations

import copy
import faulthandler
import json
import random
import resource
import struct
import sys
import time
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import gridkit as gk
from gridkit.errors import PlanError
from gridkit.plans.check import dry_run
from gridkit.plans.engines.pytorch import program
from gridkit.plans.plan import Plan
from gridkit.plans.table.ops import table
from gridkit.plans.table.shapes import ITEM_SIZES
from tests.plans.layers import ATTENTION, BATCH_NORM, DROPOUT, EMBEDDING
from tests.plans.plans import cnn

Header = dict[str, Any]

BUDGET = 8 << 20
"""Bytes that a mutated plan may take: enough for the originals, and small enough to run many."""

NUMBERS = [0, 1, -1, 2, 3, 5, 8, 100, -100, 1 << 20, 1 << 31, -(1 << 31), 1 << 40, (1 << 63) - 1, -(1 << 63), 1 << 64]
LITERALS: list[Any] = [None, True, False, 0.5, -0.0, 1e300, "mean", "tanh", "float32", [], [1], [2, 2], [-1, 0], [[1]]]
LITERALS += [{"float": "inf"}, {"float": "nan"}, {"dtype": "float64"}, {"dtype": "int8"}, {"dtype": "bool"}, {}]
SIZES = [0, 1, 2, 3, 4, 8, 1 << 20, 1 << 40, -1]
ROLES = ["x", "y", "weight", "lr", "param", "buffer", "optimizer", "uniform", "arg", "loss", "result"]

MODELS = {
    "conv": (cnn, lambda n: torch.randn(n, 1, 8, 8)),
    **{
        name: (layer.make, layer.inputs)
        for group, names in (
            (DROPOUT, ["dropout2d", "dropout in an encoder"]),
            (BATCH_NORM, ["batch norm 2d", "group norm", "layer norm"]),
            (EMBEDDING, ["embedding with padding", "one-hot"]),
            (ATTENTION, ["encoder", "attention, masked", "scaled_dot_product, causal"]),
        )
        for name, layer in ((n, group[n]) for n in names)
    },
}


class Parts(nn.Module):
    """What the other models lack: max over a dimension, pooling to one, upsampling, gather."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(1, 2, 3), nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = F.interpolate(self.conv(x), scale_factor=2)
        most = F.adaptive_max_pool2d(hidden, 2).flatten(1)
        first = hidden.flatten(2).max(2).values
        chosen = x.flatten(1).gather(1, torch.arange(2).expand(x.shape[0], 2))
        return self.out(torch.cat([most, first, chosen], 1))


@cache
def corpus() -> tuple[bytes, ...]:
    """The bytes of some plans, in a fixed order."""
    torch.manual_seed(0)
    labels = torch.arange(4) % 5
    plans = [
        gk.training_plan(make(), F.cross_entropy, gk.SGD(0.1, 0.9), (inputs(4), labels))
        for make, inputs in [*MODELS.values(), (Parts, lambda n: torch.randn(n, 1, 6, 6))]
    ]

    @gk.plan(args=(gk.spec("B", 3), gk.spec("B", dtype="int64"), gk.spec(4, 3)))
    def function(x: torch.Tensor, places: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        added = rows.index_add(0, places, x)
        return rows.index_select(0, places) + x, added.cumsum(0), x.roll(1, 1).std(0), torch.stack([x, x]).amin((0, 1))

    return (*(p.to_bytes() for p in plans), function.to_bytes())


def taken_apart(data: bytes) -> tuple[Header, bytes]:
    (length,) = struct.unpack_from("<I", data, 4)
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def put_together(header: Header, constants: bytes) -> bytes:
    text = json.dumps(header).encode()
    return b"GKP1" + struct.pack("<I", len(text)) + text + constants


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The plan with one to four changes."""
    header, constants = taken_apart(data)
    for _ in range(chance.choice([1, 1, 2, 4])):
        chance.choice(CHANGES)(header, chance)
    return put_together(header, constants)


# ---- changes


def _defined(header: Header) -> list[int]:
    ids = [i["id"] for i in header["inputs"]] + header["constants"]
    return ids + [i for n in header["nodes"] for i in n[3] if i is not None]


def _node(header: Header, chance: random.Random) -> list[Any]:
    return chance.choice(header["nodes"]) if header["nodes"] else ["py.neg", [1], {}, [99_999]]


def _other_operation(header: Header, chance: random.Random) -> None:
    node = _node(header, chance)
    row = table().get(node[0])
    alike = [
        n for n, o in table().items() if row is None or (len(o.params), o.results) == (len(row.params), row.results)
    ]
    node[0] = chance.choice(alike)


def _other_reference(header: Header, chance: random.Random) -> None:
    node = _node(header, chance)
    places = [i for i, a in enumerate(node[1]) if isinstance(a, dict) and "ref" in a]
    if places:
        node[1][chance.choice(places)] = {"ref": chance.choice(_defined(header))}


def _other_argument(header: Header, chance: random.Random) -> None:
    node = _node(header, chance)
    if node[1]:
        node[1][chance.randrange(len(node[1]))] = copy.deepcopy(chance.choice([*NUMBERS, *LITERALS]))


def _number_in_a_list(header: Header, chance: random.Random) -> None:
    lists = [a for n in header["nodes"] for a in n[1] if isinstance(a, list) and a]
    if lists:
        chosen = chance.choice(lists)
        chosen[chance.randrange(len(chosen))] = chance.choice(NUMBERS)


def _longer_or_shorter(header: Header, chance: random.Random) -> None:
    args = _node(header, chance)[1]
    if args and chance.random() < 0.5:
        args.pop(chance.randrange(len(args)))
    else:
        args.insert(chance.randint(0, len(args)), copy.deepcopy(chance.choice([*NUMBERS, *LITERALS])))


def _keyword(header: Header, chance: random.Random) -> None:
    node = _node(header, chance)
    names = [p.name for p in table()[node[0]].params] if node[0] in table() else ["out"]
    node[2][chance.choice([*names, "out"])] = copy.deepcopy(chance.choice([*NUMBERS, *LITERALS]))


def _shape(header: Header, chance: random.Random) -> None:
    spec = chance.choice(header["inputs"])
    if spec["shape"] and chance.random() < 0.8:
        spec["shape"][chance.randrange(len(spec["shape"]))] = chance.choice([*SIZES, "B"])
    else:
        spec["shape"].append(chance.choice(SIZES))


def _dtype(header: Header, chance: random.Random) -> None:
    chance.choice(header["inputs"])["dtype"] = chance.choice(list(ITEM_SIZES))


def _role(header: Header, chance: random.Random) -> None:
    chance.choice(header["inputs"] + header["outputs"])["role"] = chance.choice(ROLES)


def _id(header: Header, chance: random.Random) -> None:
    out = _node(header, chance)[3]
    out[chance.randrange(len(out))] = chance.choice([None, *_defined(header), 99_998, -1])


def _order(header: Header, chance: random.Random) -> None:
    nodes = header["nodes"]
    if len(nodes) > 1:
        one, other = chance.sample(range(len(nodes)), 2)
        nodes[one], nodes[other] = nodes[other], nodes[one]


def _remove(header: Header, chance: random.Random) -> None:
    part = header[chance.choice(["nodes", "inputs", "outputs", "constants", "guards"])]
    if part:
        part.pop(chance.randrange(len(part)))


def _repeat(header: Header, chance: random.Random) -> None:
    node = copy.deepcopy(_node(header, chance))
    node[3] = [None if i is None else 50_000 + chance.randrange(40_000) for i in node[3]]
    header["nodes"].insert(chance.randint(0, len(header["nodes"])), node)


def _guards(header: Header, chance: random.Random) -> None:
    header["guards"].append(
        chance.choice([["ge", "B", 0], ["eq", ["mod", "B", 0], 0], ["not", "B"], ["lt", 1 << 70, "B"]])
    )


CHANGES = [_other_operation, _other_reference, _other_argument, _number_in_a_list, _longer_or_shorter, _keyword, _shape]
CHANGES += [
    _other_operation,
    _other_reference,
    _number_in_a_list,
]  # twice as often: most of these are still well formed
CHANGES += [_dtype, _role, _id, _order, _remove, _repeat, _guards]


# ---- running them


def checked(data: bytes, batch: int) -> Plan | None:
    """The plan if it passes all checks; None if it is refused with a PlanError. Anything else is a mistake of ours."""
    try:
        plan = Plan.from_bytes(data)
        dry_run(plan, batch, BUDGET)
    except PlanError as error:
        assert error.message and "\n" not in error.message
        return None
    return plan


def values(plan: Plan, batch: int, chance: random.Random) -> list[Any]:
    """Inputs of the right shape and dtype; numbers that are now and then no index, no number, or not finite."""
    draw = torch.Generator().manual_seed(chance.randrange(1 << 30))
    made: list[Any] = []
    for i in plan.inputs:
        if i.role == "lr":
            made.append(chance.choice([0.1, 0.0, -1.0, float("nan"), 1e300]))
            continue
        shape = [batch if s == "B" else int(s) for s in i.shape]
        dtype = getattr(torch, i.dtype)
        if dtype.is_floating_point:
            made.append((torch.randn(shape, generator=draw) * chance.choice([1.0, 1e-30, 1e30])).to(dtype))
        else:
            low, high = (0, 2) if dtype == torch.bool else chance.choice([(0, 3), (-3, 3), (0, 127)])
            if dtype == torch.uint8:
                low = 0
            made.append(torch.randint(low, high, shape, generator=draw).to(dtype))
    return made


def run(plan: Plan, batch: int, chance: random.Random) -> bool:
    """Run it with both engines: results of the shapes that were foretold, or a PlanError from both."""
    foretold = dry_run(plan, batch, BUDGET)
    given = values(plan, batch, chance)
    worked = []
    for engine in ("interpreter", "generated"):
        try:
            with torch.no_grad():
                results = program(plan, engine=engine)([v.clone() if isinstance(v, torch.Tensor) else v for v in given])
        except PlanError as error:
            assert error.message
            worked.append(False)
            continue
        for output, result in zip(plan.outputs, results, strict=True):
            known = foretold[output.id]
            assert isinstance(result, torch.Tensor), f"output {output.name} is no tensor"
            assert (tuple(result.shape), str(result.dtype)) == (known.shape, f"torch.{known.dtype}"), output
        worked.append(True)
    assert worked[0] == worked[1]
    return worked[0]


def main(seed: int, count: int, seconds: float) -> None:
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
    torch.set_num_threads(1)
    plans, until = corpus(), time.monotonic() + seconds
    passed = ran = done = 0
    for number in range(seed, seed + count):
        if time.monotonic() > until:
            break
        chance = random.Random(number)
        data, batch = mutated(chance.choice(plans), chance), chance.choice([1, 2, 3, 7])
        sys.stderr.write(f"{number}\n")
        started = time.monotonic()
        plan = checked(data, batch)
        if plan is not None:
            passed += 1
            ran += run(plan, batch, chance)
        assert time.monotonic() - started < 10, f"seed {number} took too long"
        done += 1
    print(json.dumps({"done": done, "passed": passed, "ran": ran}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
