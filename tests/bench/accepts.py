"""Durable orders a second."""

from __future__ import annotations

from flashsale.demo.sale import create_product
from tests.bench.bench import USERS, Bench, buys, only
from tests.bench.figures import Figure, at_least, at_most
from tests.bench.plots import Plot
from tests.bench.press import press
from tests.support.api import buyer_tokens

CROWD = 224
"""Connections: enough to fill the batches of both processes, few enough that none waits for long."""


async def accepts(bench: Bench) -> None:
    """Durable orders, with plenty of stock and no workers."""
    # Nobody takes the jobs, so that orders would be due, and get new ones, again and again.
    environment = {"FLASHSALE_ORDERS__WAITING_MAX": "10000000", "FLASHSALE_ORDERS__ORDER_DUE_S": "3600"}
    single = {**environment, "FLASHSALE_ACCEPT__BATCH_MAX": "1"}
    counts = {"api": 2, "orders": 0, "payments": 0}
    async with (
        bench.stack("accepts", environment=environment, **counts) as stack,
        bench.stack("accepts one by one", environment=single, **counts) as control,
    ):
        measures = []
        for each in (stack, control):
            product_id = await create_product(each, {"name": "Phone", "price": "1", "stock": 200_000})
            requests = buys(each, product_id, buyer_tokens(each, USERS))
            measures.append(
                lambda each=each, requests=requests: press(
                    each.base_url, requests, connections=CROWD, seconds=bench.seconds
                )
            )
        runs, control_runs = await bench.alternate(*measures)
    bench.plots["accepts"] = Plot(
        f"accepted orders, two processes, {CROWD} connections", {"flashsale": runs, "batches of one": control_runs}
    )
    bench.figures.append(
        Figure(
            name="accepted orders, two processes",
            unit="/s",
            runs=[only(run, b"202").rate for run in runs],
            control="batches of one",
            control_runs=[only(run, b"202").rate for run in control_runs],
            aims=(at_least(3, of="ratio"), at_least(6_000)),
        )
    )
    bench.figures.append(
        Figure(
            name=f"their p99, {CROWD} connections",
            unit="ms",
            runs=[run.percentile_ms(0.99) for run in runs],
            aims=(at_most(100),),
        )
    )
