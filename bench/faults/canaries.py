"""F18: canary secrets of eight kinds in environment, recipe, paths and documents; none may leak.

Logs, tracebacks, manifests, report, cards, tables, plots and the published folder are searched.
The trials are those of the fast test (tests/support/canaries.py).

    python bench/faults/canaries.py
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from support.canaries import SECRETS, run_trials


def main():
    with tempfile.TemporaryDirectory() as folder:
        found, codes = run_trials(Path(folder))
    for leak in found:
        print(f"LEAK: {leak}")
    print(json.dumps(codes))
    print(
        json.dumps(
            {
                "figure": "canary_secrets_leaked",
                "value": len(found),
                "spread": 0,
                "unit": f"places, {len(SECRETS)} kinds, {len(codes)} commands",
                "peer": None,
                "goal": "0",
                "holds": not found and codes["run"] == 0,
            }
        )
    )
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
