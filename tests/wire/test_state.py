from __future__ import annotations

import io
import math
import pickle
import time
import tracemalloc
import zipfile
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gridkit.errors import ErrorCode, WireError
from gridkit.wire import protobuf
from gridkit.wire.state import StateReader, pack_state, pack_stream, read_state
from gridkit.wire.tensors import Arrays, TensorSpec
from tests.wire.schema import State

DTYPES = ["uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "bool"]
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@st.composite
def states(draw: st.DrawFn) -> dict[str, np.ndarray]:
    array = st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
    )
    return draw(st.dictionaries(names, array, min_size=1, max_size=4))


def assert_same(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    assert list(got) == list(want)
    for name, array in want.items():
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape)
        assert got[name].tobytes() == array.tobytes(), name


# ---- both ways


@given(states())
def test_round_trip(state: dict[str, np.ndarray]) -> None:
    assert_same(read_state(pack_state(state)), state)


def test_bytes_of_a_small_state() -> None:
    """By hand, from the field numbers."""
    placeholder = bytes.fromhex("1a020800 22022330 22082373746174652d30 2a0177 32030a0102")
    data = bytes.fromhex("0a030a0102 1207") + b"float32" + bytes.fromhex("b20108 0000803f 000000c0")
    tensor = bytes.fromhex("0a020800 12") + bytes([len(data)]) + data + bytes.fromhex("4004")
    state_tensor = b"\x0a" + bytes([len(tensor)]) + tensor
    want = b"\x0a" + bytes([len(placeholder)]) + placeholder + b"\x12" + bytes([len(state_tensor)]) + state_tensor
    assert pack_state({"w": np.array([1, -2], np.float32)}).hex() == want.hex()


@given(states())
def test_others_read_what_we_write(state: dict[str, np.ndarray]) -> None:
    message = State.FromString(pack_state(state))
    assert [p.description for p in message.placeholders] == list(state)
    for place, (placeholder, entry, array) in enumerate(
        zip(message.placeholders, message.tensors, state.values(), strict=True)
    ):
        assert placeholder.id.WhichOneof("which") == "id_int" and placeholder.id.id_int == place
        assert list(placeholder.tags) == [f"#{place}", f"#state-{place}"]
        assert tuple(placeholder.expected_shape.dims) == array.shape
        tensor = entry.torch_tensor
        assert tensor.serializer == 4 and tensor.id.WhichOneof("which") == "id_int"
        data = tensor.contents_data
        assert (data.dtype, tuple(data.shape.dims)) == (str(array.dtype), array.shape)
        contents = np.array(getattr(data, f"contents_{array.dtype}"), array.dtype)
        assert contents.tobytes() == array.tobytes()


def foreign(
    state: dict[str, np.ndarray], *, placeholders: bool = True, parameters: bool = False, text_ids: bool = False
) -> Any:
    """A State as PySyft or syft.js write it: no names, perhaps no placeholders."""
    message = State()
    for place, array in enumerate(state.values()):
        if placeholders:
            placeholder = message.placeholders.add()
            placeholder.id.id_int = place
            placeholder.tags.extend([f"#{place}", f"#state-{place}"])
            placeholder.expected_shape.SetInParent()
        entry = message.tensors.add()
        tensor = entry.torch_param.tensor if parameters else entry.torch_tensor
        if text_ids:
            tensor.id.id_str = f"tensor {place}"
        else:
            tensor.id.id_int = 77 + place
        tensor.serializer = 4
        tensor.contents_data.shape.dims.extend(array.shape)
        tensor.contents_data.shape.SetInParent()
        tensor.contents_data.dtype = str(array.dtype)
        getattr(tensor.contents_data, f"contents_{array.dtype}").extend(array.reshape(-1).tolist())
    return message


@given(states(), st.booleans(), st.booleans(), st.booleans())
def test_we_read_what_others_write(state: dict[str, np.ndarray], holders: bool, parameters: bool, text: bool) -> None:
    data = foreign(state, placeholders=holders, parameters=parameters, text_ids=text).SerializeToString()
    reader = StateReader(io.BytesIO(data))
    assert [spec.name for spec in reader.specs] == [""] * len(state)
    assert_same(read_state(data), {str(place): array for place, array in enumerate(state.values())})


