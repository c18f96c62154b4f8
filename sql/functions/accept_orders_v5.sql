-- Makes orders of a batch of proposals, in one transaction: request rows, the buyers' limits, units (SKIP LOCKED),
-- orders with their first event, one job for all of them, the live count and one notification.
--
-- The arrays have one element per proposal. A batch holds at most one proposal per (user, product) and per
-- (user, key) and is sorted by (user, key). _epochs: the lease's epoch, or NULL for a proposal without a lease.
-- _request_ids: the id of the HTTP request, which log lines carry; nothing is decided by it. _expected: the price of a unit
-- that the buyer saw, in minor units, or NULL: any; the whole array may be NULL.
-- Lock order: products (advisory, shared), requests, e-mail roots (advisory), buyers, units, product_live.
--
-- Gives one row per proposal, in order: outcome (flashsale.domain.requests.AcceptOutcome), where an order stands what
-- its 202 says, and for a refusal what was seen: visible (free units, for sold_out), held (the buyer's units, for
-- limit_reached) and cools_until (limit_reached, if the buyer's orders leave room, and only units that the buyer did not
-- pay for count until then). A refused proposal with a lease leaves a void row (so that the lease may be returned), except for
-- `retry` and `busy`, which leave nothing and are proposed again. `busy`: somebody changes the product just now.
--
-- The limit counts what the product says (products.limit_per): the account's units, or those of all accounts with its
-- e-mail root. Of several proposals of one root in a batch, one that fits only without the others is answered `retry`.
-- Units that the buyer did not pay for count until their cool-down has passed (note_cooldown_v1).
--
-- `voided` is also the answer to a proposal whose id is more than 10 minutes from this server's time (void rows may be
-- deleted after an hour), and to one with a key that began before the product or the buyer could have units again: a
-- repetition of it may have been refused meanwhile, and that refusal must stay true.
CREATE FUNCTION accept_orders_v5(
    _order_ids uuid [],
    _user_ids uuid [],
    _product_ids integer [],
    _quantities integer [],
    _keys text [],
    _fingerprints bytea [],
    _epochs bigint [],
    _due interval,
    _request_ids text [],
    _expected bigint []
)
RETURNS TABLE (
    outcome text,
    order_id uuid,
    product_id integer,
    product_name text,
    quantity integer,
    unit_price_minor bigint,
    currency text,
    visible integer,
    held integer,
    cools_until timestamptz
)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    _n constant integer := cardinality(_order_ids);
    _products constant integer[] := ARRAY(SELECT DISTINCT p FROM unnest(_product_ids) AS p ORDER BY p);
    _outcome text[] := array_fill(NULL::text, ARRAY[_n]);
    _answered uuid[] := _order_ids;
    _visible integer[] := array_fill(NULL::integer, ARRAY[_n]);
    _held integer[] := array_fill(NULL::integer, ARRAY[_n]);
    _cools timestamptz[] := array_fill(NULL::timestamptz, ARRAY[_n]);
    _busy integer[] := '{}';
    _open integer := _n;
    _oldest constant uuid := first_order_id_v1(clock_timestamp() - interval '10 minutes');
    _newest constant uuid := first_order_id_v1(clock_timestamp() + interval '10 minutes');
    _fresh uuid[];
    _product products;
    _verdict text;
    _changed uuid;
    _within_limit uuid[];
    _released timestamptz[];
    _buyer integer;
    _limit_ids uuid[] := array_fill(NULL::uuid, ARRAY[_n]);
    _root_released timestamptz[] := array_fill('-infinity'::timestamptz, ARRAY[_n]);
    _roots uuid[];
    _root_units integer[];
    _root integer;
    _wanted integer;
    _locked integer[];
    _late boolean[] := array_fill(false, ARRAY[_n]);
    _undone integer[];
    _taken integer;
    _free integer;
    _raised timestamptz[];
    _unit_products integer[] := '{}';
    _unit_nos integer[] := '{}';
    _unit_orders uuid[] := '{}';
    _accepted uuid[] := '{}';
    _sold_products integer[] := '{}';
    _sold_deltas integer[] := '{}';
    _sold_hands integer[] := '{}';
    _job_id bigint;
    _row record;
    _now timestamptz;
