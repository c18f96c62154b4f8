"""The files in docker/, as far as they can be checked without an engine; `nox -s docker` runs them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flashsale.settings import DELIMITER, EXAMPLE, PREFIX, HttpSettings, LiveSettings, Settings, read_settings

DOCKER = Path(__file__).parents[2] / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
EXAMPLES = dict(re.findall(r"(?m)^(\w+)=(.*)$", (DOCKER / ".env.example").read_text()))


def filled_in(text, values):
    return re.sub(r"\$\{(\w+):?[^}]*\}", lambda found: values.get(found[1], ""), str(text))


def set_environment(monkeypatch, values):
    for name, text in COMPOSE["x-app"]["environment"].items():
        if text is not None and (value := filled_in(text, values)):
            monkeypatch.setenv(name, value)


def test_a_container_refuses_every_secret_of_the_example(monkeypatch):
    set_environment(monkeypatch, EXAMPLES)
    with pytest.raises(SystemExit) as refused:
        read_settings()
    *lines, _ = str(refused.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "FLASHSALE_POSTGRES__URL",
        "FLASHSALE_REDIS__URL",
        "FLASHSALE_AUTH__JWT_SECRET",
        "FLASHSALE_PAYMENTS__GATEWAY_SECRET",
    ]
    assert all(EXAMPLE in line for line in lines)


def test_a_container_takes_secrets_that_were_replaced(monkeypatch):
    set_environment(monkeypatch, dict.fromkeys(EXAMPLES, "own-" * 10))
    assert "own-own-" in read_settings().postgres.url.get_secret_value()


def test_deploy_refuses_every_secret_of_the_example():
    command = [sys.executable, DOCKER / "deploy", "--env-file", DOCKER / ".env.example"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    secrets = [name for name, value in EXAMPLES.items() if EXAMPLE in value]
    assert len(secrets) == len(EXAMPLES) - 1  # the administrator's email is none
    assert done.returncode == 1
    assert re.findall(r"(\w+) still holds", done.stderr) == secrets


def test_compose_refuses_a_secret_that_is_missing():
    text = (DOCKER / "compose.yaml").read_text()
    used = set(re.findall(r"\$\{(\w+)[^}]*\}", text))
    for name in used & EXAMPLES.keys():
        assert set(re.findall(rf"\$\{{{name}(..)", text)) == {":?"}, name


def test_every_setting_that_the_containers_are_given_exists():
    known = {
        f"{PREFIX}{group.upper()}{DELIMITER}{name.upper()}"
        for group, field in Settings.model_fields.items()
        for name in field.annotation.model_fields
    }
    for name in ("compose.yaml", ".env.example"):
        assert set(re.findall(rf"\b{PREFIX}\w+", (DOCKER / name).read_text())) <= known


def test_every_long_running_service_is_bounded_and_starts_again():
    for name, service in COMPOSE["services"].items():
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}, name
        assert service["restart"] == ("no" if name == "migrate" else "unless-stopped")


def test_the_edge_takes_what_the_api_takes():
    nginx = (DOCKER / "nginx/nginx.conf").read_text()
    kib = 1024
    assert f"client_max_body_size {HttpSettings().body_bytes_max // kib}k;" in nginx
    assert f"large_client_header_buffers 4 {HttpSettings().head_bytes_max // kib}k;" in nginx
    locations = (DOCKER / "nginx/locations.conf").read_text()
    (silence_s,) = re.findall(r"proxy_read_timeout (\d+)s", locations)
    assert int(silence_s) > 2 * LiveSettings().keepalive_s
