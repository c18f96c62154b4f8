"""Exports of orders, over HTTP and on the command line: whole, in order, or not at all."""

import csv
import io
import json
import os
import resource
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.support.api import BUY, final

EXPORT = "/api/admin/orders/export"


@pytest.fixture
def export(stack, admin):
    """Run `flashsale orders export`."""
    environment = {
        "PATH": os.environ["PATH"],
        "FLASHSALE_URL": stack.base_url,
        "FLASHSALE_TOKEN": admin["Authorization"].removeprefix("Bearer "),
    }

    def run(*arguments, bytes_max=None, url=None):
        def limit():
            if bytes_max is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_max, bytes_max))

        return subprocess.run(
            [sys.executable, "-m", "flashsale.cli", "orders", "export", *map(str, arguments)],
            env=environment | ({} if url is None else {"FLASHSALE_URL": url}),
            cwd=ROOT,
            capture_output=True,
            preexec_fn=limit,
            check=False,
        )

    return run


@pytest.fixture
async def sold(api, admin, product, buyers):
    """Sell to five buyers a product with a name that a spreadsheet would run; returns its id and the orders' ids."""
    product_id = await product(name='=HYPERLINK(1)\r\n, "Phone"')
    orders = []
    for _ in range(5):
        headers = next(buyers)
        order_id = (await api.post(BUY, json={"productId": product_id}, headers=headers)).json()["orderId"]
        assert await final(api, order_id, headers) == "confirmed"
        orders.append(order_id)
    return product_id, sorted(orders, reverse=True)


async def test_an_export_has_what_the_list_has_in_both_formats(api, admin, sold, export, tmp_path):
    product_id, order_ids = sold
    listed = (await api.get("/api/admin/orders", params={"productId": product_id}, headers=admin)).json()
    assert [one["orderId"] for one in listed] == order_ids
    lines = await api.get(EXPORT, params={"productId": product_id, "format": "jsonl"}, headers=admin)
    assert [json.loads(line) for line in lines.text.splitlines()] == listed
    table = await api.get(EXPORT, params={"productId": product_id}, headers=admin)
    assert table.headers["content-disposition"] == 'attachment; filename="orders.csv"'
    rows = list(csv.DictReader(io.StringIO(table.text, newline="")))
    for row, one in zip(rows, listed, strict=True):
        assert row["productName"] == '\'=HYPERLINK(1)  , "Phone"'
        assert [row[name] for name in ("orderId", "status", "email", "totalPrice")] == [
            one[name] for name in ("orderId", "status", "email", "totalPrice")
        ]
    for form, text in (("csv", table.content), ("jsonl", lines.content)):
        out = tmp_path / form
        done = export("--product", product_id, "--format", form, "--out", out)
        assert (done.returncode, done.stdout) == (0, b""), done.stderr
        assert done.stderr.startswith(b"5 orders in ")
        assert out.read_bytes() == text
        assert out.stat().st_mode & 0o077 == 0
        assert export("--product", product_id, "--format", form).stdout == text


async def test_an_export_takes_the_filters_of_the_list_and_may_be_empty(api, admin, sold):
    product_id, _ = sold
    for more in ({"status": "expired"}, {"email": "nobody@example.com"}, {"createdFrom": "2999-01-01T00:00:00Z"}):
        for form, text in (("csv", 1), ("jsonl", 0)):
            answer = await api.get(EXPORT, params={"productId": product_id, "format": form, **more}, headers=admin)
            assert (answer.status_code, answer.text.count("\n")) == (200, text)
    for wrong in (
        "format=xml",
        "limit=5",
        "before=x",
        "createdFrom=2026-01-02T00:00:00Z&createdTo=2026-01-01T00:00:00Z",
    ):
        assert (await api.get(f"{EXPORT}?{wrong}", headers=admin)).status_code == 400


def test_a_full_disk_leaves_what_was_there_and_says_so_in_one_line(sold, export, tmp_path):
    out = tmp_path / "orders.csv"
    out.write_text("of yesterday")
    done = export("--product", sold[0], "--out", out, bytes_max=300)
    assert done.returncode == 1
    assert done.stderr.decode() == f"flashsale: {out}: File too large\n"
    assert [path.name for path in tmp_path.iterdir()] == ["orders.csv"]
    assert out.read_text() == "of yesterday"
    done = export("--product", sold[0], "--out", "/dev/full")
    assert (done.returncode, done.stderr) == (1, b"flashsale: No space left on device\n")
    done = export("--product", sold[0], "--out", tmp_path / "none" / "orders.csv")
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1


CUT = """
import socket
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
connection, _ = server.accept()
connection.recv(65536)
connection.sendall(b"HTTP/1.1 200 OK\\r\\ncontent-type: text/csv\\r\\ntransfer-encoding: chunked\\r\\n\\r\\n5\\r\\na,b\\r\\n\\r\\n")
connection.close()
"""


def test_an_answer_that_is_cut_leaves_no_file(export, tmp_path):
    """A server that dies in the middle of an export."""
    with subprocess.Popen([sys.executable, "-c", CUT], stdout=subprocess.PIPE, text=True) as server:
        port = int(server.stdout.readline())
        done = export("--out", tmp_path / "orders.csv", url=f"http://127.0.0.1:{port}")
    assert done.returncode == 1
    assert done.stderr.decode() == f"flashsale: http://127.0.0.1:{port} ended its answer too early; ask again.\n"
    assert list(tmp_path.iterdir()) == []
