"""The limits of logins over all API processes: `scripts/login.lua`; limits per process while Redis is down.

The process counts the tries that Redis lets pass too: an outage does not give an attacker his free tries again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashsale.adapters.redis.connection import AWAY, Ask, ScriptFailed, run_script
from flashsale.adapters.redis.servers import open_servers
from flashsale.usecases.login_limits import LocalLoginLimits, Permit

if TYPE_CHECKING:
    from flashsale.settings.edge import LoginSettings
    from flashsale.settings.groups import RedisSettings
    from flashsale.usecases.login_limits import Source

TAG = "logins"


class RedisLoginLimits:
    """Implements `usecases.login_limits.LoginLimits`."""

    def __init__(self, redis: RedisSettings, settings: LoginSettings) -> None:
        """Keep the settings; the first call connects."""
        self._servers = open_servers(redis)
        self._local = LocalLoginLimits(settings)
        self._numbers = (
            settings.free_tries,
            _ms(settings.first_wait_s),
            _ms(settings.longest_wait_s),
            _ms(settings.forget_s),
            settings.account_failures,
            _ms(settings.stranger_wait_s),
            settings.origin_failures,
            _ms(settings.origin_window_s),
            settings.known_max,
            _ms(settings.known_s),
        )

    async def close(self) -> None:
        """Disconnect."""
        await self._servers.close()

    async def begin(self, source: Source, *, exempt: bool) -> Permit:
        """Count a try."""
        reply = await self._ask("begin", source, flag=exempt)
        if reply is None:
            return await self._local.begin(source, exempt=exempt)
        wait_ms, known, refused_ms = reply
        if not wait_ms:
            await self._local.begin(source, exempt=True)
        return Permit(wait_ms / 1000, bool(known), refused_ms / 1000)

    async def failed(self, source: Source, *, counted: bool) -> None:
        """Count a wrong password."""
        await self._local.failed(source, counted=counted)
        if counted:
            await self._ask("failed", source, flag=counted)

    async def passed(self, source: Source) -> None:
        """Forget the tries."""
        await self._local.passed(source)
        await self._ask("passed", source)

    async def undone(self, source: Source) -> None:
        """Take a try back."""
        await self._local.undone(source)
        await self._ask("undone", source)

    async def _ask(self, what: str, source: Source, *, flag: bool = False) -> list[int] | None:
        account, origin = source
        # One hash tag for all keys, so that a cluster keeps them in one slot.
        keys = [
            f"flashsale:{{{TAG}}}:{name}"
            for name in (f"pair:{account}:{origin}", f"account:{account}", f"origin:{origin}", "known")
        ]
        arguments = (what, f"{account}:{origin}", int(flag), *self._numbers)
        (reply,) = await self._servers.send([Ask(TAG, lambda _: run_script("login", keys, arguments))])
        # A script that failed on what is in its keys says as little as a server that is away.
        whole: list[int] | None = None if reply is AWAY or isinstance(reply, ScriptFailed) else reply
        return whole


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
