"""Variables of a session: made, read, changed, deleted; and what is refused, with nothing changed."""

from __future__ import annotations

import gc
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch.overrides import resolve_name

from gridkit.errors import ErrorCode, PlanError
from gridkit.runner.tensors.arguments import DTYPES
from gridkit.runner.tensors.functions import FUNCTIONS
from gridkit.runner.tensors.session import TensorSession
from tests.runner.tensors_peer import MIB, Both, ref, same, session

NUMPY = [name for name in DTYPES if name != "bfloat16"]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(NUMPY).flatmap(lambda n: arrays.arrays(n, arrays.array_shapes(min_dims=0, min_side=0, max_dims=4)))
)
def test_what_is_read_is_what_was_created(array: np.ndarray[Any, Any]) -> None:
    remote = session()
    told = remote.create("x", array)
    assert told.variables[0].data.shape == array.shape and told.variables[0].data.dtype == array.dtype.name
    assert same(remote.read("x"), array)
    assert remote.held == array.nbytes
    array.fill(1)
    other = remote.read("x")
    other.fill(0)
    assert same(remote.read("x"), remote.read("x"))


def test_a_byte_that_is_no_bool_becomes_one() -> None:
    remote = session()
    remote.create("x", np.array([0, 1, 2, 255], np.uint8).view(np.bool_))
    assert remote.read("x").view(np.uint8).tolist() == [0, 1, 1, 1]


def test_a_parameter_is_one() -> None:
    told = session().create("x", np.zeros(2, np.float32), True, True)
    (x,) = told.variables
    assert (x.is_parameter, x.is_leaf, x.requires_grad, x.has_grad, x.grad_fn, x.version) == (
        True,
        True,
        True,
        False,
        None,
        0,
    )


def test_few_values_are_told_and_many_are_not() -> None:
    remote = session(preview=4)
    assert remote.create("x", np.arange(4)).variables[0].data.values.tolist() == [0, 1, 2, 3]
    assert remote.create("y", np.arange(5)).variables[0].data.values is None
    assert session(preview=0).create("z", np.arange(1)).variables[0].data.values is None
    half = remote.call("torch.Tensor.bfloat16", [ref("x")], {}, ["h"]).variables[0].data
    assert half.dtype == "bfloat16" and half.values.dtype == np.float32
    assert remote.read("h").dtype == np.float32


def test_what_may_be_set_of_a_variable() -> None:
    remote = session(preview=4)
    remote.create("x", np.zeros(2, np.float32))
    remote.create("g", np.ones(2, np.float32))
    remote.call("torch.Tensor.view", [ref("x"), 2, 1], {}, ["v"])
    told = remote.update("x", "data", np.array([1, 2], np.float32))
    assert told.variables[0].version == 1 and remote.read("x").tolist() == [1, 2]
    assert [v.id for v in told.changed] == ["v"] and remote.read("v").tolist() == [[1], [2]]
    assert remote._variables.told(["x"]).variables[0].version == 1
    assert remote.update("x", "requires_grad", True).variables[0].requires_grad
    assert remote.update("x", "grad", ref("g")).variables[0].has_grad
    assert not remote.update("x", "grad", None).variables[0].has_grad
    remote.call("torch.Tensor.mul", [ref("x"), 2], {}, ["y"])
    assert remote.update("y", "retains_grad", True).variables[0].retains_grad


def test_data_may_be_set_where_a_gradient_is_required_and_a_pass_notices() -> None:
    remote = session()
    remote.create("x", np.ones(2, np.float32), True)
    remote.call("torch.Tensor.exp", [ref("x")], {}, ["e"])
    remote.call("torch.Tensor.mul", [ref("e"), ref("x")], {}, ["y"])
    remote.call("torch.Tensor.sum", [ref("y")], {}, ["s"])
    remote.update("x", "data", np.zeros(2, np.float32))
    with pytest.raises(PlanError, match="modified by an inplace operation"):
        remote.backward(["s"])


