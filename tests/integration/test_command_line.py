import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, add_product
from tests.support.processes import wait_for


def descendants(pid):
    found = []
    for line in subprocess.run(
        ["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout.splitlines():
        child, parent = map(int, line.split())
        if parent == pid:
            found += [child, *descendants(child)]
    return found


def runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_up_runs_until_it_is_told_to_stop_and_leaves_no_process_whatever_ends_it(tmp_path, number):
    log = tmp_path / "up.log"
    with log.open("w") as output:
        launcher = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "flashsale.cli",
                "up",
                "--port",
                "0",
                "--api",
                "1",
                "--data-dir",
                str(tmp_path / "d"),
            ],
            stdout=output,
            stderr=output,
            cwd=ROOT,
        )

    def is_up():
        assert launcher.poll() is None, log.read_text()
        return "flashsale is up" in log.read_text()

    try:
        wait_for(is_up, timeout_s=180)
        children = descendants(launcher.pid)
        assert len(children) >= 12, "servers with their own children, API, simulator, three workers"
        launcher.send_signal(number)
        code = launcher.wait(60)
        assert code == (0 if number == signal.SIGINT else -signal.SIGKILL), log.read_text()
        wait_for(lambda: not any(runs(pid) for pid in children), timeout_s=30)
    finally:
        launcher.kill()
        launcher.wait()


@pytest.mark.parametrize("command", ["", "up", "demo", "audit", "serve", "simulator", "admin", "buyers"])
def test_every_command_explains_itself_with_an_example(command):
    done = subprocess.run(
        [sys.executable, "-m", "flashsale.cli", *command.split(), "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert "Usage:" in done.stdout
    assert not command or "Example:" in done.stdout


async def test_the_audit_prints_one_json_document(services, settings):
    await add_product(services)
    environment = {
        "FLASHSALE_POSTGRES__URL": settings.postgres.url.get_secret_value(),
        "FLASHSALE_REDIS__URL": settings.redis.url.get_secret_value(),
        "FLASHSALE_AUTH__JWT_SECRET": "only-for-tests: 0123456789 abcdefgh",
    }
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "flashsale.cli", "audit", "--json"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    document = json.loads(done.stdout)
    assert (done.returncode, document["holds"], document["violated"]) == (0, True, 0), done.stderr
    by_id = {finding["invariant"]: finding for finding in document["invariants"]}
    assert (by_id["I1"]["checked"], by_id["I1"]["violations"], by_id["I1"]["sample"]) == (1, 0, [])
    assert by_id["I20"]["skipped"] == "needs --history"


def test_missing_settings_are_one_line_each():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLASHSALE_")}
    environment["FLASHSALE_AUTH__JWT_SECRET"] = "short"
    done = subprocess.run(
        [sys.executable, "-m", "flashsale.cli", "serve"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 1
    assert "FLASHSALE_POSTGRES__URL: is missing" in done.stderr
    assert "FLASHSALE_AUTH__JWT_SECRET: Value should have at least 32" in done.stderr
    assert "short" not in done.stderr.replace("shorter", "")
