"""`python -m gridkit.node.join build`"""

from __future__ import annotations

import argparse
import sys

from gridkit.errors import GridkitError
from gridkit.node.join.build import FILES, build


def main() -> int:
    """Fetch the libraries of the page `/join`; the exit status."""
    parser = argparse.ArgumentParser("python -m gridkit.node.join", description=__doc__)
    packages = ", ".join(f"{library.package} {library.version}" for library in FILES)
    parser.add_argument("command", choices=["build"], help=f"fetch {packages} with npm")
    parser.parse_args()
    try:
        folder = build()
    except GridkitError as error:
        print(f"gridkit: {error}", file=sys.stderr)
        return 1
    print(f"/join has what it needs, in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