def test_an_index_by_every_form() -> None:
    remote = session()
    array = np.arange(24.0).reshape(2, 3, 4)
    remote.create("x", array)
    index = [{"__tuple__": [{"__ellipsis__": True}, None, {"__slice__": [None, None, 2]}]}]
    remote.call("torch.Tensor.__getitem__", [ref("x"), *index], {}, ["y"])
    assert same(remote.read("y"), array[..., None, ::2])
    remote.call("torch.full", [[2], {"__float__": "-inf"}], {"dtype": {"__dtype__": "float64"}}, ["f"])
    assert same(remote.read("f"), np.full(2, -math.inf))
    same_tensor = {"__parameter__": True, "variable_id": "x"}
    remote.call(
        "torch.Tensor.contiguous", [same_tensor], {"memory_format": {"__memory_format__": "contiguous_format"}}, ["x"]
    )


def test_every_name_that_torch_gives_a_function_is_known() -> None:
    for name, function in FUNCTIONS.items():
        resolved = resolve_name(function)
        assert resolved in FUNCTIONS or (resolved is None and name.endswith(".__get__")), name


FORBIDDEN = """
    item tolist numpy equal allclose is_nonzero data_ptr storage untyped_storage set_ resize_ resize_as_ as_strided
    as_strided_ apply_ map_ map2_ register_hook share_memory_ pin_memory to_sparse empty_like new_empty from_file
    __reduce_ex__ __array__ __bool__ __int__ __float__ __index__ __setstate__ __deepcopy__ module_load cuda backward
"""


def test_nothing_that_is_dangerous_is_listed() -> None:
    short = {name.rpartition(".")[2] for name in FUNCTIONS}
    assert not short & {*FORBIDDEN.split(), "load", "save", "compile", "from_numpy", "frombuffer", "empty", "hub"}


