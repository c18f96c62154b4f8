"""Logs of the local stack do not grow for ever."""

import subprocess
import sys

from flashsale.local import logs

WRITER = "import sys\nfor line in sys.stdin:\n    print(line, end='', flush=True)\n    print('done', file=sys.stderr, flush=True)"


def test_a_log_is_cut_while_its_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "LOG_BYTES_MAX", 1000)
    path = tmp_path / "api-1.log"
    with path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER],
            stdin=subprocess.PIPE, stdout=log, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def write(text):
        process.stdin.write(f"{text}\n")
        process.stdin.flush()
        process.stderr.readline()
        logs.cut_log(path)

    with process:
        for number in range(100):
            write(f"{number:04} " + "x" * 95)
            assert path.stat().st_size <= 1000
        before = path.with_suffix(".log.1")
        kept = before.read_text() + path.read_text()
        process.stdin.close()
        process.stderr.close()
    assert [int(line[:4]) for line in kept.splitlines()] == list(range(100 - len(kept.splitlines()), 100))
    assert len(kept) <= 2200
    assert {file.name for file in tmp_path.iterdir()} == {path.name, before.name}


def test_a_log_that_cannot_be_cut_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "LOG_BYTES_MAX", 0)
    logs.cut_log(tmp_path / "gone.log")
    (tmp_path / "folder.log").mkdir()
    logs.cut_log(tmp_path / "folder.log")
