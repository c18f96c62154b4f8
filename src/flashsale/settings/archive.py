"""Settings of archived sales."""

from __future__ import annotations

from pydantic import Field

from flashsale.settings.values import Group


class ArchiveSettings(Group):
    """`flashsale archive`. By itself no process archives or deletes orders."""

    quiet_days: float = Field(
        180.0,
        ge=0,
        le=36_500,
        description="Time for which nothing of a sale may have changed before its rows may leave the database: an "
        "order that is in files only cannot be refunded here.",
    )