def test_unknown_fields_are_skipped() -> None:
    state = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}
    data = pack_state(state)
    extra = protobuf.delimited(99, b"news") + protobuf.integer(98, 7) + b"\xed\x06" + bytes(4)
    assert_same(read_state(extra + data + extra), state)


def test_tensors_may_stand_before_their_placeholders() -> None:
    data = pack_state({"w": np.ones(3, np.float32)})
    size = 2 + data[1]
    assert list(read_state(data[size:] + data[:size])) == ["w"]


def test_an_empty_file_has_no_tensors() -> None:
    assert StateReader(io.BytesIO(b"")).specs == ()
    assert pack_state({}) == b""


# ---- pieces


@given(states(), st.integers(1, 7))
def test_reading_and_writing_in_pieces_gives_the_same_bytes(state: dict[str, np.ndarray], piece: int) -> None:
    data = pack_state(state)
    reader = StateReader(io.BytesIO(data))
    for source in (reader, Arrays(state)):
        chunks = [
            source.read(place, start, min(start + piece, spec.size))
            for place, spec in enumerate(source.specs)
            for start in range(0, spec.size, piece)
        ]
        assert b"".join(pack_stream(source.specs, chunks)) == data


def test_chunks_must_end_where_tensors_do() -> None:
    specs = [TensorSpec("a", "float32", (2,)), TensorSpec("b", "float32", (2,))]
    with pytest.raises(ValueError, match="'a'"):
        b"".join(pack_stream(specs, [np.zeros(3, np.float32), np.zeros(1, np.float32)]))
    with pytest.raises(ValueError, match="'b'"):
        b"".join(pack_stream(specs, [np.zeros(2, np.float32), np.zeros(1, np.float32)]))


@pytest.mark.parametrize("dtype", ["complex64", "uint32", "<U3", "float128", "datetime64[s]"])
def test_a_dtype_without_a_field_is_refused(dtype: str) -> None:
    with pytest.raises(WireError, match="dtype"):
        pack_state({"w": np.zeros(2, dtype)})


def test_big_endian_and_transposed_arrays_travel_by_value() -> None:
    array = np.arange(6, dtype=">f4").reshape(2, 3).T
    assert read_state(pack_state({"w": array.astype(np.float32)}))["w"].tolist() == array.tolist()


def test_content_is_not_held_when_only_the_structure_is_asked_for(tmp_path: Any) -> None:
    file = tmp_path / "state"
    specs = [TensorSpec("w", "float32", (4_000_000,))]
    with file.open("wb") as out:
        for piece in pack_stream(specs, (np.zeros(40_000, np.float32) for _ in range(100))):
            out.write(piece)
    with file.open("rb") as stored:
        tracemalloc.start()
        reader = StateReader(stored)
        total = sum(float(reader.read(0, at, at + 4000).sum()) for at in range(0, 4_000_000, 4000))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert total == 0 and peak < 1_000_000


# ---- what must not be read


class Bomb:
    def __reduce__(self) -> Any:
        return (print, ("executed",))


def archive() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as zipped:
        zipped.writestr("archive/data.pkl", pickle.dumps(Bomb()))
    return out.getvalue()


def numpy_objects() -> bytes:
    out = io.BytesIO()
    np.save(out, np.array([Bomb()], object), allow_pickle=True)
    return out.getvalue()


