"""An API process without a socket, and an account of staff that calls it."""

from __future__ import annotations

import dataclasses
from contextlib import asynccontextmanager

import httpx

from flashsale.bootstrap.api import open_services
from flashsale.domain.users import Role
from flashsale.http.app import build_app
from flashsale.http.auth import Tokens
from flashsale.http.streams.hub import LiveHub
from tests.support.manual import recording


class Desk:
    """The client of the process, its parts, and the headers of the account."""

    email = "Grace+desk@example.com"

    def __init__(self, client, services, db, headers):
        self.client, self.services, self.db, self.headers = client, services, db, headers

    async def trail(self, **query):
        answer = await self.client.get("/api/admin/trail", params=query, headers=self.headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def call(self, method, path, body=None, headers=None):
        return await self.client.request(method, path, json=body, headers={**self.headers, **(headers or {})})


@asynccontextmanager
async def open_desk(settings, db, *, role=Role.ADMIN):
    """Open a process that nobody else uses."""
    async with open_services(settings, name="test") as opened:
        services = dataclasses.replace(opened, record_money=recording(opened))
        transport = httpx.ASGITransport(build_app(services, LiveHub(services)), client=("192.0.2.7", 4711))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            admin = await services.users.create(name="Grace", email=Desk.email, password_hash="x", role=role)
            token = Tokens(services.settings.auth).issue(admin.principal)
            headers = {"Authorization": f"Bearer {token}", "X-Request-Id": "press-1"}
            yield Desk(client, services, db, headers)
