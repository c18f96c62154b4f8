"""The manifests of docker/kubernetes give processes what the Compose file gives them, and nothing more; `nox -s charts` validates them."""

from __future__ import annotations

import re

import jsonschema_rs
import pytest
import yaml

from flashsale import __version__
from flashsale.settings import OPTIONAL, SECRETS, Settings, secret_names, variable
from flashsale.settings.edge import LiveSettings
from flashsale.settings.groups import PostgresSettings, WorkerSettings
from flashsale.usecases.figures import QUEUES
from tests.kubernetes.manifests import FOLDER, KEDA, container_of, of_kind, pod_of, rendered, written
from tests.unit.test_alerts_and_dashboards import RECORDED, names
from tests.unit.test_containers import COMPOSE, DOCKER, OURS, kind

OBJECTS = written()
WORKLOADS = of_kind(OBJECTS, "Deployment", "Job")
SCALED = of_kind(OBJECTS, "ScaledObject")
SHARED = of_kind(OBJECTS, "ConfigMap")["flashsale-settings"]["data"]
SERVED = "http"
"""Name of the port of API, SSE and simulator."""

EXTRA_GRACE_S = {"api": 5, "sse": 5}
"""What the hook before SIGTERM takes."""

DIFFERS = {
    # Of Docker's networks there, of the cluster's here.
    "FLASHSALE_HTTP__TRUSTED_PROXIES",
    # Several containers, not several processes in one.
    "FLASHSALE_WORKERS__PROCESSES",
    # The simulator's component sets it.
    "FLASHSALE_PAYMENTS__GATEWAY_URL",
}


def environment(service):
    """Return the variables that a pod is given: plain ones with values, and where secrets come from."""
    container = container_of(WORKLOADS[service])
    plain = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    secret = {one["name"]: one["valueFrom"]["secretKeyRef"] for one in container["env"] if "valueFrom" in one}
    if container.get("envFrom") == [{"configMapRef": {"name": "flashsale-settings"}}]:
        plain |= SHARED
    return plain, secret


def seconds(text):
    return int(str(text).removesuffix("s"))


def test_the_same_services_run():
    assert set(WORKLOADS) == set(OURS)


@pytest.mark.parametrize("service", OURS)
def test_a_pod_runs_what_its_container_runs(service):
    (command,) = re.findall(r"(?m)^CMD (\[.*\])$", (DOCKER / "Dockerfile").read_text())
    wanted = COMPOSE["services"][service].get("command") or yaml.safe_load(command)
    assert container_of(WORKLOADS[service])["command"] == [str(part) for part in wanted]


@pytest.mark.parametrize("service", OURS)
def test_a_pod_gets_the_secrets_of_its_kind_and_no_others_each_under_its_own_name(service):
    plain, secret = environment(service)
    assert {name for name in secret_names() if variable(name) in secret} == SECRETS[kind(service)]
    assert all(variable(name) not in plain for name in secret_names())
    for name, source in secret.items():
        assert source["key"] == name
    # What may be absent with the provider of the base is optional here, and the process says what it misses.
    needed = {variable(name) for name in SECRETS[kind(service)] - OPTIONAL}
    assert {name for name, source in secret.items() if not source.get("optional")} >= needed - {
        "FLASHSALE_POSTGRES__API_PASSWORD",
        "FLASHSALE_POSTGRES__WORKER_PASSWORD",
        "FLASHSALE_PAYMENTS__GATEWAY_SECRET",
    }


@pytest.mark.parametrize("service", OURS)
def test_the_example_of_the_secrets_has_each_that_a_pod_needs(service):
    given = {(one["metadata"]["name"], key) for one in OBJECTS if one["kind"] == "Secret" for key in one["stringData"]}
    _, secret = environment(service)
    for name, source in secret.items():
        assert source.get("optional") or service == "simulator" or (source["name"], name) in given, name


@pytest.mark.parametrize("service", OURS)
def test_a_pod_gets_the_settings_of_its_container(service):
    known = {
        variable(f"{group}.{name}")
        for group, field in Settings.model_fields.items()
        for name in field.annotation.model_fields
    } | {"PROMETHEUS_MULTIPROC_DIR"}
    plain, _ = environment(service)
    assert plain.keys() <= known
    secrets = {variable(name) for name in secret_names()}
    for name, text in COMPOSE["services"][service]["environment"].items():
        if text is None or name in secrets or name in DIFFERS:
            continue
        value = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(text))
        if service == "migrate" and name.startswith("FLASHSALE_WORKERS"):
            continue
        assert plain.get(name) == value, name


