"""Buy with chosen settings."""

from flashsale.usecases.buy import Buy
from flashsale.usecases.return_units import ReturnUnits


def buying(services, made, *, waiting_max=1000):
    return Buy(
        catalog=services.catalog,
        gate=services.gate,
        acceptance=made,
        load_gate=services.load_gate,
        return_units=ReturnUnits(services.books, services.gate, limit=100),
        accept=services.settings.accept,
        gate_settings=services.settings.gate,
        waiting_max=waiting_max,
        busy_s=services.settings.postgres.lock_timeout_s,
    )