@pytest.mark.parametrize(
    "data",
    [*(pickle.dumps(Bomb(), protocol) for protocol in range(6)), archive(), numpy_objects()],
    ids=[*(f"pickle {protocol}" for protocol in range(6)), "zip", "npy"],
)
def test_pickles_and_archives_are_unsafe(data: bytes, capsys: pytest.CaptureFixture[str]) -> None:  # faults.md S1
    with pytest.raises(WireError) as raised:
        StateReader(io.BytesIO(data))
    assert raised.value.code in (ErrorCode.UNSAFE_FORMAT, ErrorCode.MALFORMED)
    if not data.startswith((b"c", b"(")):  # protocols 0 and 1 have no mark: they are no State
        assert raised.value.code is ErrorCode.UNSAFE_FORMAT
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("serializer", [1, 2, 3, 5, 2**31 - 1])
def test_opaque_contents_are_unsafe(serializer: int) -> None:
    message = foreign({"w": np.ones(2, np.float32)})
    message.tensors[0].torch_tensor.serializer = serializer
    with pytest.raises(WireError) as raised:
        StateReader(io.BytesIO(message.SerializeToString()))
    assert raised.value.code is ErrorCode.UNSAFE_FORMAT
    message.tensors[0].torch_tensor.ClearField("contents_data")
    message.tensors[0].torch_tensor.contents_bin = pickle.dumps(Bomb())
    with pytest.raises(WireError) as raised:
        StateReader(io.BytesIO(message.SerializeToString()))
    assert raised.value.code is ErrorCode.UNSAFE_FORMAT


def test_opaque_contents_are_unsafe_whatever_stands_beside_them() -> None:
    message = foreign({"w": np.ones(2, np.float32)})
    message.tensors[0].torch_tensor.contents_bin = b"x"
    with pytest.raises(WireError) as raised:
        StateReader(io.BytesIO(message.SerializeToString()))
    assert raised.value.code is ErrorCode.UNSAFE_FORMAT


def test_typed_contents_without_a_serializer_are_read() -> None:
    message = foreign({"w": np.ones(2, np.float32)})
    message.tensors[0].torch_tensor.ClearField("serializer")
    assert read_state(message.SerializeToString())["0"].tolist() == [1.0, 1.0]


def broken(change: Any) -> bytes:
    message = foreign({"v": np.ones(3, np.float32), "w": np.arange(4, dtype=np.int32)})
    change(message, message.tensors[0].torch_tensor, message.tensors[0].torch_tensor.contents_data)
    return bytes(message.SerializeToString())


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda m, t, d: d.contents_float32.append(1.0), "bytes of float32"),
        (lambda m, t, d: d.shape.dims.append(2**31 - 1), "bytes of float32"),
        (lambda m, t, d: d.shape.dims.extend([2**31 - 1] * 15), "bytes of float32"),
        (lambda m, t, d: d.shape.dims.extend([1] * 40), "shape"),
        (lambda m, t, d: d.shape.dims.append(-1), "shape"),
        (lambda m, t, d: setattr(d, "dtype", "object"), "dtype"),
        (lambda m, t, d: setattr(d, "dtype", ""), "dtype"),
        (lambda m, t, d: setattr(d, "dtype", "float64"), "another dtype"),
        (lambda m, t, d: d.contents_int8.append(1), "another dtype"),
        (lambda m, t, d: setattr(d, "is_quantized", True), "quantised"),
        (lambda m, t, d: t.chain.SetInParent(), None),
        (lambda m, t, d: setattr(t.chain, "serializer", 4), "chain"),
        (lambda m, t, d: setattr(t.grad_chain, "serializer", 4), "chain"),
        (lambda m, t, d: t.ClearField("contents_data"), "contents"),
        (lambda m, t, d: m.tensors.add(), "empty"),
        (lambda m, t, d: m.ClearField("tensors"), "tensors"),
        (lambda m, t, d: m.placeholders.add(description="x" * 10_000), "longer"),
    ],
)
def test_broken_states(change: Any, word: str | None) -> None:
    data = broken(change)
    if word is None:  # an empty chain says nothing
        StateReader(io.BytesIO(data))
        return
    with pytest.raises(WireError, match=word) as raised:
        StateReader(io.BytesIO(data))
    assert raised.value.code is ErrorCode.MALFORMED


@pytest.mark.parametrize(("dtype", "value"), [("int8", 128), ("uint8", -1), ("int32", 2**31), ("bool", 2)])
def test_integers_out_of_range_are_refused_when_read(dtype: str, value: int) -> None:
    good = pack_state({"w": np.ones(1, dtype)})
    contents = protobuf.varint(value & 2**64 - 1)
    spec = TensorSpec("w", dtype, (1,))
    from gridkit.wire import state

    data = protobuf.delimited(1, state._placeholder(0, spec)) + state._opened(0, spec, len(contents)) + contents
    data += protobuf.integer(8, 4)
    assert StateReader(io.BytesIO(good)).specs == (spec,)
    with pytest.raises(WireError):
        read_state(data)