@pytest.mark.parametrize("service", OURS)
def test_a_pod_listens_and_is_asked_where_its_container_is(service):
    container = container_of(WORKLOADS[service])
    if service == "migrate":
        assert "ports" not in container
        return
    asked = COMPOSE["services"][service].get("healthcheck", {}).get("test") or [
        "CMD",
        "healthy",
        "8000",
        "/health/ready",
    ]
    (port,) = container["ports"]
    assert str(port["containerPort"]) == asked[2]
    assert container["readinessProbe"]["httpGet"] == {"path": asked[3], "port": port["name"]}
    # Only a process that hangs is ended: one that waits for Postgres is not.
    assert container["livenessProbe"]["httpGet"] == {"path": "/health/live", "port": port["name"]}
    startup = container["startupProbe"]
    assert startup["httpGet"]["port"] == port["name"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 60
    services = of_kind(OBJECTS, "Service")
    assert (service in services) == (port["name"] == SERVED)
    if service in services:
        (open_port,) = services[service]["spec"]["ports"]
        assert (open_port["port"], open_port["targetPort"]) == (port["containerPort"], port["name"])


@pytest.mark.parametrize("service", OURS)
def test_a_pod_has_the_time_memory_and_folders_of_its_container(service):
    compose, pod = COMPOSE["services"][service], pod_of(WORKLOADS[service])
    container = container_of(WORKLOADS[service])
    grace_s = seconds(compose["stop_grace_period"]) + EXTRA_GRACE_S.get(service, 0)
    assert pod["terminationGracePeriodSeconds"] == grace_s
    assert ("lifecycle" in container) == (service in EXTRA_GRACE_S)
    if service in EXTRA_GRACE_S:
        assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", str(EXTRA_GRACE_S[service])]
    limit = compose["deploy"]["resources"]["limits"]["memory"]
    assert container["resources"]["limits"] == {"memory": f"{limit}i"}
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    folders = {path.partition(":")[0] for path in compose["tmpfs"]}
    mounted = {one["mountPath"] for one in container["volumeMounts"]}
    assert mounted == folders | ({"/data"} if service == "simulator" else set())
    assert {one["name"] for one in pod["volumes"]} == {one["name"] for one in container["volumeMounts"]}


@pytest.mark.parametrize("service", OURS)
def test_no_pod_has_a_privilege(service):
    pod, container = pod_of(WORKLOADS[service]), container_of(WORKLOADS[service])
    (user,) = re.findall(r"(?m)^USER (\d+):", (DOCKER / "Dockerfile").read_text())
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == int(user)
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()


@pytest.mark.parametrize("service", [one for one in OURS if one != "migrate"])
def test_pods_of_a_service_are_spread_and_leave_one_after_the_other(service):
    selector = WORKLOADS[service]["spec"]["selector"]
    budget = of_kind(OBJECTS, "PodDisruptionBudget")[service]["spec"]
    assert budget["selector"] == selector
    assert budget["maxUnavailable"] == 1
    spread = pod_of(WORKLOADS[service])["topologySpreadConstraints"]
    assert {one["topologyKey"] for one in spread} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    assert all(one["labelSelector"] == selector for one in spread)


def selected(policy, labels):
    """Whether a policy is about pods with these labels."""
    selector = policy["spec"]["podSelector"]
    if any(labels.get(name) != value for name, value in selector.get("matchLabels", {}).items()):
        return False
    for one in selector.get("matchExpressions", []):
        inside = labels.get(one["key"]) in one["values"]
        if inside != (one["operator"] == "In"):
            return False
    return True


def ports(service, direction):
    """Return the ports that pods of a service may reach (Egress) or be reached at (Ingress)."""
    labels = WORKLOADS[service]["spec"]["template"]["metadata"]["labels"]
    rules = [
        rule
        for policy in of_kind(OBJECTS, "NetworkPolicy").values()
        if selected(policy, labels)
        for rule in policy["spec"].get(direction.lower(), [])
    ]
    assert all(rule.get("ports") for rule in rules)
    return {port["port"] for rule in rules for port in rule["ports"]}


def test_pods_reach_and_are_reached_at_what_they_need_alone():
    reached = {service: ports(service, "Egress") for service in OURS}
    servers = {53, 5432, 6379, 4318}
    assert reached == {
        "api": servers | {443},
        "sse": servers,
        "orders": servers,
        "payments": servers | {443, 9100},
        "maintenance": servers | {443, 465, 587},
        "migrate": {53, 5432},
        "simulator": {53},
    }
    metrics = {8000, 9101}
    assert {service: ports(service, "Ingress") for service in OURS} == {
        **dict.fromkeys(OURS, metrics),
        "simulator": metrics | {9100},
    }
    every = of_kind(OBJECTS, "NetworkPolicy")["flashsale"]["spec"]
    assert every["policyTypes"] == ["Ingress", "Egress"], "what no policy names is refused"


def passed_on(path):
    """Return the upstream to which nginx passes a path; None: it answers 404."""
    text = (DOCKER / "nginx/locations.conf").read_text()
    found = re.findall(r"(?m)^location (=|~)? ?(\S+) \{(.*?)(?:^\}|\}$)", text, re.DOTALL)
    exact = [body for sign, at, body in found if sign == "=" and at == path]
    patterns = [body for sign, at, body in found if sign == "~" and re.search(at, path)]
    prefixes = sorted((len(at), body) for sign, at, body in found if not sign and path.startswith(at))
    body = (exact or patterns or [prefixes[-1][1]])[0]
    if "return 404" in body:
        return None
    return "sse" if "http://$sse" in body else "api"


def routed(path):
    """Return the Service to which the Ingress routes a path; None: to none."""
    rules = [
        rule
        for ingress in of_kind(OBJECTS, "Ingress").values()
        for rule in ingress["spec"]["rules"][0]["http"]["paths"]
    ]
    for rule in rules:
        prefix = rule["path"].rstrip("/")
        if path == rule["path"] or (rule["pathType"] == "Prefix" and f"{path}/".startswith(f"{prefix}/")):
            return rule["backend"]["service"]["name"]
    return None


def test_what_is_public_is_what_nginx_makes_public():
    text = (DOCKER / "nginx/locations.conf").read_text()
    words = set(re.findall(r"[a-z][a-z-]*", " ".join(re.findall(r"(?m)^location (.*?) \{", text))))
    words |= {"metrics", "orderss", "apis", "nothing"}
    # A folder that nginx passes on only below itself (/api/) may be asked for itself: the API answers 404.
    paths = ["/"] + [path for word in sorted(words) for path in (f"/{word}/1", f"/{word}/x/y", f"/{word}s/1")]
    assert len(paths) > 60
    assert {path: routed(path) for path in paths} == {path: passed_on(path) for path in paths}
    assert {routed(path) for path in paths} == {"api", "sse", None}
    assert routed("/metrics") is None


@pytest.mark.parametrize("name", SCALED)
def test_a_scaled_object_is_one_of_kedas_and_scales_what_there_is(name):
    scaled = SCALED[name]
    jsonschema_rs.validate(KEDA, scaled)
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validate(KEDA, {**scaled, "spec": {**scaled["spec"], "minReplicas": 1}})
    assert scaled["spec"]["scaleTargetRef"]["name"] == name
    assert name in WORKLOADS
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["type"] == "prometheus"
    ours = names(trigger["metadata"]["query"])
    assert ours <= RECORDED | {"flashsale_event_loop_lag_seconds", "flashsale_streams"}


def test_workers_are_scaled_by_the_jobs_that_wait_and_the_jobs_that_run():
    concurrency = {
        "orders": WorkerSettings().order_concurrency,
        "payments": int(SHARED["FLASHSALE_WORKERS__PAYMENT_CONCURRENCY"]),
    }
    for queue, jobs in concurrency.items():
        assert queue in QUEUES
        (trigger,) = SCALED[queue]["spec"]["triggers"]
        query = f'sum(flashsale:jobs{{queue="{queue}", status=~"todo|doing"}})'
        assert (trigger["metadata"]["query"], int(trigger["metadata"]["threshold"])) == (query, jobs)
    (streams,) = SCALED["sse"]["spec"]["triggers"]
    assert int(streams["metadata"]["threshold"]) < LiveSettings().streams_max


def test_all_pods_together_open_no_more_connections_than_postgres_has():
    (allowed,) = re.findall(r"max_connections=(\d+)", str(COMPOSE["services"]["postgres"]["command"]))
    pool = PostgresSettings().pool_max
    pods = {name: one["spec"]["maxReplicaCount"] for name, one in SCALED.items()}
    pods["maintenance"] = WORKLOADS["maintenance"]["spec"]["replicas"]
    most = sum(count * (pool + 1 if name in {"api", "sse"} else 2 * pool + 1) for name, count in pods.items())
    # The rest is for migrations, backups and people.
    assert most <= int(allowed) - 10, most


def test_the_example_renders_with_everything_in_its_namespace():
    objects = rendered(FOLDER / "example")
    if objects is None:
        pytest.skip("kubectl is not on PATH")
    assert {one["metadata"].get("namespace") for one in objects} == {"shop"}
    deployments = of_kind(objects, "Deployment")
    assert {name for name, one in deployments.items() if "replicas" not in one["spec"]} == set(SCALED)
    assert {container_of(one)["image"] for one in deployments.values()} == {
        f"registry.shop.example/flashsale:{__version__}"
    }
    assert of_kind(objects, "Ingress").keys() == {"api", "sse"}
