"""An API process with its pages and without a socket, and browsers of people with a role."""

from __future__ import annotations

import dataclasses
import re
import uuid
from contextlib import asynccontextmanager
from types import SimpleNamespace

import httpx

from flashsale import pages
from flashsale.bootstrap.api import open_services
from flashsale.domain.users import Role
from flashsale.http.app import build_app
from flashsale.http.auth import Tokens
from flashsale.http.streams.hub import LiveHub
from flashsale.pages import console
from flashsale.pages.console.frame import Frame
from tests.support.manual import recording

ADDRESS = "192.0.2.7"
SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}


def every_page_and_action():
    """The pages and actions of the console, without a process."""
    parts = SimpleNamespace(services=SimpleNamespace(administer=None), recent=None)
    return console.whole(Frame(parts, SimpleNamespace(url=None)))


class Browser:
    """A browser, which sends its cookie and says whose page sent a form."""

    def __init__(self, client, token=None, user=None):
        self.client, self.user = client, user
        self.cookie = {} if token is None else {"Cookie": f"flashsale={token}"}

    async def get(self, path, **headers):
        return await self.client.get(path, headers={**self.cookie, **headers})

    async def page(self, path):
        answer = await self.get(path)
        assert answer.status_code == 200, (path, answer.status_code, answer.text)
        return answer.text

    async def post(self, path, headers=SAME_ORIGIN, **fields):
        sent = {"key": uuid.uuid4().hex, **fields}
        return await self.client.post(path, data=sent, headers={**self.cookie, **headers})

    async def act(self, path, **fields):
        """Send a form that must be carried out; returns where it leads."""
        answer = await self.post(path, **fields)
        assert answer.status_code == 303, (path, answer.status_code, refusal(answer))
        return answer.headers["location"]


def found(pattern, text):
    """The first group of a pattern that a text must hold."""
    match = re.search(pattern, text)
    assert match is not None, pattern
    return match[1]


def refusal(answer):
    """What a page says of a refusal."""
    found = re.search(r'role="alert">(.*?)</div>', answer.text, re.DOTALL)
    return "" if found is None else " ".join(re.sub(r"<[^>]*>", " ", found[1]).split())


class Console:
    """The process: its client, its parts, and browsers."""

    def __init__(self, client, services, db):
        self.client, self.services, self.db = client, services, db

    async def browser(self, role=Role.ADMIN):
        user = await self.services.users.create(
            name=role.capitalize(), email=f"{role}-{uuid.uuid4().hex}@example.com", password_hash="x", role=role
        )
        return Browser(self.client, Tokens(self.services.settings.auth).issue(user.principal), user)

    async def trail(self):
        """The rows of the trail that name a person, the oldest first: action, object, who, from where."""
        rows = await self.db.fetch(
            "SELECT action, object, user_id, origin FROM admin_trail WHERE user_id IS NOT NULL ORDER BY trail_id"
        )
        return [tuple(row) for row in rows]


@asynccontextmanager
async def open_console(settings, db):
    """Open a process that nobody else uses."""
    async with open_services(settings, name="test") as opened:
        services = dataclasses.replace(opened, record_money=recording(opened))
        app = build_app(services, LiveHub(services), pages.routes)
        transport = httpx.ASGITransport(app, client=(ADDRESS, 4711))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield Console(client, services, db)
