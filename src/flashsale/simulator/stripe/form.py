"""Form-encoded parameters with brackets, as Stripe's libraries send them: `metadata[order_id]=x`, `expand[0]=y`."""

from __future__ import annotations

import hashlib
import re
from typing import Any
from urllib.parse import parse_qsl

from flashsale.simulator.stripe.errors import StripeError, invalid

FIELDS_MAX = 200
METADATA_KEYS_MAX = 50
"""https://docs.stripe.com/api/metadata: 50 keys of 40 characters with values of 500."""
METADATA_KEY_CHARS_MAX = 40
METADATA_VALUE_CHARS_MAX = 500
_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_PART = re.compile(r"\[([^\[\]]*)\]")


class Form:
    """The parameters of one call. Each that is read is known; `finish` refuses the rest."""

    def __init__(self, encoded: str) -> None:
        """Read what a body or a query string holds.

        Raises:
            StripeError: 400 if it is no form.
        """
        try:
            pairs = parse_qsl(encoded, keep_blank_values=True, errors="strict", max_num_fields=FIELDS_MAX)
        except ValueError as error:
            raise StripeError(400, "Invalid request: the parameters cannot be read as a form.") from error
        self._values: dict[str, Any] = {}
        self._known: set[str] = {"expand", "key"}
        self.fingerprint = hashlib.blake2b(repr(sorted(pairs)).encode(), digest_size=16).hexdigest()
        for name, value in pairs:
            self._put(name, value)

    def __contains__(self, name: str) -> bool:
        """Say whether a parameter was sent."""
        return name in self._values

    def text(self, name: str) -> str | None:
        """Return a string; None if it is not there or empty, which unsets it."""
        value = self._take(name)
        if value is not None and not isinstance(value, str):
            raise invalid(name, f"Invalid string: {name} must be a string")
        return value or None

    def required(self, name: str) -> str:
        """Return a string that must be there."""
        value = self.text(name)
        if value is None:
            raise invalid(name, f"Missing required param: {name}.", "parameter_missing")
        return value

    def choice(self, name: str, allowed: tuple[str, ...], default: str) -> str:
        """Return one of the allowed strings."""
        value = self.text(name) or default
        if value not in allowed:
            raise invalid(name, f"Invalid {name}: must be one of {', '.join(allowed)}")
        return value

    def flag(self, name: str) -> bool:
        """Return a boolean; false if it is not there."""
        return self.choice(name, ("true", "false"), "false") == "true"

    def integer(self, name: str, default: int | None = None, *, least: int = 0, most: int = 10**15) -> int | None:
        """Return an integer."""
        value = self.text(name)
        if value is None:
            return default
        if re.fullmatch(r"-?\d{1,18}", value) is None:
            raise invalid(name, f"Invalid integer: {value}", "parameter_invalid_integer")
        if not least <= int(value) <= most:
            raise invalid(name, f"{name} must be from {least} to {most}", "parameter_invalid_integer")
        return int(value)

    def tree(self, name: str) -> dict[str, Any]:
        """Return a nested parameter as it is; empty if it is not there."""
        value = self._take(name)
        if value is None or value == "":
            return {}
        if not isinstance(value, dict):
            raise invalid(name, "Invalid object")
        return value

    def texts(self, name: str) -> list[str]:
        """Return a list of strings, in the order of their indexes."""
        value = self._take(name)
        items = [value] if isinstance(value, str) else list((value or {}).values())
        return [item for item in items if isinstance(item, str)]

    def metadata(self) -> dict[str, str]:
        """Return `metadata` within its limits."""
        return checked_metadata(self.tree("metadata"))

    def finish(self) -> None:
        """Refuse parameters that nobody read.

        Raises:
            StripeError: 400.
        """
        unknown = sorted(self._values.keys() - self._known)
        if unknown:
            raise invalid(unknown[0], f"Received unknown parameter: {unknown[0]}", "parameter_unknown")

    def know(self, *names: str) -> None:
        """Accept parameters that change nothing here."""
        self._known.update(names)

    def _take(self, name: str) -> Any:
        self._known.add(name)
        return self._values.get(name)

    def _put(self, name: str, value: str) -> None:
        match = _NAME.fullmatch(name)
        if match is None:
            raise invalid(name, f"Received unknown parameter: {name}", "parameter_unknown")
        path = [match[1], *_PART.findall(match[2])]
        place = self._values
        for part in path[:-1]:
            inner = place.setdefault(part, {})
            if not isinstance(inner, dict):
                raise invalid(path[0], "Invalid object")
            place = inner
        last = path[-1] or str(len(place))
        if isinstance(place.get(last), dict):
            raise invalid(path[0], "Invalid object")
        place[last] = value


def checked_metadata(tree: dict[str, Any]) -> dict[str, str]:
    """Return metadata that keeps within Stripe's limits; an empty value removes its key."""
    if len(tree) > METADATA_KEYS_MAX:
        raise invalid("metadata", f"You can specify at most {METADATA_KEYS_MAX} keys.")
    for name, value in tree.items():
        if not isinstance(value, str) or len(name) > METADATA_KEY_CHARS_MAX or len(value) > METADATA_VALUE_CHARS_MAX:
            raise invalid("metadata", "Invalid metadata: a key has 40 and a value 500 characters at most.")
    return {name: value for name, value in tree.items() if value}
