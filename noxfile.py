"""Everything that is run on this project: `nox -l` lists it, `nox` runs the checks and the tests."""

from __future__ import annotations

import os
import shutil
import subprocess

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "arch", "sql", "tests"]

TEXTS = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]
PYTHON = [
    "src",
    "workers",
    "migrations",
    "loadtest",
    "examples",
    "tests",
    "docker/deploy",
    "docker/edge.py",
    "docker/env_file.py",
    "noxfile.py",
]


def install(session: nox.Session) -> None:
    """Install the pinned dependencies, checked against their hashes, and the project itself."""
    session.install("--require-hashes", "-r", "requirements/dev.txt")
    session.install("--no-deps", "-e", ".")
    # Hundreds of processes are started, and each would compile all modules again: two thirds more processor time.
    session.env["PYTHONDONTWRITEBYTECODE"] = ""


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting and spelling."""
    install(session)
    session.run("ruff", "check", *PYTHON)
    session.run("ruff", "format", "--check", *PYTHON)
    session.run(
        "codespell", "src", "workers", "sql", "migrations", "loadtest", "examples", "tests", "docker", "docs", *TEXTS
    )


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly."""
    install(session)
    session.run("mypy")


@nox.session
def arch(session: nox.Session) -> None:
    """Check that imports point down."""
    install(session)
    session.run("lint-imports")


@nox.session
def sql(session: nox.Session) -> None:
    """Check the style of the SQL, and that the migrations can be printed as SQL."""
    install(session)
    files = ("sql/functions", "sql/queries", "sql/invariants.sql", "sql/invariants_recent.sql")
    session.run("sqlfluff", "lint", "--processes", "0", *files)
    session.run("python", "-m", "alembic", "upgrade", "head", "--sql", silent=True)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests against a real Postgres and a real Valkey; arguments go to pytest."""
    install(session)
    session.run("pytest", "-n", "3", *session.posargs)


@nox.session(name="tests-on", python=["3.11", "3.12", "3.13"])
def tests_on(session: nox.Session) -> None:
    """Run the tests on every Python from the oldest that is allowed to the image's; those not found are skipped."""
    tests(session)


@nox.session
def schema(session: nox.Session) -> None:
    """Let schemathesis ask for minutes, as administrator, buyer and nobody; `-- --examples 200` asks longer."""
    install(session)
    session.run("python", "-m", "tests.contract", *session.posargs)


@nox.session
def clients(session: nox.Session) -> None:
    """Generate a Python and a TypeScript client, check their types strictly, and buy with each."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        session.skip("npm and node are not on PATH")
    install(session)
    session.run("python", "-m", "tests.clients", *session.posargs)


@nox.session
def conformance(session: nox.Session) -> None:
    """Ask the payment simulator and localstripe the same, through Stripe's official library, and print the table."""
    install(session)
    # localstripe is under the GPL: it stays in an environment of its own and runs as a process of its own.
    own = session.create_tmp() + "/localstripe"
    session.run("python", "-m", "venv", own)
    session.run(f"{own}/bin/python", "-m", "pip", "install", "--quiet", "localstripe==1.15.10", external=True)
    session.run("python", "-m", "tests.conformance", "--localstripe", f"{own}/bin/python", *session.posargs)


@nox.session
def mutations(session: nox.Session) -> None:
    """Take every guard away in turn and see that a test fails."""
    install(session)
    session.run("python", "-m", "tests.mutations", *session.posargs)


