"""Damage each kind of file in many ways and count what comes of it: python benchmarks/damage.py --ways 200

What is done and judged stands in tests/damage.py. The counts go to damage.json beside this file, with each failure whole.
"""

import argparse
import datetime
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from tests.damage import KINDS, cases, make_place, try_case  # noqa: E402

VERDICTS = ("right", "as it says", "one line", "failure")


def commit() -> str:
    """Return the commit of the checkout, with a + for changes since."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(HERE), *words], capture_output=True, text=True, check=True).stdout.strip()

    return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", "../src", "../tests") else "")


def table(counts: dict[str, dict[str, int]]) -> str:
    """Return the counts as a table, a row for each kind and one for all."""
    rows = [[kind, sum(own.values()), *(own[verdict] for verdict in VERDICTS)] for kind, own in counts.items()]
    rows.append(["all", *(sum(row[column] for row in rows) for column in range(1, 2 + len(VERDICTS)))])  # type: ignore[misc]
    head = ["file", "tried", "right result", "as it says", "one line", "failures"]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in [head, ["---"] * len(head), *rows])


def main() -> None:
    """Try the cases by turns until all are done or the time is up; write the record, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ways", type=int, default=200, help="cases of each kind of file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no case after this time")
    parser.add_argument("--out", type=Path, default=HERE / "damage.json")
    flags = parser.parse_args()
    started = time.monotonic()
    counts = {kind: dict.fromkeys(VERDICTS, 0) for kind in KINDS}
    ways: Counter[str] = Counter()
    failures: list[dict[str, Any]] = []
    at = commit()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary, "place")
        expected = make_place(place)
        for case in cases(flags.ways, flags.seed):
            if time.monotonic() - started > 60 * flags.minutes:
                break
            found = try_case(place, case, expected)
            counts[case.kind][found["verdict"].partition(":")[0]] += 1
            ways[found["way"]] += 1
            if found["verdict"].startswith("failure"):
                failures.append(found)
                print(json.dumps(found), file=sys.stderr, flush=True)
    record = {
        "date": datetime.date.today().isoformat(),
        "command": f"python benchmarks/damage.py --ways {flags.ways} --seed {flags.seed} --minutes {flags.minutes:g}",
        "minutes": round((time.monotonic() - started) / 60, 1),
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in ("ditcnn", "torch", "timm", "numpy", "pillow", "safetensors")},
        "commit": at,
        "seed": flags.seed,
        "counts": counts,
        "ways": dict(sorted(ways.items())),
        "failures": failures,
    }
    flags.out.write_text(json.dumps(record, indent=1) + "\n")
    print(table(counts))


if __name__ == "__main__":
    main()
