"""Amounts as Stripe writes them, and in the currency's own minor unit, as the ledger has them.

https://docs.stripe.com/currencies: amounts are in the smallest unit; ISK and UGX travel with two decimals that must be
zero; amounts of three-decimal currencies must be a multiple of ten.
"""

from __future__ import annotations

from flashsale.simulator.stripe.errors import StripeError, invalid
from flashsale.simulator.stripe.form import Form

AMOUNT_MAX = 99_999_999
"""Eight digits, for most currencies: https://docs.stripe.com/currencies#minimum-and-maximum-charge-amounts."""
AMOUNT_MAX_LONG = {"idr": 999_999_999_999, "lbp": 999_999_999_999, "jpy": 9_999_999_999, "cop": 9_999_999_999}
TIMES = {"isk": 100, "ugx": 100}
"""How many of Stripe's units are one of the currency's own."""
MULTIPLE = {**TIMES, "bhd": 10, "jod": 10, "kwd": 10, "omr": 10, "tnd": 10}
_CURRENCIES = (
    "usd aed afn all amd ang aoa ars aud awg azn bam bbd bdt bhd bif bmd bnd bob brl bsd bwp byn bzd cad cdf chf clp "
    "cny cop crc cve czk djf dkk dop dzd egp etb eur fjd fkp gbp gel gip gmd gnf gtq gyd hkd hnl htg huf idr ils inr "
    "isk jmd jod jpy kes kgs khr kmf krw kwd kyd kzt lak lbp lkr lrd lsl mad mdl mga mkd mmk mnt mop mur mvr mwk mxn "
    "myr mzn nad ngn nio nok npr nzd omr pab pen pgk php pkr pln pyg qar ron rsd rub rwf sar sbd scr sek sgd shp sle "
    "sos srd std szl thb tjs tnd top try ttd twd tzs uah ugx uyu uzs vnd vuv wst xaf xcd xof xpf yer zar zmw"
)
CURRENCIES = frozenset(_CURRENCIES.split())


def read_currency(form: Form) -> str:
    """Return a currency that Stripe charges in, in small letters."""
    return checked_currency(form.required("currency"))


def checked_currency(currency: str) -> str:
    """Return a currency in small letters if Stripe charges in it."""
    if currency.lower() not in CURRENCIES:
        raise invalid("currency", f"Invalid currency: {currency.lower()}. Stripe does not support it.")
    return currency.lower()


def checked_amount(amount: int | None, currency: str, param: str = "amount") -> int:
    """Return an amount that Stripe would charge."""
    if amount is None:
        raise invalid(param, f"Missing required param: {param}.", "parameter_missing")
    if amount < 1:
        raise StripeError(
            400, "This value must be greater than or equal to 1.", code="parameter_invalid_integer", param=param
        )
    most = AMOUNT_MAX_LONG.get(currency, AMOUNT_MAX)
    if amount > most:
        raise invalid(param, f"Amount must be no more than {most} {currency}.", "amount_too_large")
    multiple = MULTIPLE.get(currency, 1)
    if amount % multiple:
        raise invalid(param, f"Invalid amount: {currency} amounts must be a multiple of {multiple}.")
    return amount


def ledger_minor(amount: int, currency: str) -> int:
    """Return Stripe's amount in the currency's own minor unit."""
    return amount // TIMES.get(currency, 1)
