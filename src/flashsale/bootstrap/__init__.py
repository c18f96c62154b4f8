"""The composition root: Settings in, everything wired out. Used by the API, the workers, the CLI and the tests."""

from flashsale.adapters.postgres.sale import PostgresSale
from flashsale.adapters.postgres.schema import fingerprint as schema_fingerprint
from flashsale.bootstrap.api import open_services
from flashsale.bootstrap.commands import (
    open_accounts,
    open_audit,
    open_outbox,
    open_sale_figures,
    open_settlement,
    open_status,
)
from flashsale.bootstrap.doctor import examine
from flashsale.bootstrap.jobs import Jobs, job_queue, open_jobs
from flashsale.bootstrap.servers import as_owner, open_gateway, require_servers, schema_revision

__all__ = [
    "Jobs",
    "PostgresSale",
    "as_owner",
    "examine",
    "job_queue",
    "open_accounts",
    "open_audit",
    "open_gateway",
    "open_jobs",
    "open_outbox",
    "open_sale_figures",
    "open_services",
    "open_settlement",
    "open_status",
    "require_servers",
    "schema_fingerprint",
    "schema_revision",
]
