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
        guard="a place is taken before the gate is asked",
        file="src/flashsale/usecases/batching.py",
        before="if self._taken[key] >= self._queue_max or self._taken_in_all",
        after="if self._taken_in_all",
        tests="overfills_every_queue",
    ),
    Mutation(
        guard="sold out is said only if Postgres has too few units",
        file="src/flashsale/usecases/buy.py",
        before="        if free < request.quantity:\n",
        after="        if True:\n",
        tests="true_answers",
    ),
    Mutation(
        guard="a proposal that ended undecided is given up",
        file="src/flashsale/usecases/buy.py",
        before="            if proposal.epoch is not None:\n                self.giving_up",
        after="            if False:\n                self.giving_up",
        tests="as_soon_as_postgres_answers or cancelled_gives",
    ),
    Mutation(
        guard="a busy or retried proposal is given up in the end",
        file="src/flashsale/usecases/buy.py",
        before="        elif outcome in _UNDECIDED:\n",
        after="        elif False:\n",
        tests="locked_product_are_told or reused_key or other_body",
    ),
    Mutation(
        guard="what Postgres sees is given back to the gate",
        file="src/flashsale/adapters/redis/scripts/admit.lua",
        before="what == 2 and math.min(n, units) or 0",
        after="0",
        tests="too_few_for_one_request",
    ),
    Mutation(
        guard="the gate is told who is at the limit",
        file="src/flashsale/adapters/redis/scripts/admit.lua",
        before="bump(user, -units, what == 1 and n or 0)",
        after="bump(user, -units, 0)",
        tests="one_void_request_after_a_reload",
    ),
    Mutation(
        guard="a limit is confirmed by Postgres",
        file="src/flashsale/usecases/buy.py",
        before="if limit is not None and held + request.quantity > limit:",
        after="if True:",
        tests="only_the_gate_believes_in",
    ),
    Mutation(
        guard="a key under way is refused nothing",
        file="src/flashsale/usecases/buy.py",
        before="            if self._tries[key] > 1:\n",
        after="            if False:\n",
        tests="under_way_in_the_same_process",
    ),
    Mutation(
        guard="no order is made of a key that was told sold out",
        file="sql/functions/accept_orders_v2.sql",
        before="CASE WHEN _quantities[i] = 1 THEN _above_zero ELSE _raised END",
        after="_oldest",
        tests="refused_since_it_began",
    ),
    Mutation(
        guard="no order is made of a key that was told the limit",
        file="sql/functions/accept_orders_v2.sql",
        before="            IF _late[i] OR (\n",
        after="            IF (\n",
        tests="refused_since_it_began",
    ),
    Mutation(
        guard="no order is made of a key that was told that the sale is closed",
        file="sql/functions/accept_orders_v2.sql",
        before="                    WHEN _keys[i] IS NOT NULL AND _order_ids[i] < _changed THEN 'voided'\n",
        after="",
        tests="refused_since_it_began",
    ),
    Mutation(
        guard="an old proposal makes no order",
        file="sql/functions/accept_orders_v2.sql",
        before="WHEN _order_ids[i] NOT BETWEEN _oldest AND _newest THEN 'voided'",
        after="",
        tests="far_from_the_servers_time",
    ),
    Mutation(
        guard="nobody is answered with the order of somebody else",
        file="sql/functions/accept_orders_v2.sql",
        before="(_row.own_kind = 'void' OR _row.foreign_id)",
        after="_row.own_kind = 'void'",
        tests="order_of_somebody_else",
    ),
    Mutation(
        guard="a proposal that waited too long is not sent",
        file="src/flashsale/usecases/buy.py",
        before="if proposals[place].send_by_s > now_s]",
        after="]",
        tests="waited_too_long",
    ),
    Mutation(
        guard="foreign returns are forgotten",
        file="src/flashsale/adapters/redis/scripts/return.lua",
        before="if is ~= 'zset' and is ~= 'none' then",
        after="if false then",
        tests="whatever_a_key_holds",
    ),
    Mutation(
        guard="leases and their order ids belong together",
        file="src/flashsale/adapters/redis/scripts/state.lua",
        before="or redis.call('HLEN', KEYS[5]) ~= count or",
        after="or",
        tests="whatever_a_key_holds",
    ),
    Mutation(
        guard="a lease that never ends is not ours",
        file="src/flashsale/adapters/redis/scripts/state.lua",
        before="'(' .. now_ms + ARGV[3], '+inf') > 0 then",
        after="'(' .. now_ms + ARGV[3], '+inf') < 0 then",
        tests="whatever_a_key_holds",
    ),
    Mutation(
        guard="one product's flushes wait for no other's",
        file="src/flashsale/usecases/buy.py",
        before="with self.accepting.place(product_id) as queue:",
        after="with self.accepting.place(None) as queue:",
        tests="locked_product_delays_no_other",
    ),
    Mutation(
        guard="units are claimed under row locks",
        file="sql/functions/claim_units_v1.sql",
        before="            FOR NO KEY UPDATE SKIP LOCKED\n        );\n        EXIT",
        after="        );\n        EXIT",
        tests="fifty_connections_on_ten_units",
    ),
    Mutation(
        guard="blocks of a metric file are reserved before they are mapped",
        file="src/flashsale/runtime/shared_metrics.py",
        before="            os.posix_fallocate(file.fileno(), 0, max(size, FIRST_BYTES))\n",
        after="            file.truncate(max(size, FIRST_BYTES))\n",
        tests="is_shown_on_a_disk",
    ),
    Mutation(
        guard="blocks of a metric file that grows are reserved too",
        file="src/flashsale/runtime/shared_metrics.py",
        before="            os.posix_fallocate(self._f.fileno(), 0, 2 * self._capacity)\n",
        after="            self._f.truncate(2 * self._capacity)\n",
        tests="is_shown_on_a_disk",
    ),
    Mutation(
        guard="the schema's digests are compared, not only its names",
        file="src/flashsale/adapters/postgres/schema.py",
        before="        if found.objects.get(name) != digest and",
        after="        if name not in found.objects and",
        tests="every_change_of_every_object",
    ),
    Mutation(
        guard="an older release asks of a newer schema only what it calls",
        file="src/flashsale/adapters/postgres/schema.py",
        before=" and (not newer or name.startswith(USED_BY_OLDER))",
        after="",
        tests="older_release_runs_on_a_newer_schema",
    ),
    Mutation(
        guard="readiness tries whether the disk has room",
        file="src/flashsale/adapters/postgres/health.py",
        before="            if await self._is_full():",
        after="            if False:",
        tests="full_disk_is_not_ready",
    ),
    Mutation(
        guard="an existing administrator's password is left alone",
        file="src/flashsale/usecases/accounts.py",
        before="        if change and not await",
        after="        if not await",
        tests="keeps_the_password_if_only",
    ),
    Mutation(
        guard="a restored ledger keeps only what the database knows",
        file="src/flashsale/local/backup.py",
        before="            (kept if order_id in known else after).append(line)",
        after="            kept.append(line)",
        tests="backup_in_mid_sale",
    ),
    Mutation(
        guard="rows are found by an index, however small the tables are",
        file="src/flashsale/adapters/postgres/database.py",
        before="                **self._plans,\n",
        after="",
        tests="reads_a_whole_table",
    ),
    Mutation(
        guard="units before the last claim's end are looked for too",
        file="sql/functions/claim_units_v1.sql",
        before="    IF cardinality(_locked) < _most THEN\n",
        after="    IF false THEN\n",
        tests="units_behind_the_last_claim_are_sold",
    ),
    Mutation(
        guard="units before the last claim's end are claimed under row locks",
        file="sql/functions/claim_units_v1.sql",
        before="            FOR NO KEY UPDATE SKIP LOCKED\n        );\n    END IF;",
        after="        );\n    END IF;",
        tests="fifty_connections_on_units_behind",
    ),
    Mutation(
        guard="one at a time makes or deletes rows of units",
        file="sql/functions/tend_units_v1.sql",
        before=" FOR NO KEY UPDATE;\n    IF _unmade > 0",
        after=";\n    IF _unmade > 0",
        tests="claims_and_the_maker_race",
    ),
    Mutation(
        guard="a claim that finds no row makes some",
        file="sql/functions/claim_units_v1.sql",
        before="PERFORM tend_units_v1(",
        after="PERFORM abs(_product_id), greatest(",
        tests="every_unit_is_sold",
    ),
    Mutation(
        guard="a claim takes no more than the free count",
        file="sql/functions/claim_units_v1.sql",
        before="_most := least(_wanted, _free);",
        after="_most := _wanted;",
        tests="rows_that_are_too_many",
    ),
    Mutation(
        guard="while rows are too many, one at a time claims",
        file="sql/functions/claim_units_v1.sql",
        before=" FOR NO KEY UPDATE;\n        SELECT l.free",
        after=";\n        SELECT l.free",
        tests="rows_that_are_too_many",
    ),
    Mutation(
        guard="a change counted from the allotment reads it under the lock",
        file="sql/functions/change_allotment_v1.sql",
        before="    PERFORM pg_advisory_xact_lock(7000, _product_id);\n",
        after="",
        tests="two_administrators_who_add",
    ),
    Mutation(
        guard="a change is refused if somebody else came first",
        file="src/flashsale/adapters/postgres/products.py",
        before="                if row[stale]:\n                    raise StaleChange\n",
        after="",
        tests="somebody_else_has_changed",
    ),
    Mutation(
        guard="one product whose rows cannot be made stops no other",
        file="src/flashsale/usecases/tend_units.py",
        before="                except FlashSaleError as error:",
        after="                except ZeroDivisionError as error:",
        tests="tended_in_turn",
    ),
    Mutation(
        guard="a client that stops inside a transaction loses it",
        file="src/flashsale/adapters/postgres/database.py",
        before='                "idle_in_transaction_session_timeout": str(round(settings.idle_transaction_timeout_s * 1000)),\n',
        after="",
        tests="stops_inside_a_change",
    ),
    Mutation(
        guard="short of units: locked ones are not sold out",
        file="sql/functions/accept_orders_v2.sql",
        before="CASE WHEN _visible[i] >= _quantities[i] THEN 'retry' ELSE 'sold_out' END",
        after="'sold_out'",
        tests="units_that_others_lock",
    ),
    Mutation(
        guard="the limit per buyer is in the upsert's condition",
        file="sql/functions/accept_orders_v2.sql",
        before="_product.limit_per_buyer IS NULL OR b.units + excluded.units <= _product.limit_per_buyer",
        after="true",
        tests="limit_holds_when_one_buyer_races",
    ),
    Mutation(
        guard="a lease of another epoch is refused",
        file="sql/functions/accept_orders_v2.sql",
        before="WHEN _epochs[i] <> _product.epoch THEN 'stale_epoch'",
        after="",
        tests="lease_of_another_epoch",
    ),
    Mutation(
        guard="paused and the sale window are checked under the lock",
        file="sql/functions/accept_orders_v2.sql",
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
        file="sql/functions/accept_orders_v2.sql",
        before="_outcome[_row.place] := 'voided';",
        after="NULL;",
        tests="void_proposal_can_never",
    ),
    Mutation(
        guard="sold out is repeated only while no unit is known to be free",
        file="src/flashsale/usecases/buy.py",
        before="said_lately and not self._catalog.stock(product_id).free",
        after="said_lately",
        tests="once_units_are_known_to_be_free",
    ),
    Mutation(
        guard="sold out is repeated for a short time",
        file="src/flashsale/usecases/buy.py",
        before="asked_s + SOLD_OUT_S",
        after="asked_s + 3600",
        tests="for_a_short_time_only",
    ),
    Mutation(
        guard="only one unit that is missing means sold out",
        file="src/flashsale/usecases/buy.py",
        before="if not free and asked_s is not None and not",
        after="if asked_s is not None and not",
        tests="say_nothing_of_one",
    ),
    Mutation(
        guard="each process limits the rate of every request",
        file="src/flashsale/usecases/buy.py",
        before="        self._rate.check(request.user_id, product_id)\n",
        after="",
        tests="told_sold_out_from_memory_is_limited",
    ),
    Mutation(
        guard="an outcome counts only with the newest attempt",
        file="sql/functions/finish_payments_v2.sql",
        before=" AND o.attempt = i.attempt\n        WHERE",
        after="\n        WHERE",
        tests="while_the_new_attempt_is_open",
    ),
    Mutation(
        guard="an outcome moves only an order that is being paid",
        file="sql/functions/finish_payments_v2.sql",
        before="WHERE o.status IN ('processing_payment', 'payment_unknown')",
        after="WHERE true",
        tests="outcome_counts_once",
    ),
    Mutation(
        guard="a new attempt supersedes the open one",
        file="sql/functions/begin_payments_v2.sql",
        before="WHERE order_id = ANY(_held) AND outcome IS NULL;",
        after="WHERE false;",
        tests="superseded_worker_changes_nothing",
    ),
    Mutation(
        guard="an order whose payment was asked for does not expire",
        file="sql/functions/end_orders_v2.sql",
        before="AND o.pay_requested_at IS NULL AND o.due_at <= clock_timestamp()",
        after="AND o.due_at <= clock_timestamp()",
        tests="buyer_pays_once_and_then",
    ),
    Mutation(
        guard="released units leave a return for the gate",
        file="sql/functions/release_units_v2.sql",
        before="    WHERE o.order_id = ANY(_order_ids);\n\n    IF _product_ids",
        after="    WHERE false;\n\n    IF _product_ids",
        tests="unpaid_orders_expire_and_their_units",
    ),
    Mutation(
        guard="a release lowers the buyer's count",
        file="sql/functions/release_units_v2.sql",
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
        file="sql/functions/sweep_orders_v2.sql",
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
        before="if redis.call('ZADD', KEYS[5], 'NX', now_ms, ARGV[at]) == 1 then",
        after="redis.call('ZADD', KEYS[5], 'NX', now_ms, ARGV[at])\n    if true then",
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
        file="src/flashsale/usecases/reconcile.py",
        before="                if void:\n",
        after="                if True:\n",
        tests="lease_past_its_deadline",
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
        before="        if request.key is None:\n            free",
        after="        if True:\n            free",
        tests="buys_agree_with_the_gate",
    ),
    Mutation(
        guard="a gate that is stuck low is loaded anew",
        file="src/flashsale/usecases/reconcile.py",
        before="if now_s - self._off_since_s.setdefault(product_id, now_s) >= OFF_S:",
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
    Mutation(
        guard="a refused proposal with a lease is void",
        file="sql/functions/accept_orders_v2.sql",
        before="AND i.outcome NOT IN ('accepted', 'retry') AND i.epoch IS NOT NULL;",
        after="AND false;",
        tests="no_more_than_there_is or buys_agree",
    ),
    Mutation(
        guard="a refusal without a lease leaves no request",
        file="sql/functions/accept_orders_v2.sql",
        before="AND (i.outcome = 'retry' OR (i.outcome <> 'accepted' AND i.epoch IS NULL));",
        after="AND i.outcome = 'retry';",
        tests="refusal_without_a_lease",
    ),
    Mutation(
        guard="a retry leaves no request",
        file="sql/functions/accept_orders_v2.sql",
        before="AND (i.outcome = 'retry' OR (i.outcome <> 'accepted' AND i.epoch IS NULL));",
        after="AND i.outcome <> 'accepted' AND i.outcome <> 'retry' AND i.epoch IS NULL;",
        tests="units_that_others_lock",
    ),
    Mutation(
        guard="a refused buyer is not counted",
        file="sql/functions/accept_orders_v2.sql",
        before="            SET units = b.units - _quantities[i.place]\n",
        after="            SET units = b.units\n",
        tests="no_more_than_there_is",
    ),
    Mutation(
        guard="another body under a key is told apart",
        file="sql/functions/accept_orders_v2.sql",
        before="ELSIF _row.fingerprint IS DISTINCT FROM _row.asked_fingerprint THEN",
        after="ELSIF false THEN",
        tests="repeated_key_is_answered",
    ),
    Mutation(
        guard="a proposal that lost to another id is void",
        file="sql/functions/accept_orders_v2.sql",
        before="AND (i.outcome = 'key_reused' OR (i.outcome = 'replayed' AND i.answered <> i.order_id))",
        after="AND false",
        tests="repeated_key_is_answered",
    ),
    Mutation(
        guard="the start of the sale is checked under the lock",
        file="sql/functions/accept_orders_v2.sql",
        before="            WHEN _now < _product.starts_at THEN 'not_started'\n",
        after="",
        tests="nothing_is_accepted_outside",
    ),
    Mutation(
        guard="the end of the sale is checked under the lock",
        file="sql/functions/accept_orders_v2.sql",
        before="            WHEN _now >= _product.ends_at THEN 'ended'\n",
        after="",
        tests="nothing_is_accepted_outside",
    ),
    Mutation(
        guard="nobody is charged before the buyer pays",
        file="sql/functions/begin_payments_v2.sql",
        before="AND (o.payment_mode = 'automatic' OR o.pay_requested_at IS NOT NULL)",
        after="",
        tests="buyer_pays_once_and_then",
    ),
    Mutation(
        guard="a payment is asked for once",
        file="sql/functions/request_payment_v1.sql",
        before="AND pay_requested_at IS NULL AND due_at",
        after="AND due_at",
        tests="buyer_pays_once_and_then",
    ),
    Mutation(
        guard="an order whose payment was asked for is not cancelled",
        file="sql/functions/end_orders_v2.sql",
        before="o.status = 'awaiting_payment' AND o.pay_requested_at IS NULL\n                WHEN 'failed'",
        after="o.status = 'awaiting_payment'\n                WHEN 'failed'",
        tests="buyer_pays_once_and_then",
    ),
    Mutation(
        guard="only queued orders are processed",
        file="sql/functions/process_orders_v2.sql",
        before=" AND o.status = 'queued'\n",
        after="\n",
        tests="processing_orders_twice",
    ),
    Mutation(
        guard="an order is processed only with its units",
        file="sql/functions/process_orders_v2.sql",
        before="            AND o.quantity = (SELECT count(*) FROM units AS u WHERE u.order_id = o.order_id)\n",
        after="",
        tests="order_without_its_units",
    ),
    Mutation(
        guard="a loading forgets the returns it counted",
        file="sql/functions/begin_gate_load_v1.sql",
        before="    DELETE FROM gate_returns WHERE product_id = _product_id;\n",
        after="",
        tests="returns_wait_for_a_gate",
    ),
    Mutation(
        guard="the same allotment changes nothing",
        file="sql/functions/set_allotment_v1.sql",
        before="IF _allotment = _before THEN",
        after="IF false THEN",
        tests="allotment_never_falls",
    ),
    Mutation(
        guard="the sweep wakes only due orders",
        file="sql/queries/orders.sql",
        before="WHERE o.due_at <= now()\n",
        after="WHERE o.due_at IS NOT NULL\n",
        tests="only_orders_that_are_due",
    ),
    Mutation(
        guard="a new attempt has the same gateway key",
        file="sql/functions/begin_payments_v2.sql",
        before="m.attempt, m.order_id::text,",
        after="m.attempt, m.order_id::text || m.attempt,",
        tests="unknown_outcome_is_asked_for",
    ),
    Mutation(
        guard="an unknown outcome keeps the units",
        file="sql/functions/finish_payments_v2.sql",
        before="WHEN 'unknown' THEN 'payment_unknown'",
        after="",
        tests="what_the_gateway_says",
    ),
    Mutation(
        guard="a settled lease gives nothing back",
        file="src/flashsale/adapters/redis/scripts/admit.lua",
        before="what == 1 and units or what == 2",
        after="what < 2 and units or what == 2",
        tests="units_are_leased_settled",
    ),
    Mutation(
        guard="a lease is given back once",
        file="src/flashsale/adapters/redis/scripts/admit.lua",
        before="    redis.call('HDEL', KEYS[5], unpack(ids))\n",
        after="",
        tests="units_are_leased_settled",
    ),
    Mutation(
        guard="a lease is given back once, within a batch too",
        file="src/flashsale/adapters/redis/scripts/admit.lua",
        before="not gone[id] and held[i] or ''",
        after="held[i] or ''",
        tests="units_are_leased_settled",
    ),
    Mutation(
        guard="requests of one key share a lease within a batch too",
        file="src/flashsale/adapters/redis/scripts/admit.lua",
        before="(leased[running] or redis.call('HGET', KEYS[5], running))",
        after="redis.call('HGET', KEYS[5], running)",
        tests="running_request_of_the_same_key",
    ),
    Mutation(
        guard="a running request of the same key shares its lease",
        file="src/flashsale/adapters/redis/scripts/admit.lua",
        before="if running and (leased[running] or redis.call('HGET', KEYS[5], running)) == units .. ':' .. user .. ':' .. key then",
        after="if false then",
        tests="running_request_of_the_same_key",
    ),
    Mutation(
        guard="the gate keeps the limit per buyer",
        file="src/flashsale/adapters/redis/scripts/admit.lua",
        before="if has + units > buyer_limit then",
        after="if false then",
        tests="limit_per_buyer_is_kept_and_given_back",
    ),
    Mutation(
        guard="the gate limits the rate",
        file="src/flashsale/adapters/redis/scripts/admit.lua",
        before="> rate_limit then",
        after="> 1e9 then",
        tests="requests_per_window",
    ),
    Mutation(
        guard="a foreign stock is not believed",
        file="src/flashsale/adapters/redis/scripts/admit.lua",
        before="or not string.match(free, '^%d+$') or tonumber(free) > tonumber(ARGV[3]) then",
        after="then",
        tests="foreign_contents",
    ),
    Mutation(
        guard="a foreign type is not believed",
        file="src/flashsale/adapters/redis/scripts/admit.lua",
        before="if is ~= want and (is ~= 'none' or i <= 3) then",
        after="if false then",
        tests="foreign_contents",
    ),
    Mutation(
        guard="a return counts only under its epoch",
        file="src/flashsale/adapters/redis/scripts/return.lua",
        before="if redis.call('GET', KEYS[1]) ~= ARGV[2] or",
        after="if",
        tests="return_counts_once",
    ),
    Mutation(
        guard="an epoch far ahead was not written by a loading",
        file="src/flashsale/adapters/redis/scripts/load.lua",
        before=" and there <= tonumber(ARGV[2]) + 8 then",
        after=" then",
        tests="foreign_contents",
    ),
    Mutation(
        guard="a loading drops old leases",
        file="src/flashsale/adapters/redis/scripts/load.lua",
        before="for i = 1, #KEYS do",
        after="for i = 1, 3 do",
        tests="foreign_contents or stuck_low or unloaded",
    ),
    Mutation(
        guard="after enough tries the key is cancelled",
        file="src/flashsale/usecases/charge.py",
        before="if attempt.tries >= settings.tries_max:",
        after="if False:",
        tests="after_enough_silence",
    ),
    Mutation(
        guard="new terms wait for accepts that are half way",
        file="sql/functions/keep_product_terms_v1.sql",
        before="PERFORM pg_advisory_xact_lock(7000, new.product_id);",
        after="",
        tests="new_terms_wait",
    ),
    Mutation(
        guard="an order that is not final has an age bound",
        file="sql/invariants.sql",
        before="AND o.updated_at + $2::float8 * interval '1 second' + CASE",
        after="AND clock_timestamp() + $2::float8 * interval '1 second' + CASE",
        tests="once_missed",
    ),
    Mutation(
        guard="an order is the answer to one request",
        file="src/flashsale/usecases/sightings.py",
        before="if len(several) > 1",
        after="if False",
        tests="once_missed",
    ),
    Mutation(
        guard="somebody asked for each order",
        file="src/flashsale/usecases/sightings.py",
        before="if order.order_id not in answered",
        after="if False",
        tests="once_missed",
    ),
    Mutation(
        guard="what is free to this day was refused to nobody",
        file="src/flashsale/usecases/sightings.py",
        before='if left >= buy["quantity"]:',
        after="if False:",
        tests="free_to_this_day",
    ),
    Mutation(
        guard="the gate of a product on sale is loaded",
        file="src/flashsale/usecases/gate_audit.py",
        before="return _Seen.WRONG if on_sale and not self._bypass_allowed else _Seen.BYPASSED",
        after="return _Seen.BYPASSED",
        tests="once_missed",
    ),
    Mutation(
        guard="a stale lease is admitted once more",
        file="src/flashsale/usecases/buy.py",
        before="if verdict.outcome is not AcceptOutcome.STALE_EPOCH:",
        after="if True:",
        tests="lease_of_an_older_loading",
    ),
    Mutation(
        guard="units of a void proposal go back",
        file="src/flashsale/usecases/buy.py",
        before="        else:\n            self._gate.give_back(product_id, order_id)\n\n    def _conclude",
        after="\n    def _conclude",
        tests="commit_that_never_happened",
    ),
    Mutation(
        guard="an unloaded gate is loaded by the reconciliation",
        file="src/flashsale/usecases/reconcile.py",
        before="                unloaded.append(one)\n",
        after="                pass\n",
        tests="unloaded_gate_is_loaded",
    ),
    Mutation(
        guard="a gate that is right is not loaded",
        file="src/flashsale/usecases/reconcile.py",
        before="if after.loaded and (low or high):",
        after="if after.loaded:",
        tests="right_is_left_alone",
    ),
    Mutation(
        guard="too many waiting orders refuse buys",
        file="src/flashsale/usecases/buy.py",
        before="self._catalog.waiting(product_id) > self._waiting_max and",
        after="False and",
        tests="too_many_orders_that_wait",
    ),
    Mutation(
        guard="closing sends decisions",
        file="src/flashsale/adapters/redis/gate.py",
        before="            await self._send_decided()\n        await self._connection.close()",
        after="            break\n        await self._connection.close()",
        tests="closing_the_gate",
    ),
    Mutation(
        guard="orders end one at a time",
        file="sql/functions/end_orders_v2.sql",
        before="        ORDER BY o.order_id\n        FOR NO KEY UPDATE\n",
        after="        ORDER BY o.order_id\n",
        tests="two_moves_of_one_order",
    ),
    Mutation(
        guard="outcomes are written one at a time",
        file="sql/functions/finish_payments_v2.sql",
        before="        FOR NO KEY UPDATE OF o SKIP LOCKED\n",
        after="",
        tests="payment_of_an_order_that_somebody_holds",
    ),
    Mutation(
        guard="attempts begin one at a time",
        file="sql/functions/begin_payments_v2.sql",
        before="        FOR NO KEY UPDATE SKIP LOCKED\n",
        after="",
        tests="payment_of_an_order_that_somebody_holds",
    ),
    Mutation(
        guard="a call that never reached the gateway is no try",
        file="src/flashsale/adapters/payments/simulator.py",
        before="return 0, {} if call.sent else type(error).__name__",
        after="return 0, {}",
        tests="never_end_an_order",
    ),
    Mutation(
        guard="a call that never reached the gateway leaves its order where it is",
        file="sql/functions/finish_payments_v2.sql",
        before="            WHEN 'unsent' THEN o.status\n",
        after="",
        tests="never_end_an_order",
    ),
    Mutation(
        guard="of the calls that were not sent one is kept",
        file="sql/functions/begin_payments_v2.sql",
        before="AND (a.outcome = 'unsent' OR a.attempt < o.attempt - 100)",
        after="AND a.attempt < o.attempt - 100",
        tests="never_end_an_order",
    ),
    Mutation(
        guard="of the attempts without an answer a hundred are kept",
        file="sql/functions/begin_payments_v2.sql",
        before="(a.outcome = 'unsent' OR a.attempt < o.attempt - 100)",
        after="a.outcome = 'unsent'",
        tests="keeps_a_hundred",
    ),
    Mutation(
        guard="a call counts as sent once anything was written",
        file="src/flashsale/adapters/payments/simulator.py",
        before="            context.trace_request_ctx.sent = True\n",
        after="            pass\n",
        tests="may_have_reached",
    ),
    Mutation(
        guard="each new connection adopts the time line of its server",
        file="src/flashsale/adapters/postgres/database.py",
        before="        await adopt_timeline(connection)\n",
        after="",
        tests="restored",
    ),
    Mutation(
        guard="one of several that notice begins a time line",
        file="sql/functions/adopt_timeline_v1.sql",
        before="    WHERE t.one AND t.life <> _life;\n",
        after="    WHERE t.one;\n",
        tests="begin_one_time_line",
    ),
    Mutation(
        guard="connections to a server without writes are dropped",
        file="src/flashsale/adapters/postgres/database.py",
        before="            if caused_by(error, READ_ONLY):\n",
        after="            if False:\n",
        tests="keeps_no_connection",
    ),
    Mutation(
        guard="a server without a run id is no gate",
        file="src/flashsale/adapters/redis/connection.py",
        before="        if not self._run_id:\n",
        after="        if False:\n",
        tests="every_refusal_of_every_command",
    ),
    Mutation(
        guard="orders are processed one at a time",
        file="sql/functions/process_orders_v2.sql",
        before="        FOR NO KEY UPDATE SKIP LOCKED\n",
        after="",
        tests="somebody_holds",
    ),
    Mutation(
        guard="an accept holds the shared product lock",
        file="sql/functions/accept_orders_v2.sql",
        before="IF NOT pg_try_advisory_xact_lock_shared(7000, _products[i]) THEN",
        after="IF false THEN",
        tests="change_waits_for_accepts or busy_product or pause_is_seen",
    ),
    Mutation(
        guard="an end holds the shared product lock",
        file="sql/functions/end_orders_v2.sql",
        before="        PERFORM pg_advisory_xact_lock_shared(7000, _product_id);\n",
        after="        NULL;\n",
        tests="moves_wait_for_the_exclusive_lock",
    ),
    Mutation(
        guard="an outcome holds the shared product lock",
        file="sql/functions/finish_payments_v2.sql",
        before="        PERFORM pg_advisory_xact_lock_shared(7000, _product_id);\n",
        after="        NULL;\n",
        tests="moves_wait_for_the_exclusive_lock",
    ),
    Mutation(
        guard="a loading holds the product lock",
        file="sql/functions/begin_gate_load_v1.sql",
        before="    PERFORM pg_advisory_xact_lock(7000, _product_id);\n",
        after="",
        tests="loads_and_allotments_wait",
    ),
    Mutation(
        guard="a new allotment holds the product lock",
        file="sql/functions/set_allotment_v1.sql",
        before="    PERFORM pg_advisory_xact_lock(7000, _product_id);\n",
        after="",
        tests="loads_and_allotments_wait",
    ),
    Mutation(
        guard="another body under a running key gets a lease of its own",
        file="src/flashsale/adapters/redis/scripts/admit.lua",
        before="redis.call('HGET', KEYS[5], running)) == units .. ':' .. user .. ':' .. key then",
        after="redis.call('HGET', KEYS[5], running)) then",
        tests="other_units",
    ),
    Mutation(
        guard="a lease that Postgres refused lowers the buyer's count",
        file="src/flashsale/usecases/buy.py",
        before="self._gate.drop(product_id, order_id, visible=verdict.visible)",
        after="self._gate.settle(product_id, order_id)",
        tests="no_unit_has_not_used",
    ),
    Mutation(
        guard="a gate that is away gets no new epoch",
        file="src/flashsale/usecases/load_gate.py",
        before="        if self._gate.away:\n",
        after="        if False:\n",
        tests="without_redis_the_reconciliation",
    ),
    Mutation(
        guard="a connection lost while it is cleaned up is no error",
        file="src/flashsale/adapters/postgres/database.py",
        before='log.info("postgres.lost_at_release", error=type(error).__name__)',
        after="raise",
        tests="lost_while_it_is_cleaned_up",
    ),
    Mutation(
        guard="a server that only reads counts as away",
        file="src/flashsale/adapters/postgres/failures.py",
        before="    *READ_ONLY,\n",
        after="",
        tests="only_reads",
    ),
    Mutation(
        guard="the isolation level is pinned",
        file="src/flashsale/adapters/postgres/database.py",
        before='                "default_transaction_isolation": "read committed",\n',
        after="",
        tests="whatever_isolation",
    ),
    Mutation(
        guard="a refused batch is halved",
        file="src/flashsale/usecases/halving.py",
        before="        if len(items) == 1:\n",
        after="        if items:\n",
        tests="one_wrong_row",
    ),
    Mutation(
        guard="a postponed order is met by no batch",
        file="sql/queries/orders.sql",
        before="WHERE p.order_id = o.order_id AND p.until > now()",
        after="WHERE false",
        tests="even_if_its_row_takes_no_change",
    ),
    Mutation(
        guard="products take turns in a sweep",
        file="src/flashsale/usecases/maintain.py",
        before="    return [(order_id, product_id) for _, order_id, product_id in sorted(numbered, key=itemgetter(0))]",
        after="    return list(due)",
        tests="backlog_of_one_product",
    ),
    Mutation(
        guard="a sweep waits for no product's lock",
        file="sql/functions/sweep_orders_v2.sql",
        before="        ELSIF pg_try_advisory_xact_lock_shared(7000, _product_id) THEN\n",
        after="        ELSE\n            PERFORM pg_advisory_xact_lock_shared(7000, _product_id);\n",
        tests="product_whose_lock_is_held",
    ),
    Mutation(
        guard="a sweep waits for no buyer's row",
        file="sql/functions/sweep_orders_v2.sql",
        before="            )\n            FOR NO KEY UPDATE SKIP LOCKED\n        )\n        SELECT",
        after="            )\n            FOR NO KEY UPDATE\n        )\n        SELECT",
        tests="product_whose_lock_is_held",
    ),
    Mutation(
        guard="a sweep waits for no live row",
        file="sql/functions/sweep_orders_v2.sql",
        before="WHERE o.order_id = ANY(_ending))\n            FOR NO KEY UPDATE SKIP LOCKED\n",
        after="WHERE o.order_id = ANY(_ending))\n            FOR NO KEY UPDATE\n",
        tests="product_whose_lock_is_held",
    ),
    Mutation(
        guard="returns that the gate takes do not wait behind those that it does not",
        file="src/flashsale/usecases/return_units.py",
        before="but=unloaded)",
        after="but=())",
        tests="keep_no_others_waiting",
    ),
    Mutation(
        guard="a reconciliation looks at few idle products",
        file="src/flashsale/usecases/reconcile.py",
        before="            if not await self._look(products[at : at + at_once], ends_s) and enough:\n",
        after="            if await self._look(products[at : at + at_once], ends_s) and False:\n",
        tests="idle_products_cost",
    ),
    Mutation(
        guard="reconciliations do not overlap",
        file="src/flashsale/usecases/reconcile.py",
        before="        if self._running:\n            return\n",
        after="",
        tests="reconciliations_never_overlap",
    ),
    Mutation(
        guard="a notification is cut into payloads that Postgres takes",
        file="sql/functions/notify_rows_v1.sql",
        before=" / 7000 AS number",
        after=" / 700000000 AS number",
        tests="notifications_of_any_size",
    ),
    Mutation(
        guard="returns are dropped without waiting",
        file="sql/queries/products.sql",
        before=" FOR UPDATE SKIP LOCKED",
        after="",
        tests="returns_are_forgotten",
    ),
    Mutation(
        guard="a product that fails keeps no other waiting",
        file="src/flashsale/usecases/reconcile.py",
        before="        while len(self._loadings) > left and (rest_s := ends_s - time.monotonic()) > 0:\n",
        after="        while self._loadings and (rest_s := ends_s - time.monotonic()):\n",
        tests="cannot_be_reconciled",
    ),
    Mutation(
        guard="units on their way to the gate are not missing",
        file="sql/queries/products.sql",
        before="(SELECT sum(r.quantity) FROM gate_returns AS r WHERE r.product_id = l.product_id), 0\n    )",
        after="0\n    )",
        tests="right_is_left_alone",
    ),
    Mutation(
        guard="a new allotment is a new epoch",
        file="sql/functions/set_allotment_v1.sql",
        before="epoch = epoch + 1",
        after="epoch = epoch",
        tests="new_allotment_refuses",
    ),
    Mutation(
        guard="a payment is asked for in time",
        file="sql/functions/request_payment_v1.sql",
        before=" AND due_at > clock_timestamp()",
        after="",
        tests="asked_for_too_late",
    ),
    Mutation(
        guard="a refusal leaves no garbage",
        file="src/flashsale/usecases/buy.py",
        before="            del refusal\n",
        after="            pass\n",
        tests="leaves_the_garbage_collector_nothing",
    ),
    Mutation(
        guard="a worker asks again for jobs that were announced",
        file="src/flashsale/adapters/postgres/job_queue.py",
        before="            self._none_left = False\n            heard[",
        after="            heard[",
        tests="hears_once_without_a_statement",
    ),
    Mutation(
        guard="a worker asks again for jobs that were announced while it asked",
        file="src/flashsale/adapters/postgres/job_queue.py",
        before=" and announced == self._announced",
        after="",
        tests="announced_during_a_fetch",
    ),
    Mutation(
        guard="an order fails only after several refusals",
        file="src/flashsale/usecases/process_orders.py",
        before='if await self._postpone(order_id, poison, job="process") >= REFUSALS_MAX:',
        after='if await self._postpone(order_id, poison, job="process"):',
        tests="refuses_again_and_again",
    ),
    Mutation(
        guard="a gate that counts too many at rest is loaded anew",
        file="src/flashsale/usecases/reconcile.py",
        before="        high = not before.leases and not after.leases and min(before.stock, after.stock) > owed\n",
        after="        high = False\n",
        tests="too_many_at_rest",
    ),
    Mutation(
        guard="jobs are taken under row locks",
        file="sql/queries/jobs.sql",
        before="    FOR UPDATE OF j SKIP LOCKED\n",
        after="",
        tests="jobs_that_another_worker_is_taking",
    ),
    Mutation(
        guard="of jobs that share a lock one is taken",
        file="sql/queries/jobs.sql",
        before="OR NOT EXISTS",
        after="OR true OR NOT EXISTS",
        tests="group_is_what_procrastinate_would_take",
    ),
    Mutation(
        guard="a worker takes no more jobs than it has room for",
        file="src/flashsale/adapters/postgres/job_queue.py",
        before="self._slots - len(self._running)",
        after="FETCH_MAX",
        tests="holds_no_more_jobs_than_it_has_room_for",
    ),
    Mutation(
        guard="a worker that stops gives back what it has not begun",
        file="src/flashsale/adapters/postgres/job_queue.py",
        before="            await self._give_back()\n",
        after="            pass\n",
        tests="gives_back_what_it_has_not_begun",
    ),
    Mutation(
        guard="a worker gives back only what is still its own",
        file="sql/queries/jobs.sql",
        before="worker_id = $2 AND status",
        after="$2::bigint IS NOT NULL AND status",
        tests="too_late_to_give_jobs_back",
    ),
    Mutation(
        guard="a worker is told of jobs after its fetch",
        file="src/flashsale/adapters/postgres/job_queue.py",
        before="                async with self._fetching:\n                    something.clear()",
        after="                something.clear()",
        tests="not_told_of_jobs_while_it_fetches",
    ),
    Mutation(
        guard="jobs that ended are deleted over another connection",
        file="src/flashsale/adapters/postgres/job_queue.py",
        before="        except Unavailable:\n            # It may",
        after="        except ZeroDivisionError:\n            # It may",
        tests="connection_that_is_lost_while_a_job_ends",
    ),
    Mutation(
        guard="totals are carried by one at a time",
        file="sql/functions/carry_orders_v1.sql",
        before="    PERFORM pg_advisory_xact_lock(7002, 0);\n",
        after="",
        tests="several_carryings_at_once",
    ),
    Mutation(
        guard="an order that leaves a final state waits for totals that are being carried",
        file="sql/functions/note_reopened_order_v1.sql",
        before="    PERFORM pg_advisory_xact_lock_shared(7002, 0);\n",
        after="",
        tests="refund_that_begins_while_totals",
    ),
    Mutation(
        guard="an order that leaves a final state is counted as what it is",
        file="migrations/versions/0003_bounds_on_what_grows.py",
        before="FOR EACH ROW WHEN (old.due_at IS NULL)",
        after="FOR EACH ROW WHEN (false)",
        tests="figures_are_exact",
    ),
    Mutation(
        guard="void requests that an accept might still meet stay",
        file="sql/queries/upkeep.sql",
        before=" AND r.order_id < first_order_id_v1(now() - $1::interval)",
        after=" AND $1::interval IS NOT NULL",
        tests="void_requests_go",
    ),
    Mutation(
        guard="of the failed jobs only the newest stay",
        file="src/flashsale/adapters/postgres/job_queue.py",
        before='            await self._database.fetch(QUERIES["trim_failed"], queue, FAILED_KEPT, DELETE_MAX)\n',
        after="",
        tests="bounded_number_of_failed_jobs",
    ),
    Mutation(
        guard="the minute audit looks at open orders that the totals have passed",
        file="src/flashsale/adapters/postgres/recent_invariants.py",
        before="    SELECT r.* FROM order_stragglers AS s INNER JOIN {table} AS r ON s.order_id = r.order_id\n",
        after="    SELECT r.* FROM {table} AS r WHERE false\n",
        tests="open_orders_behind_the_mark",
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
        pytest = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        command = [*pytest, "tests/integration", "-k", mutation.tests]
        try:
            done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return f"pytest took longer than {TIMEOUT_S} s"
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
