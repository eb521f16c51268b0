"""The template's parameters that the contract states: `x-usage-plan`, for `make deploy`."""

from __future__ import annotations

import sys

from service import contract


def main() -> int:
    """Print them as `sam deploy --parameter-overrides` takes them."""
    plan = contract.load()["x-usage-plan"]
    sys.stdout.write(" ".join(f"{name.title()}={value}" for name, value in plan.items()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
