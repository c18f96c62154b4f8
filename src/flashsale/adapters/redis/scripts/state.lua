-- Reads what the gate holds, without writing.
-- KEYS  epoch, run, stock, leases, lease, keys, buyers
-- ARGV  run id, most leases to list, '1' for only those past their deadline
-- Gives {epoch or '', 1 if the run id is this server's, stock or '', number of leases, {order id, lease, ...}}.
local types = {'string', 'string', 'string', 'zset', 'hash', 'hash', 'hash'}
for i, want in ipairs(types) do
    local is = redis.call('TYPE', KEYS[i]).ok
    if is ~= want and (is ~= 'none' or i <= 3) then
        return {'', 0, '', 0, {}}
    end
end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local ids = redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', ARGV[3] == '1' and now_ms or '+inf', 'LIMIT', 0, ARGV[2])
local leases = {}
for _, id in ipairs(ids) do
    leases[#leases + 1] = id
    leases[#leases + 1] = redis.call('HGET', KEYS[5], id) or ''
end
local same_run = redis.call('GET', KEYS[2]) == ARGV[1] and 1 or 0
return {redis.call('GET', KEYS[1]), same_run, redis.call('GET', KEYS[3]), redis.call('ZCARD', KEYS[4]), leases}
