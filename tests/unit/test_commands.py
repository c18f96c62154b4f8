"""Every command, found in the tree of commands, explains itself and each of its options, and gives an example."""

import click
import pytest

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
