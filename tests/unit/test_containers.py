"""The files in docker/, as far as they can be checked without an engine; `nox -s docker` runs them."""

import re
import socket
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import yaml
from edge import address, busy_ports
from env_file import read_environment, write

from flashsale import __version__
from flashsale.http.admin_schemas import NewProductIn, new_product
from flashsale.settings import DELIMITER, PREFIX, SECRETS, Settings, read_settings, secret_names, variable
from flashsale.settings.edge import HttpSettings, LiveSettings
from flashsale.settings.values import EXAMPLE

DOCKER = Path(__file__).parents[2] / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
OURS = [name for name, service in COMPOSE["services"].items() if service["image"].startswith("flashsale:")]
THEIR_OWN_USER = {"prometheus": "nobody", "grafana": "grafana", "alertmanager": "nobody"}
"""Images whose own user is none of root."""

COMMENTED = {
    "auth.jwt_second_secret",
    "mail.url",
    "postgres.direct_url",
    "stripe.secret_key",
    "stripe.webhook_secret",
    "stripe.webhook_second_secret",
}
"""Secrets that the example does not hold, or only as a comment."""

EXAMPLES = dict(re.findall(r"(?m)^(\w+)=(.*)$", (DOCKER / ".env.example").read_text()))


def filled_in(text, values):
    return re.sub(r"\$\{(\w+):?[^}]*\}", lambda found: values.get(found[1], ""), str(text))


def set_environment(monkeypatch, service, values):
    for name, text in COMPOSE["services"][service]["environment"].items():
        if text is not None and (value := filled_in(text, values)):
            monkeypatch.setenv(name, value)


def secrets_given(service):
    """Return the secrets that a container is given, as names of settings."""
    given = COMPOSE["services"][service]["environment"]
    return {name for name in secret_names() if variable(name) in given}


def needed(service):
    """Return the secrets that stand in the example: the URLs of Compose have no password in them."""
    return {name for name in SECRETS[kind(service)] - COMMENTED if not name.endswith("url")}


def kind(service):
    return {"sse": "api"}.get(service, service)


@pytest.mark.parametrize("service", OURS)
def test_a_container_gets_the_secrets_of_its_kind_and_no_others(service):
    assert secrets_given(service) == SECRETS[kind(service)]
    # Nor under another name: what is filled in from docker/.env goes into these variables only.
    given = COMPOSE["services"][service]["environment"]
    secret = {name for name, value in EXAMPLES.items() if EXAMPLE in value}
    holding = {name for name, text in given.items() if secret & set(re.findall(r"\$\{(\w+)", str(text)))}
    assert holding == {variable(name) for name in needed(service)}


@pytest.mark.parametrize("service", OURS)
def test_a_container_refuses_every_secret_of_the_example(monkeypatch, service):
    set_environment(monkeypatch, service, EXAMPLES)
    with pytest.raises(SystemExit) as refused:
        read_settings(kind(service))
    *lines, _ = str(refused.value).splitlines()
    assert {line.split(":")[0] for line in lines} == {variable(name) for name in needed(service)}
    assert all(EXAMPLE in line for line in lines)


@pytest.mark.parametrize("service", OURS)
def test_a_container_takes_secrets_that_were_replaced(monkeypatch, service):
    set_environment(monkeypatch, service, dict.fromkeys(EXAMPLES, "own-own-0123456789-abcdefghijklmnop"))
    settings = read_settings(kind(service))
    for name in needed(service):
        group, _, field = name.partition(".")
        assert "own-own-" in getattr(getattr(settings, group), field).get_secret_value()


