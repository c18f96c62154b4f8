-- Reads what the gate holds, without writing.
-- KEYS  epoch, run, stock, leases, lease, keys, buyers
-- ARGV  run id, largest stock, longest lease ms, most leases to list, '1' for only those past their deadline
-- Gives {epoch or '', 1 if the run id is this server's and everything is as our scripts write it, stock or '', number of
-- leases, their units, {order id, lease, ...}}.
local foreign = {'', 0, '', 0, 0, {}}
local LEASES_MAX = 200000
local types = {'string', 'string', 'string', 'zset', 'hash', 'hash', 'hash'}
for i, want in ipairs(types) do
    local is = redis.call('TYPE', KEYS[i]).ok
    if is ~= want and (is ~= 'none' or i <= 3) then
        return foreign
    end
end
local epoch, run, stock = unpack(redis.call('MGET', KEYS[1], KEYS[2], KEYS[3]))
local count = redis.call('ZCARD', KEYS[4])
-- Each lease is in `leases` and in `lease`, and in `keys` once if it has a key.
if not string.match(stock, '^%d+$') or tonumber(stock) > tonumber(ARGV[2])
    or string.format('%d', stock) ~= stock or count > LEASES_MAX
    or redis.call('HLEN', KEYS[5]) ~= count or redis.call('HLEN', KEYS[6]) > count then
    return foreign
end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
-- A lease that ends later than any that was made would hold its units for ever.
if redis.call('ZCOUNT', KEYS[4], '(' .. now_ms + ARGV[3], '+inf') > 0 then
    return foreign
end
local units = 0
for _, lease in ipairs(redis.call('HVALS', KEYS[5])) do
    local n = tonumber(string.match(lease, '^(%d+):[^:]+:'))
    if not n or n < 1 or n > tonumber(ARGV[2]) then
        return foreign
    end
    units = units + n
end
local ids = redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', ARGV[5] == '1' and now_ms or '+inf', 'LIMIT', 0, ARGV[4])
local leases = {}
for _, id in ipairs(ids) do
    local lease = redis.call('HGET', KEYS[5], id)
    if not lease then
        return foreign
    end
    leases[#leases + 1] = id
    leases[#leases + 1] = lease
end
return {epoch, run == ARGV[1] and 1 or 0, stock, count, units, leases}
