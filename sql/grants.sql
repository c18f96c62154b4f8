-- The rights of the roles under which processes run. `python tests/schema.py` writes this file from what their
-- statements touch; each migration ends with it. The two roles own nothing.
DO $$
BEGIN
    IF NOT has_schema_privilege('flashsale_api', current_schema(), 'USAGE') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO flashsale_api, flashsale_worker', current_schema());
    END IF;
    -- What belongs to the database's owner is left to them: with Postgres 15 or newer nobody else may create there.
    IF (SELECT pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = current_database()) THEN
        EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
        EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', current_schema());
    END IF;
END;
$$;
REVOKE ALL ON TABLE admin_requests, admin_trail, alembic_version, archived_money, archived_orders, buyer_units, gate_returns, manual_entries, order_events, order_mark, order_stragglers, order_totals, orders, outbox, outbox_targets, password_resets, payment_attempts, payment_fees, payment_intents, postponed_orders, procrastinate_events, procrastinate_jobs, procrastinate_periodic_defers, procrastinate_workers, product_arrivals, product_departures, product_live, product_restocks, product_terms, products, provider_turns, refunds, requests, revocations, sale_archives, stock_raises, timeline, unit_pools, units, users, webhook_events FROM PUBLIC, flashsale_api, flashsale_worker;
REVOKE ALL ON SEQUENCE procrastinate_events_id_seq, procrastinate_jobs_id_seq, procrastinate_periodic_defers_id_seq FROM PUBLIC, flashsale_api, flashsale_worker;
REVOKE ALL ON FUNCTION
    accept_orders_v1(_order_ids uuid[], _user_ids uuid[], _product_ids integer[], _quantities integer[], _keys text[], _fingerprints bytea[], _epochs bigint[], _due interval),
    accept_orders_v2(_order_ids uuid[], _user_ids uuid[], _product_ids integer[], _quantities integer[], _keys text[], _fingerprints bytea[], _epochs bigint[], _due interval),
    accept_orders_v3(_order_ids uuid[], _user_ids uuid[], _product_ids integer[], _quantities integer[], _keys text[], _fingerprints bytea[], _epochs bigint[], _due interval),
    accept_orders_v4(_order_ids uuid[], _user_ids uuid[], _product_ids integer[], _quantities integer[], _keys text[], _fingerprints bytea[], _epochs bigint[], _due interval),
    accept_orders_v5(_order_ids uuid[], _user_ids uuid[], _product_ids integer[], _quantities integer[], _keys text[], _fingerprints bytea[], _epochs bigint[], _due interval, _request_ids text[], _expected bigint[]),
    adopt_timeline_v1(),
    archive_product_v1(_product_id integer),
    begin_gate_load_v1(_product_id integer, _seen_epoch bigint),
    begin_gate_load_v2(_product_id integer, _seen_epoch bigint),
    begin_intent_v1(_order_id uuid, _provider text, _due interval),
    begin_intent_v2(_order_id uuid, _provider text, _due interval),
    begin_payments_v1(_order_ids uuid[], _due interval),
    begin_payments_v2(_order_ids uuid[], _due interval),
    begin_payments_v3(_order_ids uuid[], _due interval),
    begin_payments_v4(_order_ids uuid[], _due interval),
    begin_refund_v1(_order_id uuid, _due interval),
    carry_orders_v1(_settled interval, _limit integer),
    carry_orders_v2(_settled interval, _limit integer),
    change_allotment_v1(_product_id integer, _change integer, _most integer),
    change_stock_v1(_product_ids integer[], _deltas integer[], _hands integer[]),
    change_stock_v2(_product_ids integer[], _deltas integer[], _hands integer[]),
    changed_values_v1(_row jsonb, _other jsonb, _but text[]),
    claim_units_v1(_product_id integer, _wanted integer),
    close_sale_v1(_product_id integer),
    create_product_v1(_name text, _price_minor bigint, _currency text, _allotment integer, _payment_mode text, _payment_window_s integer, _limit_per_buyer integer, _starts_at timestamp with time zone, _ends_at timestamp with time zone),
    create_product_v2(_name text, _price_minor bigint, _currency text, _allotment integer, _payment_mode text, _payment_window_s integer, _limit_per_buyer integer, _starts_at timestamp with time zone, _ends_at timestamp with time zone),
    create_product_v3(_name text, _price_minor bigint, _currency text, _allotment integer, _payment_mode text, _payment_window_s integer, _limit_per_buyer integer, _limit_per text, _starts_at timestamp with time zone, _ends_at timestamp with time zone),
    create_product_v5(_name text, _price_minor bigint, _currency text, _allotment integer, _payment_mode text, _payment_window_s integer, _limit_per_buyer integer, _limit_per text, _cooldown_s integer, _starts_at timestamp with time zone, _ends_at timestamp with time zone),
    create_product_v6(_name text, _price_minor bigint, _currency text, _allotment integer, _payment_mode text, _payment_window_s integer, _limit_per_buyer integer, _limit_per text, _cooldown_s integer, _refundable_by_buyer boolean, _starts_at timestamp with time zone, _ends_at timestamp with time zone),
    currency_known_v1(_code text),
    defer_event_jobs_v1(_providers text[], _event_ids text[], _references text[]),
    defer_intent_jobs_v1(_order_ids uuid[], _numbers integer[]),
    defer_order_job_v1(_order_ids uuid[]),
    defer_payment_jobs_v1(_order_ids uuid[]),
    defer_refund_jobs_v1(_order_ids uuid[]),
    email_key_v1(_email text),
    email_root_v1(_email_key text),
    end_orders_v1(_order_ids uuid[], _status text),
    end_orders_v2(_order_ids uuid[], _status text),
    enter_cell_v1(_move_id uuid, _from_product_id integer, _paused boolean, _name text, _price_minor bigint, _currency text, _units integer, _payment_mode text, _payment_window_s integer, _limit_per_buyer integer, _limit_per text, _cooldown_s integer, _refundable_by_buyer boolean, _starts_at timestamp with time zone, _ends_at timestamp with time zone),
    erase_buyer_v1(_user_id uuid),
    finish_payments_v1(_order_ids uuid[], _attempts integer[], _outcomes text[], _references text[], _retry_after interval[]),
    finish_payments_v2(_order_ids uuid[], _attempts integer[], _outcomes text[], _references text[], _retry_after interval[]),
    first_order_id_v1(_at timestamp with time zone),
    guard_order_transition_v1(),
    guard_order_transition_v2(),
    hold_email_roots_v1(_product_id integer, _user_ids uuid[]),
    hold_email_roots_v2(_product_id integer, _user_ids uuid[], _now timestamp with time zone),
    intent_rank_v1(_state text),
    keep_product_terms_v1(),
    keep_product_terms_v2(),
    keep_product_terms_v3(),
    keep_trail_v1(),
    leave_cell_v1(_product_id integer, _move_id uuid, _to_cell integer, _limits_anew boolean),
    limit_id_v1(_email_key text, _email text),
    limit_older_accepts_v1(),
    merge_account_v1(),
    merge_intent_v1(_order_id uuid, _provider text, _reference text, _state text, _amount_minor bigint, _currency text, _refunded_minor bigint, _client_secret text, _page_url text, _due interval),
    miss_refund_v1(_order_id uuid, _number integer, _attempt integer, _outcome text, _sent boolean, _problem text, _retry_after interval),
    note_account_v1(),
    note_action_v1(_action text, _object text, _old jsonb, _new jsonb),
    note_cooldown_v1(),
    note_ended_order_v1(),
    note_failed_refund_v1(),
    note_late_refund_v1(),
    note_late_refund_v2(),
    note_order_event_v1(),
    note_order_event_v2(),
    note_product_v1(),
    note_product_v2(),
    note_raised_stock_v1(),
    note_raised_stock_v2(),
    note_refund_v1(_order_id uuid, _key text, _reference text, _state text, _amount_minor bigint, _currency text, _problem text, _retry_after interval),
    note_refund_v2(_order_id uuid, _key text, _reference text, _state text, _amount_minor bigint, _currency text, _problem text, _retry_after interval),
    note_released_buyer_v1(),
    note_reopened_order_v1(),
    note_restocked_order_v1(),
    note_revocation_v1(),
    note_revocation_v2(),
    note_sold_out_v1(),
    notify_orders_v1(_order_ids uuid[]),
    notify_orders_v2(_order_ids uuid[]),
    notify_rows_v1(_channel text, _rows text[]),
    open_intent_v1(_order_id uuid, _number integer, _reference text, _amount_minor bigint, _currency text, _client_secret text, _page_url text, _due interval),
    order_transition_allowed_v1(_from text, _to text),
    order_transition_allowed_v2(_from text, _to text),
    password_hash_v1(_user_id uuid),
    postpone_order_v1(_order_id uuid, _job text, _problem text, _pause interval, _pause_max interval),
    process_orders_v1(_order_ids uuid[], _payment_due interval),
    process_orders_v2(_order_ids uuid[], _payment_due interval),
    procrastinate_cancel_job_v1(job_id bigint, abort boolean, delete_job boolean),
    procrastinate_defer_jobs_v1(jobs procrastinate_job_to_defer_v1[]),
    procrastinate_defer_periodic_job_v2(_queue_name character varying, _lock character varying, _queueing_lock character varying, _task_name character varying, _priority integer, _periodic_id character varying, _defer_timestamp bigint, _args jsonb),
    procrastinate_fetch_job_v2(target_queue_names character varying[], p_worker_id bigint),
    procrastinate_finish_job_v1(job_id bigint, end_status procrastinate_job_status, delete_job boolean),
    procrastinate_notify_queue_abort_job_v1(),
    procrastinate_notify_queue_job_inserted_v1(),
    procrastinate_prune_stalled_workers_v1(seconds_since_heartbeat double precision),
    procrastinate_register_worker_v1(),
    procrastinate_retry_job_v1(job_id bigint, retry_at timestamp with time zone, new_priority integer, new_queue_name character varying, new_lock character varying),
    procrastinate_retry_job_v2(job_id bigint, retry_at timestamp with time zone, new_priority integer, new_queue_name character varying, new_lock character varying),
    procrastinate_trigger_abort_requested_events_procedure_v1(),
    procrastinate_trigger_function_scheduled_events_v1(),
    procrastinate_trigger_function_status_events_insert_v1(),
    procrastinate_trigger_function_status_events_update_v1(),
    procrastinate_unlink_periodic_defers_v1(),
    procrastinate_unregister_worker_v1(worker_id bigint),
    procrastinate_update_heartbeat_v1(worker_id bigint),
    raise_generation_v1(),
    raise_order_changes_v1(),
    raise_product_version_v1(),
    record_payment_v1(_order_id uuid, _reference text, _amount_minor bigint, _currency text, _recorded_by uuid, _due interval),
    record_refund_v1(_order_id uuid, _number integer, _reference text, _recorded_by uuid, _due interval),
    refuse_archived_v1(),
    refuse_currency_v1(),
    release_units_v1(_order_ids uuid[]),
    release_units_v2(_order_ids uuid[]),
    request_own_refund_v1(_order_id uuid, _user_id uuid, _due interval),
    request_payment_v1(_order_id uuid, _due interval),
    request_refund_v1(_order_id uuid, _amount_minor bigint, _restock boolean, _reason text, _requested_by uuid, _due interval),
    set_allotment_v1(_product_id integer, _allotment integer),
    set_allotment_v2(_product_id integer, _allotment integer),
    settle_refunds_v1(_order_id uuid),
    sweep_orders_v1(_limit integer, _due interval),
    sweep_orders_v2(_order_ids uuid[], _due interval, _patience interval),
    take_turns_v1(_provider text, _operation text, _count integer, _interval interval, _horizon interval),
    take_webhook_v1(_provider text, _event_id text, _type text, _reference text, _due interval),
    tend_units_v1(_product_id integer, _most integer),
    void_requests_v1(_order_ids uuid[]),
    void_requests_v2(_order_ids uuid[]),
    void_requests_v3(_order_ids uuid[], _patience interval),
    wake_payments_v1(_intents_max integer, _events_max integer, _due interval),
    wake_payments_v2(_intents_max integer, _events_max integer, _due interval),
    wake_refunds_v1(_limit integer, _due interval),
    wake_refunds_v2(_limit integer, _due interval),
    withdraw_refund_v1(_order_id uuid, _number integer)
