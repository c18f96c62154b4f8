"""The app is built with warnings as errors: what the framework is about to drop is not used."""

from types import SimpleNamespace

from flashsale.http.app import build_app
from flashsale.http.streams.hub import LiveHub
from tests.conftest import make_settings


def test_the_app_is_built_without_a_warning():
    services = SimpleNamespace(
        settings=make_settings("postgresql://x@127.0.0.1:9/x", "redis://127.0.0.1:9"),
        catalog=None,
        revocations=None,
        sessions=None,
    )
    build_app(services, LiveHub(services))
