"""The gateway's ledger file: what was flushed is there again, what was torn is not, and two never share it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flashsale.simulator.journal import Journal, LedgerFailedError, LedgerLockedError
from flashsale.simulator.ledger import ChargeStatus, Ledger, LedgerDamagedError


def open_and_capture(ledger: Ledger, key: str) -> None:
    ledger.capture(ledger.open(key, amount_minor=99_999, currency="USD", reference=None))


async def test_a_reopened_ledger_says_what_the_closed_one_said(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ledger.jsonl"
    ledger = Ledger(path)
    open_and_capture(ledger, "captured")
    captured = ledger.get("captured")
    assert captured is not None
    ledger.refund(captured, "refund-1", 40_000)
    ledger.refund(captured, "refund-2", 59_999)
    ledger.decline(ledger.open("declined", amount_minor=1, currency="USD", reference="\ud800"), "expired_card")
    ledger.open("pending", amount_minor=2, currency="EUR", reference="r")
    ledger.cancel("cancelled")
    await ledger.flushed()
    before = [entry.as_line("id") for entry in ledger]
    await ledger.close()

    again = Ledger(path)
    assert [entry.as_line("id") for entry in again] == before
    declined = again.get("declined")
    assert declined is not None
    assert (declined.reference, declined.decline_code) == ("\ud800", "expired_card")
    assert path.stat().st_mode & 0o777 == 0o600
    await again.close()


async def test_a_line_cut_short_by_a_kill_is_forgotten_and_the_next_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    open_and_capture(ledger, "first")
    ledger.open("torn", amount_minor=1, currency="USD", reference=None)
    await ledger.flushed()
    await ledger.close()
    os.truncate(path, path.stat().st_size - 5)

    ledger = Ledger(path)
    assert [entry.key for entry in ledger] == ["first"]
    open_and_capture(ledger, "second")
    await ledger.flushed()
    await ledger.close()

    ledger = Ledger(path)
    assert [(entry.key, entry.status) for entry in ledger] == [
        ("first", ChargeStatus.CAPTURED),
        ("second", ChargeStatus.CAPTURED),
    ]
    await ledger.close()


async def test_a_key_captured_twice_in_the_file_shows_two_captures(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    open_and_capture(ledger, "key")
    await ledger.flushed()
    await ledger.close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, lines[-1]]))

    ledger = Ledger(path)
    assert [entry.captures for entry in ledger] == [2]
    await ledger.close()


@pytest.mark.parametrize("damage", [b"\0\0\0\n", b"[]\n", b'{"op":"capture","key":"unseen","requests":1}\n', b"{}\n"])
async def test_a_damaged_ledger_is_refused_and_left_as_it_is(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(damage)
    with pytest.raises(LedgerDamagedError):
        Ledger(path)
    assert path.read_bytes() == damage


async def test_two_ledgers_never_share_a_file(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    with pytest.raises(LedgerLockedError):
        Ledger(tmp_path / "ledger.jsonl")
    await ledger.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
async def test_a_full_disk_is_told_and_nothing_after_it_counts_as_flushed() -> None:
    journal = Journal(os.open("/dev/full", os.O_WRONLY))
    for line in (b"first\n", b"second\n"):
        journal.append(line)
        with pytest.raises(LedgerFailedError):
            await journal.flushed()
    assert journal.failed.is_set()
    await journal.close()
