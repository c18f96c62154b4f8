"""The console's plots: what becomes a line."""

from flashsale.http.recent import Sample
from flashsale.pages.console.plots import stock


def test_two_products_of_one_name_are_two_lines():
    samples = [Sample(at_s=at_s, buys={}, stock={1: 10, 2: free}) for at_s, free in ((100.0, 7), (105.0, 5))]
    lines = stock(samples, {1: "Phone", 2: "Phone"}, 105.0).lines
    assert [(line.name, line.last) for line in lines] == [("Phone", 10), ("Phone", 5)]
    assert len({line.points for line in lines}) == 2
