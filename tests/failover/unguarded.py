"""Run a module as the main program without the guards of a COMMIT: `python -m tests.failover.unguarded workers orders`."""

from __future__ import annotations

import runpy
import sys

import pytest

from tests.support.unguarded import take_the_guards_away

take_the_guards_away(pytest.MonkeyPatch())
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
