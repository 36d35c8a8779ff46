"""The Redis store's scripts. Each is atomic, short, and answers a repeat as it answered first.

A saga is one hash:

========  =====================================================================================
field     holds
========  =====================================================================================
rev       revision
by        token of the call that created it
w         token of the last call that saved; claims come after it
head      status, position, deadline... as JSON
plan      the frozen plan, written once
h         history, JSON
s<i>      record of step i, JSON
o<i>      slot of step i that is sent and not over; absent otherwise
r<i>      highest Celery retry count seen for that slot
k<i>      the claim on it, JSON
z         characters of all context values
c:<key>   one context value, JSON
n:<key>   its place among the keys, written when the key is new
========  =====================================================================================

Keys that depend on what a script reads (another boot's set of claims) are made inside it: Redis
Cluster is not supported.
"""

from celery_saga.stores.redis_lua import COMMON as _COMMON

# ARGV: list of messages. Answers {1} or {-1, why the broker refused}.
PUSH = (
    _COMMON
    + """
local refused = send(take())
if refused then return {-1, refused} end
return {1}
"""
)

# KEYS: saga hash, due. ARGV: lists of: token, saga id, due score or '', seconds to live or '';
# messages; status keys; field, value... Answers {1} when created (also by this token before),
# {0, hash} when the id is taken, {-1, why the broker refused}.
CREATE = (
    _COMMON
    + """
local main, box, indexes, fields = take(), take(), take(), take()
if redis.call('EXISTS', KEYS[1]) == 1 then
  if redis.call('HGET', KEYS[1], 'by') == main[1] then return {1} end
  return {0, whole(KEYS[1])}
end
local refused = send(box)
if refused then return {-1, refused} end
index(indexes, main[2], main[4])
grown(KEYS[1], fields, {})
write(KEYS[1], fields)
redis.call('HSET', KEYS[1], 'by', main[1], 'rev', 1)
if main[3] ~= '' then redis.call('ZADD', KEYS[2], main[3], main[2]) end
if main[4] ~= '' then redis.call('EXPIRE', KEYS[1], main[4]) end
return {1}
"""
)

# KEYS: saga hash. Answers the whole saga, or nothing.
LOAD = (
    _COMMON
    + """
if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
return whole(KEYS[1])
"""
)

# KEYS: saga hash. ARGV: step index, slot, retries, token, instance, prefix of all keys, '1' if the
# plan is known; then, to read a part: how many records, their fields, other fields.
# Answers {reason, claim or ''}, or {'ok', JSON of seconds, microseconds and the records, the other
# fields...}, or {'ok', JSON of seconds and microseconds, whole saga}.
CLAIM = (
    _COMMON
    + """
local i = ARGV[1]
local held = redis.call('HMGET', KEYS[1], 'rev', 'o' .. i, 'r' .. i, 'k' .. i)
local time = redis.call('TIME')
if not held[1] then return {'unknown saga', ''} end
local claim, claims = held[4] and cjson.decode(held[4]), ARGV[6] .. 'claims:'
if held[2] ~= ARGV[2] then return {'stale', held[4] or ''} end
if not (claim and claim.token == ARGV[4]) then
  local retries, seen = tonumber(ARGV[3]), tonumber(held[3] or '0')
  if retries < seen or (claim and retries == seen) then return {'claimed', held[4] or ''} end
  local task = id_of(KEYS[1], ARGV[6]) .. '~' .. ARGV[2]
  if claim then redis.call('SREM', claims .. claim.instance, task) end
  local at = time[1] + time[2] / 1000000
  redis.call('HSET', KEYS[1], 'r' .. i, ARGV[3], 'rev', tonumber(held[1]) + 1, 'k' .. i,
    cjson.encode({token = ARGV[4], instance = ARGV[5], retries = retries, at = at}))
  redis.call('SADD', claims .. ARGV[5], task)
end
if #ARGV == 7 then
  return {'ok', '[' .. time[1] .. ',' .. time[2] .. ']', whole(KEYS[1], ARGV[7] == '1')}
end
local count = tonumber(ARGV[8])
local found = redis.call('HMGET', KEYS[1], unpack(ARGV, 9))
local answer, records = {'ok', ''}, {time[1], time[2]}
for j = 1, count do records[j + 2] = found[j] or 'null' end
for j = count + 1, #found do answer[#answer + 1] = found[j] end
answer[2] = '[' .. table.concat(records, ',') .. ']'
return answer
"""
)