MISTAKES: dict[str, tuple[ErrorCode, Any]] = {
    "unknown function": (ErrorCode.NOT_ALLOWED, lambda s: s.call("torch.load", ["x"], {}, ["y"])),
    "a function's attribute": (ErrorCode.NOT_ALLOWED, lambda s: s.call("torch.Tensor.add.__globals__", [], {}, [])),
    "unknown tensor": (ErrorCode.NOT_FOUND, lambda s: s.call("torch.abs", [ref("q")], {}, ["y"])),
    "an id that is no text": (
        ErrorCode.NOT_FOUND,
        lambda s: s.call("torch.abs", [{"__variable__": True, "variable_id": ["x"]}], {}, ["y"]),
    ),
    "a taken id": (ErrorCode.ALREADY_EXISTS, lambda s: s.call("torch.abs", [ref("x")], {}, ["w"])),
    "a taken id in place": (ErrorCode.ALREADY_EXISTS, lambda s: s.call("torch.Tensor.abs_", [ref("c")], {}, ["w"])),
    "an id twice": (ErrorCode.ALREADY_EXISTS, lambda s: s.call("torch.Tensor.split", [ref("w"), 2], {}, ["a", "a"])),
    "too few ids": (ErrorCode.BAD_INPUT, lambda s: s.call("torch.Tensor.split", [ref("w"), 2], {}, ["a"])),
    "too many ids": (ErrorCode.BAD_INPUT, lambda s: s.call("torch.abs", [ref("x")], {}, ["a", "b"])),
    "too few ids, by value": (ErrorCode.BAD_INPUT, lambda s: s.call("torch.unique", [ref("x")], {}, [])),
    "an empty id": (ErrorCode.BAD_INPUT, lambda s: s.call("torch.abs", [ref("x")], {}, [""])),
    "an id with a line break": (ErrorCode.BAD_INPUT, lambda s: s.call("torch.abs", [ref("x")], {}, ["a\nb"])),
    "an id too long": (ErrorCode.BAD_INPUT, lambda s: s.create("a" * 201, np.zeros(1))),
    "other shapes": (ErrorCode.BAD_INPUT, lambda s: s.call("torch.matmul", [ref("w"), ref("w")], {}, ["y"])),
    "other shapes, in place": (
        ErrorCode.BAD_INPUT,
        lambda s: s.call("torch.Tensor.add_", [ref("c"), ref("w")], {}, ["c"]),
    ),
    "a leaf in place": (ErrorCode.BAD_INPUT, lambda s: s.call("torch.Tensor.add_", [ref("x"), 1], {}, ["x"])),
    "an index out of range": (
        ErrorCode.BAD_INPUT,
        lambda s: s.call("torch.Tensor.__getitem__", [ref("x"), 7], {}, ["y"]),
    ),
    "a place out of range": (
        ErrorCode.BAD_INPUT,
        lambda s: s.call("torch.nn.functional.embedding", [ref("i"), ref("w")], {}, ["y"]),
    ),
    "a class out of range": (
        ErrorCode.BAD_INPUT,
        lambda s: s.call("torch.nn.functional.nll_loss", [ref("w"), ref("i")], {}, ["y"]),
    ),
    "too few arguments": (ErrorCode.BAD_INPUT, lambda s: s.call("torch.Tensor.add", [ref("x")], {}, ["y"])),
    "unknown argument": (ErrorCode.BAD_INPUT, lambda s: s.call("torch.abs", [ref("x")], {"speed": 1}, ["y"])),
    "memory to write to": (ErrorCode.BAD_INPUT, lambda s: s.call("torch.abs", [ref("x")], {"out": ref("c")}, ["y"])),
    "another device": (ErrorCode.BAD_INPUT, lambda s: s.call("torch.zeros", [2], {"device": "cuda"}, ["y"])),
    "no device": (ErrorCode.BAD_INPUT, lambda s: s.call("torch.Tensor.to", [ref("x"), "meta"], {}, ["y"])),
    "an unknown form": (ErrorCode.BAD_INPUT, lambda s: s.call("torch.abs", [{"__callable__": True}], {}, ["y"])),
    "an unknown dtype": (
        ErrorCode.BAD_INPUT,
        lambda s: s.call("torch.zeros", [2], {"dtype": {"__dtype__": "complex64"}}, ["y"]),
    ),
    "a complex result": (ErrorCode.BAD_INPUT, lambda s: s.call("torch.Tensor.to", [ref("x"), "complex64"], {}, ["y"])),
    "a slice of texts": (
        ErrorCode.BAD_INPUT,
        lambda s: s.call("torch.Tensor.__getitem__", [ref("x"), {"__slice__": ["a", 1, 1]}], {}, ["y"]),
    ),
    "an object": (ErrorCode.BAD_INPUT, lambda s: s.call("torch.abs", [object()], {}, ["y"])),
    "a long text": (ErrorCode.BAD_INPUT, lambda s: s.call("torch.einsum", ["i" * 1000, ref("x")], {}, ["y"])),
    "lists in lists": (ErrorCode.BAD_INPUT, lambda s: s.call("torch.zeros", [nested(100)], {}, ["y"])),
    "a size that no memory has": (ErrorCode.OUT_OF_MEMORY, lambda s: s.call("torch.zeros", [1 << 40], {}, ["y"])),
    "a power of a size": (
        ErrorCode.OUT_OF_MEMORY,
        lambda s: s.call("torch.combinations", [ref("c"), 1 << 31, True], {}, ["y"]),
    ),
    "a size that wraps": (ErrorCode.BAD_INPUT, lambda s: s.call("torch.zeros", [1 << 62, 1 << 62], {}, ["y"])),
    "a number of no tensor": (ErrorCode.BAD_INPUT, lambda s: s.call("torch.zeros", [10**400], {}, ["y"])),
    "what depends on values": (
        ErrorCode.BAD_INPUT,
        lambda s: s.call("torch.repeat_interleave", [ref("x"), ref("i")], {}, ["y"]),
    ),
    "an unknown field": (ErrorCode.NOT_ALLOWED, lambda s: s.update("x", "__class__", 1)),
    "a field that follows": (ErrorCode.NOT_ALLOWED, lambda s: s.update("x", "is_leaf", False)),
    "data of another shape": (ErrorCode.BAD_INPUT, lambda s: s.update("x", "data", np.zeros(3, np.float32))),
    "data of another dtype": (ErrorCode.BAD_INPUT, lambda s: s.update("x", "data", np.zeros(2))),
    "a gradient of another shape": (ErrorCode.BAD_INPUT, lambda s: s.update("x", "grad", ref("w"))),
    "a gradient that is a number": (ErrorCode.BAD_INPUT, lambda s: s.update("x", "grad", 1.0)),
    "a gradient for integers": (ErrorCode.BAD_INPUT, lambda s: s.update("i", "requires_grad", True)),
    "integers that need a gradient": (ErrorCode.BAD_INPUT, lambda s: s.create("y", np.arange(2), True)),
    "an array of texts": (ErrorCode.BAD_INPUT, lambda s: s.create("y", np.array(["a"]))),
    "a complex array": (ErrorCode.BAD_INPUT, lambda s: s.create("y", np.zeros(2, np.complex64))),
    "to read what isn't there": (ErrorCode.NOT_FOUND, lambda s: s.read("q")),
    "a pass from no graph": (ErrorCode.BAD_INPUT, lambda s: s.backward(["c"])),
    "a pass from more than one number": (ErrorCode.BAD_INPUT, lambda s: s.backward(["x"])),
    "a pass with another gradient": (ErrorCode.BAD_INPUT, lambda s: s.backward(["x"], ["w"])),
    "a pass to no inputs": (ErrorCode.BAD_INPUT, lambda s: s.backward(["x"], ["c"], inputs=[])),
    "a pass to another leaf": (ErrorCode.BAD_INPUT, lambda s: s.backward(["x"], ["c"], inputs=["i"])),
    "gradients with too few ids": (ErrorCode.BAD_INPUT, lambda s: s.grad(["x"], ["x"], [])),
    "gradients with a taken id": (ErrorCode.ALREADY_EXISTS, lambda s: s.grad(["x"], ["x"], ["w"], ["c"])),
    "a seed that is none": (ErrorCode.BAD_INPUT, lambda s: s.seed("x")),
}


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def raised(act: Any) -> PlanError:
    """The error, without its frames, which hold what they worked with."""
    with pytest.raises(PlanError) as caught:
        act()
    error = caught.value.with_traceback(None)
    error.__cause__ = error.__context__ = None
    del caught
    gc.collect(1)
    return error


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_told_and_changes_nothing(what: str) -> None:
    remote = session()
    remote.create("x", np.array([1, 2], np.float32), True)
    remote.create("c", np.array([1, -2], np.float32))
    remote.create("w", np.ones((3, 4), np.float32))
    remote.create("i", np.array([0, 1, 9]))
    before = [remote.read(name).tolist() for name in "xcwi"], remote.held, len(remote)
    code, mistake = MISTAKES[what]
    error = raised(lambda: mistake(remote))
    assert error.code is code
    assert error.hint and "\n" not in error.message and len(error.message) < 700
    assert ([remote.read(name).tolist() for name in "xcwi"], remote.held, len(remote)) == before
    remote.call("torch.Tensor.add", [ref("c"), 1], {}, ["y"])


