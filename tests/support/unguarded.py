"""Take the guards of a COMMIT away: the control of the tests and of the drill with a synchronous standby."""

from __future__ import annotations

import dataclasses

import pytest

from flashsale.adapters.postgres import acceptance, administration, database, intents, products, trail
from flashsale.adapters.postgres.connection import Connection

IF_STANDBY = "current_setting('synchronous_standby_names') <> ''"


def take_the_guards_away(patch: pytest.MonkeyPatch) -> None:
    """Send requests to cancel, ignore the server's warnings, and let no read write to the log."""
    patch.delattr(Connection, "_cancel_current_command")
    patch.delattr(Connection, "_process_log_message")
    for module in (acceptance, administration, database, intents):
        for name, query in module.QUERIES.items():
            if IF_STANDBY in query.text:
                patch.setitem(
                    module.QUERIES, name, dataclasses.replace(query, text=query.text.replace(IF_STANDBY, "false"))
                )
    for user in (products, trail):
        patch.setattr(user, "REPLICATE", database.QUERIES["replicate"])
