-- Gives what is to be added to every version that leaves the database. It is the same for as long as one server process
-- runs on one copy of the data. Any other server, copy or start of it may lack changes that clients have seen: restored
-- from a backup, promoted before it had received them, or crashed before they were on disk. It begins a new time line,
-- whose versions are higher than all of the earlier ones'. To be called on each new connection before anything is read.
CREATE FUNCTION adopt_timeline_v1()
RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    _life text := concat_ws(
        '/',
        (SELECT c.system_identifier FROM pg_control_system() AS c),
        -- The server's own time line rises with each promotion.
        left(pg_walfile_name(pg_current_wal_lsn()), 8),
        extract(EPOCH FROM pg_postmaster_start_time()),
        (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()),
        -- Another one after TRUNCATE or DROP, with which a restore into the same database begins.
        pg_relation_filenode('timeline')
    );
    _base bigint;
BEGIN
    SELECT t.base INTO _base FROM timeline AS t WHERE t.one AND t.life = _life;
    IF FOUND THEN
        RETURN _base;
    END IF;
    -- Of those that notice at the same time, one changes the row; the others wait for it and find it changed.
    UPDATE timeline AS t
    SET
        base = CASE
            WHEN t.life = '' THEN t.base
            ELSE greatest(t.base + 1, (extract(EPOCH FROM clock_timestamp()) * 1000000)::bigint)
        END,
        life = _life
    WHERE t.one AND t.life <> _life;
    SELECT t.base INTO STRICT _base FROM timeline AS t WHERE t.one;
    RETURN _base;
END;
$$;