FROM PUBLIC, flashsale_api, flashsale_worker;

GRANT INSERT (user_id, key, fingerprint) ON admin_requests TO flashsale_api;
GRANT SELECT ON admin_requests TO flashsale_api;
GRANT UPDATE (product_id, status, tag, body, refund_number) ON admin_requests TO flashsale_api;
GRANT INSERT (user_id, actor, origin, action, object, old, new, request_id) ON admin_trail TO flashsale_api;
GRANT SELECT ON admin_trail TO flashsale_api;
GRANT SELECT ON alembic_version TO flashsale_api;
GRANT SELECT ON archived_money TO flashsale_api;
GRANT SELECT ON archived_orders TO flashsale_api;
GRANT INSERT (product_id, user_id, units, limit_id) ON buyer_units TO flashsale_api;
GRANT SELECT ON buyer_units TO flashsale_api;
GRANT UPDATE (units, limit_id, cooling, cools_until) ON buyer_units TO flashsale_api;
GRANT DELETE ON gate_returns TO flashsale_api;
GRANT INSERT (order_id, product_id, epoch, user_id, quantity) ON gate_returns TO flashsale_api;
GRANT SELECT ON gate_returns TO flashsale_api;
GRANT UPDATE (cools_until) ON gate_returns TO flashsale_api;
GRANT INSERT (order_id, number, reference, amount_minor, currency, recorded_by) ON manual_entries TO flashsale_api;
GRANT SELECT ON manual_entries TO flashsale_api;
GRANT INSERT ON order_events TO flashsale_api;
GRANT SELECT ON order_events TO flashsale_api;
GRANT SELECT ON order_mark TO flashsale_api;
GRANT INSERT ON order_stragglers TO flashsale_api;
GRANT SELECT ON order_stragglers TO flashsale_api;
GRANT SELECT ON order_totals TO flashsale_api;
GRANT INSERT (order_id, user_id, product_id, product_name, quantity, unit_price_minor, currency, payment_mode, status, due_at, job_id, created_at, updated_at) ON orders TO flashsale_api;
GRANT SELECT ON orders TO flashsale_api;
GRANT UPDATE (status, pay_requested_at, due_at, job_id, refunded_minor, restocked) ON orders TO flashsale_api;
GRANT INSERT (target_id, event, order_id, order_version, product_id, facts, back_minor, failed) ON outbox TO flashsale_api;
GRANT SELECT ON outbox TO flashsale_api;
GRANT SELECT (target_id, events, wanted_since) ON outbox_targets TO flashsale_api;
GRANT DELETE ON password_resets TO flashsale_api;
GRANT INSERT (user_id, generation) ON password_resets TO flashsale_api;
GRANT SELECT ON password_resets TO flashsale_api;
GRANT UPDATE (generation, requested_at, due_at) ON password_resets TO flashsale_api;
GRANT SELECT ON payment_attempts TO flashsale_api;
GRANT SELECT ON payment_fees TO flashsale_api;
GRANT INSERT (order_id, number, provider, amount_minor, currency, window_left, due_at) ON payment_intents TO flashsale_api;
GRANT SELECT ON payment_intents TO flashsale_api;
GRANT UPDATE (reference, state, client_secret, page_url, problem, looks, due_at, updated_at) ON payment_intents TO flashsale_api;
GRANT SELECT ON postponed_orders TO flashsale_api;
GRANT INSERT (job_id, type, at) ON procrastinate_events TO flashsale_api;
GRANT SELECT ON procrastinate_events TO flashsale_api;
GRANT USAGE ON SEQUENCE procrastinate_events_id_seq TO flashsale_api;
GRANT INSERT (queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at) ON procrastinate_jobs TO flashsale_api;
GRANT SELECT ON procrastinate_jobs TO flashsale_api;
GRANT USAGE ON SEQUENCE procrastinate_jobs_id_seq TO flashsale_api;
GRANT SELECT ON procrastinate_periodic_defers TO flashsale_api;
GRANT UPDATE (job_id) ON procrastinate_periodic_defers TO flashsale_api;
GRANT SELECT ON procrastinate_workers TO flashsale_api;
GRANT SELECT ON product_arrivals TO flashsale_api;
GRANT SELECT ON product_departures TO flashsale_api;
GRANT INSERT (product_id, free) ON product_live TO flashsale_api;
GRANT SELECT ON product_live TO flashsale_api;
GRANT UPDATE (free, version, claim_hand) ON product_live TO flashsale_api;
GRANT INSERT ON product_restocks TO flashsale_api;
GRANT SELECT ON product_restocks TO flashsale_api;
GRANT UPDATE (units) ON product_restocks TO flashsale_api;
GRANT INSERT ON product_terms TO flashsale_api;
GRANT SELECT ON product_terms TO flashsale_api;
GRANT INSERT (name, price_minor, currency, allotment, payment_mode, payment_window_s, limit_per_buyer, starts_at, ends_at, limit_per, cooldown_s, refundable_by_buyer) ON products TO flashsale_api;
GRANT SELECT ON products TO flashsale_api;
GRANT UPDATE (name, price_minor, allotment, payment_window_s, limit_per_buyer, starts_at, ends_at, paused, epoch, updated_at, limit_per, cooldown_s, archived_at) ON products TO flashsale_api;
GRANT INSERT ON provider_turns TO flashsale_api;
GRANT SELECT ON provider_turns TO flashsale_api;
GRANT UPDATE (next_at) ON provider_turns TO flashsale_api;
GRANT INSERT (order_id, number, refund_key, amount_minor, currency, restock, reason, requested_by, due_at, job_id) ON refunds TO flashsale_api;
GRANT SELECT ON refunds TO flashsale_api;
GRANT UPDATE (state, problem, due_at, job_id, finished_at) ON refunds TO flashsale_api;
GRANT DELETE ON requests TO flashsale_api;
GRANT INSERT (order_id, kind, user_id, key, fingerprint, request_id) ON requests TO flashsale_api;
GRANT SELECT ON requests TO flashsale_api;
GRANT UPDATE (kind) ON requests TO flashsale_api;
GRANT INSERT ON revocations TO flashsale_api;
GRANT SELECT ON revocations TO flashsale_api;
GRANT UPDATE (generation, revoked_at) ON revocations TO flashsale_api;
GRANT SELECT ON sale_archives TO flashsale_api;
GRANT INSERT ON stock_raises TO flashsale_api;
GRANT SELECT ON stock_raises TO flashsale_api;
GRANT UPDATE (raised_at) ON stock_raises TO flashsale_api;
GRANT SELECT ON timeline TO flashsale_api;
GRANT UPDATE (base, life) ON timeline TO flashsale_api;
GRANT INSERT ON unit_pools TO flashsale_api;
GRANT SELECT ON unit_pools TO flashsale_api;
GRANT UPDATE (unmade) ON unit_pools TO flashsale_api;
GRANT DELETE ON units TO flashsale_api;
GRANT INSERT (product_id, unit_no) ON units TO flashsale_api;
GRANT SELECT ON units TO flashsale_api;
GRANT UPDATE (order_id) ON units TO flashsale_api;
GRANT INSERT (user_id, name, email, password_hash, email_key) ON users TO flashsale_api;
GRANT SELECT (user_id, name, email, role, created_at, email_key, generation) ON users TO flashsale_api;
GRANT UPDATE (password_hash, generation) ON users TO flashsale_api;
GRANT INSERT (provider, event_id, type, reference, due_at, taken_at) ON webhook_events TO flashsale_api;
GRANT SELECT ON webhook_events TO flashsale_api;
GRANT EXECUTE ON FUNCTION
    accept_orders_v1(_order_ids uuid[], _user_ids uuid[], _product_ids integer[], _quantities integer[], _keys text[], _fingerprints bytea[], _epochs bigint[], _due interval),
    accept_orders_v2(_order_ids uuid[], _user_ids uuid[], _product_ids integer[], _quantities integer[], _keys text[], _fingerprints bytea[], _epochs bigint[], _due interval),
    accept_orders_v3(_order_ids uuid[], _user_ids uuid[], _product_ids integer[], _quantities integer[], _keys text[], _fingerprints bytea[], _epochs bigint[], _due interval),
    accept_orders_v4(_order_ids uuid[], _user_ids uuid[], _product_ids integer[], _quantities integer[], _keys text[], _fingerprints bytea[], _epochs bigint[], _due interval),
    accept_orders_v5(_order_ids uuid[], _user_ids uuid[], _product_ids integer[], _quantities integer[], _keys text[], _fingerprints bytea[], _epochs bigint[], _due interval, _request_ids text[], _expected bigint[]),
    adopt_timeline_v1(),
    archive_product_v1(_product_id integer),
    begin_gate_load_v1(_product_id integer, _seen_epoch bigint),
    begin_gate_load_v2(_product_id integer, _seen_epoch bigint),
    begin_intent_v1(_order_id uuid, _provider text, _due interval),
    begin_intent_v2(_order_id uuid, _provider text, _due interval),
    change_allotment_v1(_product_id integer, _change integer, _most integer),
    change_stock_v1(_product_ids integer[], _deltas integer[], _hands integer[]),
    change_stock_v2(_product_ids integer[], _deltas integer[], _hands integer[]),
    changed_values_v1(_row jsonb, _other jsonb, _but text[]),
    claim_units_v1(_product_id integer, _wanted integer),
    close_sale_v1(_product_id integer),
    create_product_v1(_name text, _price_minor bigint, _currency text, _allotment integer, _payment_mode text, _payment_window_s integer, _limit_per_buyer integer, _starts_at timestamp with time zone, _ends_at timestamp with time zone),
    create_product_v2(_name text, _price_minor bigint, _currency text, _allotment integer, _payment_mode text, _payment_window_s integer, _limit_per_buyer integer, _starts_at timestamp with time zone, _ends_at timestamp with time zone),
    create_product_v3(_name text, _price_minor bigint, _currency text, _allotment integer, _payment_mode text, _payment_window_s integer, _limit_per_buyer integer, _limit_per text, _starts_at timestamp with time zone, _ends_at timestamp with time zone),
    create_product_v5(_name text, _price_minor bigint, _currency text, _allotment integer, _payment_mode text, _payment_window_s integer, _limit_per_buyer integer, _limit_per text, _cooldown_s integer, _starts_at timestamp with time zone, _ends_at timestamp with time zone),
    create_product_v6(_name text, _price_minor bigint, _currency text, _allotment integer, _payment_mode text, _payment_window_s integer, _limit_per_buyer integer, _limit_per text, _cooldown_s integer, _refundable_by_buyer boolean, _starts_at timestamp with time zone, _ends_at timestamp with time zone),
    currency_known_v1(_code text),
    defer_event_jobs_v1(_providers text[], _event_ids text[], _references text[]),
    defer_order_job_v1(_order_ids uuid[]),
    defer_payment_jobs_v1(_order_ids uuid[]),
    defer_refund_jobs_v1(_order_ids uuid[]),
    email_key_v1(_email text),
    email_root_v1(_email_key text),
    end_orders_v1(_order_ids uuid[], _status text),
    end_orders_v2(_order_ids uuid[], _status text),
    erase_buyer_v1(_user_id uuid),
    first_order_id_v1(_at timestamp with time zone),
    hold_email_roots_v1(_product_id integer, _user_ids uuid[]),
    hold_email_roots_v2(_product_id integer, _user_ids uuid[], _now timestamp with time zone),
    intent_rank_v1(_state text),
    limit_id_v1(_email_key text, _email text),
    note_action_v1(_action text, _object text, _old jsonb, _new jsonb),
    notify_orders_v1(_order_ids uuid[]),
    notify_orders_v2(_order_ids uuid[]),
    notify_rows_v1(_channel text, _rows text[]),
    open_intent_v1(_order_id uuid, _number integer, _reference text, _amount_minor bigint, _currency text, _client_secret text, _page_url text, _due interval),
    order_transition_allowed_v1(_from text, _to text),
    order_transition_allowed_v2(_from text, _to text),
    password_hash_v1(_user_id uuid),
    procrastinate_defer_jobs_v1(jobs procrastinate_job_to_defer_v1[]),
    record_payment_v1(_order_id uuid, _reference text, _amount_minor bigint, _currency text, _recorded_by uuid, _due interval),
    record_refund_v1(_order_id uuid, _number integer, _reference text, _recorded_by uuid, _due interval),
    release_units_v1(_order_ids uuid[]),
    release_units_v2(_order_ids uuid[]),
    request_own_refund_v1(_order_id uuid, _user_id uuid, _due interval),
    request_payment_v1(_order_id uuid, _due interval),
    request_refund_v1(_order_id uuid, _amount_minor bigint, _restock boolean, _reason text, _requested_by uuid, _due interval),
    set_allotment_v1(_product_id integer, _allotment integer),
    set_allotment_v2(_product_id integer, _allotment integer),
    settle_refunds_v1(_order_id uuid),
    take_turns_v1(_provider text, _operation text, _count integer, _interval interval, _horizon interval),
    take_webhook_v1(_provider text, _event_id text, _type text, _reference text, _due interval),
    tend_units_v1(_product_id integer, _most integer),
    void_requests_v1(_order_ids uuid[]),
    void_requests_v2(_order_ids uuid[]),
    void_requests_v3(_order_ids uuid[], _patience interval),
    withdraw_refund_v1(_order_id uuid, _number integer)