@pytest.mark.filterwarnings("error")
def test_arrays_may_lie_in_memory_as_they_like() -> None:
    remote = session()
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    foreign = np.frombuffer(array.astype(">f4").tobytes(), ">f4").reshape(2, 3)
    for place, other in enumerate((array[::-1, ::2], array.T, foreign, np.broadcast_to(array[0], (4, 3)))):
        remote.create(f"x{place}", other)
        assert remote.read(f"x{place}").tolist() == other.tolist()


def test_a_hint_names_what_may_have_been_meant() -> None:
    with pytest.raises(PlanError) as caught:
        session().call("torch.fft.softmax", [], {}, [])
    assert "torch.softmax" in str(caught.value.hint)


def test_a_name_that_is_gone_can_be_used_again() -> None:
    remote = session()
    for value in (1.0, 2.0):
        remote.create("x", np.array(value))
        assert remote.read("x") == value
        remote.delete(["x", "x", "never"])
    assert (remote.held, len(remote)) == (0, 0)


def test_dropout_draws_what_torch_draws_after_the_same_seed() -> None:
    remote = session()
    remote.create("x", np.ones(100, np.float32))
    draws = []
    for name in ("a", "b", "c"):
        if name != "b":
            remote.seed(3)
        remote.call("torch.nn.functional.dropout", [ref("x"), 0.5], {}, [name])
        draws.append(remote.read(name).tolist())
    torch.default_generator.manual_seed(3)
    assert draws[0] == draws[2] == torch.nn.functional.dropout(torch.ones(100), 0.5).tolist() != draws[1]


