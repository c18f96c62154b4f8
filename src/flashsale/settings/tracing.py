"""Settings of traces."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from flashsale.settings.server_urls import check_collector_url
from flashsale.settings.values import Group

PATH = "/v1/traces"
"""What the exporter adds to the collector's URL."""


def _collector(url: str) -> str:
    if url:
        check_collector_url(url)
    if url.endswith(PATH):
        raise ValueError(f"is the base of the collector's URLs; {PATH} is added")
    return url.rstrip("/")


class TracingSettings(Group):
    """Traces, sent to a collector by OTLP over HTTP."""

    otlp_url: Annotated[str, AfterValidator(_collector)] = Field(
        "",
        description="Base URL of the collector, such as http://127.0.0.1:4318; empty means that there are no traces.",
    )
    ratio: float = Field(
        0.01, ge=0, le=1, description="Fraction of requests that are kept, besides failed and slow ones."
    )
    order_ratio: float = Field(
        1.0, ge=0, le=1, description="The same for buys that reach Postgres, with all that follows for their orders."
    )
    slow_s: float = Field(1.0, gt=0, description="Duration from which a request counts as slow.")
    queue_max: int = Field(
        2048,
        ge=1,
        le=1_000_000,
        description="Maximum number of spans per process that wait for the collector; further ones are dropped.",
    )
    timeout_s: float = Field(5.0, gt=0, le=60, description="Maximum duration of one delivery to the collector.")
