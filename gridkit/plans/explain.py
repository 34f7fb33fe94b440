"""What a plan holds, what it costs, and what leaves which machine when it travels: for a person to read.

Text and HTML are made from the same parts, so neither tells more than the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from gridkit.errors import UsageError
from gridkit.plans.check import dry_run, guard_text
from gridkit.plans.cost import Cost, Kind, costs, kind_of
from gridkit.plans.plan import Arg, InputRole, Plan
from gridkit.plans.table.ops import table
from gridkit.plans.table.shapes import Meta
from gridkit.widgets import words
from gridkit.wire.tensors import TensorSpec

MAX_LINES = 20
"""of a part, as text; more are counted, not shown"""
MAX_ARGUMENTS = 5
"""of a function, among the facts; all stand among the inputs"""
MAX_GUARDS = 5
"""that are shown; more are counted"""

_ROLES = {
    "x": "the batch's inputs",
    "y": "the batch's targets",
    "weight": "a weight for each sample",
    "lr": "the learning rate",
    "uniform": "random numbers from 0 to 1, drawn anew for each step",
    "arg": "an argument",
}
_HELD: dict[InputRole, str] = {"param": "parameters", "buffer": "buffers", "optimizer": "optimizer's memory"}
"""Inputs that are counted, not shown one by one."""


@dataclass(frozen=True, slots=True)
class Part:
    """A table with a heading; `note` is a sentence beneath it, `opened` whether HTML shows it at once."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str | None = None
    opened: bool = False