TO flashsale_api;

GRANT DELETE ON admin_requests TO flashsale_worker;
GRANT SELECT ON admin_requests TO flashsale_worker;
GRANT UPDATE (refund_number) ON admin_requests TO flashsale_worker;
GRANT INSERT (user_id, actor, origin, action, object, old, new, request_id) ON admin_trail TO flashsale_worker;
GRANT SELECT ON admin_trail TO flashsale_worker;
GRANT SELECT ON alembic_version TO flashsale_worker;
GRANT SELECT ON archived_money TO flashsale_worker;
GRANT SELECT ON archived_orders TO flashsale_worker;
GRANT SELECT ON buyer_units TO flashsale_worker;
GRANT UPDATE (units, limit_id, cooling, cools_until) ON buyer_units TO flashsale_worker;
GRANT DELETE ON gate_returns TO flashsale_worker;
GRANT INSERT (order_id, product_id, epoch, user_id, quantity) ON gate_returns TO flashsale_worker;
GRANT SELECT ON gate_returns TO flashsale_worker;
GRANT UPDATE (cools_until) ON gate_returns TO flashsale_worker;
GRANT SELECT ON manual_entries TO flashsale_worker;
GRANT INSERT ON order_events TO flashsale_worker;
GRANT SELECT ON order_events TO flashsale_worker;
GRANT SELECT ON order_mark TO flashsale_worker;
GRANT UPDATE (order_id) ON order_mark TO flashsale_worker;
GRANT DELETE ON order_stragglers TO flashsale_worker;
GRANT INSERT ON order_stragglers TO flashsale_worker;
GRANT SELECT ON order_stragglers TO flashsale_worker;
GRANT INSERT ON order_totals TO flashsale_worker;
GRANT SELECT ON order_totals TO flashsale_worker;
GRANT UPDATE (orders, units, value_minor) ON order_totals TO flashsale_worker;
GRANT SELECT ON orders TO flashsale_worker;
GRANT UPDATE (status, attempt, pay_requested_at, due_at, job_id, refunded_minor, restocked, disputed) ON orders TO flashsale_worker;
GRANT DELETE ON outbox TO flashsale_worker;
GRANT INSERT (target_id, event, order_id, order_version, product_id, facts, back_minor, failed) ON outbox TO flashsale_worker;
GRANT SELECT ON outbox TO flashsale_worker;
GRANT UPDATE (due_at, attempts, outcome, ended_at, problem) ON outbox TO flashsale_worker;
GRANT DELETE ON outbox_targets TO flashsale_worker;
GRANT INSERT (target_id, events) ON outbox_targets TO flashsale_worker;
GRANT SELECT ON outbox_targets TO flashsale_worker;
GRANT UPDATE (events, wanted_since) ON outbox_targets TO flashsale_worker;
GRANT DELETE ON password_resets TO flashsale_worker;
GRANT SELECT ON password_resets TO flashsale_worker;
GRANT UPDATE (due_at, digest, expires_at) ON password_resets TO flashsale_worker;
GRANT DELETE ON payment_attempts TO flashsale_worker;
GRANT INSERT (order_id, attempt, gateway_key, amount_minor, currency) ON payment_attempts TO flashsale_worker;
GRANT SELECT ON payment_attempts TO flashsale_worker;
GRANT UPDATE (outcome, reference, finished_at, sent) ON payment_attempts TO flashsale_worker;
GRANT INSERT (order_id, fee_minor, currency) ON payment_fees TO flashsale_worker;
GRANT SELECT ON payment_fees TO flashsale_worker;
GRANT UPDATE (fee_minor, currency, noted_at) ON payment_fees TO flashsale_worker;
GRANT INSERT (order_id, number, provider, reference, state, amount_minor, currency, window_left, due_at) ON payment_intents TO flashsale_worker;
GRANT SELECT ON payment_intents TO flashsale_worker;
GRANT UPDATE (reference, state, client_secret, page_url, problem, looks, due_at, job_id, updated_at) ON payment_intents TO flashsale_worker;
GRANT DELETE ON postponed_orders TO flashsale_worker;
GRANT INSERT (order_id, version, job, problem, until) ON postponed_orders TO flashsale_worker;
GRANT SELECT ON postponed_orders TO flashsale_worker;
GRANT UPDATE (version, job, problem, times, until, first_at, last_at) ON postponed_orders TO flashsale_worker;
GRANT INSERT (job_id, type, at) ON procrastinate_events TO flashsale_worker;
GRANT SELECT ON procrastinate_events TO flashsale_worker;
GRANT UPDATE (at) ON procrastinate_events TO flashsale_worker;
GRANT USAGE ON SEQUENCE procrastinate_events_id_seq TO flashsale_worker;
GRANT DELETE ON procrastinate_jobs TO flashsale_worker;
GRANT INSERT (queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at) ON procrastinate_jobs TO flashsale_worker;
GRANT SELECT ON procrastinate_jobs TO flashsale_worker;
GRANT UPDATE (queue_name, priority, lock, status, scheduled_at, attempts, abort_requested, worker_id) ON procrastinate_jobs TO flashsale_worker;
GRANT USAGE ON SEQUENCE procrastinate_jobs_id_seq TO flashsale_worker;
GRANT DELETE ON procrastinate_periodic_defers TO flashsale_worker;
GRANT INSERT (task_name, defer_timestamp, periodic_id) ON procrastinate_periodic_defers TO flashsale_worker;
GRANT SELECT ON procrastinate_periodic_defers TO flashsale_worker;
GRANT UPDATE (job_id) ON procrastinate_periodic_defers TO flashsale_worker;
GRANT USAGE ON SEQUENCE procrastinate_periodic_defers_id_seq TO flashsale_worker;
GRANT DELETE ON procrastinate_workers TO flashsale_worker;
GRANT INSERT ON procrastinate_workers TO flashsale_worker;
GRANT SELECT ON procrastinate_workers TO flashsale_worker;
GRANT UPDATE (last_heartbeat) ON procrastinate_workers TO flashsale_worker;
GRANT SELECT ON product_arrivals TO flashsale_worker;
GRANT SELECT ON product_departures TO flashsale_worker;
GRANT SELECT ON product_live TO flashsale_worker;
GRANT UPDATE (free, version, claim_hand) ON product_live TO flashsale_worker;
GRANT INSERT ON product_restocks TO flashsale_worker;
GRANT SELECT ON product_restocks TO flashsale_worker;
GRANT UPDATE (units) ON product_restocks TO flashsale_worker;
GRANT INSERT ON product_terms TO flashsale_worker;
GRANT SELECT ON product_terms TO flashsale_worker;
GRANT SELECT ON products TO flashsale_worker;
GRANT UPDATE (epoch) ON products TO flashsale_worker;
GRANT INSERT ON provider_turns TO flashsale_worker;
GRANT SELECT ON provider_turns TO flashsale_worker;
GRANT UPDATE (next_at) ON provider_turns TO flashsale_worker;
GRANT INSERT (order_id, number, amount_minor, currency, restock, reason, state, reference, created_at, finished_at) ON refunds TO flashsale_worker;
GRANT SELECT ON refunds TO flashsale_worker;
GRANT UPDATE (state, attempt, sent, reference, problem, due_at, job_id, finished_at, bounced_at) ON refunds TO flashsale_worker;
GRANT DELETE ON requests TO flashsale_worker;
GRANT INSERT (order_id, kind) ON requests TO flashsale_worker;
GRANT SELECT ON requests TO flashsale_worker;
GRANT UPDATE (request_id) ON requests TO flashsale_worker;
GRANT DELETE ON revocations TO flashsale_worker;
GRANT SELECT ON revocations TO flashsale_worker;
GRANT UPDATE (revoked_at) ON revocations TO flashsale_worker;
GRANT SELECT ON sale_archives TO flashsale_worker;
GRANT INSERT ON stock_raises TO flashsale_worker;
GRANT SELECT ON stock_raises TO flashsale_worker;
GRANT UPDATE (raised_at) ON stock_raises TO flashsale_worker;
GRANT SELECT ON timeline TO flashsale_worker;
GRANT UPDATE (base, life) ON timeline TO flashsale_worker;
GRANT SELECT ON unit_pools TO flashsale_worker;
GRANT UPDATE (unmade) ON unit_pools TO flashsale_worker;
GRANT DELETE ON units TO flashsale_worker;
GRANT INSERT (product_id, unit_no) ON units TO flashsale_worker;
GRANT SELECT ON units TO flashsale_worker;
GRANT UPDATE (order_id) ON units TO flashsale_worker;
GRANT SELECT (user_id, email, role, created_at, email_key, generation) ON users TO flashsale_worker;
GRANT DELETE ON webhook_events TO flashsale_worker;
GRANT SELECT ON webhook_events TO flashsale_worker;
GRANT UPDATE (due_at, taken_at, job_id, order_id) ON webhook_events TO flashsale_worker;
GRANT EXECUTE ON FUNCTION
    adopt_timeline_v1(),
    begin_gate_load_v1(_product_id integer, _seen_epoch bigint),
    begin_gate_load_v2(_product_id integer, _seen_epoch bigint),
    begin_payments_v1(_order_ids uuid[], _due interval),
    begin_payments_v2(_order_ids uuid[], _due interval),
    begin_payments_v3(_order_ids uuid[], _due interval),
    begin_payments_v4(_order_ids uuid[], _due interval),
    begin_refund_v1(_order_id uuid, _due interval),
    carry_orders_v1(_settled interval, _limit integer),
    carry_orders_v2(_settled interval, _limit integer),
    change_stock_v1(_product_ids integer[], _deltas integer[], _hands integer[]),
    change_stock_v2(_product_ids integer[], _deltas integer[], _hands integer[]),
    changed_values_v1(_row jsonb, _other jsonb, _but text[]),
    currency_known_v1(_code text),
    defer_event_jobs_v1(_providers text[], _event_ids text[], _references text[]),
    defer_intent_jobs_v1(_order_ids uuid[], _numbers integer[]),
    defer_order_job_v1(_order_ids uuid[]),
    defer_payment_jobs_v1(_order_ids uuid[]),
    defer_refund_jobs_v1(_order_ids uuid[]),
    email_key_v1(_email text),
    email_root_v1(_email_key text),
    end_orders_v1(_order_ids uuid[], _status text),
    end_orders_v2(_order_ids uuid[], _status text),
    finish_payments_v1(_order_ids uuid[], _attempts integer[], _outcomes text[], _references text[], _retry_after interval[]),
    finish_payments_v2(_order_ids uuid[], _attempts integer[], _outcomes text[], _references text[], _retry_after interval[]),
    first_order_id_v1(_at timestamp with time zone),
    hold_email_roots_v1(_product_id integer, _user_ids uuid[]),
    hold_email_roots_v2(_product_id integer, _user_ids uuid[], _now timestamp with time zone),
    intent_rank_v1(_state text),
    limit_id_v1(_email_key text, _email text),
    merge_intent_v1(_order_id uuid, _provider text, _reference text, _state text, _amount_minor bigint, _currency text, _refunded_minor bigint, _client_secret text, _page_url text, _due interval),
    miss_refund_v1(_order_id uuid, _number integer, _attempt integer, _outcome text, _sent boolean, _problem text, _retry_after interval),
    note_action_v1(_action text, _object text, _old jsonb, _new jsonb),
    note_refund_v1(_order_id uuid, _key text, _reference text, _state text, _amount_minor bigint, _currency text, _problem text, _retry_after interval),
    note_refund_v2(_order_id uuid, _key text, _reference text, _state text, _amount_minor bigint, _currency text, _problem text, _retry_after interval),
    notify_orders_v1(_order_ids uuid[]),
    notify_orders_v2(_order_ids uuid[]),
    notify_rows_v1(_channel text, _rows text[]),
    open_intent_v1(_order_id uuid, _number integer, _reference text, _amount_minor bigint, _currency text, _client_secret text, _page_url text, _due interval),
    order_transition_allowed_v1(_from text, _to text),
    order_transition_allowed_v2(_from text, _to text),
    postpone_order_v1(_order_id uuid, _job text, _problem text, _pause interval, _pause_max interval),
    process_orders_v1(_order_ids uuid[], _payment_due interval),
    process_orders_v2(_order_ids uuid[], _payment_due interval),
    procrastinate_cancel_job_v1(job_id bigint, abort boolean, delete_job boolean),
    procrastinate_defer_jobs_v1(jobs procrastinate_job_to_defer_v1[]),
    procrastinate_defer_periodic_job_v2(_queue_name character varying, _lock character varying, _queueing_lock character varying, _task_name character varying, _priority integer, _periodic_id character varying, _defer_timestamp bigint, _args jsonb),
    procrastinate_fetch_job_v2(target_queue_names character varying[], p_worker_id bigint),
    procrastinate_finish_job_v1(job_id bigint, end_status procrastinate_job_status, delete_job boolean),
    procrastinate_prune_stalled_workers_v1(seconds_since_heartbeat double precision),
    procrastinate_register_worker_v1(),
    procrastinate_retry_job_v1(job_id bigint, retry_at timestamp with time zone, new_priority integer, new_queue_name character varying, new_lock character varying),
    procrastinate_retry_job_v2(job_id bigint, retry_at timestamp with time zone, new_priority integer, new_queue_name character varying, new_lock character varying),
    procrastinate_unregister_worker_v1(worker_id bigint),
    procrastinate_update_heartbeat_v1(worker_id bigint),
    release_units_v1(_order_ids uuid[]),
    release_units_v2(_order_ids uuid[]),
    settle_refunds_v1(_order_id uuid),
    sweep_orders_v1(_limit integer, _due interval),
    sweep_orders_v2(_order_ids uuid[], _due interval, _patience interval),
    take_turns_v1(_provider text, _operation text, _count integer, _interval interval, _horizon interval),
    tend_units_v1(_product_id integer, _most integer),
    void_requests_v1(_order_ids uuid[]),
    void_requests_v2(_order_ids uuid[]),
    void_requests_v3(_order_ids uuid[], _patience interval),
    wake_payments_v1(_intents_max integer, _events_max integer, _due interval),
    wake_payments_v2(_intents_max integer, _events_max integer, _due interval),
    wake_refunds_v1(_limit integer, _due interval),
    wake_refunds_v2(_limit integer, _due interval)
TO flashsale_worker;
