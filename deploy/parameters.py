"""The template's parameters that the contract states (`x-usage-plan`), and `Est` with `--est`."""

from __future__ import annotations

import sys

from service import openapi


def main() -> int:
    """Print them as `sam deploy --parameter-overrides` takes them."""
    plan = openapi.load()["x-usage-plan"]
    stated = {name.title(): value for name, value in plan.items()}
    stated |= {"Est": "on"} if "--est" in sys.argv[1:] else {}
    sys.stdout.write(" ".join(f"{name}={value}" for name, value in stated.items()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
