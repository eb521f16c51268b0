"""Print the template parameters that come from the contract (`x-usage-plan`), and `Est` with `--est`."""

from __future__ import annotations

import sys

from service import openapi


def main() -> int:
    """Print `NAME=VALUE …` for `sam deploy --parameter-overrides`."""
    plan = openapi.load()["x-usage-plan"]
    parameters = {name.title(): value for name, value in plan.items()}
    parameters |= {"Est": "on"} if "--est" in sys.argv[1:] else {}
    sys.stdout.write(" ".join(f"{name}={value}" for name, value in parameters.items()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
