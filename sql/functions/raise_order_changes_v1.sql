-- Trigger of orders: counts a change of what a buyer is shown of an order, other than its state, whose changes `version`
-- counts, and tells the live hubs of it: [[order_id, status, version, changes]].
CREATE FUNCTION raise_order_changes_v1()
RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    new.changes := old.changes + 1;
    PERFORM notify_rows_v1(
        'flashsale_orders',
        ARRAY[json_build_array(new.order_id, new.status, new.version, new.changes)::text]
    );
    RETURN new;
END;
$$;
