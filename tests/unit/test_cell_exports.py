"""What the exports of cells add up to, whatever their format."""

import json

import pytest

from flashsale.cli.cell_exports import _totals
from flashsale.runtime.csv_rows import csv_rows

ID = "01890a5d-ac96-{version}-8000-000000000000"
COLUMNS = ("orderId", "status", "totalPrice", "refunded", "currency")
ORDERS = (
    ("confirmed", "9.99", "0.00", "USD"),
    ("confirmed", "19.98", "0.01", "USD"),
    ("refunded", "9.99", "9.99", "USD"),
    ("expired", "9.99", "0.00", "USD"),
    ("refund_pending", "1000", "0", "JPY"),
)


def written(folder, form, version):
    rows = [(ID.format(version=version), *order) for order in ORDERS]
    path = folder / f"cell.{form}"
    if form == "csv":
        path.write_bytes(csv_rows([COLUMNS, *rows]).encode())
    else:
        path.write_text("".join(json.dumps(dict(zip(COLUMNS, row, strict=True))) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_paid_and_refunded_are_added_up_by_currency(tmp_path, form):
    totals = _totals(written(tmp_path, form, "8012"), form, 12, "https://shop.example/cells/12")
    assert str(totals) == "5 orders; JPY: 1000 paid, 0 refunded; USD: 39.96 paid, 10.00 refunded"
    twice = _totals(written(tmp_path, form, "7000"), form, 0, "https://shop.example")
    twice.update(totals)
    assert str(twice) == "10 orders; JPY: 2000 paid, 0 refunded; USD: 79.92 paid, 20.00 refunded"


@pytest.mark.parametrize(("version", "cell"), [("7000", 1), ("8001", 0), ("8001", 2)])
def test_orders_of_another_cell_are_no_export_of_this_one(tmp_path, version, cell):
    path = written(tmp_path, "csv", version)
    with pytest.raises(SystemExit, match="another cell"):
        _totals(path, "csv", cell, "https://shop.example")
    assert not path.exists()
