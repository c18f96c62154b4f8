-- Installs a loading: epoch, run id and stock; leases, keys, buyers' counts and returns of older loadings go.
-- KEYS  epoch, run, stock, leases, lease, keys, buyers, returns, returned (what returns was before), cooling
-- ARGV  run id, epoch, stock
-- Gives 1 if installed, 0 if a newer loading is there. Loaders that race are at most a few epochs apart: an epoch that
-- is further ahead was not written by a loading.
local there = redis.call('TYPE', KEYS[1]).ok == 'string' and tonumber(redis.call('GET', KEYS[1])) or nil
local run = redis.call('TYPE', KEYS[2]).ok == 'string' and redis.call('GET', KEYS[2]) or nil
if there and run == ARGV[1] and there > tonumber(ARGV[2]) and there <= tonumber(ARGV[2]) + 8 then
    return 0
end
for i = 1, #KEYS do
    redis.call('UNLINK', KEYS[i])
end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('SET', KEYS[2], ARGV[1])
redis.call('SET', KEYS[3], ARGV[3])
return 1
