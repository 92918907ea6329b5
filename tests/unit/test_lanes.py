"""The lane runner counts every test once, reports failed lanes, and leaves no test out."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lanes import nightly
from tests.lanes.processes import ROOT, Lane, Plan
from tests.lanes.results import FAILED, PASSED, SKIPPED, Result, merge
from tests.lanes.selection import may_need_servers, plain_id
from tests.lanes.summary import differences, last_line
from tests.support.ports import free_ports
from tests.support.waiting import until

PASSING = "def test_one(): ...\ndef test_two(): ...\n"
RECORDING = """
from pathlib import Path
from tests.lanes.results import Recorder

def pytest_addoption(parser):
    parser.addoption("--results", type=Path)

def pytest_configure(config):
    config.pluginmanager.register(Recorder(config.option.results.open("w")))
"""

Run = Callable[..., Lane]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a lane of one file, without the project's own settings."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "conftest.py").write_text(RECORDING)
    file = tmp_path / "suite" / "test_it.py"

    def run(code: str, seconds: float = 50.0) -> Lane:
        file.write_text(code)
        call = (str(file), "-c", str(tmp_path / "pytest.ini"), "--import-mode=importlib")
        lane = Lane(Plan("example", (call,), seconds=seconds), tmp_path)
        lane.start()
        lane.wait()
        return lane

    return run


def lane(tmp_path: Path, *ids: str, outcome: str = PASSED) -> Lane:
    return Lane(Plan("example", ()), tmp_path, {id: Result(outcome) for id in ids})


def test_a_lane_with_passing_tests_has_no_complaint_and_counts_each_test_once(run: Run) -> None:
    lane = run(PASSING)
    assert lane.complaints == [], lane.log.read_text()
    assert last_line([lane]) == "2 passed, 0 failed"
    assert lane.cpu_seconds > 0


@pytest.mark.parametrize(
    ("code", "complaint", "counted"),
    [
        ("def test_one(): assert False\n", "1 tests of it failed", "0 passed, 1 failed"),
        ("", "ran no test", "0 passed, 0 failed"),
        ("import nothing_of_this_name\n", "ran no test", "0 passed, 0 failed"),
        (
            PASSING + "def teardown_module():\n    import os\n    os._exit(3)\n",
            "ended with exit status 3",
            "2 passed, 0 failed",
        ),
    ],
    ids=["a test fails", "no test", "no import", "a crash"],
)
def test_a_lane_with_a_failure_has_a_complaint(
    run: Run, code: str, complaint: str, counted: str
) -> None:
    lane = run(code)
    assert any(complaint in one for one in lane.complaints), lane.complaints
    assert last_line([lane]) == counted


def test_a_lane_over_its_time_limit_fails_and_leaves_no_process(run: Run, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    lane = run(
        "import subprocess, time\n"
        "def test_hangs():\n"
        "    left = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        f"    open({str(pid_file)!r}, 'w').write(str(left.pid))\n"
        "    time.sleep(600)\n",
        seconds=4.0,
    )
    assert "not done in 4 s" in lane.complaints
    until(lambda: has_ended(int(pid_file.read_text())), "the process that the lane left should end")


def has_ended(pid: int) -> bool:
    """Return whether a process has ended; its parent may not have waited for it yet."""
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_test_that_ran_in_no_lane_or_in_two_is_named(tmp_path: Path) -> None:
    lanes = [lane(tmp_path, "a", "b"), lane(tmp_path, "b", "d")]
    assert differences(["a", "b", "c"], lanes) == [
        "b ran in 2 lanes",
        "c ran in no lane",
        "d ran, but is not collected",
    ]
    assert differences(["a", "b"], [lane(tmp_path, "a"), lane(tmp_path, "b")]) == []


def test_a_test_with_a_failing_phase_fails_and_is_counted_once(tmp_path: Path) -> None:
    phases = [("a", PASSED, 1.0), ("a", PASSED, 2.0), ("a", FAILED, 0.5)]
    phases += [("b", SKIPPED, 0.1), ("b", PASSED, 0.1)]
    results = merge(phases)
    assert results["a"] == Result(FAILED, 3.5)
    assert results["b"].outcome == SKIPPED
    both = lane(tmp_path)
    both.results = results
    assert last_line([both]) == "0 passed, 1 failed, 1 skipped"


def test_the_id_of_a_test_is_without_its_group() -> None:
    assert plain_id("tests/a.py::test_b[x@y]@serial-e2e") == "tests/a.py::test_b[x@y]"
    assert plain_id("tests/a.py::test_b[x@y]") == "tests/a.py::test_b[x@y]"


def test_servers_are_started_only_for_tests_that_may_need_them() -> None:
    assert may_need_servers("servers", ["tests"])
    assert not may_need_servers("unit", ["tests"])
    assert may_need_servers(None, ["tests/unit", "tests/e2e/test_system.py::test_one"])
    assert not may_need_servers(None, ["tests/unit/core", "tests/simulation"])


def test_no_two_processes_get_the_same_port() -> None:
    code = "from tests.support.ports import free_ports; print(*free_ports(20), flush=True); input()"
    others = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    results = free_ports(20)
    for other in others:  # each process holds its ports until all have theirs
        assert other.stdout is not None
        results += map(int, other.stdout.readline().split())
    for other in others:
        other.communicate("\n", timeout=30)
    assert len(set(results)) == len(results) == 80


def test_an_unknown_nightly_part_is_refused_with_the_list_of_parts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert nightly.main(["chaos"]) == 2
    output = capsys.readouterr().out
    assert "'chaos'" in output
    assert all(part in output for part in nightly.PARTS)


def test_a_failed_nightly_part_is_reported_and_the_other_parts_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        nightly,
        "PARTS",
        {
            "bad": (nightly.Step(("false",)), nightly.Step(("true",))),
            "good": (nightly.Step(("true",)),),
        },
    )
    assert nightly.main([]) == 1
    output = capsys.readouterr().out
    assert "nightly bad: FAILED with exit status 1" in output
    assert "nightly good: passed" in output
