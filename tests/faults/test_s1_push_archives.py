"""S1, S2 under /push: bombs in every format of archive, sent as a model and as an update. Nothing of them is run or
unpacked, each is refused by name, and the round that they were sent to goes on."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from tests.hospitals import LOCAL, Hospital, hospitals, moved, values
from tests.raw import resident
from tests.support import NodeUnderTest
from tests.wire.archives import archive_of, entries_of, saved, zipped
from tests.wire.test_torch_archive_attacks import Bomb, bombed_zip, bombs

pytestmark = pytest.mark.faults
MIB = 1 << 20
KINDS = ("state_dict", "module", "torchscript")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("node") / "data", *LOCAL)
    yield node
    node.terminate()
    assert "Traceback" not in "".join(node.said)


@pytest.fixture(scope="module")
def north(node: NodeUnderTest) -> Iterator[Hospital]:
    with hospitals(node, "north") as (opened,):
        yield opened


def refused(answer: httpx.Response, why: str, *codes: str) -> None:
    body = answer.json()
    assert answer.status_code == 400 and body["code"] in codes, (why, body)
    assert body["detail"] and "Traceback" not in answer.text, why


@pytest.mark.parametrize("form", KINDS)
def test_s1_bombs_as_models_and_as_updates(north: Hospital, node: NodeUnderTest, tmp_path: Path, form: str) -> None:
    sentinel = tmp_path / "sentinel"
    first = archive_of("mlp", form)
    training, model = north.started(first, [north.id])
    north.called(training, "UPDATE_ROUND_START 0")
    kept = node.files()
    for why, data in bombs(sentinel).items():
        # of a bare pickle of protocol 0 it is told that it is no archive
        codes = ("UNSAFE_FORMAT", *(["MALFORMED"] if "pickle" in why else []))
        refused(north.host(data), why, *codes)
        refused(north.update(model, 0, data), why, *codes)
    assert not sentinel.exists() and node.files() == kept
    assert north.update(model, 0, moved(first, 1.0)).status_code == 201
    north.called(training, "MODEL_TEST_ROUND 1")
    assert north.test(model, loss=0.5).status_code == 201
    assert north.ends(training)["state"] == "C"
    before, after = values(first), values(north.fetch(model))
    assert all(np.allclose(after[name], array + 1) for name, array in before.items())


@pytest.mark.parametrize("entry", ["constants.pkl", ".py", ".debug_pkl", "version"])
def test_s1_an_updates_own_code_goes_nowhere(north: Hospital, tmp_path: Path, entry: str) -> None:
    """The next model has the hosted one's code, whatever an update brings along."""
    sentinel = tmp_path / "sentinel"
    first = archive_of("mlp", "torchscript")
    training, model = north.started(first, [north.id])
    north.called(training, "UPDATE_ROUND_START 0")
    update = bombed_zip(moved(first, 1.0), entry, pickle.dumps(Bomb(sentinel), 2))
    assert update != moved(first, 1.0) and north.update(model, 0, update).status_code == 201
    north.called(training, "MODEL_TEST_ROUND 1")
    assert north.fetch(model) == moved(first, 1.0)
    assert not sentinel.exists()


def test_s1_an_update_of_another_kind_or_class_is_no_update(north: Hospital) -> None:
    for form in KINDS:
        training, model = north.started(archive_of("mlp", form), [north.id])
        north.called(training, "UPDATE_ROUND_START 0")
        for other in (*(archive_of("mlp", kind) for kind in KINDS if kind != form), archive_of("tied", form)):
            refused(north.update(model, 0, other), form, "MALFORMED")
        assert north.update(model, 0, archive_of("mlp", form, seed=1)).status_code == 201


def test_s2_zip_bombs_are_not_opened(north: Hospital, node: NodeUnderTest) -> None:
    first = saved({"a": torch.arange(4.0)})
    training, model = north.started(first, [north.id])
    north.called(training, "UPDATE_ROUND_START 0")
    inside = entries_of(first)
    deflated = zipped({**inside, "archive/data/0": bytes(200 * MIB)}, zipfile.ZIP_DEFLATED)
    pickled = zipped({**inside, "archive/data.pkl": b"\x80\x02" + b"}" * (20 * MIB) + b"."})
    many = zipped({**inside, **{f"archive/data/{number}": b"" for number in range(70_000)}})
    quine = zipped({**inside, "archive/data/1": deflated})
    lying = bytearray(first)
    at = first.index(b"PK\x01\x02")
    lying[at + 20 : at + 28] = b"\xfe\xff\xff\x7f" * 2  # sizes in the directory: 2 GiB
    before = resident(node)
    for why, data in {"deflated": deflated, "a pickle of 20 MiB": pickled, "many": many, "lying": bytes(lying)}.items():
        for answer in (north.host(data), north.update(model, 0, data) if len(data) < 16 * MIB else north.host(data)):
            refused(answer, why, "MALFORMED", "UNSAFE_FORMAT")
    assert north.update(model, 0, pickled).status_code == 413  # more than twice the model
    assert resident(node) - before < 100 * MIB
    assert north.update(model, 0, quine).status_code == 201  # what no tensor lies in isn't looked at, and goes nowhere
    north.called(training, "MODEL_TEST_ROUND 1")
    assert north.fetch(model) == first
