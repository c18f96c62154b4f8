-- name: set_author
-- Says, until the end of the transaction, who acts: the trail's rows name the author (JSON).
SELECT set_config('flashsale.author', $1, true);

-- name: note_action
-- Writes a row of the trail: the action, if the author did not name one, the object, and its values before and after.
SELECT note_action_v1($1, $2, $3, $4);

-- name: trail
-- Reads the trail, the newest first: from before a row ($1), of an actor by e-mail root or account, by an action, of an
-- object, from an instant on, and before another. NULL: any.
SELECT trail_id, at, user_id, actor, origin, action, object, old, new, request_id
FROM admin_trail
WHERE
    ($1::bigint IS NULL OR trail_id < $1)
    AND ($2::text IS NULL OR actor IN ($2, email_root_v1($2)) OR user_id::text = $2)
    AND ($3::text IS NULL OR action = $3)
    AND ($4::text IS NULL OR object = $4)
    AND ($5::timestamptz IS NULL OR at >= $5)
    AND ($6::timestamptz IS NULL OR at < $6)
ORDER BY trail_id DESC
LIMIT $7;
