"""Run the main job headless: a federated training on real data over sockets and worker processes.

scikit-learn's handwritten digits are split over ten clients. A node and worker processes of their own train an MLP on
them; a line is printed for each round. Then the same training is run by the simulator, to compare the two models bit by
bit. The plot of the rounds and the quickstart notebook, executed, are left in the output folder.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gridkit.errors import RunError, UsageError
from gridkit.lab import FIRST, copy, need, notebooks

if TYPE_CHECKING:
    import numpy as np

    from gridkit.run import Run

    Shard = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]

TEST = 360
"""images kept for testing, a fifth of the 1797"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``gridkit demo``."""
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder for plot and notebook (%(default)s)")
    parser.add_argument("--rounds", type=int, default=20, help="rounds of training (%(default)s)")
    parser.add_argument("--clients", type=int, default=10, help="clients, each with its own share (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes that hold the clients (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the split, the first weights and the batches")
    parser.add_argument("--no-notebook", action="store_true", help="leave the notebook out")


def run(args: argparse.Namespace) -> int:
    """Run ``gridkit demo``; the exit status.

    Raises:
        UsageError: an option makes no sense, or the extra "lab" isn't installed.
        RunError: the training failed, or the simulator came to another model.
    """
    for option in ("rounds", "workers"):
        if getattr(args, option) < 1:
            raise UsageError(f"--{option} is {getattr(args, option)}", "use 1 or more")
    need("sklearn", *(() if args.no_notebook else ("nbclient", "ipykernel")))
    args.out.mkdir(parents=True, exist_ok=True)
    train(args.out, args.rounds, args.clients, args.workers, args.seed)
    if not args.no_notebook:
        execute(args.out)
    return 0


def train(out: Path, rounds: int, clients: int, workers: int, seed: int) -> Run:
    """Train over the wire with a line a round, verify against the simulator, write ``rounds.png`` and ``.svg``."""
    import torch

    import gridkit as gk

    began = time.perf_counter()
    torch.set_num_threads(1)  # so small a model is quicker on one thread
    with gk.launch(workers=workers) as grid:
        shards, (x_test, y_test) = split_digits(clients, seed)
        x, y = torch.from_numpy(x_test), torch.from_numpy(y_test)
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
        plan = gk.training_plan(model, torch.nn.functional.cross_entropy, gk.SGD(lr=0.1), example=(x[:8], y[:8]))

        def evaluate(trained: torch.nn.Module) -> dict[str, float]:
            with torch.no_grad():
                return {"accuracy": float((trained(x).argmax(1) == y).float().mean())}

        images = sum(len(labels) for _, labels in shards)
        print(f"digits: {images} images on {clients} clients in {workers} processes, {len(y)} to test; node {grid.url}")
        settings: dict[str, Any] = {"clients": shards, "rounds": rounds, "batch_size": 8, "seed": seed}
        trained = grid.train(model, plan, name="digits", evaluate=evaluate, processes=workers, **settings)
        _print_rounds(trained, clients)
        print(f"{rounds} rounds, {time.perf_counter() - began:.1f} s since the start of the node")

        figure = trained.plot().get_figure(root=True)
        assert figure is not None
        for kind in ("png", "svg"):
            figure.savefig(out / f"rounds.{kind}", dpi=144)
        print(f"plot: {out / 'rounds.png'}")

        same = gk.verify(trained, gk.simulate(model, plan, name="digits", version="simulated", **settings).wait())
        print(same)
        if not same:
            raise RunError("the simulator and the node came to different models", "report this with the line above")
    return trained


def split_digits(clients: int, seed: int) -> tuple[list[Shard], Shard]:
    """scikit-learn's digits in equal IID shares.

    Returns:
        One ``(x, y)`` a client and the test set; x [n, 64] float32 in 0..1, y [n] int64.

    Raises:
        UsageError: so many clients can't have an image each.
    """
    import numpy as np
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, y = (digits.data / 16).astype(np.float32), digits.target.astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(y))
    test, rest = order[:TEST], order[TEST:]
    if not 1 <= clients <= len(rest):
        raise UsageError(f"--clients is {clients}", f"use 1 to {len(rest)}: each needs an image")
    return [(x[part], y[part]) for part in np.array_split(rest, clients)], (x[test], y[test])


def _print_rounds(training: Run, clients: int) -> None:
    """Print each round once it is evaluated; raise what ended the training otherwise than asked."""
    print(f"{'round':>5}  {'accuracy':>8}  {'loss':>7}  {'accepted':>8}  {'seconds':>7}")
    shown = 0
    while True:
        over = training.done  # asked before the rows are read, so that none is missed
        metrics = training.metrics
        if "accuracy" in metrics:
            for number, row in metrics[metrics["accuracy"].notna()].iloc[shown:].iterrows():
                accepted = f"{row['accepted']:.0f}/{clients}"
                line = f"{row['accuracy']:8.4f}  {row['loss']:7.4f}  {accepted:>8}  {row['seconds']:7.3f}"
                print(f"{number:>5}  {line}", flush=True)
                shown += 1
        if over:
            break
        time.sleep(0.05)
    training.wait()


def execute(out: Path) -> Path:
    """Run the quickstart notebook top to bottom and save it, with its outputs and pictures, in `out`.

    Raises:
        RunError: a cell failed.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    source = notebooks()
    notebook = nbformat.read(source / FIRST, as_version=4)
    began = time.perf_counter()
    client = NotebookClient(
        notebook,
        timeout=300,
        resources={"metadata": {"path": str(out)}},
        extra_arguments=["--log-level=ERROR"],  # no word about loopback TCP between this process and its own kernel
    )
    try:
        client.execute()
    except CellExecutionError as error:
        raise RunError(f"a cell of {FIRST} failed: {error.ename}: {error.evalue}", "gridkit lab opens it") from error
    target = out / FIRST
    nbformat.write(notebook, target)
    copy(source, out)
    print(f"notebook: {target} (executed in {time.perf_counter() - began:.1f} s)")
    return target