BEGIN
    -- 1. Lock the products; what somebody changes just now is left out as `busy`.
    FOR i IN 1 .. cardinality(_products) LOOP
        IF NOT pg_try_advisory_xact_lock_shared(7000, _products[i]) THEN
            _busy := _busy || _products[i];
        END IF;
    END LOOP;
    IF cardinality(_busy) > 0 THEN
        FOR i IN 1 .. _n LOOP
            IF _product_ids[i] = ANY(_busy) THEN
                _outcome[i] := 'busy';
                _open := _open - 1;
            END IF;
        END LOOP;
    END IF;

    -- 2. Insert the requests; what conflicts stood before.
    WITH inserted AS (
        INSERT INTO requests (order_id, kind, user_id, key, fingerprint, request_id)
        SELECT i.order_id, 'order', i.user_id, i.key, i.fingerprint, i.request_id
        FROM unnest(_order_ids, _user_ids, _keys, _fingerprints, _product_ids, _request_ids)
            WITH ORDINALITY AS i (order_id, user_id, key, fingerprint, product_id, request_id, place)
        WHERE i.product_id <> ALL(_busy)
        ORDER BY i.place
        ON CONFLICT DO NOTHING
        RETURNING order_id
    )
    SELECT coalesce(array_agg(f.order_id), '{}') INTO _fresh FROM inserted AS f;

    -- 3. Answer what stood before. In a statement of its own: the snapshot of the insert does not hold a rival that has
    -- just committed.
    IF cardinality(_fresh) < _open THEN
        FOR _row IN
            SELECT
                i.place,
                own.kind AS own_kind,
                own.user_id <> i.user_id AS foreign_id,
                coalesce(kept.order_id, own.order_id) AS standing_id,
                coalesce(kept.fingerprint, own.fingerprint) AS fingerprint,
                i.fingerprint AS asked_fingerprint
            FROM unnest(_order_ids, _user_ids, _keys, _fingerprints, _product_ids)
                WITH ORDINALITY AS i (order_id, user_id, key, fingerprint, product_id, place)
            LEFT JOIN requests AS own ON i.order_id = own.order_id
            LEFT JOIN requests AS kept
                ON kept.kind = 'order' AND i.user_id = kept.user_id AND i.key = kept.key
            WHERE i.order_id <> ALL(_fresh) AND i.product_id <> ALL(_busy)
        LOOP
            IF _row.standing_id IS NULL THEN
                -- The rival went away between the two statements.
                _outcome[_row.place] := 'retry';
            ELSIF _row.standing_id = _order_ids[_row.place] AND (_row.own_kind = 'void' OR _row.foreign_id) THEN
                _outcome[_row.place] := 'voided';
            ELSIF _row.fingerprint IS DISTINCT FROM _row.asked_fingerprint THEN
                _outcome[_row.place] := 'key_reused';
            ELSE
                _outcome[_row.place] := 'replayed';
                _answered[_row.place] := _row.standing_id;
            END IF;
        END LOOP;
        -- Proposals under another id than the order that stands are given up, so that their leases may be returned.
        INSERT INTO requests (order_id, kind)
        SELECT i.order_id, 'void'
        FROM unnest(_order_ids, _answered, _outcome, _epochs) AS i (order_id, answered, outcome, epoch)
        WHERE i.epoch IS NOT NULL
            AND (i.outcome = 'key_reused' OR (i.outcome = 'replayed' AND i.answered <> i.order_id))
        ON CONFLICT DO NOTHING;
    END IF;

    -- 4. Read the time. One instant decides about the sale's window and is the orders' own: what is waited for below takes
    -- no part in it.
    _now := clock_timestamp();
    FOR p IN 1 .. cardinality(_products) LOOP
        CONTINUE WHEN _products[p] = ANY(_busy);
        -- 5. Check the sale's window, the lease's epoch, and what a refusal of before rules out.
        SELECT * INTO _product FROM products WHERE product_id = _products[p];
        _verdict := CASE
            WHEN _product.product_id IS NULL THEN 'unknown_product'
            WHEN _product.paused THEN 'paused'
            WHEN _now < _product.starts_at THEN 'not_started'
            WHEN _now >= _product.ends_at THEN 'ended'
        END;
        -- A process says "not started" by itself only if the start is more than a second away.
        _changed := first_order_id_v1(greatest(_product.updated_at, _product.starts_at - interval '1 second'));
        FOR i IN 1 .. _n LOOP
            IF _outcome[i] IS NULL AND _product_ids[i] = _products[p] THEN
                _outcome[i] := CASE
                    WHEN _order_ids[i] NOT BETWEEN _oldest AND _newest THEN 'voided'
                    WHEN _verdict IS NOT NULL THEN _verdict
                    WHEN _keys[i] IS NOT NULL AND _order_ids[i] < _changed THEN 'voided'
                    WHEN _expected[i] <> _product.price_minor THEN 'price_changed'
                    WHEN _epochs[i] <> _product.epoch THEN 'stale_epoch'
                    WHEN _quantities[i] > _product.limit_per_buyer THEN 'limit_reached'
                END;
            END IF;
        END LOOP;

        -- 6. Compare e-mail roots with the limit, where it counts them: each is locked until COMMIT.
        IF _product.limit_per = 'email_root' THEN
            _roots := '{}';
            _root_units := '{}';
            FOR _row IN
                SELECT i.place, h.limit_id, h.units, h.cooling, h.cools_until, h.released_at
                FROM unnest(_user_ids, _product_ids, _outcome)
                    WITH ORDINALITY AS i (user_id, product_id, outcome, place)
                INNER JOIN hold_email_roots_v2(
                    _products[p],
                    ARRAY(
                        SELECT o.user_id
                        FROM unnest(_user_ids, _product_ids, _outcome) AS o (user_id, product_id, outcome)
                        WHERE o.outcome IS NULL AND o.product_id = _products[p]
                    ),
                    _now
                ) AS h ON i.user_id = h.user_id
                WHERE i.outcome IS NULL AND i.product_id = _products[p]
                ORDER BY i.place
            LOOP
                _limit_ids[_row.place] := _row.limit_id;
                _root_released[_row.place] := _row.released_at;
                _root := array_position(_roots, _row.limit_id);
                IF _root IS NULL THEN
                    _roots := _roots || _row.limit_id;
                    _root_units := _root_units || 0;
                    _root := cardinality(_roots);
                END IF;
                IF _row.units + _row.cooling + _quantities[_row.place] > _product.limit_per_buyer THEN
                    _outcome[_row.place] := 'limit_reached';
                    _held[_row.place] := _row.units + _row.cooling;
                    IF _row.units + _quantities[_row.place] <= _product.limit_per_buyer THEN
                        _cools[_row.place] := _row.cools_until;
                    END IF;
                ELSIF
                    _row.units + _row.cooling + _root_units[_root] + _quantities[_row.place] > _product.limit_per_buyer
                THEN
                    _outcome[_row.place] := 'retry';
                ELSE
                    _root_units[_root] := _root_units[_root] + _quantities[_row.place];
                END IF;
            END LOOP;
        END IF;

        -- 7. Count the units for their buyers, up to the limit.
        WITH counted AS (
            INSERT INTO buyer_units AS b (product_id, user_id, units, limit_id)
            SELECT i.product_id, i.user_id, i.quantity, i.limit_id
            FROM unnest(_product_ids, _user_ids, _quantities, _outcome, _limit_ids)
                AS i (product_id, user_id, quantity, outcome, limit_id)
            WHERE i.outcome IS NULL AND i.product_id = _products[p]
            ORDER BY i.user_id
            ON CONFLICT (product_id, user_id) DO UPDATE
            SET units = b.units + excluded.units
            WHERE _product.limit_per_buyer IS NULL
                OR b.units + CASE WHEN b.cools_until > _now THEN b.cooling ELSE 0 END + excluded.units
                <= _product.limit_per_buyer
            RETURNING
                b.user_id,
                CASE WHEN b.cools_until <= _now THEN greatest(b.released_at, b.cools_until) ELSE b.released_at END
                    AS released_at
        )
        SELECT coalesce(array_agg(c.user_id), '{}'), coalesce(array_agg(c.released_at), '{}')
        INTO _within_limit, _released
        FROM counted AS c;

        _wanted := 0;
        FOR i IN 1 .. _n LOOP
            IF _outcome[i] IS NULL AND _product_ids[i] = _products[p] THEN
                _buyer := array_position(_within_limit, _user_ids[i]);
                IF _buyer IS NULL THEN
                    _outcome[i] := 'limit_reached';
                ELSE
                    _wanted := _wanted + _quantities[i];
                    _late[i] := _keys[i] IS NOT NULL
                        AND _order_ids[i] < first_order_id_v1(greatest(_released[_buyer], _root_released[i], 'epoch'));
                END IF;
            END IF;
        END LOOP;
        CONTINUE WHEN _wanted = 0;

        -- 8. Claim units.
        _locked := claim_units_v1(_products[p], _wanted);
        -- In a statement of its own: units that were released or sold while units were claimed are in it. Units that
        -- others claim without having committed count as free.
        SELECT l.free, coalesce(s.raised_at, '{}') INTO STRICT _free, _raised
        FROM product_live AS l
        LEFT JOIN stock_raises AS s ON l.product_id = s.product_id
        WHERE l.product_id = _products[p];
        _taken := 0;
        _undone := '{}';
        FOR i IN 1 .. _n LOOP
            CONTINUE WHEN _outcome[i] IS NOT NULL OR _product_ids[i] <> _products[p];
            IF _late[i] OR (
                _keys[i] IS NOT NULL
                AND _order_ids[i] < first_order_id_v1(coalesce(_raised[_quantities[i]], 'epoch'))
            ) THEN
                _outcome[i] := 'voided';
                _undone := _undone || i;
            ELSIF _taken + _quantities[i] <= cardinality(_locked) THEN
                _outcome[i] := 'accepted';
                _accepted := _accepted || _order_ids[i];
                FOR k IN 1 .. _quantities[i] LOOP
                    _unit_products := _unit_products || _products[p];
                    _unit_nos := _unit_nos || _locked[_taken + k];
                    _unit_orders := _unit_orders || _order_ids[i];
                END LOOP;
                _taken := _taken + _quantities[i];
            END IF;
        END LOOP;
        FOR i IN 1 .. _n LOOP
            IF _outcome[i] IS NULL AND _product_ids[i] = _products[p] THEN
                -- Short. Units that others hold locks on may come free again: sold out only if too few are visible.
                _visible[i] := greatest(_free - _taken, 0);
                _outcome[i] := CASE WHEN _visible[i] >= _quantities[i] THEN 'retry' ELSE 'sold_out' END;
                _undone := _undone || i;
            END IF;
        END LOOP;
        IF cardinality(_undone) > 0 THEN
            UPDATE buyer_units AS b
            SET units = b.units - _quantities[i.place]
            FROM unnest(_undone) AS i (place)
            WHERE b.product_id = _products[p] AND b.user_id = _user_ids[i.place];
        END IF;
        IF _taken > 0 THEN
            _sold_products := _sold_products || _products[p];
            _sold_deltas := _sold_deltas || -_taken;
            _sold_hands := _sold_hands || _locked[_taken];
        END IF;
    END LOOP;

    -- 9. Say what was seen for the refusals, and leave or take back their requests.
    IF 'limit_reached' = ANY(_outcome) THEN
        FOR _row IN
            SELECT
                i.place, b.units + CASE WHEN b.cools_until > _now THEN b.cooling ELSE 0 END AS units,
                CASE WHEN b.cools_until > _now AND b.units + i.quantity <= p.limit_per_buyer THEN b.cools_until END
                    AS cools_until
            FROM unnest(_outcome, _product_ids, _user_ids, _quantities)
                WITH ORDINALITY AS i (outcome, product_id, user_id, quantity, place)
            INNER JOIN products AS p ON i.product_id = p.product_id
            INNER JOIN buyer_units AS b ON i.product_id = b.product_id AND i.user_id = b.user_id
            WHERE i.outcome = 'limit_reached' AND _held[i.place] IS NULL
        LOOP
            _held[_row.place] := _row.units;
            _cools[_row.place] := _row.cools_until;
        END LOOP;
    END IF;
    IF cardinality(_accepted) < cardinality(_fresh) THEN
        UPDATE requests AS r
        SET kind = 'void'
        FROM unnest(_order_ids, _outcome, _epochs) AS i (order_id, outcome, epoch)
        WHERE r.order_id = i.order_id AND r.order_id = ANY(_fresh)
            AND i.outcome NOT IN ('accepted', 'retry') AND i.epoch IS NOT NULL;
        DELETE FROM requests AS r
        USING unnest(_order_ids, _outcome, _epochs) AS i (order_id, outcome, epoch)
        WHERE r.order_id = i.order_id AND r.order_id = ANY(_fresh)
            AND (i.outcome = 'retry' OR (i.outcome <> 'accepted' AND i.epoch IS NULL));
    END IF;

    -- 10. Write the orders with their first events and one job, and give them their units.
    IF cardinality(_accepted) > 0 THEN
        _job_id := defer_order_job_v1(_accepted);
        INSERT INTO orders (
            order_id, user_id, product_id, product_name, quantity, unit_price_minor, currency, payment_mode,
            status, due_at, job_id, created_at, updated_at
        )
        SELECT
            i.order_id, i.user_id, i.product_id, p.name, i.quantity, p.price_minor, p.currency, p.payment_mode,
            'queued', _now + _due, _job_id, _now, _now
        FROM unnest(_order_ids, _user_ids, _product_ids, _quantities, _outcome)
            AS i (order_id, user_id, product_id, quantity, outcome)
        INNER JOIN products AS p ON i.product_id = p.product_id
        WHERE i.outcome = 'accepted';
        INSERT INTO order_events (order_id, version, status)
        SELECT a, 1, 'queued' FROM unnest(_accepted) AS a;
        UPDATE units AS u
        SET order_id = i.order_id
        FROM unnest(_unit_products, _unit_nos, _unit_orders) AS i (product_id, unit_no, order_id)
        WHERE u.product_id = i.product_id AND u.unit_no = i.unit_no;
    END IF;

    -- 11. Answer.
    RETURN QUERY
    SELECT
        i.outcome, o.order_id, o.product_id, o.product_name, o.quantity, o.unit_price_minor, o.currency, i.visible,
        i.held, i.cools_until
    FROM unnest(_outcome, _answered, _visible, _held, _cools)
        WITH ORDINALITY AS i (outcome, order_id, visible, held, cools_until, place)
    LEFT JOIN orders AS o ON i.order_id = o.order_id AND i.outcome IN ('accepted', 'replayed')
    ORDER BY i.place;

    -- 12. Change the live count and notify. Last, because everybody who sells the product waits for these locks until COMMIT.
    IF cardinality(_sold_products) > 0 THEN
        PERFORM change_stock_v2(_sold_products, _sold_deltas, _sold_hands);
    END IF;
END;
$$;
