-- Counts tries to log in; what LocalLoginLimits (usecases/login_limits.py) does in one process.
--
-- KEYS  pair, account, origin, known
--   pair     hash: tries since the last login, next: ms on this server's clock before which none is taken
--   account  failures from origins that the account had not logged in from; origin: of one origin, over all accounts
--   known    sorted set: "<account>:<origin>" -> when it logged in last, ms; the newest of them
-- ARGV  what, "<account>:<origin>", '1' if exempt (begin) or counted (failed), free tries, first wait ms, longest wait ms,
--       ms to forget, account's failures, stranger's wait ms, origin's failures, origin's window ms, known most, known ms
-- `begin` gives {ms to wait or 0, 1 if known, ms that others would have to wait}; the others {0, 0, 0}. Every key
-- expires or is bounded.
local what, member, flag = ARGV[1], ARGV[2], ARGV[3] == '1'
local n = {}
for i = 4, 13 do
    n[i] = tonumber(ARGV[i])
end
local free, first_ms, longest_ms, forget_ms, account_most = n[4], n[5], n[6], n[7], n[8]
local stranger_ms, origin_most, window_ms, known_most, known_ms = n[9], n[10], n[11], n[12], n[13]
local types = {'hash', 'string', 'string', 'zset'}
for i, want in ipairs(types) do
    local is = redis.call('TYPE', KEYS[i]).ok
    if is ~= want and is ~= 'none' then
        redis.call('DEL', KEYS[i])
    end
end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local function write(tries, next_ms)
    redis.call('HSET', KEYS[1], 'tries', string.format('%d', tries), 'next', string.format('%d', next_ms))
    redis.call('PEXPIRE', KEYS[1], forget_ms)
end

if what == 'passed' then
    redis.call('DEL', KEYS[1])
    redis.call('ZADD', KEYS[4], now_ms, member)
    redis.call('ZREMRANGEBYRANK', KEYS[4], 0, -known_most - 1)
    redis.call('PEXPIRE', KEYS[4], known_ms)
    return {0, 0, 0}
end
local tries = tonumber(redis.call('HGET', KEYS[1], 'tries'))
if what == 'undone' then
    if tries then
        write(math.max(0, tries - 1), 0)
    end
    return {0, 0, 0}
end
if what == 'failed' then
    if flag then
        for i, length_ms in pairs({[2] = forget_ms, [3] = window_ms}) do
            local failures = tonumber(redis.call('GET', KEYS[i])) or 0
            if failures == 0 then
                redis.call('SET', KEYS[i], '1', 'PX', length_ms)
            else
                redis.call('SET', KEYS[i], string.format('%d', failures + 1), 'KEEPTTL')
            end
        end
    end
    return {0, 0, 0}
end

local logged_in_ms = tonumber(redis.call('ZSCORE', KEYS[4], member))
local known = logged_in_ms and now_ms - logged_in_ms < known_ms
local next_ms = tonumber(redis.call('HGET', KEYS[1], 'next')) or 0
if next_ms > now_ms + math.max(longest_ms, stranger_ms) then
    next_ms = 0
end
if next_ms > now_ms then
    return {next_ms - now_ms, known and 1 or 0, 0}
end
local refused_ms = 0
if not known then
    local spent = (tonumber(redis.call('GET', KEYS[3])) or 0) >= origin_most
    if spent then
        refused_ms = math.max(1, redis.call('PTTL', KEYS[3]))
    elseif not tries and (tonumber(redis.call('GET', KEYS[2])) or 0) >= account_most then
        refused_ms = stranger_ms
    end
    if refused_ms > 0 and not flag then
        if not spent then
            write(0, now_ms + refused_ms)
        end
        return {refused_ms, 0, 0}
    end
end
tries = (tries or 0) + 1
local wait_ms = 0
if tries >= free then
    wait_ms = math.min(first_ms * 2 ^ math.min(tries - free, 60), longest_ms)
end
write(tries, now_ms + wait_ms)
return {0, known and 1 or 0, refused_ms}
