"""F19: malicious artifacts, each rejected or harmless: none runs code or opens a connection.

The artifacts are those of the fast test (tests/support/malicious.py). No peer publishes such
a list for a whole pipeline: the goal is our own.

    python bench/faults/artifacts.py
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from support.malicious import TRIALS, run_trial


def main():
    num_rejected = 0
    for trial in TRIALS:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "trial"
            place.mkdir()
            try:
                ended = run_trial(trial, place)
                num_rejected += 1
            except Exception as error:  # report what got through, and go on
                ended = f"GOT THROUGH: {type(error).__name__}: {error}"
        print(f"{trial.__name__}: {ended.replace(folder, '')[:160]}")
    print(
        json.dumps(
            {
                "figure": "malicious_artifacts_refused",
                "value": num_rejected,
                "spread": 0,
                "unit": f"of {len(TRIALS)}",
                "peer": None,
                "goal": "all (at least 20)",
                "holds": num_rejected == len(TRIALS) >= 20,
            }
        )
    )
    return num_rejected != len(TRIALS)


if __name__ == "__main__":
    sys.exit(main())
