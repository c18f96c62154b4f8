"""Take every guard away in turn and see that a test fails: `nox -s mutations`.

Each mutation is made in a copy of the checkout, in which only the tests named for it are run. A guard whose tests still
pass without it is not tested: exit code 1. Example: `python tests/mutations.py --only epoch`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
COPIED = ("src", "sql", "migrations", "workers", "tests", "alembic.ini", "pyproject.toml")
AT_ONCE = 2
TIMEOUT_S = 180


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """A guard, and what it is replaced with."""

    guard: str
    file: str
    before: str
    after: str
    tests: str
    """What pytest is given with -k, in tests/integration."""


MUTATIONS = [
    Mutation(
        guard="units are claimed under row locks",
        file="sql/functions/accept_orders_v1.sql",
        before="            FOR NO KEY UPDATE SKIP LOCKED\n",
        after="",
        tests="fifty_connections_on_ten_units",
    ),
    Mutation(
        guard="short of units: locked ones are not sold out",
        file="sql/functions/accept_orders_v1.sql",
        before="CASE WHEN _visible >= _quantities[i] THEN 'retry' ELSE 'sold_out' END",
        after="'sold_out'",
        tests="units_that_others_lock",
    ),
    Mutation(
        guard="the limit per buyer is in the upsert's condition",
        file="sql/functions/accept_orders_v1.sql",
        before="_product.limit_per_buyer IS NULL OR b.units + excluded.units <= _product.limit_per_buyer",
        after="true",
        tests="limit_holds_when_one_buyer_races",
    ),
    Mutation(
        guard="a lease of another epoch is refused",
        file="sql/functions/accept_orders_v1.sql",
        before="WHEN _epochs[i] <> _product.epoch THEN 'stale_epoch'",
        after="",
        tests="lease_of_another_epoch",
    ),
    Mutation(
        guard="paused and the sale window are checked under the lock",
        file="sql/functions/accept_orders_v1.sql",
        before="WHEN _product.paused THEN 'paused'",
        after="",
        tests="nothing_is_accepted_outside",
    ),
    Mutation(
        guard="a user's key has one order",
        file="migrations/versions/0001_orders_units_and_jobs.py",
        before="CREATE UNIQUE INDEX requests_user_key",
        after="CREATE INDEX requests_user_key",
        tests="repeated_key_is_answered",
    ),
    Mutation(
        guard="a void proposal stays void",
        file="sql/functions/accept_orders_v1.sql",
        before="_outcome[_row.place] := 'voided';",
        after="NULL;",
        tests="void_proposal_can_never",
    ),
    Mutation(
        guard="an outcome counts only with the newest attempt",
        file="sql/functions/finish_payments_v1.sql",
        before=" AND o.attempt = i.attempt\n        WHERE",
        after="\n        WHERE",
        tests="while_the_new_attempt_is_open",
    ),
    Mutation(
        guard="an outcome moves only an order that is being paid",
        file="sql/functions/finish_payments_v1.sql",
        before="WHERE o.status IN ('processing_payment', 'payment_unknown')",
        after="WHERE true",
        tests="outcome_counts_once",
    ),
    Mutation(
        guard="a new attempt supersedes the open one",
        file="sql/functions/begin_payments_v1.sql",
        before="WHERE order_id = ANY(_held) AND outcome IS NULL;",
        after="WHERE false;",
        tests="superseded_worker_changes_nothing",
    ),
    Mutation(
        guard="an order whose payment was asked for does not expire",
        file="sql/functions/end_orders_v1.sql",
        before="AND o.pay_requested_at IS NULL AND o.due_at <= clock_timestamp()",
        after="AND o.due_at <= clock_timestamp()",
        tests="buyer_pays_once_and_then",
    ),
    Mutation(
        guard="released units leave a return for the gate",
        file="sql/functions/release_units_v1.sql",
        before="    WHERE o.order_id = ANY(_order_ids);\n\n    IF _product_ids",
        after="    WHERE false;\n\n    IF _product_ids",
        tests="unpaid_orders_expire_and_their_units",
    ),
    Mutation(
        guard="a release lowers the buyer's count",
        file="sql/functions/release_units_v1.sql",
        before="SET units = b.units - l.units",
        after="SET units = b.units",
        tests="limit_per_buyer_counts_live",
    ),
    Mutation(
        guard="the trigger refuses other transitions",
        file="sql/functions/guard_order_transition_v1.sql",
        before="IF NOT order_transition_allowed_v1(old.status, new.status) THEN",
        after="IF false THEN",
        tests="forbidden_transition",
    ),
    Mutation(
        guard="a job that waits is not deferred again",
        file="sql/functions/sweep_orders_v1.sql",
        before="WHERE j.id = o.job_id AND j.status = 'todo'",
        after="WHERE false",
        tests="order_whose_job_is_gone",
    ),
    Mutation(
        guard="the allotment stays above what orders hold",
        file="sql/functions/set_allotment_v1.sql",
        before="IF _allotment < _claimed THEN",
        after="IF false THEN",
        tests="allotment_never_falls",
    ),
    Mutation(
        guard="a change waits for accepts under way",
        file="sql/queries/products.sql",
        before="SELECT pg_advisory_xact_lock(7000, $1);",
        after="SELECT $1::integer;",
        tests="change_waits_for_accepts",
    ),
    Mutation(
        guard="a loading that lost the race does nothing",
        file="sql/functions/begin_gate_load_v1.sql",
        before="WHERE product_id = _product_id AND epoch = _seen_epoch",
        after="WHERE product_id = _product_id",
        tests="loading_that_lost_the_race",
    ),
    Mutation(
        guard="the gate believes only the server that it was loaded on",
        file="src/flashsale/adapters/redis/scripts/admit.lua",
        before="or redis.call('GET', KEYS[2]) ~= ARGV[1]\n",
        after="\n",
        tests="restarted_server_is_not_loaded or foreign_contents",
    ),
    Mutation(
        guard="the gate believes only its epoch",
        file="src/flashsale/adapters/redis/scripts/admit.lua",
        before="if redis.call('GET', KEYS[1]) ~= ARGV[2] or",
        after="if false or",
        tests="foreign_contents",
    ),
    Mutation(
        guard="the gate leases no more than its stock",
        file="src/flashsale/adapters/redis/scripts/admit.lua",
        before="if not answer and stock < units then",
        after="if false then",
        tests="no_stock_no_admission",
    ),
    Mutation(
        guard="a return counts once",
        file="src/flashsale/adapters/redis/scripts/return.lua",
        before="if redis.call('SADD', KEYS[5], ARGV[at]) == 1 then",
        after="if true then",
        tests="return_counts_once",
    ),
    Mutation(
        guard="an older loading does not replace a newer one",
        file="src/flashsale/adapters/redis/scripts/load.lua",
        before="    return 0\nend\nfor",
        after="end\nfor",
        tests="older_loading_does_not_replace",
    ),
    Mutation(
        guard="a lease goes back only if its proposal is void",
        file="src/flashsale/usecases/maintain.py",
        before="                if void:\n",
        after="                if True:\n",
        tests="lease_past_its_deadline",
    ),
    Mutation(
        guard="a reused key does not free another request's lease",
        file="src/flashsale/usecases/buy.py",
        before="elif outcome is AcceptOutcome.RETRY or outcome is AcceptOutcome.KEY_REUSED:",
        after="elif outcome is AcceptOutcome.RETRY:",
        tests="key_that_is_under_way",
    ),
    Mutation(
        guard="a lost COMMIT is found out by voiding",
        file="src/flashsale/usecases/buy.py",
        before="            return await self._resolve_unknown(proposals)\n",
        after="            raise Unavailable from None\n",
        tests="commit_whose_reply_was_lost",
    ),
    Mutation(
        guard="a keyed request is looked up before it is refused",
        file="src/flashsale/usecases/buy.py",
        before="        if request.key is not None:\n            verdict",
        after="        if False:\n            verdict",
        tests="buys_agree_with_the_gate",
    ),
    Mutation(
        guard="a gate that is stuck low is loaded anew",
        file="src/flashsale/usecases/maintain.py",
        before="if low and self._low.get(product_id) == observed:",
        after="if False:",
        tests="stuck_low",
    ),
    Mutation(
        guard="one bad request does not spoil its batch",
        file="src/flashsale/usecases/buy.py",
        before="            if len(proposals) > 1:\n",
        after="            if False:\n",
        tests="one_bad_request",
    ),
    Mutation(
        guard="units free in Postgres but not at the gate are returned by whoever says sold out",
        file="src/flashsale/usecases/buy.py",
        before="            self._return_units.soon()\n",
        after="            pass\n",
        tests="units_whose_releaser_died",
    ),
]


def try_mutation(mutation: Mutation) -> str:
    """Run the mutation's tests without the guard; gives `caught`, or what is wrong with the mutation or the tests."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copy = Path(folder)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / name)
        file = copy / mutation.file
        text = file.read_text()
        if text.count(mutation.before) != 1:
            return f"the guard is {text.count(mutation.before)} times in {mutation.file}"
        file.write_text(text.replace(mutation.before, mutation.after))
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-x",
                "-p",
                "no:cacheprovider",
                "tests/integration",
                "-k",
                mutation.tests,
            ],
            cwd=copy,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
    return {0: "SURVIVED", 1: "caught"}.get(
        done.returncode, f"pytest ended with {done.returncode}: {done.stdout[-300:]}"
    )


@click.command(epilog="Example: python tests/mutations.py --only epoch")
@click.option("--only", default="", help="Only guards whose text holds this.")
def main(only: str) -> None:
    """Take every guard away in turn and see that a test fails."""
    chosen = [mutation for mutation in MUTATIONS if only in mutation.guard]
    console = Console(width=None if sys.stdout.isatty() else 130)
    table = Table("guard", "test", "without it", title="mutations", title_justify="left")
    survived = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for number, (mutation, verdict) in enumerate(zip(chosen, pool.map(try_mutation, chosen), strict=True), 1):
            console.print(f"{number}/{len(chosen)} {mutation.guard}: {verdict}", highlight=False, soft_wrap=True)
            table.add_row(mutation.guard, mutation.tests, verdict)
            survived += verdict != "caught"
    console.print(table)
    console.print(f"{len(chosen) - survived} caught, {survived} not")
    sys.exit(int(survived > 0))


if __name__ == "__main__":
    main()
