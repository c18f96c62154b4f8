"""Every command, found in the tree of commands, explains itself and each of its options, and gives an example."""

import os
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from flashsale.cli import main


def leaves(command, path=()):
    if isinstance(command, click.Group):
        for name, one in command.commands.items():
            yield from leaves(one, (*path, name))
    else:
        yield " ".join(path), command


COMMANDS = dict(leaves(main))
SHOWN_AS = {"orders list": "orders find", "archive sale": "archive"}
"""Commands whose example names them in another way."""


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_gives_an_example_of_itself(path):
    assert COMMANDS[path].help, path
    assert f"flashsale {SHOWN_AS.get(path, path)}" in (COMMANDS[path].epilog or "").partition("Example:")[2]


@pytest.mark.parametrize("path", COMMANDS)
def test_every_option_says_what_it_does(path):
    silent = [one.opts for one in COMMANDS[path].params if isinstance(one, click.Option) and not one.help]
    assert silent == []


NO_SERVER = "http://127.0.0.1:9"
WRONG = {
    "a name with an empty label": (["status", "--url", "http://a..b"], {}, "http://a..b"),
    "an export from such a name": (["orders", "export", "--url", "http://a..b"], {}, "http://a..b"),
    "a token of two lines": (["status", "--url", NO_SERVER], {"FLASHSALE_TOKEN": "a.b\nc"}, "FLASHSALE_TOKEN: "),
    "a token that is no text": (["orders", "export"], {"FLASHSALE_TOKEN": "a.b\udc80"}, "FLASHSALE_TOKEN: "),
    "a socket that is none": (["simulator", "--fd", "0"], {}, "--fd 0: "),
    "a socket that is not open": (["mailbox", "--folder", ".", "--fd", "77"], {}, "--fd 77: "),
    "a file descriptor below all": (["simulator", "--fd", "-2"], {}, "--fd -2: "),
    "a folder that is missing": (["orders", "export", "--out", "none/file"], {}, "none/file: No such file"),
}


@pytest.mark.parametrize("path", COMMANDS)
def test_an_argument_that_is_no_text_is_refused(path):
    done = CliRunner().invoke(main, [*path.split(), "\udcff"])
    assert (done.exit_code, "'\\udcff' is no text in UTF-8" in done.output) == (2, True)


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_is_one_line_that_names_it(name, tmp_path):
    arguments, changed, told = WRONG[name]
    known = {"PATH": os.environ["PATH"], "FLASHSALE_TOKEN": "a.b.c", "FLASHSALE_PAYMENTS__GATEWAY_SECRET": "only-here"}
    done = subprocess.run(
        [sys.executable, "-m", "flashsale.cli", *arguments],
        env=known | changed,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert told in line