# KEYS: saga hash, due. ARGV: lists of: revision, token, prefix of all keys, due score | '-' | '',
# seconds to live | 'persist' | '', channel or '', retention of the status keys or ''; messages;
# result; field, value... to set; the same to set if they are new; fields to delete; boot, slot...
# of claims that end; old status keys; new ones. The result is nothing, or: text, '1' if the context
# comes behind it, text behind that; then the length and the parts of each command, which ends in
# the text. Answers {1} when saved (also by this token before), {0} when the revision has moved on,
# {-1, why the broker refused}.
SAVE = (
    _COMMON
    + """
local main, box, result, set, places, drop = take(), take(), take(), take(), take(), take()
local claims, old, new = take(), take(), take()
local rev, id = redis.call('HMGET', KEYS[1], 'rev', 'w'), id_of(KEYS[1], main[3])
if rev[1] ~= main[1] then return {rev[2] == main[2] and 1 or 0} end
local refused = send(box) or tell(KEYS[1], result, set, places, drop)
if refused then return {-1, refused} end
for _, item in ipairs({'rev', tonumber(main[1]) + 1, 'w', main[2]}) do set[#set + 1] = item end
grown(KEYS[1], set, drop)
write(KEYS[1], set)
for j = 1, #places, 2 do redis.call('HSETNX', KEYS[1], places[j], places[j + 1]) end
if #drop > 0 then redis.call('HDEL', KEYS[1], unpack(drop)) end
for j = 1, #claims, 2 do
  redis.call('SREM', main[3] .. 'claims:' .. claims[j], id .. '~' .. claims[j + 1])
end
for _, key in ipairs(old) do redis.call('ZREM', key, id) end
index(new, id, main[7])
if main[4] == '-' then redis.call('ZREM', KEYS[2], id)
elseif main[4] ~= '' then redis.call('ZADD', KEYS[2], main[4], id) end
if main[5] == 'persist' then redis.call('PERSIST', KEYS[1])
elseif main[5] ~= '' then redis.call('EXPIRE', KEYS[1], main[5]) end
if main[6] ~= '' then redis.call('PUBLISH', main[6], '1') end
return {1}
"""
)

# KEYS: instances, held, sweeper. ARGV: instance, seconds to live, held task ids as JSON or '',
# prefix of claim sets, seconds for which dead boots are remembered that hold nothing. Answers
# {seconds, microseconds, 1 if this boot sweeps, task ids of its claims, dead boots that hold
# something...}.
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
local out = {time[1], time[2], mine, redis.call('SMEMBERS', ARGV[4] .. ARGV[1])}
local dead = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. now, 'WITHSCORES')
for j = 1, #dead, 2 do
  local boot, ended = dead[j], tonumber(dead[j + 1])
  local claims = redis.call('EXISTS', ARGV[4] .. boot)
  local messages = redis.call('HEXISTS', KEYS[2], boot)
  if claims + messages > 0 then out[#out + 1] = boot
  elseif ended < now - tonumber(ARGV[5]) then redis.call('ZREM', KEYS[1], boot) end
end
return out
"""

# KEYS: due. ARGV: how many, prefix of saga hashes. Answers ids; one without a hash is dropped.
DUE = """
local time = redis.call('TIME')
local now, out = time[1] + time[2] / 1000000, {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])) do
  if redis.call('EXISTS', ARGV[2] .. id) == 1 then out[#out + 1] = id
  else redis.call('ZREM', KEYS[1], id) end
end
return out
"""

# KEYS: saga hash, due. ARGV: saga id, revision or '', prefix of claim sets, then keys of the status
# indexes. Answers 1 if there was one of that revision.
DELETE = """
local flat = redis.call('HGETALL', KEYS[1])
local fields = {}
for j = 1, #flat, 2 do fields[flat[j]] = flat[j + 1] end
if ARGV[2] ~= '' and fields.rev ~= ARGV[2] then return 0 end
for name, value in pairs(fields) do
  local step = string.match(name, '^k(%d+)$')
  if step then
    local claims = ARGV[3] .. cjson.decode(value).instance
    redis.call('SREM', claims, ARGV[1] .. '~' .. fields['o' .. step])
  end
end
redis.call('ZREM', KEYS[2], ARGV[1])
for j = 4, #ARGV do redis.call('ZREM', ARGV[j], ARGV[1]) end
return redis.call('DEL', KEYS[1])
"""
