#!/bin/sh
# Buy one unit with curl and follow the order to its end.
#
# Example: HOST=http://localhost:8000 TOKEN=$(flashsale token buyer-1@buyers.invalid) PRODUCT=1 examples/buy.sh
set -eu
: "${HOST:?the address of the shop}" "${TOKEN:?a buyer\'s token}" "${PRODUCT:?the product\'s id}"

# One key for one press of the button. A repeated request with this key can never buy a second unit.
key=${KEY:-$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')}

press() {
    curl --silent --show-error --max-time 10 --write-out '\n%{http_code}' "$HOST/api/order/buy-flash" \
        --header "Authorization: Bearer $TOKEN" --header "Idempotency-Key: $key" \
        --header "Flashsale-Product: $PRODUCT" --header 'Content-Type: application/json' --data "{\"productId\": $PRODUCT}"
}
field() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }

for _ in 1 2 3 4 5 6 7 8 9 10; do
    answer=$(press) || answer=$(printf '\n000')
    status=${answer##*
}
    body=${answer%
*}
    case $status in
        202) break ;;
        # No answer, too fast, or the shop is busy: the same request again. It cannot be charged twice.
        000 | 429 | 502 | 503 | 504) sleep 1 ;;
        *) echo "not bought: $status $(echo "$body" | field code)" >&2; exit 1 ;;
    esac
done
[ "$status" = 202 ] || { echo "no definite answer; run again with KEY=$key" >&2; exit 2; }

order=$(echo "$body" | field orderId)
echo "accepted: $order"
for _ in $(seq 60); do
    state=$(curl --silent --max-time 10 "$HOST/api/order/$order/status" --header "Authorization: Bearer $TOKEN" | field status)
    case $state in confirmed | payment_failed | expired | cancelled | failed | refunded) echo "$state"; exit 0 ;; esac
    sleep 1
done
echo "still $state; ask again later" >&2
exit 2
