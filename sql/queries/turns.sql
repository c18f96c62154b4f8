-- name: take
-- Reserves the next instants of an operation ($1 provider, $2 operation, $3 at most so many, $4 apart, $5 not later).
SELECT granted, extract(EPOCH FROM wait)::double precision AS wait_s FROM take_turns_v1($1, $2, $3, $4, $5);

-- name: hold
-- Leaves no instant of an operation free for $3: the provider said so.
UPDATE provider_turns
SET next_at = greatest(next_at, clock_timestamp() + $3::interval)
WHERE provider = $1 AND operation = $2;

-- name: put_off
-- Lets orders ($1) whose payment cannot be asked for now be due after $2; no attempt is opened.
UPDATE orders AS o
SET due_at = clock_timestamp() + i.pause, job_id = NULL
FROM unnest($1::uuid [], $2::interval []) AS i (order_id, pause)
WHERE o.order_id = i.order_id
    AND (
        o.status IN ('processing_payment', 'payment_unknown')
        OR (o.status = 'awaiting_payment' AND (o.payment_mode = 'automatic' OR o.pay_requested_at IS NOT NULL))
    );

-- name: rest
-- Notes that a provider is away ($1): a process lets it rest for $2. This is no operation of its own.
INSERT INTO provider_turns (provider, operation, next_at)
VALUES ($1, 'away', clock_timestamp() + $2::interval)
ON CONFLICT (provider, operation) DO UPDATE SET next_at = greatest(provider_turns.next_at, excluded.next_at);

-- name: back
-- Notes that a provider ($1) answers again.
UPDATE provider_turns SET next_at = clock_timestamp() WHERE provider = $1 AND operation = 'away';

-- name: away
-- Reads whether a process lets a provider ($1) rest.
SELECT EXISTS(
    SELECT 1 FROM provider_turns WHERE provider = $1 AND operation = 'away' AND next_at > clock_timestamp()
) AS away;
