"""The documents say what is: settings, problem codes and dependencies are compared with the code."""

import re
import tomllib
from pathlib import Path

from flashsale.domain import errors
from flashsale.http.problems import CODES
from flashsale.http.routes.problem_pages import MEANINGS
from flashsale.settings import DELIMITER, OPTIONAL, PREFIX, SECRETS, Settings, secret_names, variable

ROOT = Path(__file__).parents[2]


def settings_rows():
    required = frozenset().union(*SECRETS.values()) - OPTIONAL - {"postgres.owner_url"}
    for group_name, group in Settings.model_fields.items():
        for name, field in group.annotation.model_fields.items():
            variable = f"{PREFIX}{group_name.upper()}{DELIMITER}{name.upper()}"
            default = (
                "required"
                if f"{group_name}.{name}" in required
                else str(getattr(field.default, "get_secret_value", lambda f=field: f.default)())
            )
            yield f"| `{variable}` | {f'`{default}`' if default else 'empty'} | {field.description} |"


def test_every_setting_is_documented_with_its_default_and_meaning():
    text = (ROOT / "docs/reference/settings.md").read_text()
    documented = set(re.findall(r"^\| `FLASHSALE_.*\|$", text, re.MULTILINE))
    assert documented == set(settings_rows())


def test_the_table_of_secrets_is_that_of_the_code():
    text = (ROOT / "docs/reference/settings.md").read_text()
    rows = re.findall(r"(?m)^\| `(\w+)` \| .* \| (`FLASHSALE_.*`) \|$", text)
    documented = {process: set(re.findall(r"`(\w+)`", secrets)) for process, secrets in rows}
    assert documented == {process: {variable(name) for name in names} for process, names in SECRETS.items()}


def test_every_secret_is_some_processs():
    assert set(secret_names()) == set().union(*SECRETS.values())


def test_every_setting_is_read_somewhere():
    code = "".join(
        path.read_text() for folder in ("src", "workers", "migrations") for path in (ROOT / folder).rglob("*.py")
    )
    for module in ("groups", "simulator"):
        code = code.replace((ROOT / f"src/flashsale/settings/{module}.py").read_text(), "")
    for group in Settings.model_fields.values():
        for name in group.annotation.model_fields:
            assert re.search(rf"\.{name}\b|\"{name}\"", code), name


def test_every_problem_code_is_documented():
    text = (ROOT / "docs/reference/problems.md").read_text()
    documented = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    todo, codes = [errors.FlashSaleError], set()
    while todo:
        one = todo.pop()
        codes.add(one.code)
        todo += one.__subclasses__()
    assert documented == (codes - {"error", "gateway_misuse"}) | set(CODES.values()) | {"internal"}


def test_every_problem_has_a_page_that_says_what_its_row_says():
    text = (ROOT / "docs/reference/problems.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (.*?) \| (.*?) \|$", text, re.MULTILINE)
    assert {code: (int(status), meaning, advice) for code, status, meaning, advice in rows} == MEANINGS


def test_every_dependency_has_its_reason():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    named = list(project["project"]["dependencies"])
    for group in (*project["dependency-groups"].values(), *project["project"]["optional-dependencies"].values()):
        named += [item for item in group if isinstance(item, str)]
    names = {re.split(r"[\[<>=;]", item)[0] for item in named}
    text = (ROOT / "docs/reference/dependencies.md").read_text()
    assert set(re.findall(r"^\| `([\w-]+)` \|", text, re.MULTILINE)) == names


def texts():
    """Return each text file of the project and what it holds: code, rules and dashboards name documents too."""
    rooms = ("docker", "docs", "examples", "loadtest", "migrations", "sql", "src", "tests", "workers")
    files = [*ROOT.glob("*.*"), *(path for room in rooms for path in (ROOT / room).rglob("*"))]
    kinds = {".md", ".py", ".sql", ".yml", ".json", ".toml", ".conf", ".lua", ".sh", ".example", ".html", ""}
    for path in files:
        if path.is_file() and path.suffix in kinds:
            yield path, path.read_text()


def anchors(document):
    """Return the anchors of a document's headings, as its site makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_links_between_documents_lead_somewhere():
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target, _, anchor in re.findall(r"\]\((?!http)([^)#]*)(#([^)]+))?\)", path.read_text()):
            found = path.parent / target if target else path
            assert found.exists(), f"{path.name}: {target}"
            assert not anchor or anchor in anchors(found), f"{path.name}: {target}#{anchor}"


def test_each_document_that_a_file_names_by_its_path_exists():
    named = {
        (path, document, anchor)
        for path, text in texts()
        for document, _, anchor in re.findall(r"(?<![\w./])(docs/[\w/-]+\.md)(#([\w-]+))?", text)
    }
    assert len(named) > 40
    for path, document, anchor in named:
        assert (ROOT / document).is_file(), f"{path.relative_to(ROOT)} names {document}"
        assert not anchor or anchor in anchors(ROOT / document), f"{path.relative_to(ROOT)} names {document}#{anchor}"


def test_each_page_has_its_place_in_the_navigation():
    placed = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text().partition("nav:")[2]))
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert placed == {page for page in pages if not page.startswith("adr/0")}


def test_each_test_that_a_document_names_exists():
    defined = {
        name
        for path in (ROOT / "tests").rglob("*.py")
        for name in [path.stem, *re.findall(r"def (test_\w+)\(", path.read_text())]
    }
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        unknown = set(re.findall(r"(?<!/v1/)\btest_\w+", path.read_text())) - defined
        assert not unknown, f"{path.name} names {unknown}"


def test_a_document_that_names_a_function_of_the_database_names_its_newest_version():
    newest: dict[str, int] = {}
    for path in (ROOT / "sql" / "functions").glob("*.sql"):
        name, _, version = path.stem.rpartition("_v")
        newest[name] = max(newest.get(name, 0), int(version))
    # A decision speaks of its own day.
    for path in [*ROOT.glob("*.md"), *set((ROOT / "docs").rglob("*.md")) - set((ROOT / "docs" / "adr").iterdir())]:
        for line in path.read_text().splitlines():
            named = {(name, int(version)) for name, version in re.findall(r"\b([a-z_]+)_v(\d+)\b", line)}
            old = {(name, version) for name, version in named if version < newest.get(name, version)}
            assert all((name, newest[name]) in named for name, _ in old), f"{path.name} names {old}"


def test_each_decision_has_a_date_and_a_status_and_its_title_is_in_the_index():
    index = (ROOT / "docs/adr/README.md").read_text()
    rows = re.findall(r"^\| (\d+) \| \[(.*?)\]\((.*?)\) \| ([\d-]+) \| (.*?) \|$", index, re.MULTILINE)
    assert {row[2] for row in rows} == {path.name for path in (ROOT / "docs/adr").glob("0*.md")}
    for number, title, name, date, status in rows:
        head = (ROOT / "docs/adr" / name).read_text().splitlines()[:3]
        dated = f"**Date.** {date}. **Status.** {status[0].upper()}{status[1:]}."
        assert head == [f"# {number}. {title}", "", dated], name