@nox.session
def corruption(session: nox.Session) -> None:
    """Make every value of a sound sale wrong in turn, in every row, and print the table (about 5 minutes)."""
    install(session)
    session.run("python", "-m", "tests.corruption", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Send generated requests to the server, alone and through nginx, and check answers and memory (3 minutes)."""
    install(session)
    session.run("python", "-m", "tests.fuzz", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """Break every part in the middle of a sale, with several seeds (about 40 minutes); arguments go to the command."""
    install(session)
    session.run("python", "-m", "tests.faults", "matrix", *session.posargs)


@nox.session
def steps(session: nox.Session) -> None:
    """Kill a process before and after each step of a payment over Stripe's dialect (about 40 minutes)."""
    install(session)
    session.run("python", "-m", "tests.faults", "steps", *session.posargs)


@nox.session
def cells(session: nox.Session) -> None:
    """Sell in two cells behind one nginx, and kill each as a whole in the middle of both sales (3 minutes)."""
    install(session)
    session.run("python", "-m", "tests.cells", *session.posargs)


@nox.session
def payments(session: nox.Session) -> None:
    """Sell 1,000 units over Stripe's dialect while provider and workers fail, and compare the money (3 minutes)."""
    install(session)
    session.run("python", "-m", "tests.payments", "sale", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Hold sales with random faults for ten minutes and look for what was left; arguments go to the command."""
    install(session)
    session.run("python", "-m", "tests.faults", "soak", *session.posargs)


@nox.session
def pressure(session: nox.Session) -> None:
    """Press hard, overfill queues, flood with logins, rebuild the gate, hold idle products; arguments go on."""
    install(session)
    session.run("python", "-m", "tests.faults", "pressure", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure speed against controls, with the invariants of the same run; arguments go to the command."""
    install(session)
    session.run("python", "-m", "tests.bench", *session.posargs)


@nox.session
def history(session: nox.Session) -> None:
    """Measure all periodic work with 3,000,000 old orders (about 10 minutes); arguments go to the command."""
    install(session)
    session.run("python", "-m", "tests.growth", *session.posargs)


@nox.session
def observability(session: nox.Session) -> None:
    """Test the alert rules, then watch a small sale with a real Prometheus: each rule and panel; prints the panels."""
    if shutil.which("prometheus") is None or shutil.which("promtool") is None:
        session.skip("prometheus and promtool are not on PATH; Debian and Ubuntu: apt-get install prometheus")
    install(session)
    session.run("promtool", "check", "config", "docker/prometheus/prometheus.yml", external=True)
    session.run("promtool", "test", "rules", "docker/prometheus/tests/alerts.yml", external=True)
    session.run("python", "-m", "tests.observability", *session.posargs)


@nox.session
def docker(session: nox.Session) -> None:
    """Hold disturbed sales in containers, through nginx (5 minutes); `-- --only crowds`: crowds (10 minutes)."""
    for command in (["docker", "version"], ["docker", "compose", "version"]):
        if shutil.which("docker") is None or subprocess.run(command, capture_output=True, check=False).returncode:
            session.skip(f"needs a Docker engine with Compose v2, and `{' '.join(command)}` fails")
    install(session)
    session.run("python", "-m", "tests.docker", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documents' site, fail on a broken link, and run the shell blocks of README and tutorial literally."""
    install(session)
    session.run("zensical", "build", "--clean", "--strict")
    session.run("python", "-m", "tests.documents", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """Sell 1,000 units to 10,000 buyers on this machine and prove that it was right; arguments go to the command."""
    install(session)
    session.run("flashsale", "demo", *session.posargs)


@nox.session
def loadtest(session: nox.Session) -> None:
    """Load a running stack: `nox -s loadtest -- stampede|journey|spectators --host http://127.0.0.1:8000 ...`."""
    install(session)
    name, *arguments = session.posargs or ["stampede", "--help"]
    session.run("locust", "--headless", "--only-summary", "-f", f"loadtest/{name}.py", *arguments)


@nox.session
def analysis(session: nox.Session) -> None:
    """Sell the same drop with other architectures and judge all by one oracle: `nox -s analysis -- --help`."""
    install(session)
    command = ["python", "-m", "analysis", *session.posargs]
    # An analysis that is interrupted stops its servers and deletes their files.
    session.run(*command, env={"PYTHONPATH": "loadtest"}, interrupt_timeout=60, terminate_timeout=60)


@nox.session
def lock(session: nox.Session) -> None:
    """Pin the newest allowed dependencies with their hashes into requirements/."""
    if shutil.which("uv") is None:
        session.install("uv")
    # Local package folders of this machine stay out of the files.
    environment = {name: None for name in os.environ if name.startswith(("PIP_", "UV_"))}
    base = ["uv", "pip", "compile", "--upgrade", "--universal", "--python-version", "3.11", "--generate-hashes"]
    plain = ["--no-header", "--no-annotate", "--no-emit-index-url", "--quiet"]
    run, dev = "requirements/run.txt", "requirements/dev.txt"
    # The image has the extra: whether a process traces is a setting.
    code = ["pyproject.toml", "--extra", "tracing"]
    session.run(*base, *plain, *code, "-o", run, env=environment, external=True)
    session.run(*base, *plain, "-c", run, *code, "--group", "dev", "-o", dev, env=environment, external=True)


@nox.session
def browser(session: nox.Session) -> None:
    """Buy, sell and run a sale in a real chromium on a real stack; `-- --pictures` also writes docs/pictures."""
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        session.skip("chromium is not on PATH; Debian and Ubuntu: apt-get install chromium")
    install(session)
    session.run("pytest", "tests/browser", *session.posargs)


@nox.session
def charts(session: nox.Session) -> None:
    """Render the Kubernetes manifests with kubectl, if there is one, and validate them against the schemas."""
    install(session)
    session.install("kubernetes-validate==1.37.0")
    session.run("python", "-m", "tests.kubernetes", *session.posargs)


@nox.session
def image(session: nox.Session) -> None:
    """Write the image's bill of materials (sbom.json); with a Docker engine also measure the image and look into it."""
    install(session)
    # The tool has dependencies of its own: it stays in an environment of its own.
    own = session.create_tmp() + "/bill"
    session.run("python", "-m", "venv", own)
    session.run(f"{own}/bin/python", "-m", "pip", "install", "--quiet", "cyclonedx-bom==7.5.0", external=True)
    session.run("python", "-m", "tests.docker.image", "--tool", f"{own}/bin/cyclonedx-py", *session.posargs)


@nox.session
def guide(session: nox.Session) -> None:
    """Follow docs/how-to/deploy.md literally in a fresh clone, with a Docker engine (5 minutes)."""
    command = ["docker", "version"]
    if shutil.which("docker") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        session.skip("needs a Docker engine with Compose v2")
    install(session)
    session.run("python", "-m", "tests.documents.guide", *session.posargs)


@nox.session
def export(session: nox.Session) -> None:
    """Export 100,000 orders and a tenth of them, and compare time and memory (1 minute)."""
    install(session)
    session.run("python", "-m", "tests.growth.export", *session.posargs)


@nox.session
def desk(session: nox.Session) -> None:
    """Run and print what a merchant and support do, from an empty folder to a restored shop (1 minute)."""
    install(session)
    session.run("python", "-m", "tests.desk", *session.posargs)


@nox.session
def gates(session: nox.Session) -> None:
    """Hold sales over TLS, Sentinels, a cluster and PgBouncer, and disturb each (4 minutes)."""
    install(session)
    session.run("python", "-m", "tests.gates", *session.posargs)


@nox.session
def failover(session: nox.Session) -> None:
    """Lose the primary, then the gate's server, in a sale (5 minutes); `-- --pitr`: restore to a second."""
    install(session)
    session.run("python", "-m", "tests.failover", *session.posargs)


@nox.session
def tracing(session: nox.Session) -> None:
    """Sell one unit on a real stack that traces, and print the order's trace; fails if a step is missing (20 s)."""
    install(session)
    session.run("python", "-m", "tests.tracing", *session.posargs)


@nox.session
def archive(session: nox.Session) -> None:
    """Archive a sale of 100,000 orders while another product sells, and audit both (2 minutes)."""
    install(session)
    session.run("python", "-m", "tests.growth.archive", *session.posargs)