def chain(remote: TensorSession, name: str, floors: int) -> str:
    """x * 1.5 * 1.5 …, with only the last one kept."""
    last = name
    for floor in range(floors):
        remote.call("torch.Tensor.exp", [ref(last)], {}, [f"{name}{floor}"])
        if last != name:
            remote.delete([last])
        last = f"{name}{floor}"
    return last


def test_what_a_graph_keeps_is_counted_until_it_goes() -> None:
    remote = session()
    remote.create("x", np.zeros(1000, np.float32), True)
    last = chain(remote, "x", 10)
    assert remote.held == 4000 * 11  # each exp keeps its result
    remote.call("torch.Tensor.sum", [ref(last)], {}, ["s"])
    remote.backward(["s"])
    assert remote.held == 4000 * 3 + 4  # x, its gradient, the last result, the sum
    remote.delete([last, "s"])
    assert remote.held == 8000
    remote.update("x", "grad", None)
    assert remote.held == 4000 and len(remote) == 1


def test_views_and_what_several_hold_count_once() -> None:
    remote = session()
    remote.create("x", np.zeros(1000, np.float32))
    remote.call("torch.Tensor.view", [ref("x"), 10, 100], {}, ["v"])
    remote.call("torch.Tensor.expand", [ref("v"), 1000, 10, 100], {}, ["e"])
    assert remote.held == 4000
    remote.delete(["x", "v"])
    assert remote.held == 4000
    remote.delete(["e"])
    assert remote.held == 0


def transposed(remote: TensorSession, name: str) -> dict[str, Any]:
    remote.call("torch.t", [ref(name)], {}, [f"{name}t"])
    return ref(f"{name}t")


def test_memory_has_a_limit_which_is_known_before_it_is_taken() -> None:
    remote = session(memory=MIB)
    remote.create("x", np.zeros(1 << 16, np.float32), True)
    with pytest.raises(PlanError) as caught:
        remote.create("y", np.zeros(MIB, np.uint8))
    assert caught.value.code is ErrorCode.OUT_OF_MEMORY and "262,144 of 1,048,576" in caught.value.message
    remote.create("c", np.zeros((1024, 1), np.float32))
    with pytest.raises(PlanError) as caught:  # its result is small; what comes in between isn't
        remote.call("torch.einsum", ["ij,jk,kl->il", ref("c"), transposed(remote, "c"), ref("c")], {}, ["y"])
    assert caught.value.code is ErrorCode.OUT_OF_MEMORY
    remote.delete(["c", "ct"])
    floors = 0
    with pytest.raises(PlanError) as caught:
        for floors in range(10):
            remote.call("torch.Tensor.exp", [ref("x")], {}, [f"e{floors}"])
    assert caught.value.code is ErrorCode.OUT_OF_MEMORY and floors == 3
    remote.delete(["e0", "e1", "e2"])
    remote.call("torch.Tensor.exp", [ref("x")], {}, ["e"], grad_enabled=False)


def test_variables_and_nodes_have_a_limit() -> None:
    remote = session(count=20)
    remote.create("x", np.zeros(2, np.float32), True)
    with pytest.raises(PlanError) as caught:
        chain(remote, "x", 100)
    assert caught.value.code is ErrorCode.TOO_MANY and len(remote) == 20
    with pytest.raises(PlanError) as caught:
        remote.create("y", np.zeros(2))
    assert caught.value.code is ErrorCode.TOO_MANY
    remote.delete([f"x{floor}" for floor in range(100)])
    assert len(remote) == 1


