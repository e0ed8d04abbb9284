"""Any damaged file of a run, an experiment or a set of images gives the right result, or one line and status 2."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.damage import KINDS

HERE = Path(__file__).parents[1]
WAYS = 2  # of each kind; benchmarks/damage.py tries more


@pytest.fixture(scope="module")
def tried():
    """Each case's verdict, from a process that forks one for each: a crash ends none but its own."""
    code = (
        "import json, sys, tempfile; from pathlib import Path; from tests.damage import cases, make_place, try_case\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    expected = make_place(place := Path(folder, 'place'))\n"
        f"    print(json.dumps([try_case(place, case, expected) for case in cases({WAYS}, seed=11)]))"
    )
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_gives_the_right_result_or_one_line(kind, tried):
    own = [case for case in tried if case["kind"] == kind]
    assert len(own) == WAYS
    assert [case for case in own if case["verdict"].startswith("failure")] == []


def test_the_page_on_reliability_has_the_counts_of_the_record():
    record = json.loads((HERE / "benchmarks" / "damage.json").read_text())
    page = (HERE / "docs" / "reliability.md").read_text()
    rows = dict(re.findall(r"^\| (\S[^|]*?) +\| ([\d,| ]+) \|$", page, re.MULTILINE))
    for kind, counts in record["counts"].items():
        numbers = [sum(counts.values()), *(counts[name] for name in ("right", "as it says", "one line", "failure"))]
        assert rows[kind] == " | ".join(map(str, numbers))
    assert rows["all"].startswith(f"{sum(sum(counts.values()) for counts in record['counts'].values())} | ")
    assert rows["all"].endswith(f"| {len(record['failures'])}")
    assert record["commit"][:12] in page
    assert record["command"] in page
