-- Counts units that orders gave back as free again: each order once, and only under the epoch it was claimed in.
-- KEYS  epoch, run, stock, buyers, returns (sorted set: order id -> when it was counted, ms on this server's clock)
-- ARGV  run id, epoch, largest stock, n x (order id, user id, units)
-- Gives 1, or 0 if another loading is there (nothing is written then).
-- An order's row in Postgres goes once the gate has counted it, so that an order is remembered for an hour, and of many
-- the newest. If one is counted twice after all, the gate counts too many, which heals.
local HOUR_S, REMEMBERED_MAX = 3600, 100000
local types = {'string', 'string', 'string', 'hash'}
for i, want in ipairs(types) do
    local is = redis.call('TYPE', KEYS[i]).ok
    if is ~= want and (is ~= 'none' or i <= 3) then
        return 0
    end
end
local free = redis.call('GET', KEYS[3])
if redis.call('GET', KEYS[1]) ~= ARGV[2] or redis.call('GET', KEYS[2]) ~= ARGV[1]
    or not string.match(free, '^%d+$') or tonumber(free) > tonumber(ARGV[3])
    or string.format('%d', free) ~= free then
    return 0
end
local is = redis.call('TYPE', KEYS[5]).ok
if is ~= 'zset' and is ~= 'none' then
    redis.call('DEL', KEYS[5])
end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', now_ms - HOUR_S * 1000)
-- Written in the future by somebody else: it would never go.
redis.call('ZREMRANGEBYSCORE', KEYS[5], '(' .. now_ms + HOUR_S * 1000, '+inf')
for at = 4, #ARGV, 3 do
    if redis.call('ZADD', KEYS[5], 'NX', now_ms, ARGV[at]) == 1 then
        redis.call('INCRBY', KEYS[3], ARGV[at + 2])
        local left = (tonumber(redis.call('HGET', KEYS[4], ARGV[at + 1])) or 0) - tonumber(ARGV[at + 2])
        if left > 0 and left < math.huge then
            redis.call('HSET', KEYS[4], ARGV[at + 1], string.format('%d', left))
        else
            redis.call('HDEL', KEYS[4], ARGV[at + 1])
        end
    end
end
redis.call('ZREMRANGEBYRANK', KEYS[5], 0, -REMEMBERED_MAX - 1)
redis.call('EXPIRE', KEYS[5], HOUR_S)
return 1
