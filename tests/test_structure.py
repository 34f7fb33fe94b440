"""The shape of the package, read from its source: which folder may import which, and what no file may contain."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "gridkit"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# Which parts of gridkit a part may import besides itself and errors.py; parts are the folders and the top-level files.
ARROWS: dict[str, set[str]] = {
    "errors": {"options"},
    "wire": set(),
    "federated": {"wire"},
    "plans": {"wire"},
    "encrypted": {"plans", "wire"},
    "node": {"federated", "wire", "plans", "policy"},
    "policy": {"plans"},
    "client": {"wire", "plans", "policy"},
    "workers": {"plans", "client", "federated", "wire"},
    "runner": {"plans", "wire"},
    "tensors": {"bridge", "cells", "client", "plans", "runner", "widgets", "wire"},
    "bridge": {"waitloop"},
    "waitloop": set(),
    "options": set(),
    "cells": set(),
    "threads": set(),
    "widgets": {"cells", "options", "threads"},
    "results": {"federated", "wire"},
    "listings": {"cells", "widgets"},
    "exposed": {"cells", "client", "widgets"},
    "aio": {
        "cells",
        "client",
        "exposed",
        "hosted",
        "invitation",
        "listings",
        "node",
        "origin",
        "plans",
        "policy",
        "registered",
        "run",
        "tensors",
        "widgets",
        "wire",
        "workers",
    },
}
# The simulator is a worker and a node in one process: what it gives back is a Run. A participant trains on a thread of
# its own. A plan shows itself as HTML, which is escaped in one place; the tracer's messages name the cell.
MORE_ARROWS = {
    "gridkit/workers/simulate.py": {"evaluation", "run", "threads"},
    "gridkit/workers/participant.py": {"threads"},
    "gridkit/plans/explain.py": {"widgets"},
    "gridkit/plans/tracing/source.py": {"cells"},
}
# Node and client pass plans on and check their form; they never trace or run one.
ONLY_THE_FORM = {"node", "client"}
FORM_OF_PLANS = {
    f"gridkit.plans.{name}"
    for name in ("form", "averaging_form", "model_form", "function_form", "plan", "table.ops", "check")
}

FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "torch.load",
    "torch.jit.load",
    "torch.export.load",
    "torch.package.PackageImporter",
    "numpy.load",
    "np.load",
    "yaml.load",
    "pandas.read_pickle",
    "pd.read_pickle",
    "os.system",
    "os.popen",
}
# Once: a plan's function, of a text that is all our own.
ALLOWED_CALLS = {"gridkit/plans/engines/generated.py": ["exec"]}
SAFE_BY_ARGUMENT = {"np.load", "numpy.load"}  # refuses pickles unless told otherwise


def part_of(path: Path) -> str:
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def modules_imported(path: Path) -> Iterator[tuple[str, int, bool]]:
    """(module, line, only for type checking) for every import in the file, wherever it stands."""
    tree = ast.parse(path.read_text(), str(path))
    for_types: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for_types.update(inner for statement in node.body for inner in ast.walk(statement))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, node in for_types
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                package = module_of(path).split(".")
                base = package[: len(package) - node.level + (path.name == "__init__.py")]
                source = ".".join([*base, node.module] if node.module else base)
            else:
                source = node.module or ""
            for alias in node.names:
                whole = f"{source}.{alias.name}"
                is_module = (ROOT / Path(*whole.split("."))).with_suffix(".py").exists() or (
                    ROOT / Path(*whole.split("."))
                ).is_dir()
                yield (whole if is_module else source), node.lineno, node in for_types


def test_the_arrows_between_the_parts_point_one_way() -> None:
    wrong = []
    for path in SOURCES:
        part = part_of(path)
        if part not in ARROWS:
            continue
        for module, line, _ in modules_imported(path):
            if not module.startswith("gridkit."):
                continue
            target = module.split(".")[1]
            more = MORE_ARROWS.get(path.relative_to(ROOT).as_posix(), set())
            if target not in ARROWS[part] | more | {part, "errors"}:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
            if part in ONLY_THE_FORM and target == "plans" and module not in FORM_OF_PLANS:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert wrong == []


def test_every_part_has_its_arrows() -> None:
    """A new folder is a decision about the structure: it is drawn here first."""
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders <= set(ARROWS)


@pytest.mark.parametrize("part", ["federated", "wire", "plans"])
def test_the_pure_parts_know_neither_network_nor_notebook(part: str) -> None:
    outside = {
        "asyncio",
        "socket",
        "ssl",
        "http",
        "urllib",
        "httpx",
        "websockets",
        "starlette",
        "uvicorn",
        "sqlalchemy",
    }
    outside |= {"fsspec", "IPython", "ipywidgets", "ipykernel", "matplotlib", "threading", "subprocess"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in SOURCES
        if part_of(path) == part
        for module, line, _ in modules_imported(path)
        if module.split(".")[0] in outside
    ]
    assert wrong == []


@pytest.mark.parametrize("name", ["cycle", "selection", "state", "rules"])
def test_the_cycle_engine_has_no_clock_and_no_chance(name: str) -> None:
    modules = {module.split(".")[0] for module, _, _ in modules_imported(PACKAGE / "federated" / f"{name}.py")}
    assert not modules & {"time", "datetime", "random", "secrets", "uuid", "os", "io", "pathlib", "logging"}


@pytest.mark.parametrize("part", ["node", "federated", "wire", "client"])
def test_no_torch_where_foreign_reports_are_read(part: str) -> None:
    """But for annotations."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in SOURCES
        if part_of(path) == part
        for module, line, for_types in modules_imported(path)
        if module.split(".")[0] == "torch" and not for_types
    ]
    assert wrong == []


