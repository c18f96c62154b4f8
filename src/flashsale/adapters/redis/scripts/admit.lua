-- One batch for one product: drops and returns leases that Postgres decided on, then admits or rejects requests.
--
-- KEYS  epoch, run, stock, leases, lease, keys, buyers, rate, tries, cooling
--   epoch, run   what the last loading installed (an epoch, and the run id of the server it was installed on)
--   stock        free units that nobody has a lease on
--   leases       sorted set: order id -> deadline, ms on this server's clock
--   lease        hash: order id -> "<units>:<user id>:<key>"
--   keys         hash: "<user id>:<key>" -> order id of the lease
--   buyers       hash: user id -> units leased and claimed, as far as this gate knows; forgotten after a day without
--                a write, and when it grows too long: Postgres knows better, and a refusal is confirmed there
--   rate, tries  hash per time window: user id -> requests
--   cooling      hash: user id -> "<ms on this server's clock>:<units>", units in the user's count that no order holds: they
--                count until then, because the buyer did not pay for them (return.lua)
-- ARGV  run id, epoch, largest stock, lease ms, rate limit, rate window s, tries per minute, limit per buyer (0: none),
--       and in MessagePack: {{order id, end, n}, ...}, {{order id, user id, units, key or ''}, ...}. End (LeaseEnd):
--       an order has KEPT the units; they are GIVEN_BACK, and the buyer holds at least n; SHORT: only n are there
-- Gives {'unloaded'}, before any write but that of decisions, or {'ok', m answers, stock left, leases left}. An answer is
-- 'admitted', 'sold_out', 'limit_reached', 'rate_limited:<s>', or 'leased:<order id>' for a key that holds a lease.
--
-- Decisions are about leases, and a loading drops every lease: one that is found is of this loading, whatever epoch the
-- caller knows of.

local KEPT, GIVEN_BACK, SHORT = 0, 1, 2

local function kind(key)
    return redis.call('TYPE', key).ok
end
local types = {'string', 'string', 'string', 'zset', 'hash', 'hash', 'hash'}
for i, want in ipairs(types) do
    local is = kind(KEYS[i])
    if is ~= want and (is ~= 'none' or i <= 3) then
        return {'unloaded'}
    end
end
local free = redis.call('GET', KEYS[3])
-- As Redis writes a number: '007' is none to INCRBY.
if redis.call('GET', KEYS[2]) ~= ARGV[1] or not string.match(free, '^%d+$') or tonumber(free) > tonumber(ARGV[3])
    or string.format('%d', free) ~= free then
    return {'unloaded'}
end
local stock = tonumber(free)

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local lease_ms, rate_limit, window_s = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local tries_limit, buyer_limit = tonumber(ARGV[7]), tonumber(ARGV[8])
local decided, asked = unpack(cmsgpack.unpack(ARGV[9]))
local BUYERS_MAX, DAY_S = 100000, 86400

local function counted(value)
    -- A foreign value counts as none.
    local count = tonumber(value) or 0
    if count % 1 ~= 0 or count < 0 or count > tonumber(ARGV[3]) then
        return 0
    end
    return count
end

local function column(rows, place)
    local values = {}
    for i, row in ipairs(rows) do
        values[i] = row[place]
    end
    return values
end

local function bump(user, by, least)
    local count = math.max(counted(redis.call('HGET', KEYS[7], user)) + by, least)
    if count > 0 then
        if redis.call('HSET', KEYS[7], user, string.format('%d', count)) == 1
            and redis.call('HLEN', KEYS[7]) > BUYERS_MAX then
            redis.call('UNLINK', KEYS[7])
        end
        redis.call('EXPIRE', KEYS[7], DAY_S)
    else
        redis.call('HDEL', KEYS[7], user)
    end
end

-- Takes units off a user's count whose cool-down has passed, once the count leaves no room; gives how many.
local function cooled(user)
    local is = kind(KEYS[10])
    if is ~= 'hash' then
        if is ~= 'none' then
            redis.call('DEL', KEYS[10])
        end
        return 0
    end
    local till_ms, units = string.match(redis.call('HGET', KEYS[10], user) or '', '^(%d+):(%d+)$')
    if not till_ms or tonumber(till_ms) > now_ms then
        return 0
    end
    redis.call('HDEL', KEYS[10], user)
    bump(user, -counted(units), 0)
    return counted(units)
end

