"""Outputs that fail."""

from __future__ import annotations

import os


def full_pipe():
    """A pipe whose reader sleeps: every byte of its room is taken."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writing, True)
    return reading, writing


def unread():
    return full_pipe()


def unread_and_nonblocking():
    reading, writing = full_pipe()
    os.set_blocking(writing, False)
    return reading, writing


def closed():
    reading, writing = os.pipe()
    os.close(reading)
    return None, writing


def full_disk():
    return None, os.open("/dev/full", os.O_WRONLY)


def nothing():
    return None, None