def test_every_container_is_without_privileges():
    for name, service in COMPOSE["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert "cap_add" not in service, name
        assert service["read_only"] is True, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
        if name not in OURS and name not in THEIR_OWN_USER:
            assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"]), name
    assert COMPOSE["services"]["postgres"]["environment"]["POSTGRES_USER"] not in {"flashsale_api", "flashsale_worker"}
    assert re.findall(r"(?m)^USER (.*)$", (DOCKER / "Dockerfile").read_text()) == ["10001:10001"]


def test_no_command_line_holds_a_secret():
    secret = {name for name, value in EXAMPLES.items() if EXAMPLE in value}
    for name, service in COMPOSE["services"].items():
        said = str(
            [service.get("command"), service.get("entrypoint"), service.get("healthcheck"), service.get("labels")]
        )
        assert not secret & set(re.findall(r"\$\{(\w+)", said)), name


def test_deploy_refuses_every_secret_of_the_example():
    command = [sys.executable, DOCKER / "deploy", "--env-file", DOCKER / ".env.example"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    secrets = [name for name, value in EXAMPLES.items() if EXAMPLE in value]
    assert len(secrets) == len(EXAMPLES) - 1  # the administrator's email is none
    assert done.returncode == 1
    assert re.findall(r"(\w+) still holds", done.stderr) == secrets


def deploy():
    """Load the script."""
    loader = SourceFileLoader("deploy", str(DOCKER / "deploy"))
    module = module_from_spec(spec_from_loader("deploy", loader))
    loader.exec_module(module)
    return module


def read(path, *files):
    return read_environment(path, DOCKER / ".env.example", [DOCKER / "compose.yaml", *files], lambda _: None)


def good_file(tmp_path, *lines):
    """Write a file without faults, and these lines more."""
    file = tmp_path / ".env"
    kept = [f"{name}=own" for name in EXAMPLES if not any(line.startswith(f"{name}=") for line in lines)]
    file.write_text("\n".join([line.replace("EMAIL=own", "EMAIL=a@b") for line in kept] + list(lines)) + "\n")
    return file


WRONG = {
    "LISTEN=everywhere": "is everywhere; expected an address and a port",
    "LISTEN=:::80": "is :::80; expected an address and a port",
    "LISTEN_TLS=443s": "is 443s; expected an address and a port",
    "API_CONTAINERS=two": "is two; expected a whole number",
    "PAYMENT_CONTAINERS=0": "is 0; expected a whole number",
    "API_CPUS=many": "is many; expected a number of cores",
    "ADDRESS_REQUESTS_PER_S=5000r/s": "is 5000r/s; expected a whole number",
    "NOFILE=unlimited": "is unlimited; expected a whole number",
    "ADMIN_EMAIL=admin": "is admin; expected an e-mail address",
    "PAYMENTS_CONTAINERS=3": "is used by nothing; did you mean PAYMENT_CONTAINERS?",
    "FLASHSALE_GATE__RATELIMIT=3": "is used by nothing; did you mean FLASHSALE_GATE__RATE_LIMIT?",
    "CERTIFICATES=/none": "is /none; expected a folder that holds fullchain.pem",
    "JWT_SECRET=change-me-please": "still holds the example's value",
    "JWT_SECRET=": "is missing or empty",
    "JWT_SECRET=''": "is missing or empty",
    "REDIS_PASSWORD=a$b": "has a $",
    'REDIS_PASSWORD="a$b"': "has a $",
    "REDIS_PASSWORD=a${B}c": "has a $",
    'REDIS_PASSWORD="a': "has a quotation mark",
    'REDIS_PASSWORD="a\\tb"': "has a quotation mark",
    "LISTEN=0.0.0.0:99999": "is 0.0.0.0:99999; expected an address and a port",
    "LISTEN=10.0.0.256:80": "is 10.0.0.256:80; expected an address and a port",
    "ADDRESS_CONNECTIONS=100000": "is 100000; expected a whole number from 1 to 65535",
    "HOSTS=https://shop.example": "is https://shop.example; expected names of hosts",
    "HOSTS=shop.example:443": "is shop.example:443; expected names of hosts",
    "CELLS=1=a:8000": "is 1=a:8000; expected for each further cell",
    "CELLS=a:8000,b:8000": "is a:8000,b:8000; expected for each further cell",
    "CELLS=0=a:1,b:1": "is 0=a:1,b:1; expected for each further cell",
    "CELLS=200=a:1,b:1": "is 200=a:1,b:1; expected for each further cell",
    "CELLS=1=a:1,b:1 2=c:1,d:1 1=a:1,b:1": "is 1=a:1,b:1 2=c:1,d:1 1=a:1,b:1; expected for each further cell",
    "CELLS=1=http://a:1,b:1": "is 1=http://a:1,b:1; expected for each further cell",
    "FLASHSALE_CELL__NUMBER=one": "is one; expected a whole number",
    "FLASHSALE_LIVE__KEEPALIVE_S=5": "is used by nothing; a Compose file of your own may use it (-f)",
}


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_line_of_the_file_is_one_line_that_names_it(tmp_path, line):
    file = good_file(tmp_path, line)
    with pytest.raises(SystemExit) as refused:
        read(file)
    assert str(refused.value).startswith(f"{file}: {line.partition('=')[0]} {WRONG[line]}")
    assert "\n" not in str(refused.value)


GOOD = {
    "POSTGRES_PASSWORD='p@ss/w#rd% $x'": "p@ss/w#rd% $x",
    'REDIS_PASSWORD="a b#c"  # of the gate': "a b#c",
    "API_POSTGRES_PASSWORD=a@b/c%d#e": "a@b/c%d#e",
    "LISTEN=[::1]:8000": "[::1]:8000",
    "LISTEN=0.0.0.0:80": "0.0.0.0:80",
    "LISTEN=8000": "8000",
    "API_CPUS=0.5": "0.5",
    "COMPOSE_PROJECT_NAME=shop": "shop",
    "HOSTS=shop.example *.shop.example": "shop.example *.shop.example",
    "CELLS='1=a.one:8000,[2001:db8::1]:8001 12=b:1,b:1'": "1=a.one:8000,[2001:db8::1]:8001 12=b:1,b:1",
    "FLASHSALE_CELL__NUMBER=199": "199",
    "GRAFANA_PASSWORD=it's": "it's",
    "GATEWAY_SECRET=own-${ADMIN_EMAIL}": "own-a@b",
    "OF_MY_OWN=x": "x",
}


@pytest.mark.parametrize("line", GOOD)
def test_a_line_of_the_file_is_read_as_compose_reads_it(tmp_path, line):
    mine = tmp_path / "mine.yaml"
    mine.write_text("services: {api: {environment: {X: '${OF_MY_OWN}'}}}")
    assert read(good_file(tmp_path, line), mine)[line.partition("=")[0]] == GOOD[line]


@pytest.mark.parametrize("line", ["export NOFILE=3", "NOFILE = 3", "NOFILE: 3", "some words"])
def test_a_line_that_sets_nothing_is_one_line_with_its_number(tmp_path, line):
    file = good_file(tmp_path, "# a comment", "", line)
    with pytest.raises(SystemExit) as refused:
        read(file)
    number = file.read_text().splitlines().index(line) + 1
    assert str(refused.value) == f"{file}: line {number} is no NAME=value"


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_secret_that_the_file_lacks_is_one_line_that_names_it(tmp_path, name):
    file = good_file(tmp_path)
    file.write_text(re.sub(rf"(?m)^{name}=.*\n", "", file.read_text()))
    if "_POSTGRES_" in name:  # it is made
        assert read(file)[name]
    else:
        with pytest.raises(SystemExit) as refused:
            read(file)
        assert str(refused.value) == f"{file}: {name} is missing or empty"


def test_what_the_shell_has_is_checked_like_the_file_and_comes_first(tmp_path, monkeypatch):
    file = good_file(tmp_path, "TAG=1")
    monkeypatch.setenv("TAG", "of another program")
    monkeypatch.setenv("PAYMENT_CONTAINERS", "3")
    assert (read(file)["TAG"], read(file)["PAYMENT_CONTAINERS"]) == ("1", "3")
    monkeypatch.setenv("PAYMENT_CONTAINERS", "0")
    with pytest.raises(SystemExit) as refused:
        read(file)
    assert str(refused.value) == f"{file}: PAYMENT_CONTAINERS is 0; expected a whole number from 1 up"


WRONG_OPTIONS = {
    ("-f", "missing.yaml"): "missing.yaml",
    ("--env-file", "missing/.env"): "missing/.env",
    ("--env-file", "."): "directory",
    ("--price", "9,99"): "argument --price: invalid price value: '9,99'",
    ("--price", "free"): "argument --price: invalid price value: 'free'",
    ("--stock", "-1"): "argument --stock: invalid units value: '-1'",
    ("--limit", "many"): "argument --limit: invalid limit value: 'many'",
    ("--product", ""): "argument --product: invalid name value: ''",
}


@pytest.mark.parametrize("options", WRONG_OPTIONS, ids=" ".join)
def test_a_wrong_option_of_deploy_is_one_line_that_names_it(tmp_path, options):
    good = good_file(tmp_path)
    command = [sys.executable, DOCKER / "deploy", "--env-file", good, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode != 0
    assert WRONG_OPTIONS[options] in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


OFFERED = {
    "product": ("name", ["Phone", "é", "x" * 200, "", " ", "x" * 201, "a\nb", "a\0", "a\udc80"]),
    "price": (
        "price",
        ["0.01", "5", "999999999.99", "0", "0.00", "-1", "1.234", "1e3", "٥", "9" * 13, "", " 1", "nan"],
    ),
    "stock": ("stock", ["0", "10000000", "10000001", "-1", "٥", "1_0", "1.5", "", "9" * 30]),
    "limit": ("limitPerBuyer", ["1", "999999", "0", "-1", "٥", "", "9" * 30]),
}
"""Values of the options, and the field of the API that they go to."""


@pytest.mark.parametrize("option", OFFERED)
def test_deploy_refuses_at_the_start_what_the_api_would_refuse_after_the_roll(option):
    script, (field, values) = deploy(), OFFERED[option]
    read = {"product": "name", "stock": "units"}.get(option, option)
    taken = set()
    for text in values:
        try:
            value = getattr(script, read)(text)
        except ValueError:
            continue
        body = {"name": "Phone", "price": "1", "stock": 1} | {field: value}
        new_product(msgspec.json.decode(msgspec.json.encode(body), type=NewProductIn))
        taken.add(text)
    assert taken == set(values[: {"product": 3, "price": 3, "stock": 2, "limit": 2}[option]])


def test_deploy_tells_what_the_health_check_of_a_silent_container_says(monkeypatch):
    script = deploy()
    monkeypatch.setattr(script.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, stdout=""))
    answers = [{"Output": "first"}, {"Output": "Health check exceeded\ntimeout (3s)"}]
    container = {
        "Id": "1",
        "Config": {"Labels": {"com.docker.compose.service": "sse"}},
        "State": {"Status": "running", "ExitCode": 0, "Health": {"Status": "unhealthy", "Log": answers}},
    }
    assert script.last_words(container) == "sse unhealthy: its health check says Health check exceeded timeout (3s)"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", ""])
def test_deploy_names_the_setting_of_a_port_that_another_program_has(host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as other:
        number = other.getsockname()[1]
        wanted = [
            {"target": 8080, "host_ip": host, "published": str(number)},
            {"target": 8443, "host_ip": "127.0.0.1"},
        ]
        assert busy_ports(wanted, []) == [f"LISTEN (docker/.env): {host or '*'} port {number}: Address already in use"]
        # The stack's own nginx has it, and is replaced.
        ports = {"8080/tcp": [{"HostIp": host, "HostPort": str(number)}], "8443/tcp": None}
        assert busy_ports(wanted, [ports]) == []


@pytest.mark.parametrize("returns", [True, False])
def test_deploy_says_why_a_release_does_not_work_also_if_the_one_before_fails_too(monkeypatch, returns):
    script = deploy()

    def replace_all(release, **_):
        if release == "new":
            raise script.Failed("the new one's fault")
        if not returns:
            raise subprocess.CalledProcessError(1, "docker", stderr="the old one's fault")

    monkeypatch.setattr(script, "replace_all", replace_all)
    monkeypatch.setattr(script, "build", lambda: "new")
    for name in ("image_id", "compose", "run"):
        monkeypatch.setattr(script, name, lambda *_, **__: "there")
    for name in ("fetch_images", "check_settings", "use", "say"):
        monkeypatch.setattr(script, name, lambda *_: None)
    options = SimpleNamespace(rolling=True, rollback=False)
    with pytest.raises(script.Failed) as failed:
        script.deploy(options, {"TAG": "old"})
    what = "runs again." if returns else "does not run again: the old one's fault"
    assert str(failed.value) == f"the new one's fault\nRelease old {what}"


@pytest.mark.parametrize(("cell", "gate", "well"), [(0, "loaded", True), (0, "empty", False), (1, "empty", True)])
def test_deploy_waits_for_loaded_gates_and_a_new_cell_has_none(monkeypatch, cell, gate, well):
    script = deploy()
    monkeypatch.setattr(script, "containers", lambda service: [service])
    monkeypatch.setattr(script, "run", lambda *_, **__: f'{{"ready":true,"gate":"{gate}"}}')
    monkeypatch.setattr(script, "compose", lambda *_: "3")
    monkeypatch.setattr(script, "wait_until", lambda condition, _: condition())
    if well:
        script.check(cell)
    else:
        with pytest.raises(script.Failed, match="not ready"):
            script.check(cell)


def test_deploy_notes_the_release_in_the_file(tmp_path):
    file = good_file(tmp_path, "TAG=1", "LISTEN=8000")
    write(file, TAG="2", TAG_BEFORE="1")
    values = read(file)
    assert (values["TAG"], values["TAG_BEFORE"], values["LISTEN"]) == ("2", "1", "8000")
    assert file.read_text().count("TAG=") == 1


def test_a_setting_that_a_process_refuses_is_named_as_in_the_file():
    said = deploy().with_origins("FLASHSALE_POSTGRES__OWNER_URL: Postgres refused")
    assert said == "FLASHSALE_POSTGRES__OWNER_URL (POSTGRES_PASSWORD in docker/.env): Postgres refused"


def test_the_image_is_built_once():
    builders = [name for name, service in COMPOSE["services"].items() if "build" in service]
    assert builders == ["migrate"]
    for name in OURS:
        assert COMPOSE["services"][name]["pull_policy"] == ("missing" if name == "migrate" else "never"), name


LEFT_OUT = re.findall(r"uninstall --yes ([\w ]+)", (DOCKER / "Dockerfile").read_text())[0].split()


def test_the_program_needs_nothing_that_the_image_leaves_out():
    """The API here; the build of the image imports the whole program without them."""
    assert LEFT_OUT == ["faker", "polyfactory"]
    program = f"import sys; sys.modules.update(dict.fromkeys({LEFT_OUT})); import flashsale.asgi"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=DOCKER.parent)
    assert done.returncode == 0, done.stderr


WELL = {
    ("migrate", "no", "exited", 0, None),
    ("other", "no", "exited", 0, None),
    *((service, policy, "running", 0, health) for service, policy in (("other", "no"), ("other", "unless-stopped"))
      for health in (None, "healthy")),
}  # fmt: skip
"""Service, restart policy, state, exit code and health: the schema must be ready before a process reads it."""


def test_deploy_goes_on_only_when_containers_are_healthy_and_the_migration_has_ended():
    is_well, found = deploy().is_well, set()
    for service, policy in (("migrate", "no"), ("other", "no"), ("other", "unless-stopped")):
        for status in ("created", "running", "restarting", "exited", "dead"):
            for code in (0, 1) if status in {"exited", "dead"} else (0,):
                for health in (None, "starting", "healthy", "unhealthy") if status == "running" else (None,):
                    container = {
                        "Config": {"Labels": {"com.docker.compose.service": service}},
                        "HostConfig": {"RestartPolicy": {"Name": policy}},
                        "State": {"Status": status, "ExitCode": code}
                        | ({"Health": {"Status": health}} if health else {}),
                    }
                    if is_well(container):
                        found.add((service, policy, status, code, health))
    assert found == WELL


def test_deploy_labels_the_image_with_the_version():
    assert deploy().build_info()["VERSION"] == __version__


def test_deploy_adds_the_passwords_that_a_file_of_an_earlier_release_lacks(tmp_path):
    old = tmp_path / ".env"
    lines = [f"{name}=a@b" for name in EXAMPLES if "_POSTGRES_" not in name]
    old.write_text("\n".join(lines))
    values = read(old)
    assert values.keys() == EXAMPLES.keys()
    assert len(values["API_POSTGRES_PASSWORD"]) > 30
    before = old.read_text()
    assert before.startswith("\n".join(lines) + "\n")
    read(old)
    assert old.read_text() == before


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
        assert service["restart"] == ("no" if name in {"migrate", "postgres-monitor"} else "unless-stopped")


def test_the_edge_takes_what_the_api_takes():
    nginx = (DOCKER / "nginx/nginx.conf").read_text()
    kib = 1024
    assert f"client_max_body_size {HttpSettings().body_bytes_max // kib}k;" in nginx
    assert f"large_client_header_buffers 4 {HttpSettings().head_bytes_max // kib}k;" in nginx
    locations = (DOCKER / "nginx/locations.conf").read_text()
    (silence_s,) = re.findall(r"proxy_read_timeout (\d+)s", locations)
    assert int(silence_s) > 2 * LiveSettings().keepalive_s


PUBLISHED = {
    ("8080/tcp", "0.0.0.0", "8000"): "http://127.0.0.1:8000",  # noqa: S104 - what the engine says
    ("8080/tcp", "", "8000"): "http://127.0.0.1:8000",
    ("8080/tcp", "::", "80"): "http://[::1]:80",
    ("8080/tcp", "::1", "8000"): "http://[::1]:8000",
    ("8080/tcp", "192.0.2.7", "80"): "http://192.0.2.7:80",
    ("8443/tcp", "0.0.0.0", "443"): "https://127.0.0.1:443",  # noqa: S104 - the same
    ("8443/tcp", "2001:db8::7", "443"): "https://[2001:db8::7]:443",
}


@pytest.mark.parametrize("published", PUBLISHED, ids=str)
def test_deploy_asks_the_address_that_the_engine_publishes(published):
    inner, host, port = published
    ports = {"8080/tcp": [{"HostIp": "9.9.9.9", "HostPort": "9"}], inner: [{"HostIp": host, "HostPort": port}]}
    assert address(ports, tls=inner == "8443/tcp") == PUBLISHED[published]


def test_each_image_of_the_stack_is_named_in_the_file():
    """A digest for Postgres' image is then the digest of each service that has this image."""
    images = {service["image"] for service in COMPOSE["services"].values()}
    of_the_stack = {one for one in images if re.match(r"(\$\{\w+_IMAGE:-)?(nginx|postgres|redis):", one)}
    assert {re.findall(r"\w+_IMAGE", one)[0] for one in of_the_stack} == {
        "NGINX_IMAGE",
        "POSTGRES_IMAGE",
        "REDIS_IMAGE",
    }
    assert len(of_the_stack) == 3
