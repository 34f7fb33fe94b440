"""What Binder reads: repo2docker takes it, its pins are those of constraints.txt, its scripts do their work."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.fresh import copy_of_the_tracked_files, environment

ROOT = Path(__file__).resolve().parents[1]
BINDER = ROOT / "binder"


def pins(path: Path) -> dict[str, str]:
    """Name -> version, of a file whose lines are comments, options and `name==version`."""
    found = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith(("#", "-")):
            requirement = Requirement(line)
            (pin,) = requirement.specifier
            assert pin.operator == "==", line
            found[requirement.name.lower()] = pin.version
    return found


def declared(*extras: str) -> set[str]:
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    texts = [setup["options"]["install_requires"], *(setup["options.extras_require"][extra] for extra in extras)]
    lines = [line for text in texts for line in text.splitlines() if line and not line.startswith("%(")]
    return {Requirement(line).name.lower() for line in lines}


def dockerfile(folder: Path) -> subprocess.CompletedProcess[str]:
    """repo2docker's dry run: everything but the build, which would need Docker and the network."""
    command = [sys.executable, "-m", "repo2docker", "--no-build", "--debug", "--user-id=1000", "--user-name=jovyan"]
    return subprocess.run([*command, str(folder)], capture_output=True, text=True, timeout=60)


def test_repo2docker_takes_it_and_can_cache_the_layer_with_the_packages() -> None:
    done = dockerfile(ROOT)
    assert done.returncode == 0, done.stderr
    steps = done.stdout + done.stderr
    assert "Building conda environment for python=3.11" in steps
    order = [
        "COPY --chown=1000:1000 src/binder/requirements.txt",
        'pip install --no-cache-dir -r "binder/requirements.txt"',
        "COPY --chown=1000:1000 src/ ${REPO_DIR}/",
        "RUN ./binder/postBuild",
        'ENV R2D_ENTRYPOINT="${REPO_DIR}/binder/start"',
    ]
    assert all(step in steps for step in order), steps
    assert sorted(order, key=steps.index) == order


def test_repo2docker_would_have_refused_a_wrong_python(tmp_path: Path) -> None:
    """The dry run above can fail."""
    (tmp_path / "binder").mkdir()
    (tmp_path / "binder" / "requirements.txt").write_text((BINDER / "requirements.txt").read_text())
    (tmp_path / "binder" / "runtime.txt").write_text("python-3.99\n")
    assert dockerfile(tmp_path).returncode != 0


def test_the_pins_are_those_of_the_constraints() -> None:
    theirs, ours = pins(BINDER / "requirements.txt"), pins(ROOT / "constraints.txt")
    for_tests_only = declared("dev") - declared("lab")
    assert set(theirs) == set(ours) - for_tests_only
    assert theirs.pop("torch") == ours.pop("torch") + "+cpu"
    assert theirs.items() <= ours.items()
    assert declared("lab") <= {*theirs, "torch"}


def test_the_python_is_one_that_gridkit_runs_on() -> None:
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    name, _, version = (BINDER / "runtime.txt").read_text().strip().partition("-")
    assert name == "python" and version in SpecifierSet(setup["options"]["python_requires"])


@pytest.mark.parametrize("name", ["postBuild", "start"])
def test_the_scripts_may_be_run(name: str) -> None:
    assert os.access(BINDER / name, os.X_OK)
    listed = subprocess.run(["git", "ls-files", "-s", f"binder/{name}"], cwd=ROOT, capture_output=True, text=True)
    assert listed.stdout.startswith("100755 ")  # what a clone gets


def test_start_becomes_what_it_was_asked_to_start() -> None:
    show = [sys.executable, "-c", "import os, sys; print(os.getpid(), os.environ['OMP_NUM_THREADS'], sys.argv[1:])"]
    process = subprocess.Popen([BINDER / "start", *show, "a b", ""], stdout=subprocess.PIPE, text=True)
    said, _ = process.communicate(timeout=30)
    assert said == f"{process.pid} 1 ['a b', '']\n"  # the same process: signals reach Jupyter
    assert (BINDER / "start").read_text().splitlines()[-1] == 'exec "$@"'


def test_post_build_installs_gridkit_on_top_of_the_packages(tmp_path: Path) -> None:
    """In an environment that borrows this one's packages: the scripts may not fetch anything."""
    copy_of_the_tracked_files(tmp_path / "repository")
    commands = environment(tmp_path / "env")
    path = f"{commands}{os.pathsep}{os.environ['PATH']}"
    build = tmp_path / "repository" / "binder" / "postBuild"
    done = subprocess.run(
        [build], cwd=tmp_path / "repository", env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    show = "import gridkit; print(gridkit.__file__)"
    said = subprocess.run([commands / "python", "-c", show], capture_output=True, text=True, cwd=tmp_path)
    assert said.stdout.strip() == str(tmp_path / "repository" / "gridkit" / "__init__.py"), said.stderr
    assert (commands / "gridkit").is_file()
