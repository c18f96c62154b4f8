-- name: settings_of_session
-- Reads the values of settings in this session, times in milliseconds, and whose session it is in which database.
SELECT s.name, s.setting
FROM pg_settings AS s
WHERE s.name = ANY($1::text [])
UNION ALL
VALUES ('current_user', current_user::text), ('current_database', current_database()::text);

-- name: echo
-- Sends a notification that only the sender listens for.
SELECT pg_notify($1, '');
