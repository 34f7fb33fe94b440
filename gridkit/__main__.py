"""``python -m gridkit`` is the command `gridkit`."""

from gridkit.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