def test_nothing_foreign_is_unpickled_or_evaluated() -> None:
    wrong = []
    for path in SOURCES:
        where = path.relative_to(ROOT)
        allowed = list(ALLOWED_CALLS.get(where.as_posix(), []))
        wrong += [
            f"{where}:{line} imports {module}"
            for module, line, _ in modules_imported(path)
            if module.split(".")[0] in FORBIDDEN_MODULES
        ]
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if name in SAFE_BY_ARGUMENT and arguments.get("allow_pickle", "False") == "False":
                continue
            if name in allowed:
                allowed.remove(name)
            elif name in FORBIDDEN_CALLS or arguments.get("shell") == "True":
                wrong.append(f"{where}:{node.lineno} calls {name}")
    assert wrong == []


def test_no_error_is_swallowed_whole() -> None:
    wrong = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ExceptHandler):
                continue
            broad = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            silent = all(isinstance(statement, ast.Pass | ast.Continue) for statement in node.body)
            if node.type is None or (broad and silent):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert wrong == []


def tracked_text() -> Iterator[tuple[str, str]]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if not path.is_file():  # removed, and the removal isn't committed yet
            continue
        data = path.read_bytes()
        if b"\0" not in data:
            yield name, data.decode()


def test_no_file_names_a_path_of_one_machine() -> None:
    # In two pieces, so that this file doesn't find itself.
    places = re.compile("|".join(["/wo" + "rk/", "/ro" + "ot/", "/ho" + r"me/\w", "/tmp/" + "gk", r"\.lib" + "rary"]))
    wrong = [
        f"{name}:{number}: {line.strip()[:80]}"
        for name, text in tracked_text()
        for number, line in enumerate(text.splitlines(), 1)
        if places.search(line)
    ]
    assert wrong == []


def test_files_can_be_read_in_one_sitting() -> None:
    long = {str(path.relative_to(ROOT)): lines for path in SOURCES if (lines := path.read_text().count("\n")) > 500}
    assert long == {}


def test_every_package_folder_is_installed_and_typed() -> None:
    for folder in {path.parent for path in SOURCES}:
        assert (folder / "__init__.py").exists(), f"{folder.relative_to(ROOT)} would be left out of a wheel"
    assert (PACKAGE / "py.typed").exists()


def test_what_is_imported_is_declared() -> None:
    """In setup.cfg: in install_requires, or in the extra "lab" for what only `gridkit demo` and `gridkit lab` need."""
    declared = {name: {r.name.lower() for r in requirements} for name, requirements in declared_requirements().items()}
    providers = importlib.metadata.packages_distributions()
    wrong = []
    for path in SOURCES:
        allowed = declared["install_requires"] | (declared["lab"] if path.stem in ("demo", "lab") else set())
        for module, line, _ in modules_imported(path):
            top = module.split(".")[0]
            if top == "gridkit" or top in sys.stdlib_module_names:
                continue
            distributions = {name.lower() for name in providers.get(top, [top])}
            if not distributions & allowed:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module} of {', '.join(distributions)}")
    assert wrong == []


def declared_requirements() -> dict[str, list[Requirement]]:
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    lists = {"install_requires": setup["options"]["install_requires"], **setup["options.extras_require"]}
    return {
        name: [Requirement(line) for line in text.splitlines() if line and not line.startswith("%(")]
        for name, text in lists.items()
    }


def test_constraints_pin_every_direct_dependency_within_its_bounds() -> None:
    wanted = [requirement for requirements in declared_requirements().values() for requirement in requirements]
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            assert [s.operator for s in pin.specifier] == ["=="], line
            pins[pin.name.lower()] = next(iter(pin.specifier)).version
    assert {r.name.lower() for r in wanted} <= set(pins)
    assert [str(r) for r in wanted if not r.specifier.contains(pins[r.name.lower()])] == []
    assert pins["torch"] == "2.13.0"