-- Requests of each user of this batch in a window, before the batch; written at its end.
local function requests(key, limit)
    local counts = {}
    if limit > 0 then
        local users = column(asked, 2)
        for i, value in ipairs(redis.call('HMGET', key, unpack(users))) do
            counts[users[i]] = counted(value)
        end
    end
    return counts
end

local function write_requests(key, counts, seconds)
    local flat = {}
    for user, count in pairs(counts) do
        flat[#flat + 1] = user
        flat[#flat + 1] = count
    end
    if #flat > 0 then
        redis.call('HSET', key, unpack(flat))
        redis.call('EXPIRE', key, seconds)
    end
end

if #decided > 0 then
    local ids = column(decided, 1)
    local held = redis.call('HMGET', KEYS[5], unpack(ids))
    redis.call('ZREM', KEYS[4], unpack(ids))
    redis.call('HDEL', KEYS[5], unpack(ids))
    local gone = {}
    for i, id in ipairs(ids) do
        -- Of two decisions about one lease only the first finds it.
        local units, user, key = string.match(not gone[id] and held[i] or '', '^(%d+):([^:]+):(.*)$')
        gone[id] = true
        if units then
            local ends, n = decided[i][2], decided[i][3]
            units = counted(units)
            if key ~= '' and redis.call('HGET', KEYS[6], user .. ':' .. key) == id then
                redis.call('HDEL', KEYS[6], user .. ':' .. key)
            end
            local back = ends == GIVEN_BACK and units or ends == SHORT and math.min(n, units) or 0
            if back > 0 then
                stock = redis.call('INCRBY', KEYS[3], string.format('%d', back))
            end
            if ends ~= KEPT then
                bump(user, -units, ends == GIVEN_BACK and n or 0)
            end
        end
    end
end

if #asked == 0 then
    return {'ok', {}, stock, redis.call('ZCARD', KEYS[4])}
end
if redis.call('GET', KEYS[1]) ~= ARGV[2] then
    return {'unloaded'}
end
-- Rates are no part of what was loaded: foreign ones are forgotten.
for i = 8, 9 do
    local is = kind(KEYS[i])
    if is ~= 'hash' and is ~= 'none' then
        redis.call('DEL', KEYS[i])
    end
end
local rates, tries = requests(KEYS[8], rate_limit), requests(KEYS[9], tries_limit)
local answers = {}
-- Leases of this batch are written at its end, all at once.
local taken, deadlines, leased, values = 0, {}, {}, {}
for i, one in ipairs(asked) do
    local id, user, units, key = unpack(one)
    local answer
    if rate_limit > 0 then
        rates[user] = rates[user] + 1
        if rates[user] > rate_limit then
            answer = 'rate_limited:' .. window_s
        end
    end
    if not answer and tries_limit > 0 then
        tries[user] = tries[user] + 1
        if tries[user] > tries_limit then
            answer = 'rate_limited:60'
        end
    end
    if not answer and key ~= '' then
        local running = redis.call('HGET', KEYS[6], user .. ':' .. key)
        -- Another number of units is another body: it gets a separate lease, and Postgres decides by the key.
        if running and (leased[running] or redis.call('HGET', KEYS[5], running)) == units .. ':' .. user .. ':' .. key then
            answer = 'leased:' .. running
        end
    end
    if not answer and buyer_limit > 0 then
        local has = counted(redis.call('HGET', KEYS[7], user))
        if has + units > buyer_limit and has - cooled(user) + units > buyer_limit then
            answer = 'limit_reached'
        end
    end
    if not answer and stock < units then
        answer = 'sold_out'
    end
    if not answer then
        local value = units .. ':' .. user .. ':' .. key
        local n = #values
        stock, taken, leased[id] = stock - units, taken + units, value
        deadlines[n + 1], deadlines[n + 2] = now_ms + lease_ms, id
        values[n + 1], values[n + 2] = id, value
        if key ~= '' then
            redis.call('HSET', KEYS[6], user .. ':' .. key, id)
        end
        if buyer_limit > 0 then
            bump(user, units, 0)
        end
        answer = 'admitted'
    end
    answers[i] = answer
end
write_requests(KEYS[8], rates, window_s + 1)
write_requests(KEYS[9], tries, 61)
if taken > 0 then
    redis.call('DECRBY', KEYS[3], taken)
    redis.call('ZADD', KEYS[4], unpack(deadlines))
    redis.call('HSET', KEYS[5], unpack(values))
end
return {'ok', answers, stock, redis.call('ZCARD', KEYS[4])}