def test_training_for_long_takes_no_more_than_training_for_short() -> None:
    """Also where calls are never the same twice, and torch's own registers."""
    remote = session(count=100)
    remote.create("w", np.ones((4, 4), np.float32), True, True)
    remote.create_optimizer("o", "SGD", [{"params": ["w"]}], {"lr": 1e-4, "momentum": 0.9})

    def sizes() -> tuple[int, ...]:
        return remote.held, len(remote), len(remote._variables), len(remote._variables._names), len(remote._sizer)

    seen = set()
    for step in range(150):
        remote.call("torch.Tensor.matmul", [ref("w"), ref("w")], {}, ["a"])
        remote.call("torch.Tensor.tanh", [ref("a")], {}, ["b"])
        remote.call("torch.Tensor.sum", [ref("b")], {}, ["c"])
        remote.zero_grad("o")
        remote.backward(["c"])
        remote.step("o")
        remote.delete(["a", "b", "c"])
        if step > 2:
            seen.add(sizes())
    assert len(seen) == 1


@pytest.mark.soak
def test_a_hundred_thousand_operations_leave_nothing_behind() -> None:
    psutil = pytest.importorskip("psutil")
    remote = session(count=100)
    remote.create("x", np.ones(4, np.float32), True)
    memory = []
    for step in range(100_000):
        remote.call("torch.Tensor.add", [ref("x"), step], {}, [f"y{step}"])  # never the same twice
        remote.seed(step)
        remote.delete([f"y{step}"])
        if step % 10_000 == 9_999:
            assert (remote.held, len(remote)) == (16, 1)
            memory.append(psutil.Process().memory_info().rss)
    assert memory[-1] - memory[1] < 8 * MIB


NUMBERS = st.sampled_from(
    ["add", "sub", "mul", "div", "maximum", "minimum", "eq", "lt", "where", "pow", "atan2", "fmod"]
)
FLOATS = ["float16", "bfloat16", "float32", "float64"]


@st.composite
def operands(draw: st.DrawFn) -> list[torch.Tensor]:
    """Two tensors that broadcast, of any two dtypes."""
    shapes = draw(arrays.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=4)).input_shapes
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    made = []
    for shape in shapes:
        dtype = DTYPES[draw(st.sampled_from(NUMPY))]
        tensor = torch.randn(shape, generator=generator).mul(3).to(dtype)
        made.append(tensor.requires_grad_(dtype.is_floating_point and draw(st.booleans())))
    return made


@settings(max_examples=150, deadline=None)
@given(NUMBERS, operands())
def test_dtypes_and_shapes_go_together_as_in_torch(name: str, pair: list[torch.Tensor]) -> None:
    both = Both()
    args = [pair[0] > 0, *pair] if name == "where" else pair
    try:
        results = both.run(f"torch.{name}", args, {})
    except RuntimeError as error:  # torch's own; the session says the same
        forms = [ref(both.name_of(arg)) for arg in args]
        with pytest.raises(PlanError, match=str(error)[:20].replace("(", ".").replace(")", ".").replace("[", ".")):
            both.remote.call(f"torch.{name}", forms, {}, ["result"])
        return
    both.check(results)
    if results[0].requires_grad:
        both.backward(results)
        both.check_grads([leaf for leaf in pair if leaf.requires_grad])


def test_all_names_of_a_tensor_are_told_of_what_was_set() -> None:
    remote = session()
    remote.create("x", np.ones(2, np.float32), True)
    remote.create("g", np.ones(2, np.float32))
    remote.call("torch.Tensor.contiguous", [ref("x")], {}, ["same"])
    told = remote.update("same", "grad", ref("g"))
    assert [(v.id, v.has_grad) for v in (*told.variables, *told.changed)] == [("same", True), ("x", True)]


def test_many_results_at_once() -> None:
    remote = session()
    remote.create("x", np.zeros((20_000, 1), np.float32), True)
    names = [f"r{place}" for place in range(20_000)]
    told = remote.call("torch.unbind", [ref("x")], {}, names)
    assert len(told.variables) == 20_000 and len({v.grad_fn for v in told.variables}) == 1
    remote.delete(names)
    assert len(remote) == 1
