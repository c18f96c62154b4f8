"""The shipped nginx before several cells: each request reaches the cell that its path or its header names."""

from contextlib import ExitStack

import httpx
import pytest

from flashsale.domain.cells import first_product
from flashsale.domain.requests import order_id_at
from flashsale.local.access import free_port
from tests.support.shipped_nginx import BINARIES, shipped_nginx
from tests.support.upstream_server import upstream_server

pytestmark = pytest.mark.skipif(not BINARIES, reason="needs nginx")

CELLS = (0, 1, 12)


@pytest.fixture(scope="module", params=list(BINARIES.values()), ids=list(BINARIES))
def shop(request, tmp_path_factory):
    """nginx before an upstream for each cell, which answers with its address."""
    with ExitStack() as opened:
        port = free_port()
        places = {cell: f"127.0.0.{cell + 1}:{port}" for cell in CELLS}
        for cell in CELLS:
            opened.enter_context(upstream_server(f"127.0.0.{cell + 1}", port))
        edge, _ = opened.enter_context(
            shipped_nginx(
                tmp_path_factory.mktemp("cells"),
                request.param,
                upstream=port,
                CELLS=" ".join(f"{cell}={places[cell]},{places[cell]}" for cell in CELLS[1:]),
            )
        )
        with httpx.Client(base_url=f"http://127.0.0.1:{edge.port}", timeout=10) as client:
            yield client


def named(client, method, path, **headers) -> int:
    """Return the cell that answered."""
    with client.stream(method, path, headers=headers) as answer:
        assert answer.status_code == 200, path
        said = next(answer.iter_text())
    return int(said.removeprefix("data: ").strip().rpartition(".")[2]) - 1


def test_paths_and_headers_reach_their_cells(shop):
    tried = 0
    for cell in CELLS:
        for product in (first_product(cell), first_product(cell) + 9_999_998 - 1, first_product(cell) + 41):
            for path in (
                "/api/products/{}",
                "/api/products/{}?x=1",
                "/sse/stock/{}",
                "/p/{}",
                "/p/{}/buy",
                "/api/admin/products/{}/stock",
            ):
                assert named(shop, "GET", path.format(product)) == cell, path.format(product)
                tried += 1
            assert named(shop, "POST", "/api/order/buy-flash", **{"Flashsale-Product": str(product)}) == cell
        for entropy in (bytes(10), b"\xff" * 10, b"\x80" * 10):
            order = order_id_at(1_800_000_000_000, entropy, cell)
            for path in (
                "/api/order/{}/status",
                "/api/order/{}/pay",
                "/sse/orders/{}?token=a",
                "/order/{}",
                "/api/admin/orders/{}/refunds",
            ):
                assert named(shop, "GET", path.format(order)) == cell, path.format(order)
                tried += 1
        for path in (
            "/api/orders",
            "/api/products",
            "/api/auth/login",
            "/api/webhooks/stripe",
            f"/p/{first_product(0)}",
        ):
            assert named(shop, "GET", f"/cells/{cell}{path}") == cell
            tried += 1
    assert tried == len(CELLS) * (3 * 6 + 3 * 5 + 5)


@pytest.mark.parametrize(
    "path",
    [
        "/api/auth/login",
        "/api/products",
        "/api/products?before=10000001",
        "/api/products/1/20000001",
        "/api/products/9999999",
        "/api/products/30000001",
        "/api/orders?before=01890a5d-ac96-8012-8000-000000000000",
        "/",
    ],
)
def test_accounts_lists_and_what_no_cell_has_reach_cell_0(shop, path):
    assert named(shop, "GET", path, **{"Flashsale-Product": "10000001"}) == 0


def test_a_buy_without_the_header_reaches_cell_0_which_names_the_right_one(shop):
    assert named(shop, "POST", "/api/order/buy-flash") == 0
    assert named(shop, "POST", "/api/order/buy-flash", **{"Flashsale-Product": "ten"}) == 0


def test_a_prefix_of_no_cell_reaches_none(shop):
    for number in ("30", "2", "11", "112", "120", "199", "1" * 30):
        for path in ("/api/products", "/api/admin/products", "/p/10000001", "/sse/stock/10000001"):
            answer = shop.post(f"/cells/{number}{path}")
            assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json"), number
    for number, cell in (("00", 0), ("01", 1), ("012", 12)):
        assert named(shop, "GET", f"/cells/{number}/api/products") == cell


def test_a_prefix_opens_no_path_that_is_not_public(shop):
    for path in ("/cells/1/metrics", "/cells/1/elsewhere", "/cells/1/"):
        answer = shop.get(path)
        assert answer.status_code == (200 if path == "/cells/1/" else 404), path


@pytest.mark.parametrize("cells", ["one=a:1,b:1", "01=a:1,b:1", "1=a:1", "=a:1,b:1"])
def test_a_list_of_cells_that_is_none_ends_with_one_line(tmp_path, cells):
    with (
        pytest.raises(AssertionError, match="CELLS: no "),
        shipped_nginx(tmp_path, next(iter(BINARIES.values())), CELLS=cells),
    ):
        pass
