-- Counts units that orders gave back as free again: each order once, and only under the epoch it was claimed in.
-- KEYS  epoch, run, stock, buyers, returned
-- ARGV  run id, epoch, n x (order id, user id, units)
-- Gives 1, or 0 if another loading is there (nothing is written then).
local types = {'string', 'string', 'string', 'hash', 'set'}
for i, want in ipairs(types) do
    local is = redis.call('TYPE', KEYS[i]).ok
    if is ~= want and (is ~= 'none' or i <= 3) then
        return 0
    end
end
if redis.call('GET', KEYS[1]) ~= ARGV[2] or redis.call('GET', KEYS[2]) ~= ARGV[1]
    or not string.match(redis.call('GET', KEYS[3]), '^%d+$') then
    return 0
end
for at = 3, #ARGV, 3 do
    if redis.call('SADD', KEYS[5], ARGV[at]) == 1 then
        redis.call('INCRBY', KEYS[3], ARGV[at + 2])
        local has = tonumber(redis.call('HGET', KEYS[4], ARGV[at + 1])) or 0
        local left = has - tonumber(ARGV[at + 2])
        if left > 0 then
            redis.call('HSET', KEYS[4], ARGV[at + 1], string.format('%d', left))
        else
            redis.call('HDEL', KEYS[4], ARGV[at + 1])
        end
    end
end
return 1
