"""CSV that a spreadsheet reads back as it was, and runs nothing of."""

import csv
import io
import itertools

from flashsale.runtime.csv_rows import FORMULAS, ROW_END, csv_rows

STARTS = ["", "=", "+", "-", "@", "\t=", "\r=", "\n+", " @", "\x00=", ",", '"', "'"]
MIDDLES = ["1+1", 'cmd|"/C calc"!A0', "a@example.com", "x\r\ny", "", "\u00e9"]


def test_no_cell_of_any_text_is_a_formula_or_breaks_the_rows():
    texts = ["".join(parts) for parts in itertools.product(STARTS, MIDDLES, ["", "\r\n=2", '"'])]
    written = csv_rows([text, 7] for text in texts)
    assert written.count(ROW_END) == len(texts)
    rows = list(csv.reader(io.StringIO(written, newline="")))
    assert len(rows) == len(texts)
    for text, (cell, number) in zip(texts, rows, strict=True):
        assert number == "7"
        assert not cell.lstrip().startswith(FORMULAS), (text, cell)
        kept = "".join(one if one.isprintable() else " " for one in text)
        assert cell in {kept, f"'{kept}"}


def test_numbers_stay_numbers():
    assert csv_rows([[-5, "-12.50", "12.50", "-1-1", None]]) == "-5,-12.50,12.50,'-1-1,\r\n"
