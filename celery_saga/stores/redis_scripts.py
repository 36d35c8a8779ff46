"""The Redis store's scripts. Each is atomic, short, and answers a repeat as it answered first.

A saga is one hash:

========  =====================================================================================
field     holds
========  =====================================================================================
rev       revision
by        token of the call that created it
w         token of the call that saved the current revision
head      status, position, deadline... as JSON
plan      the frozen plan, written once
h         history, JSON
s<i>      record of step i, JSON
o<i>      slot of step i that is sent and not over; absent otherwise
r<i>      highest Celery retry count seen for that slot
k<i>      the claim on it, JSON
c:<key>   one context value, JSON
========  =====================================================================================

Keys that depend on what a script reads (another boot's set of claims) are made inside it: Redis
Cluster is not supported.
"""

# KEYS: saga hash. ARGV: token, due score or '', saga id, due key, status keys..., '|',
# field, value...
# Answers {1} when created (also by this token before), else {0, hash}.
CREATE = """
if redis.call('EXISTS', KEYS[1]) == 1 then
  if redis.call('HGET', KEYS[1], 'by') == ARGV[1] then return {1} end
  return {0, redis.call('HGETALL', KEYS[1])}
end
local i = 5
local now = redis.call('TIME')[1]
while ARGV[i] ~= '|' do
  redis.call('ZADD', ARGV[i], now, ARGV[3])
  i = i + 1
end
for j = i + 1, #ARGV - 1, 2 do redis.call('HSET', KEYS[1], ARGV[j], ARGV[j + 1]) end
redis.call('HSET', KEYS[1], 'by', ARGV[1], 'rev', 1)
if ARGV[2] ~= '' then redis.call('ZADD', ARGV[4], ARGV[2], ARGV[3]) end
return {1}
"""

# KEYS: saga hash. ARGV: step index, slot, retries, token, instance, prefix of claim sets, task id.
# Answers {'ok', seconds, microseconds, hash} or {reason, claim or ''}.
CLAIM = """
local i = ARGV[1]
local held = redis.call('HMGET', KEYS[1], 'rev', 'o' .. i, 'r' .. i, 'k' .. i)
local time = redis.call('TIME')
if not held[1] then return {'unknown saga', ''} end
local claim = held[4] and cjson.decode(held[4])
if held[2] ~= ARGV[2] then return {'stale', held[4] or ''} end
if not (claim and claim.token == ARGV[4]) then
  local retries, seen = tonumber(ARGV[3]), tonumber(held[3] or '0')
  if retries < seen or (claim and retries == seen) then return {'claimed', held[4] or ''} end
  if claim then redis.call('SREM', ARGV[6] .. claim.instance, ARGV[7]) end
  local at = time[1] + time[2] / 1000000
  redis.call('HSET', KEYS[1], 'r' .. i, ARGV[3], 'k' .. i, cjson.encode(
    {token = ARGV[4], instance = ARGV[5], retries = retries, at = at}))
  redis.call('HINCRBY', KEYS[1], 'rev', 1)
  redis.call('SADD', ARGV[6] .. ARGV[5], ARGV[7])
end
return {'ok', time[1], time[2], redis.call('HGETALL', KEYS[1])}
"""

# KEYS: saga hash, due. ARGV: revision, token, saga id, due score | '-' | '', seconds to live |
# 'persist' | '', channel or '', n, field, value..., n, field..., n, claim set..., task id...,
# old status keys n..., new status keys n..., retention of the status keys or ''.
# Answers 1 saved (or saved before by this token), 0 the revision has moved on.
SAVE = """
local rev = redis.call('HMGET', KEYS[1], 'rev', 'w')
if rev[1] ~= ARGV[1] then
  if rev[2] == ARGV[2] and tonumber(rev[1]) == tonumber(ARGV[1]) + 1 then return 1 end
  return 0
end
local at = 7
local function take()
  local n, out = tonumber(ARGV[at]), {}
  for j = at + 1, at + n do out[#out + 1] = ARGV[j] end
  at = at + n + 1
  return out
end
local set = take()
for j = 1, #set, 2 do redis.call('HSET', KEYS[1], set[j], set[j + 1]) end
redis.call('HSET', KEYS[1], 'rev', tonumber(ARGV[1]) + 1, 'w', ARGV[2])
for _, field in ipairs(take()) do redis.call('HDEL', KEYS[1], field) end
local given_up = take()
for j = 1, #given_up, 2 do redis.call('SREM', given_up[j], given_up[j + 1]) end
for _, key in ipairs(take()) do redis.call('ZREM', key, ARGV[3]) end
local now, keep = tonumber(redis.call('TIME')[1]), ARGV[#ARGV]
for _, key in ipairs(take()) do
  redis.call('ZADD', key, now, ARGV[3])
  if keep ~= '' then
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now - tonumber(keep))
    redis.call('EXPIRE', key, keep)
  end
end
if ARGV[4] == '-' then redis.call('ZREM', KEYS[2], ARGV[3])
elseif ARGV[4] ~= '' then redis.call('ZADD', KEYS[2], ARGV[4], ARGV[3]) end
if ARGV[5] == 'persist' then redis.call('PERSIST', KEYS[1])
elseif ARGV[5] ~= '' then redis.call('EXPIRE', KEYS[1], ARGV[5]) end
if ARGV[6] ~= '' then redis.call('PUBLISH', ARGV[6], '1') end
return 1
"""

# KEYS: instances, held, sweeper. ARGV: instance, seconds to live, held task ids as JSON or ''.
# Answers {seconds, microseconds, 1 if this boot sweeps, dead boots...}.
BEAT = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
if ARGV[3] == '' then redis.call('HDEL', KEYS[2], ARGV[1])
else redis.call('HSET', KEYS[2], ARGV[1], ARGV[3]) end
local sweeper = redis.call('GET', KEYS[3])
local mine = 0
if not sweeper or sweeper == ARGV[1] then
  redis.call('SET', KEYS[3], ARGV[1], 'PX', math.floor(tonumber(ARGV[2]) * 1000))
  mine = 1
end
local out = {time[1], time[2], mine}
for _, boot in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. now, 'LIMIT', 0, 20)) do
  out[#out + 1] = boot
end
return out
"""

# KEYS: saga hash, due. ARGV: saga id, then keys of the status indexes. Answers 1 if there was one.
DELETE = """
redis.call('ZREM', KEYS[2], ARGV[1])
for j = 2, #ARGV do redis.call('ZREM', ARGV[j], ARGV[1]) end
return redis.call('DEL', KEYS[1])
"""
