"""What the audit cannot know, and why not. Everything else that is wrong must be reported."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.corruption.archived import CURRENCY

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.corruption.wrongs import Wrong


@dataclass(frozen=True)
class Excuse:
    """Fields (a regular expression), ways of being wrong (none: every way), rows (none: every row), and the reason."""

    fields: str
    hows: tuple[str, ...]
    reason: str
    row: Callable[[dict[str, object]], bool] | None = None

    def covers(self, wrong: Wrong) -> bool:
        """Whether a wrong value that was not caught is excused."""
        return (
            re.fullmatch(self.fields, wrong.field) is not None
            and (not self.hows or wrong.how.replace("huge", "changed") in self.hows)
            and (self.row is None or self.row(wrong.row))
        )


NULLABLE = r"limit_per_buyer|starts_at|ends_at"

EXCUSES: tuple[Excuse, ...] = (
    Excuse(
        r"users\.(user_id|name|email|email_key|password_hash)",
        (),
        "who a person is, and the password, only that person knows",
    ),
    Excuse(r"users\.generation", (), "the newest revocation has it for two days; there is no other record"),
    Excuse(
        r"revocations\.(\*|user_id|revoked_at)",
        ("deleted", "doubled", "swapped", "aged"),
        "a process forgets it earlier, or hears of it again: which ones there were has no second record",
    ),
    Excuse(r"admin_requests\..*", (), "what an administrator sent and was answered has no second record"),
    Excuse(r"admin_trail\..*", (), "what somebody did has no second record; the trail itself refuses to be changed"),
    Excuse(r"provider_turns\..*", (), "a rate of calls: nothing is wrong after calls that were too early or too late"),
    Excuse(r"users\.created_at", ("aged", "swapped"), "an account only has to be older than its orders"),
    Excuse(r"products\.created_at", ("aged",), "a product only has to be older than its terms and orders"),
    Excuse(
        rf"product_terms\.(name|price_minor|currency|allotment|payment_mode|payment_window_s|limit_per|paused|cooldown_s|{NULLABLE})",
        ("changed", "aged", "ahead", "swapped", "missing"),
        "terms that are over, and that no order contradicts, have no second record; those of now are the product's",
    ),
    Excuse(
        r"(products\.version|orders\.changes)", (), "it only has to rise; how often something changed is kept nowhere"
    ),
    Excuse(
        r"products\.epoch",
        ("changed",),
        "the gate of a product that is not on sale need not be loaded",
        lambda row: row["archived_at"] is not None,
    ),
    Excuse(
        r"manual_entries\.\*", ("deleted",), "settlement with the provider `manual` finds it; this sale's is another"
    ),
    Excuse(r"manual_entries\.(recorded_by|recorded_at)", (), "who saw the money come, and when, has no second record"),
    Excuse(r"product_terms\.\*", ("deleted",), "the same: terms that are over, under which nothing was sold"),
    Excuse(r"requests\.request_id", (), "only log lines and the story of an order show it"),
    Excuse(r"requests\..*", (), "of a void proposal only the id has a meaning", lambda row: row["kind"] == "void"),
    Excuse(r"orders\.job_id", ("missing",), "the sweep makes a new job when the order is due"),
    Excuse(r"orders\.job_id", ("changed",), "a job that is done is deleted, so its number may name nothing"),
    Excuse(
        r"payment_attempts\.\*",
        ("deleted",),
        "earlier attempts that never reached the gateway are deleted, so their numbers have gaps",
        lambda row: row["outcome"] in {"superseded", "unknown", "unsent"},
    ),
    Excuse(
        r"payment_attempts\.reference",
        (),
        "why a payment was not captured only the gateway knows",
        lambda row: row["outcome"] != "captured",
    ),
    Excuse(
        r"unit_pools\.(\*|product_id)",
        ("deleted", "swapped"),
        "a pool without a row has no unit that is unmade",
        lambda row: row["unmade"] == 0,
    ),
    Excuse(
        r"payment_intents\.(client_secret|page_url|problem|window_left|looks|job_id|provider|reference|state)",
        (),
        "what a provider holds only the provider knows; the intent that paid an order has a captured attempt",
        lambda row: row["state"] != "captured",
    ),
    Excuse(
        r"payment_intents\.(client_secret|page_url|problem|window_left|looks|job_id|provider)",
        (),
        "of an intent that paid its order nothing is asked any more",
    ),
    Excuse(
        r"payment_intents\.(due_at|created_at|updated_at)",
        (),
        "it is only looked at sooner or later, within the bounds",
        lambda row: row["state"] != "captured",
    ),
    Excuse(r"payment_intents\.(created_at|updated_at)", (), "the same"),
    Excuse(r"payment_intents\.\*", ("deleted",), "what a provider holds is listed there; the settlement compares it"),
    Excuse(
        r"webhook_events\.(provider|event_id|type|reference|order_id|job_id|received_at|taken_at|\*)",
        (),
        "what a provider sent only the provider knows; a job finds the same by looking at what is open",
    ),
    Excuse(r"orders\.disputed", ("changed", "swapped"), "whether a buyer disputes a charge only the provider knows"),
    Excuse(
        r"refunds\.(reason|requested_by|attempt|sent|problem|job_id)",
        ("changed", "swapped", "missing"),
        "who asked for a refund and why, and how the provider was asked, has no second record",
    ),
    Excuse(r"refunds\.reference", ("changed", "swapped"), "the provider's name of a refund only the provider knows"),
    Excuse(
        r"refunds\.restock",
        ("changed", "swapped"),
        "whether units go back is compared with what became of them, once the money is back",
        lambda row: row["state"] != "succeeded",
    ),
    Excuse(r"refunds\.(created_at|finished_at|due_at)", ("swapped",), "within its bounds any instant would do"),
    Excuse(r"timeline\.life", (), "the name of a server process, compared with the one that runs"),
    Excuse(r"postponed_orders\..*", (), "a pause that ends by itself; the order is found by its age"),
    Excuse(
        r"(product_live\.(above_zero|raised)|buyer_units\.released)_at|stock_raises\.(product_id|raised_at|\*)",
        ("aged", "swapped", "ahead", "deleted"),
        "when units came free last: it only turns old proposals away",
    ),
    Excuse(
        r"(buyer_units|gate_returns)\.(cooling|cools_until)",
        ("changed", "aged", "swapped", "ahead", "missing"),
        "for how long units that were not paid for count: whether a buyer came too early is judged by the orders",
    ),
    Excuse(r"payment_attempts\.sent", ("changed", "swapped"), "whether a call was made only the gateway knows"),
    Excuse(r"order_mark\.one", (), "the name of the only row"),
    Excuse(r"order_stragglers\.order_id", ("swapped",), "both are there before and after"),
    Excuse(r"units\.unit_no", ("changed", "swapped"), "a unit's number is its name: any other would do"),
    Excuse(r"product_live\.claim_hand", ("changed", "swapped"), "where a claim begins to look: any unit would do"),
    Excuse(r"buyer_units\.user_id", ("swapped",), "of buyers who hold as many units nothing is wrong afterwards"),
    Excuse(r"units\.(product_id|order_id)", ("swapped",), "each order still owns as many units of its product"),
    Excuse(r"order_events\.(order_id|at)", ("swapped",), "events of orders that moved together, in order still"),
    Excuse(r"order_totals\.(product_id|status)", ("swapped",), "of totals that are equal nothing is wrong afterwards"),
    Excuse(r"orders\.due_at", ("swapped",), "within its bounds any instant wakes the order"),
    Excuse(r"buy\.body", (), "a digest is only compared with that of a repeat"),
    Excuse(
        r"buy\.(key|product|quantity|status)",
        (),
        "what was refused left nothing to compare with",
        lambda row: row["status"] != 202,
    ),
    Excuse(
        r"order\.order_id", ("swapped",), "of orders that were in one state and version nothing is wrong afterwards"
    ),
    Excuse(r"buy\.answer", ("missing",), "histories of older versions do not have it"),
    Excuse(r"buy\.code", ("changed", "swapped"), "why a request was refused, only `sold_out` can be held against"),
    Excuse(r"(buy|stock|order)\.\*", (), "what a client did not write down, or wrote down twice"),
    Excuse(r"stock\.last", (), "whether a stream stayed to the end only its reader knows"),
    Excuse(r"(stock|order)\.reader", (), "a name that tells readers apart"),
    Excuse(r"stock\.(product|version)", ("changed", "swapped"), "a version that no other reader saw"),
    Excuse(r"complete\..*", (), "that nobody else bought is the client's word"),
    Excuse(r"ledger\.id", (), "only a captured charge is known by its id", lambda row: row["status"] != "captured"),
    Excuse(r"ledger\.id", ("missing",), "a gateway need not name it"),
    Excuse(r"ledger\.requests", (), "how often a gateway was asked proves nothing: a restart forgets it"),
    Excuse(r"ledger\.\*", ("deleted",), "nothing was captured under the key", lambda row: row["status"] != "captured"),
    Excuse(r"gate:(rate|tries)", (), "counts of a window of time that the scripts forget or overwrite"),
    Excuse(r"gate:buyers", (), "may be forgotten at any time, and a refusal by it is confirmed by Postgres"),
    Excuse(
        r"gate:cooling", (), "how long the gate counts units that were not paid for; Postgres confirms its refusals"
    ),
    Excuse(r"password_resets\..*", (), "a request for a new password, to which nothing else refers"),
    Excuse(r"gate:returns", (), "which returns were counted lately; the scripts replace what is foreign"),
    Excuse(r"outbox\.(attempts|problem|resent_at)", (), "how often and why a try failed has no second record"),
    Excuse(r"outbox\.target_id", ("swapped",), "of two messages about one change nothing is wrong afterwards"),
    Excuse(r"outbox\.message_id", ("changed", "swapped"), "a name that receivers compare with nothing but itself"),
    Excuse(r"outbox\.(created_at|due_at)", ("aged", "swapped"), "a target may be away for long"),
    Excuse(r"outbox\.ended_at", ("swapped",), "two messages may end in either order"),
    Excuse(r"outbox_targets\.(url|secret)", ("changed",), "where a shop is, and its secret, have no second record"),
    Excuse(
        r"outbox_targets\.(created_at|wanted_since)",
        ("aged", "swapped"),
        "the messages that are there may have been wanted then",
    ),
    Excuse(
        r"payment_fees\..*", (), "what a provider kept of a payment only the provider knows; the settlement reads it"
    ),
    Excuse(r"outbox_targets\.\*", ("deleted",), "an operator may have removed it"),
    Excuse(
        r"product_live\.version",
        ("changed",),
        "nobody watched the archived product",
        lambda row: row["product_id"] == 3,
    ),
    Excuse(r"sale_archives\.(place|digests)", ("changed",), "where files are and what they hold only the files know"),
    Excuse(r"sale_archives\.ended_at", ("missing",), "another run of the command writes it"),
    Excuse(
        r"archived_orders\.(order_id|user_id|product_name|quantity|status|created_at|updated_at|restocked|refunded_minor)",
        ("swapped",),
        "of orders that were sold in one minute the sums are the same afterwards; the files tell them from each other",
    ),
    Excuse(
        r"archived_orders\.(version|changes)",
        ("changed", "swapped"),
        "the files have the events; nobody compares versions",
    ),
    Excuse(
        r"archived_money\.(refunds|fees|fees_minor)",
        ("changed", "swapped"),
        "how many refunds there were, and what the provider kept, only the files know",
    ),
    Excuse(r"archived_money\.at", ("swapped",), "within the sale's time any quarter of an hour would do"),
    Excuse(
        r"ledger\.id",
        (),
        "the provider's id of a charge whose order is archived only the files know",
        lambda row: row["currency"] == CURRENCY,
    ),
    Excuse(
        r"product_(departures|arrivals)\.(move_id|from_product_id)",
        (),
        "what the other cell calls a move only that cell knows; `flashsale cells audit` compares them",
    ),
    Excuse(r"product_arrivals\.\*", ("deleted",), "the same: the other cell knows that something left"),
    Excuse(r"gate:keys", (), "a repeat that misses its lease takes another: Postgres decides by the key"),
)

ONLY_WHOLE: tuple[Excuse, ...] = (
    *EXCUSES,
    Excuse(
        r"(users\.role|revocations\..*|products\.(refundable_by_buyer|archived_at|moved_to))",
        (),
        "compared with the trail by `flashsale audit`",
    ),
    Excuse(r"products\.epoch", ("changed",), "compared with the gate by `flashsale audit`"),
    Excuse(r"(payment_intents|manual_entries)\.order_id", ("missing",), "a row of no order is none of a recent order"),
    Excuse(r"webhook_events\.due_at", ("ahead", "swapped"), "of those that were taken `flashsale audit` reads all"),
    Excuse(r"\w+\.\*", ("doubled",), "two rows of one key: `flashsale audit` counts keys, a primary key forbids them"),
    Excuse(
        r"(product_live\.(version|claim_hand|above_zero_at|raised_at)|buyer_units\.released_at|stock_raises\..*)",
        (),
        "what the gate and the streams show is compared by `flashsale audit`",
    ),
    Excuse(
        r"gate_returns\.(order_id|\*)",
        (),
        "the gate then counts too few: `flashsale audit` and the reconciliation look",
    ),
    Excuse(r"payment_attempts\.reference", (), "compared with the gateway's ledger"),
    Excuse(r"requests\.(key|fingerprint)", ("changed", "swapped"), "compared with what clients sent"),
    Excuse(
        r"payment_attempts\.order_id",
        ("missing",),
        "the same as a row that is gone, for an audit that reads the rows of recent orders",
        lambda row: row["outcome"] in {"superseded", "unknown", "unsent"},
    ),
    Excuse(r"payment_intents\.order_id", ("missing",), "the same", lambda row: row["state"] != "captured"),
    Excuse(r"timeline\..*", (), "a server process adopts the row"),
    Excuse(r"product_(departures|arrivals)\..*", (), "a move is no order: `flashsale audit` reads them"),
    Excuse(r"(sale_archives|archived_orders|archived_money)\..*", (), "none is recent: `flashsale audit` reads them"),
    Excuse(r"users\.created_at", ("missing", "ahead"), "the account of an archived order is none of a recent order"),
    Excuse(r"products\.epoch", ("changed", "swapped"), "compared with the gate by `flashsale audit`"),
    Excuse(r"(units|unit_pools)\..*", ("changed", "missing"), "rows of units are counted by `flashsale audit`"),
    Excuse(r"order_(mark|totals|stragglers)\..*", (), "compared with every order by `flashsale audit`"),
)
"""What the minute audit leaves to `flashsale audit` even of recent orders."""