def nested(depth: int) -> bytes:
    """A tensor of a chain of a chain …, each level well-formed."""
    data = b""
    for _ in range(depth):
        data = protobuf.delimited(4, data)
    return protobuf.delimited(2, protobuf.delimited(1, data))


def hostile() -> dict[str, bytes]:
    """Messages that cost a careless reader time or memory."""
    return {
        "nested 10k": nested(10_000),
        "overlong varint": b"\x12" + b"\x80" * 1_000_000,
        "declares 2^62 bytes": b"\x12" + protobuf.varint(2**62) + b"x",
        "a million empty tensors": b"\x12\x00" * 1_000_000,
        "a million empty placeholders": b"\x0a\x00" * 1_000_000,
        "a million unknown fields": b"\x38\x01" * 1_000_000,
        "a tensor of a million unknown fields": protobuf.delimited(2, b"\x38\x01" * 1_000_000),
        "a name of a megabyte": protobuf.delimited(1, protobuf.delimited(5, b"x" * 1_000_000)),
        "2^62 elements": broken(lambda m, t, d: d.shape.dims.extend([2**31 - 1] * 2)),
        "0 × 2^62 elements": broken(lambda m, t, d: d.shape.dims.extend([0, 2**31 - 1, 2**31 - 1])),
    }


@pytest.mark.parametrize("name", hostile())
def test_hostile_messages_are_refused_soon_and_without_memory(name: str) -> None:  # faults.md S5
    data = hostile()[name]
    state = pack_state({"w": np.ones(1000, np.float32)})
    tracemalloc.start()
    with pytest.raises(WireError):
        StateReader(io.BytesIO(data))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000
    assert StateReader(io.BytesIO(state)).specs[0].size == 1000


def test_max_tensors() -> None:
    data = pack_state({str(n): np.zeros(1, np.float32) for n in range(11)})
    assert len(StateReader(io.BytesIO(data), max_tensors=11).specs) == 11
    with pytest.raises(WireError, match="more than 10 tensors"):
        StateReader(io.BytesIO(data), max_tensors=10)


SEED = pack_state({"fc.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "steps": np.array(300, np.int64)})


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(SEED)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data) - 1))
        match draw(st.sampled_from(["set", "cut", "insert", "drop", "double"])):
            case "set":
                data[at] = draw(st.integers(0, 255))
            case "cut":
                del data[at + 1 :]
            case "insert":
                data[at:at] = draw(st.binary(max_size=12))
            case "drop":
                del data[at : at + draw(st.integers(1, 8))]
                data = data or bytearray(b"\x00")
            case "double":
                data[at:at] = data[max(0, at - 9) : at]
    return bytes(data)


@given(st.one_of(st.binary(max_size=400), mutated()))
@example(SEED[:-1])
@settings(max_examples=500)
def test_any_bytes_are_a_state_or_a_typed_error(data: bytes) -> None:
    try:
        reader = StateReader(io.BytesIO(data))
        for place, spec in enumerate(reader.specs):
            values = reader.read(place, 0, spec.size)
            assert len(values) == spec.size == math.prod(spec.shape)
            assert spec.size <= max(len(data), 1) or 0 in spec.shape
    except WireError as error:
        assert "\n" not in error.message and len(error.message) < 300


def test_reading_is_quick_enough_to_be_done_at_every_report() -> None:
    """Against the size of the work, not the clock: the structure of a big State costs as that of a small one."""

    def cost(elements: int) -> float:
        data = io.BytesIO(pack_state({f"t{n}": np.zeros(elements, np.float32) for n in range(50)}))
        best = math.inf
        for _ in range(5):
            start = time.perf_counter()
            StateReader(data)
            best = min(best, time.perf_counter() - start)
        return best

    assert cost(100_000) < 10 * cost(10)
