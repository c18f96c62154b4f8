"""Settings of a shop of several cells."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, SecretStr, model_validator

from flashsale.settings.server_urls import check_postgres_url
from flashsale.settings.values import Group, Secret, url_checked_by

CELL_MAX = 199
"""That of `domain.cells`."""


class CellSettings(Group):
    """The cells of the shop. A shop of one cell sets nothing here."""

    number: int = Field(0, ge=0, le=CELL_MAX, description="Number of this cell; cell 0 changes the accounts.")
    count: int = Field(1, ge=1, le=CELL_MAX + 1, description="How many cells the shop has: 0 to this number less one.")
    accounts_url: Annotated[Secret, url_checked_by(check_postgres_url, optional=True)] = Field(
        SecretStr(""),
        description="URL of cell 0's Postgres itself, as its owner, for `flashsale cells join`; this cell's Postgres "
        "keeps it, with its password, to copy the accounts.",
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.number >= self.count:
            raise ValueError(f"number {self.number} is none of {self.count} cells")
        return self
