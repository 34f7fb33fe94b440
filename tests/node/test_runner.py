"""The node's computations in their child processes: right, apart from each other, bounded."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import pytest
import torch
from torch import nn

import gridkit as gk
from gridkit.errors import ErrorCode, LimitError, NodeError, NotFoundError
from gridkit.node import child as child_module
from gridkit.node import runner as runner_module
from gridkit.node.runner import Runner
from gridkit.node.settings import Limits
from gridkit.wire.frames import HEAD
from tests.models import Hosted, digits, endless, function, hosted, packed, unpacked
from tests.support import wait_for

T = TypeVar("T")


def running(scenario: Callable[[Runner], Awaitable[T]], limits: Limits | None = None) -> T:
    async def main() -> T:
        runner = Runner(limits or Limits())
        try:
            return await scenario(runner)
        finally:
            await runner.close()

    return asyncio.run(main())


async def infer(runner: Runner, model: Hosted, *x: torch.Tensor) -> torch.Tensor:
    return unpacked(await runner.infer(model.digest, model.open, packed(*x)))[0]


async def started(runner: Runner) -> None:
    """Until a child has something to do."""
    while not any(lane.busy and lane.child for lane in runner._lanes):
        await asyncio.sleep(0.01)


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many requests each frame to a child held."""
    sizes: list[int] = []
    say = child_module.Child.say

    async def counted(self: Any, header: dict[str, Any], parts: Any) -> None:
        sizes.append(len(parts))
        await say(self, header, parts)

    monkeypatch.setattr(child_module.Child, "say", counted)
    return sizes


def test_what_waits_together_is_computed_apart(groups: list[int]) -> None:
    """Batches of many sizes from many at once, with a bad one, a hostile one and two other models among them."""
    one, other, bad = hosted(digits(), torch.zeros(1, 64)), hosted(nn.Linear(3, 2), torch.zeros(1, 3)), torch.zeros(5)
    draw = torch.Generator().manual_seed(1)
    xs = [torch.randn(1 + place % 5, 64, generator=draw) for place in range(40)]
    xs[7].fill_(torch.nan)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    wanted = [digits()(x) for x in xs]
    torch.set_num_threads(threads)

    async def scenario(runner: Runner) -> list[Any]:
        assert runner.pids == []  # nothing before the first one
        return await asyncio.gather(
            *(infer(runner, one, x) for x in xs),
            infer(runner, one, bad),
            infer(runner, other, torch.ones(1, 3)),
            return_exceptions=True,
        )

    *results, refused, of_other = running(scenario)
    assert [r.shape for r in results] == [w.shape for w in wanted]
    assert all(torch.equal(r, w) for place, (r, w) in enumerate(zip(results, wanted, strict=True)) if place != 7)
    assert results[7].isnan().all()
    assert isinstance(refused, NodeError) and (refused.code, refused.status) == (ErrorCode.BAD_INPUT, 400)
    assert of_other.shape == (1, 2)
    assert groups[0] == 41 and len(groups) == 2  # the whole line in one frame; the other model in another


def test_a_model_is_opened_once_and_by_digest() -> None:
    model, opened = hosted(digits(), torch.zeros(1, 64)), []

    def open_model() -> BinaryIO:
        opened.append(1)
        return model.open()

    async def scenario(runner: Runner) -> None:
        for _ in range(3):
            await runner.infer(model.digest, open_model, packed(torch.zeros(1, 64)))
        assert len(runner.pids) == 1

    running(scenario)
    assert len(opened) == 1


def test_a_model_in_a_file_and_one_that_is_gone(tmp_path: Path) -> None:
    model = hosted(digits(), torch.zeros(1, 64))
    (tmp_path / "model").write_bytes(model.data)

    def gone() -> BinaryIO:
        raise NotFoundError("no such model", code=ErrorCode.NOT_FOUND, status=404)

    async def scenario(runner: Runner) -> None:
        for _ in range(2):
            with pytest.raises(NotFoundError, match="no such model"):
                await runner.infer(model.digest, gone, packed(torch.zeros(1, 64)))
        with pytest.raises(FileNotFoundError):
            await runner.infer(model.digest, (tmp_path / "none").open, packed(torch.zeros(1, 64)))
        pids = runner.pids
        await runner.infer(model.digest, lambda: (tmp_path / "model").open("rb"), packed(torch.zeros(1, 64)))
        assert runner.pids == pids  # nobody died of it

    running(scenario)


