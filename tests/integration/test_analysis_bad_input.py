"""What goes wrong in an analysis ends it in one line and a non-zero exit, with nothing left running."""

import os
import socket
import subprocess
import sys

import psutil
import pytest
from analysis import baseline
from analysis.__main__ import main
from buyer import read_buyers
from click.testing import CliRunner

from flashsale.local.stack import ROOT


def analysis(folder, *options):
    """Run an analysis in this process; returns how it ended, once nothing of it runs any more."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    ended = CliRunner().invoke(
        main,
        ["--quick", "--crowd", "stampede", "--disturbance", "none", "--results", str(folder / "found"), *options],
    )
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    assert not left, f"left running: {left}"
    assert not list((folder / "found" / "runs").glob("*")), "nothing was measured"
    return ended


@pytest.mark.parametrize("approach", ["naive", "flashsale"])
def test_a_port_in_use_is_named(tmp_path, approach):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = analysis(tmp_path, "--approach", approach, "--port", str(port))
    assert ended.exit_code == 1
    assert ended.output.splitlines()[1:] == [f"Port {port} is in use: name another one with --port, or 0 for any."]


def test_a_baseline_that_does_not_start_is_named_with_its_last_words_and_its_logs_stay(tmp_path, monkeypatch):
    monkeypatch.setitem(baseline.BASELINES, "naive", (1, {"nonsense": 1}))
    ended = analysis(tmp_path, "--approach", "naive")
    assert ended.exit_code == 1
    (line,) = ended.output.splitlines()[1:]
    assert line.startswith("naive nonsense ended with 2 before it was ready")
    assert line.endswith("naive has no worker 'nonsense'; it has: none.")
    assert "no worker" in (tmp_path / "found/failed/stage/logs/nonsense.log").read_text()
    assert str(tmp_path / "found/failed/stage/logs/nonsense.log") in line


CROWDS = {
    "journey": ["--factor", "0.001"],
    "stampede": ["--arrive-s", "0.1"],
    "ramp": ["--rates", "20", "--step-s", "0.5"],
    "abuse": ["--arrive-s", "0.1"],
}


def crowd(name, folder, *options, buyers='{"user_id": "a", "token": "b"}\n'):
    """Send a crowd to a port at which nobody listens."""
    path = folder / "buyers.jsonl"
    path.write_text(buyers)
    bots = ["--bots-file", str(path)] if name == "abuse" else []
    command = [sys.executable, "-m", "locust", "--headless", "--only-summary", "-f", f"loadtest/{name}.py"]
    command += ["--host", "http://127.0.0.1:9", "-u", "5", "-r", "5", "--product", "1", "--audit", ""]
    command += ["--buyers-file", str(path), *bots, *CROWDS[name], *options]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("name", CROWDS)
def test_a_crowd_without_buyers_does_not_begin(tmp_path, name):
    ended = crowd(name, tmp_path, buyers="")
    assert ended.returncode not in {0, None}
    assert "is no file of buyers: it has no buyers, or a buyer without a token" in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "buyers",
    [
        "",
        "\n",
        "{}",
        "[]",
        "x",
        '{"user_id": "a"}',
        '{"user_id": "a", "token": ""}',
        '{"user_id": "a", "token": "b"}\n1',
    ],
)
def test_a_file_in_which_a_buyer_has_no_token_is_refused(tmp_path, buyers):
    path = tmp_path / "buyers.jsonl"
    path.write_text(buyers)
    with pytest.raises(SystemExit, match="is no file of buyers"):
        read_buyers(str(path))


def test_a_crowd_whose_history_does_not_fit_on_the_disk_fails(tmp_path):
    ended = crowd("ramp", tmp_path, "--history", "/dev/full")
    assert ended.returncode not in {0, None}
    assert "/dev/full: No space left on device" in ended.stderr.splitlines()[-1]
