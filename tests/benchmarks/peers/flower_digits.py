"""The benchmark's task with Flower's simulation (Message API, Ray): ``python flower_digits.py``, in its own venv.

Flower is given what helps it: data and model are cached in each actor, one CPU a client so that as many actors as
cores run, no evaluation, no log, no telemetry. Its first round is timed from the moment in which its strategy hands out
the first messages: starting Ray and the imports of this process are left out (they count in `cold_s`), the start of the
actors, of which Flower's user waits too, is in it.
"""

from __future__ import annotations

import time

START = time.perf_counter()

import os  # noqa: E402

os.environ.update(FLWR_TELEMETRY_ENABLED="0", RAY_USAGE_STATS_ENABLED="0", OMP_NUM_THREADS="1")

import functools  # noqa: E402
import json  # noqa: E402
import logging  # noqa: E402
from collections.abc import Iterable  # noqa: E402
from typing import Any  # noqa: E402

import digits_task as task  # noqa: E402
import torch  # noqa: E402
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402
from flwr.serverapp import Grid, ServerApp  # noqa: E402
from flwr.serverapp.strategy import FedAvg  # noqa: E402
from flwr.simulation import run_simulation  # noqa: E402

client_app = ClientApp()
server_app = ServerApp()
result: dict[str, Any] = {}


@functools.cache
def client_side() -> tuple[list[tuple[torch.Tensor, torch.Tensor]], torch.nn.Module]:
    torch.set_num_threads(1)
    return [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in task.shards()[0]], task.make_model()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    data, model = client_side()
    x, y = data[int(context.node_config["partition-id"])]
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=task.LR)
    for i in range(0, len(y), task.BATCH):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x[i : i + task.BATCH]), y[i : i + task.BATCH]).backward()
        optimizer.step()
    metrics = MetricRecord({"num-examples": len(y)})
    return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)


class Timed(FedAvg):
    """Flower's FedAvg with a clock at both ends of a round."""

    def __init__(self) -> None:
        super().__init__(fraction_train=1.0, fraction_evaluate=0.0, min_available_nodes=task.CLIENTS)
        self.began: list[float] = []
        self.ended: list[float] = []

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.began.append(time.perf_counter())
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        answers = list(replies)
        errors = [reply.error for reply in answers if reply.has_error()]
        assert len(answers) == task.CLIENTS and not errors, errors[:1]
        aggregated = super().aggregate_train(server_round, answers)
        self.ended.append(time.perf_counter())
        return aggregated


@server_app.main()
def serve(grid: Grid, context: Context) -> None:
    strategy = Timed()
    done = strategy.start(grid, ArrayRecord(task.make_model().state_dict()), num_rounds=task.ROUNDS)
    result.update(strategy=strategy, weights=done.arrays.to_torch_state_dict())


def main(start: float) -> None:
    logging.getLogger("flwr").setLevel(logging.ERROR)
    run_simulation(
        server_app,
        client_app,
        task.CLIENTS,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0}, "init_args": {"log_to_driver": False}},
    )
    clock, model = result["strategy"], task.make_model()
    model.load_state_dict(result["weights"])
    rounds = [end - begin for begin, end in zip(clock.began, clock.ended, strict=True)]
    score = task.accuracy(model, task.shards()[1])
    print(json.dumps(task.figures("flower", clock.ended[0] - start, rounds[0], rounds[1:], score)))


if __name__ == "__main__":
    import flower_digits  # the same file as a module: what is in __main__ would be sent to the actors by value

    flower_digits.main(START)
