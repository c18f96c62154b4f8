"""Settings of the webhooks to a shop's endpoints and of the e-mails to buyers."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from flashsale.settings.server_urls import check_mail_url
from flashsale.settings.values import Group, Secret, url_checked_by


def _one_address(sender: str) -> str:
    local, _, domain = sender.rpartition("@")
    if not local or not domain or any(character.isspace() or character in '<>,;:"\\' for character in sender):
        raise ValueError("must be one address such as shop@example.com, without a name")
    return sender


class OutboxSettings(Group):
    """Webhooks and e-mails: the maintenance worker sends them."""

    timeout_s: float = Field(10.0, gt=0, le=60, description="Maximum duration of one try to deliver a message.")
    concurrency: int = Field(
        8, ge=1, le=100, description="Maximum number of messages on their way to one target, per process."
    )
    targets_max: int = Field(
        20, ge=1, le=100, description="Maximum number of endpoints, the buyers' e-mails counted as one."
    )
    retry_s: float = Field(5.0, gt=0, description="Mean pause after a message failed for the first time; it doubles.")
    retry_max_s: float = Field(
        3600.0, gt=0, le=86_400, description="Maximum mean pause before a message that failed is sent again."
    )
    give_up_s: float = Field(
        259_200.0,
        gt=0,
        description="Time for which a message is tried; then it is dead until `flashsale webhooks resend`.",
    )
    kept_s: float = Field(
        172_800.0,
        ge=172_800,
        description="Time for which a delivered message is kept; the audit compares those of the last day.",
    )
    dead_kept_s: float = Field(2_592_000.0, ge=172_800, description="Time for which a dead message is kept.")
    loopback_allowed: bool = Field(
        False, description="Send webhooks to this machine too, also by http; only for development."
    )


class MailSettings(Group):
    """E-mails to buyers."""

    url: Annotated[Secret, url_checked_by(check_mail_url)] = Field(
        SecretStr(""),
        description="Mail server: smtp://user:password@host:port or smtps://...; empty means that no e-mail is sent.",
    )
    sender: Annotated[str, AfterValidator(_one_address)] = Field(
        "shop@flashsale.invalid", description="Address from which e-mails are sent."
    )
