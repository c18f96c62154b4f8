"""Files of metrics on a full disk, or that cannot be made, end no process and fail no request."""

from __future__ import annotations

import re
import struct
import subprocess
import sys

import pytest

from tests.conftest import ROOT, of_this_checkout
from tests.support.namespaces import has_namespaces

COUNTS = """
import asyncio, os, sys
from prometheus_client.parser import text_string_to_metric_families
BEFORE
from flashsale.runtime.metrics import LOOP_LAG, MEMORY, page, unshared_series
from flashsale.runtime.shared_metrics import Counter
counted = Counter("counted", "Counted.", ["of"])
AFTER
for number in range(2000):
    counted.labels(str(number)).inc()
LOOP_LAG.labels("api").set(1)
text, _ = asyncio.run(page("text/plain"))
samples = [sample for family in text_string_to_metric_families(text.decode()) for sample in family.samples]
print(unshared_series(), sum(sample.value for sample in samples if sample.name == "counted_total"))
"""

FULL = """
with open(sys.argv[1] + "/filler", "wb", buffering=0) as filler:
    try:
        while True:
            filler.write(b"x" * 512)
    except OSError:
        pass
"""


def count(folder, *, tmpfs_kib=None, before="", after=""):
    """Count 2,000 series in a process of its own; returns how many it kept to itself, and the sum that it shows."""
    command = [sys.executable, "-c", COUNTS.replace("BEFORE", before).replace("AFTER", after), str(folder)]
    if tmpfs_kib is not None:
        mount = f'mount -t tmpfs -o size={tmpfs_kib}k tmpfs "$0" && exec "$@"'
        command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(folder), *command]
    environment = of_this_checkout(PROMETHEUS_MULTIPROC_DIR=str(folder))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr)
    unshared, shown = done.stdout.splitlines()[-1].split()
    return int(unshared), float(shown)


@pytest.mark.skipif(not has_namespaces(), reason="needs user namespaces, to mount a small disk")
@pytest.mark.parametrize(
    ("tmpfs_kib", "before", "after"),
    [(4, FULL, ""), (64, "", ""), (132, "", ""), (200, "", ""), (1024, FULL, ""), (1024, "", FULL), (4096, "", "")],
)
def test_every_count_is_shown_on_a_disk_that_is_full_or_fills_meanwhile(tmp_path, tmpfs_kib, before, after):
    unshared, shown = count(tmp_path, tmpfs_kib=tmpfs_kib, before=before, after=after)
    assert shown == 2000
    assert (unshared == 0) == (tmpfs_kib > 1024)


def missing(folder):
    folder.rmdir()


def a_file(folder):
    folder.rmdir()
    folder.write_bytes(b"")


def closed(folder):
    folder.chmod(0o500)


def damaged_by_others(folder):
    (folder / "counter_1.db").write_bytes(struct.pack("ii", 50_000, 0) + b"\xff" * 60_000)


def empty_of_others(folder):
    (folder / "gauge_liveall_1.db").touch()


@pytest.mark.parametrize("spoil", [missing, a_file, closed, damaged_by_others, empty_of_others])
def test_every_count_is_shown_whatever_the_directory_is(tmp_path, spoil):
    folder = tmp_path / "metrics"
    folder.mkdir()
    spoil(folder)
    assert count(folder)[1] == 2000


def test_in_a_sound_directory_everything_is_shared(tmp_path):
    assert count(tmp_path) == (0, 2000)
    assert count(tmp_path) == (0, 4000), "with what the first process counted"


def test_all_metrics_are_made_of_the_safe_kinds():
    for folder in ("src", "workers"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name != "shared_metrics.py":
                assert not re.search(r"from prometheus_client import .*(Counter|Gauge|Histogram)", path.read_text()), (
                    path
                )