@dataclass(frozen=True)
class Explanation:
    """What `Plan.explain` gives: shows itself as text and as HTML, and holds what it shows as values.

    Attributes:
        plan: the plan.
        batch: the number of samples that the costs are for.
        costs: of each node, in order (`gridkit.plans.cost`).
        size: bytes of the plan as it travels.
    """

    plan: Plan
    batch: int
    costs: tuple[Cost, ...]
    size: int

    @property
    def flops(self) -> int:
        """Floating-point operations of one run; a multiply-add counts two."""
        return sum(c.flops for c in self.costs)

    @property
    def peak_memory(self) -> int:
        """Bytes of the values alive at one time, at most: inputs, constants, results. What kernels take for themselves
        while they run isn't counted."""
        return max((c.alive for c in self.costs), default=0)

    @property
    def kinds(self) -> Mapping[Kind, tuple[int, int]]:
        """Number of operations and FLOPs by kind, the most FLOPs first."""
        found: dict[Kind, list[int]] = {}
        for cost in self.costs:
            found.setdefault(cost.kind, []).append(cost.flops)
        ordered = sorted(found.items(), key=lambda pair: (-sum(pair[1]), -len(pair[1])))
        return {kind: (len(flops), sum(flops)) for kind, flops in ordered}

    @property
    def parameters(self) -> tuple[TensorSpec, ...]:
        """The model's parameters."""
        return tuple(_specs(self.plan, "param"))

    @property
    def constants(self) -> tuple[TensorSpec, ...]:
        """Tensors that travel inside of the plan, with their values."""
        found = sorted(self.plan.constants.items())
        return tuple(TensorSpec(f"constant {id}", a.dtype.name, a.shape) for id, a in found)

    @property
    def numbers(self) -> tuple[int | float, ...]:
        """The different numbers among the operations' arguments: they travel as well."""
        found: dict[int | float, None] = {}
        for node in self.plan.nodes:
            for arg in (*node.args, *(value for _, value in node.kwargs)):
                found |= dict.fromkeys(_numbers(arg))
        return tuple(found)

    @property
    def sends(self) -> tuple[TensorSpec, ...]:
        """The tensors whose change a worker sends back after a round."""
        return self.plan.averaged if self.trains else ()

    @property
    def trains(self) -> bool:
        """Whether it is a training step; else a function."""
        return self.plan.input("lr") is not None

    @property
    def facts(self) -> dict[str, str]:
        """The main facts, a line each."""
        what = "one training step" if self.trains else "one call"
        if _batched(self.plan):
            what += f" on {words.many(self.batch, 'sample')}"
        peak = words.size(self.peak_memory)
        return {
            "takes": f"{_flops(self.flops)} for {what}, and {peak} for its values at their peak",
            **_facts(self.plan),
            "size": f"{words.size(self.size)} as it travels",
        }

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """All that it shows besides `facts`, in order."""
        kinds = tuple((k, f"{count:,}", _flops(flops)) for k, (count, flops) in self.kinds.items())
        always = (_inputs(self.plan), Part("Operations", ("kind", "number", "floating-point operations"), kinds))
        if self.trains:
            learned = self._travels("A worker learns")
            return (*always, _parameters(self.plan), learned, self._sent(), self._kept())
        return (*always, self._results(), self._travels("Travels with the plan"))

    def _results(self) -> Part:
        rows = []
        for output in self.plan.outputs:
            value = dry_run(self.plan, self.batch)[output.id]
            assert isinstance(value, Meta)
            rows.append((output.name, f"{value.dtype}{words.shape(value.shape)}", f"the {output.role}"))
        of = f", for B = {self.batch:,}" if _batched(self.plan) else ""
        return Part("Results", ("name", f"shape{of}", "what it is"), tuple(rows), opened=True)

    def _travels(self, title: str) -> Part:
        names = " and ".join(repr(n) for n in (self.plan.name, *(i.name for i in self.plan.inputs[:1])))
        rows = [
            ("the operations", f"{len(self.plan.nodes):,}, and their order; none of your code"),
            ("names", f"of the plan, its inputs and outputs, such as {names}"),
        ]
        if self.numbers:
            some = ", ".join(f"{n:.6g}" for n in self.numbers[:8]) + (", …" if len(self.numbers) > 8 else "")
            rows.append(("numbers", f"{len(self.numbers):,} different ones among the operations' arguments: {some}"))
        for c in self.constants:
            rows.append((c.name, f"{c.dtype}{words.shape(c.shape)}, {words.size(_total([c]))}: with all its values"))
        if self.trains:
            tensors, size = words.many(len(self.plan.state), "tensor"), words.size(_total(self.plan.state))
            rows.append(("the model", f"{tensors}, {size}, anew each round: with what the others taught it"))
            rows.append(("the settings", "learning rate, batch size, number of epochs or updates, seed"))
        note = None if self.constants else "No tensor travels inside of this plan."
        return Part(title, ("what", "which"), tuple(rows), note, opened=True)

    def _sent(self) -> Part:
        rows = [
            (f"change of {s.name}", f"{s.dtype}{words.shape(s.shape)}", words.size(_total([s]))) for s in self.sends
        ]
        rows.insert(0, ("all changes", f"{sum(s.size for s in self.sends):,} values", words.size(_total(self.sends))))
        rows += [("number of samples", "one number", ""), ("mean loss", "one number", "")]
        return Part(
            "A worker sends, each round",
            ("what", "how much", "bytes"),
            (*rows[-2:], *rows[:-2]),
            "With it go the worker's identity and the round's key. A worker that fails sends the error's type, message "
            "and traceback in place of these.",
            opened=True,
        )

    def _kept(self) -> Part:
        rows = [
            (i.name, f"{i.dtype}{words.shape(i.shape)}", _ROLES[i.role])
            for i in self.plan.inputs
            if i.role in ("x", "y")
        ]
        rows.append(("the steps between", "", "each step's gradients and the optimizer's memory"))
        return Part(
            "Stays with the worker",
            ("what", "shape", "what it is"),
            tuple(rows),
            "That it stays doesn't keep it secret: the change of the weights can give away much of the data behind it, "
            "above all after few steps on few samples.",
            opened=True,
        )

    def __repr__(self) -> str:
        lines = [_title(self.plan), *(f"  {key}: {value}" for key, value in self.facts.items())]
        for part in self.parts:
            lines += ["", part.title, *_aligned(part.rows[:MAX_LINES])]
            if len(part.rows) > MAX_LINES:
                lines.append(f"  and {len(part.rows) - MAX_LINES} more")
            if part.note:
                lines.append(f"  {part.note}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return _card(self.plan, self.facts, self.parts)


def explain(plan: Plan, batch: int) -> Explanation:
    """See `Plan.explain`."""
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise UsageError(f"batch={batch!r}: expected a number of samples of at least 1")
    dry_run(plan, batch)
    return Explanation(plan, batch, costs(plan, batch), len(plan.to_bytes()))


def card(plan: Plan) -> str:
    """A plan as HTML, for its repr: the facts of its one line, with details. Works out nothing that could fail."""
    kinds = Counter(kind_of(table()[n.op]) for n in plan.nodes)
    parts = [
        _inputs(plan),
        Part("Operations", ("kind", "number"), tuple((k, f"{n:,}") for k, n in kinds.most_common())),
    ]
    if plan.input("param") is not None:
        parts.append(_parameters(plan))
    return _card(plan, _facts(plan), parts)


def _card(plan: Plan, facts: Mapping[str, str], parts: Iterable[Part]) -> str:
    from gridkit.widgets import html

    folded = []
    for part in parts:
        note = html.tag("p", part.note) if part.note else None
        folded.append(html.details(part.title, html.table(part.columns, part.rows), note, opened=part.opened))
    return html.card(_title(plan), facts, *folded)


# ---- the pieces


def _title(plan: Plan) -> str:
    return f"Plan {plan.name!r}"


def _facts(plan: Plan) -> dict[str, str]:
    """What stands in a plan's one line, and what it was traced for."""
    params = _specs(plan, "param")
    facts = {"operations": f"{len(plan.nodes):,}"}
    if params:
        facts["parameters"] = f"{len(params):,} ({sum(s.size for s in params):,} values)"
    given = [i for i in plan.inputs if i.role in ("x", "y", "arg")][:MAX_ARGUMENTS]
    facts |= {f"argument {i.name}" if i.role == "arg" else i.role: f"{i.dtype}{words.shape(i.shape)}" for i in given}
    if plan.input("lr") is not None:
        facts["lr"] = f"{plan.lr:g}, unless a training asks for another"
    if _batched(plan):
        facts["B, the batch size"] = _guards(plan)
    return facts


def _guards(plan: Plan) -> str:
    """The batch sizes that the plan was traced for; a foreign plan's may be long."""
    texts = [guard_text(g) for g in plan.guards[:MAX_GUARDS]]
    if len(plan.guards) > MAX_GUARDS:
        texts.append(f"{len(plan.guards) - MAX_GUARDS} more conditions")
    return " and ".join(t if len(t) <= 200 else t[:197] + "..." for t in texts) or "any"


def _inputs(plan: Plan) -> Part:
    """Inputs one by one, but for those of the model and the optimizer: these are counted."""
    rows: list[tuple[str, ...]] = []
    for role, what in _HELD.items():
        specs = _specs(plan, role)
        if specs:
            rows.append((what, words.many(len(specs), "tensor"), f"{sum(s.size for s in specs):,} values"))
    rest = (i for i in plan.inputs if i.role not in _HELD)
    rows += [(i.name, f"{i.dtype}{words.shape(i.shape)}", _ROLES[i.role]) for i in rest]
    return Part("Inputs", ("name", "shape", "what it is"), tuple(rows))


def _parameters(plan: Plan) -> Part:
    rows = tuple((s.name, words.shape(s.shape), f"{s.size:,}") for s in _specs(plan, "param"))
    return Part("Parameters", ("name", "shape", "values"), rows)


def _specs(plan: Plan, role: InputRole) -> list[TensorSpec]:
    chosen = (i for i in plan.inputs if i.role == role)
    return [TensorSpec(i.name, i.dtype, tuple(int(s) for s in i.shape)) for i in chosen]


def _batched(plan: Plan) -> bool:
    return any("B" in i.shape for i in plan.inputs)


def _numbers(arg: Arg) -> list[int | float]:
    if isinstance(arg, tuple):
        return [n for inner in arg for n in _numbers(inner)]
    return [arg] if isinstance(arg, int | float) and not isinstance(arg, bool) else []


def _total(specs: Iterable[TensorSpec]) -> int:
    return sum(Meta(s.shape, s.dtype).nbytes for s in specs)


# ---- as text


def _flops(count: int) -> str:
    return words.scaled(count, ("FLOPs", "kFLOPs", "MFLOPs", "GFLOPs", "TFLOPs"))


def _aligned(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Rows as lines, their columns one beneath the other."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