@pytest.mark.parametrize("data", [b"GKM1", b"\x80\x04.", b"", b"GKM1\xff\xff\xff\x7f" + bytes(100)])
def test_bytes_that_are_no_model(data: bytes) -> None:
    async def scenario(runner: Runner) -> None:
        with pytest.raises(NodeError) as caught:
            await runner.infer("0", lambda: io.BytesIO(data), packed(torch.zeros(1)))
        assert (caught.value.code, caught.value.status) == (ErrorCode.MALFORMED, 400)

    running(scenario)


def test_a_plan_on_data(tmp_path: Path) -> None:
    @function(("B", 3), (3, 2))
    def both(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x @ w, x.mean(0)

    x, w = torch.randn(1000, 3), torch.randn(3, 2)
    (tmp_path / "data").write_bytes(packed(x, w))

    async def scenario(runner: Runner) -> list[bytes]:
        with open(tmp_path / "data", "rb") as file:
            first = await runner.run_plan(both.to_bytes(), file)
            assert not file.closed  # the caller's
        return [
            first,
            *await asyncio.gather(*(runner.run_plan(both.to_bytes(), io.BytesIO(packed(x, w))) for _ in "12")),
        ]

    for result in running(scenario):
        product, mean = unpacked(result)
        assert torch.equal(mean, x.mean(0)) and torch.allclose(product, x @ w)


def test_a_failing_plan_tells_nothing_of_the_data() -> None:
    @gk.plan(args=[gk.spec("B", 3), gk.spec("B", dtype="int64")])
    def picked(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return x.index_select(0, index)

    async def scenario(runner: Runner) -> None:
        data = packed(torch.ones(2, 3), torch.tensor([0, 31337]))
        with pytest.raises(NodeError) as caught:
            await runner.run_plan(picked.to_bytes(), io.BytesIO(data))
        assert caught.value.code is ErrorCode.RUN_FAILED
        assert "31337" not in str(caught.value) and "index" not in str(caught.value)
        with pytest.raises(NodeError, match="takes 2 tensors"):  # of shapes it may tell
            await runner.run_plan(picked.to_bytes(), io.BytesIO(packed(torch.ones(2, 3))))

    running(scenario)


def test_who_is_too_many_is_turned_away() -> None:
    model = hosted(digits(), torch.zeros(1, 64))
    one = packed(torch.zeros(1, 64))

    async def scenario(runner: Runner) -> None:
        asked = [asyncio.ensure_future(runner.infer(model.digest, model.open, one)) for _ in range(5)]
        results = await asyncio.gather(*asked, return_exceptions=True)
        busy = [r for r in results if isinstance(r, NodeError)]
        assert [(e.code, e.status) for e in busy] == [(ErrorCode.BUSY, 503)] * 2 and len(results) - len(busy) == 3
        with pytest.raises(LimitError) as caught:
            await runner.infer(model.digest, model.open, bytes(1 << 16))
        assert (caught.value.code, caught.value.status) == (ErrorCode.TOO_LARGE, 413)
        await runner.infer(model.digest, model.open, one)  # there is room again

    running(scenario, Limits(run_waiting=3, run_inputs=4 * len(one)))
    running(scenario, Limits(run_inputs=3 * len(one)))  # by number, and by bytes


def test_who_goes_away_is_not_computed(groups: list[int]) -> None:
    model = hosted(digits(), torch.zeros(1, 64))

    async def scenario(runner: Runner) -> None:
        stays = asyncio.ensure_future(infer(runner, model, torch.zeros(1, 64)))
        goes = [asyncio.ensure_future(infer(runner, model, torch.zeros(1, 64))) for _ in range(3)]
        await asyncio.sleep(0)
        for task in goes:
            task.cancel()
        assert (await stays).shape == (1, 10)
        assert runner._waiting == 0 and runner._bytes == 0

    running(scenario)
    assert groups == [1]


def test_an_idle_child_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "IDLE_SECONDS", 0.05)
    model = hosted(digits(), torch.zeros(1, 64))

    async def scenario(runner: Runner) -> None:
        await infer(runner, model, torch.zeros(1, 64))
        (pid,) = runner.pids
        while runner.pids:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(wait_for, lambda: not Path(f"/proc/{pid}/stat").exists())
        await infer(runner, model, torch.zeros(1, 64))  # and started when it is needed again

    running(scenario)


def test_closing_lets_everybody_go() -> None:
    model = hosted(digits(), torch.zeros(1, 64))

    async def scenario(runner: Runner) -> None:
        plans = [
            asyncio.ensure_future(runner.run_plan(endless().to_bytes(), io.BytesIO(packed(torch.zeros(1500, 1500)))))
        ]
        await started(runner)
        waiting = [asyncio.ensure_future(infer(runner, model, torch.zeros(1, 64))) for _ in range(3)]
        await asyncio.sleep(0)
        pids = runner.pids
        await runner.close()
        ended = await asyncio.gather(*plans, *waiting, return_exceptions=True)
        assert [e.code for e in ended] == [ErrorCode.RUN_FAILED, *[ErrorCode.BUSY] * 3]  # type: ignore[union-attr]
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
        with pytest.raises(NodeError):
            await infer(runner, model, torch.zeros(1, 64))

    running(scenario)


def test_a_child_that_can_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    model = hosted(digits(), torch.zeros(1, 64))

    async def scenario(runner: Runner) -> None:
        with pytest.raises(NodeError, match="no runner could be started") as caught:
            await infer(runner, model, torch.zeros(1, 64))
        assert caught.value.code is ErrorCode.BUSY and runner.pids == []

    running(scenario)


def test_the_child_knows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDKIT_TOKEN", "a-token-that-stays-here")
    model = hosted(digits(), torch.zeros(1, 64))

    async def scenario(runner: Runner) -> None:
        await infer(runner, model, torch.zeros(1, 64))
        (pid,) = runner.pids
        process = Path(f"/proc/{pid}")
        assert b"a-token-that-stays-here" not in (process / "environ").read_bytes()
        assert b"a-token-that-stays-here" not in (process / "cmdline").read_bytes()
        # standard streams and two sockets; no database, no listening socket, no model that was read
        names = [entry.readlink().name for entry in (process / "fd").iterdir()]
        assert len(names) == 5, names

    running(scenario)


class Liar:
    """A child as a kernel's fault may have left it to others: its frames are not what the loop would send."""

    pid = 0
    ended = False

    def __init__(self, header: dict[str, Any], body: bytes) -> None:
        self.frame = header, body

    async def say(self, header: dict[str, Any], parts: Any) -> None: ...

    async def hear(self) -> tuple[dict[str, Any], bytes]:
        return self.frame

    async def end(self) -> None:
        self.ended = True


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ({"answers": [[3, None], [1, None]]}, b"four"),
        ({"answers": [[-1, None]]}, b""),
        ({"answers": [[5, None]]}, b"four"),
        ({"answers": [[True, None]]}, b"1"),
        ({"answers": [[0, {"message": "m", "hint": None, "code": "NO_CODE"}]]}, b""),
        ({"answers": [[0, {"message": "m"}]]}, b""),
        ({"answers": [7]}, b""),
        ({"answers": []}, b""),
        ({"answers": 1}, b""),
        ({}, b""),
    ],
)
def test_frames_that_make_no_sense_end_the_child(
    header: dict[str, Any], body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    liar = Liar(header, body)

    async def start(_limits: Limits) -> Liar:
        return liar

    monkeypatch.setattr(child_module.Child, "start", start)

    async def scenario(runner: Runner) -> None:
        with pytest.raises(NodeError) as caught:
            await runner.infer("0", io.BytesIO, b"")
        assert caught.value.code is ErrorCode.RUN_FAILED and runner.pids == [] and liar.ended

    running(scenario)


@pytest.mark.parametrize("frame", [b"\xff" * 12, HEAD.pack(2, 0) + b"[]", HEAD.pack(3, 0) + b"{]}", b"\0"])
def test_bytes_that_are_no_frame_end_the_child(frame: bytes) -> None:
    """The reading side, on a real stream."""

    async def main() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(frame)
        reader.feed_eof()
        child = child_module.Child.__new__(child_module.Child)
        child._reader, child._limits = reader, Limits()
        with pytest.raises(child_module.Lost):
            await child.hear()

    asyncio.run(main())
