-- Counts units that orders gave back as free again: each order once, and only under the epoch it was claimed in.
-- KEYS  epoch, run, stock, buyers, returns (sorted set: order id -> when it was counted, ms on this server's clock), cooling
-- ARGV  run id, epoch, largest stock, n x (order id, user id, units, ms for which they still count for the buyer)
-- Gives 1, or 0 if another loading is there (nothing is written then).
-- An order's row in Postgres goes once the gate has counted it, so that an order is remembered for an hour, and of many
-- the newest. If one is counted twice after all, the gate counts too many, which heals.
local HOUR_S, DAY_S, REMEMBERED_MAX = 3600, 86400, 100000
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

local function take_off(user, units)
    local left = (tonumber(redis.call('HGET', KEYS[4], user)) or 0) - units
    if left > 0 and left < math.huge then
        redis.call('HSET', KEYS[4], user, string.format('%d', left))
    else
        redis.call('HDEL', KEYS[4], user)
    end
end

-- The buyer's count keeps the units until admit.lua finds that their cool-down has passed; those that overlap end together.
local function cool(user, units, ms)
    local is = redis.call('TYPE', KEYS[6]).ok
    if is ~= 'hash' and is ~= 'none' then
        redis.call('DEL', KEYS[6])
    end
    local till_ms, cooling = string.match(redis.call('HGET', KEYS[6], user) or '', '^(%d+):(%d+)$')
    till_ms, cooling = tonumber(till_ms) or 0, tonumber(cooling) or 0
    if till_ms <= now_ms then
        take_off(user, cooling)
        cooling = 0
    end
    local value = string.format('%.0f:%.0f', math.max(till_ms, now_ms + ms), cooling + units)
    if redis.call('HSET', KEYS[6], user, value) == 1 and redis.call('HLEN', KEYS[6]) > REMEMBERED_MAX then
        redis.call('UNLINK', KEYS[6])
    end
    redis.call('EXPIRE', KEYS[6], DAY_S)
end

for at = 4, #ARGV, 4 do
    if redis.call('ZADD', KEYS[5], 'NX', now_ms, ARGV[at]) == 1 then
        local user, units, ms = ARGV[at + 1], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
        redis.call('INCRBY', KEYS[3], ARGV[at + 2])
        if ms > 0 then
            cool(user, units, ms)
        else
            take_off(user, units)
        end
    end
end
redis.call('ZREMRANGEBYRANK', KEYS[5], 0, -REMEMBERED_MAX - 1)
redis.call('EXPIRE', KEYS[5], HOUR_S)
return 1
