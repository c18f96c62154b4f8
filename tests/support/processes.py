"""Wait for processes."""

import time


def wait_for(check, *, timeout_s):
    deadline = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.05)
