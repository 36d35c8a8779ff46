"""The Redis store's scripts. Each is atomic, short, and answers a repeat as it answered first.

A saga is one hash:

========  =====================================================================================
field     holds
========  =====================================================================================
rev       revision
run_id    distinguishes this saga from others of its id, absent where the id was drawn for it
by        token of the call that created it
w         token of the last call that saved; claims come after it
head      status, active, journal, deadline... as JSON
plan      the frozen plan, written once
h<rev>    lines of history that the save of that revision has added, JSON
s<i>      record of step i, JSON
o<i>      ref of step i that is sent and not over, and the highest Celery retry count seen for it:
          ``f2~1 0``; absent otherwise
k<i>      the claim on it, JSON
z         characters of all context values
c:<key>   one context value, JSON
n:<key>   its place among the keys, written when the key is new
========  =====================================================================================

Keys that depend on what a script reads (another instance's set of claims) are made inside it: Redis
Cluster is not supported.
"""

from celery_saga.core.checkpoint import SCHEMA_VERSION
from celery_saga.stores.redis.lua import LISTS, NOTIFY, WHOLE, WRITE

# ARGV: list of messages. Answers {1} or {-1, why the broker refused}.
PUSH = (
    LISTS
    + """
local refused = send(take())
if refused then return {-1, refused} end
return {1}
"""
)

# KEYS: saga hash, due. ARGV: token, saga id, due score or '', seconds to live or '', revision of a
# saga that is replaced or '', its run_id; lists of: field, value...; messages; status keys; those
# of the saga that is replaced. Answers {1} when created (also by this token before), {0, hash} when
# the id is taken, {-1, why the broker refused}.
CREATE = (
    LISTS
    + WHOLE
    + WRITE
    + """
if redis.call('EXISTS', KEYS[1]) == 1 then
  local known = redis.call('HMGET', KEYS[1], 'by', 'rev', 'run_id')
  if known[1] == ARGV[1] then return {1} end
  if known[2] ~= ARGV[5] or (known[3] or '') ~= ARGV[6] then return {0, whole(KEYS[1])} end
end
at = 7
local set, last = take()
local refused = send(take())
if refused then return {-1, refused} end
local first, indexes = take()
local old, olds = take()
if olds >= old then redis.call('DEL', KEYS[1]) end
for j = old, olds do redis.call('ZREM', ARGV[j], ARGV[2]) end
index(first, indexes, ARGV[2], ARGV[4])
grown(KEYS[1], set, last, 1, 0)
write(KEYS[1], set, last)
redis.call('HSET', KEYS[1], 'by', ARGV[1], 'rev', 1)
if ARGV[3] ~= '' then redis.call('ZADD', KEYS[2], ARGV[3], ARGV[2]) end
if ARGV[4] ~= '' then redis.call('EXPIRE', KEYS[1], ARGV[4]) end
return {1}
"""
)

# KEYS: saga hash. ARGV: '1' to leave out the context, or ''. Answers the whole saga, or nothing.
LOAD = (
    WHOLE
    + """
if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
return whole(KEYS[1], false, ARGV[1] == '1')
"""
)

# KEYS: saga hash. ARGV: step index, ref, retries, token, instance, prefix of all keys, '1' if the
# plan is known, run_id, enclosing task or '', node or ''; then, to read a part: how many records,
# their fields, other fields. Answers {reason, claim or ''}, or {'newer', version} where this
# process cannot read the saga, or {'ok', JSON of seconds and microseconds, whole saga}, or for a
# part one text, because it is parsed faster: JSON of seconds, microseconds, revision, claim and the
# records, then the other fields, or nothing where there is none, each behind a byte of zero, which
# no JSON holds.
CLAIM = (
    WHOLE
    + """
local i, ref, token = ARGV[1], ARGV[2], ARGV[4]
local found = redis.call('HMGET', KEYS[1], 'rev', 'o' .. i, 'k' .. i, 'run_id', unpack(ARGV, 12))
local time, rev, out, held = redis.call('TIME'), found[1], found[2], found[3]
if not rev then return {'unknown saga', ''} end
if (found[4] or '') ~= ARGV[8] then return {'stale', ''} end
if not out or string.sub(out, 1, #ref + 1) ~= ref .. ' ' then return {'stale', held or ''} end
local claim = held and cjson.decode(held)
if not (claim and claim.token == token) then
  local retries, seen = tonumber(ARGV[3]), tonumber(string.sub(out, #ref + 2))
  if retries < seen or (claim and retries == seen) then return {'claimed', held or ''} end
  local head = found[5] or redis.call('HGET', KEYS[1], 'head') or ''
  local version = tonumber(string.match(head, '"version":%s*(%d+)') or 0)
  if version > """
    + str(SCHEMA_VERSION)
    + """ then return {'newer', version} end
  local claims = ARGV[6] .. 'claims:'
  local task = string.sub(KEYS[1], #ARGV[6] + #'execution:' + 1) .. '~' .. ref
  if claim then redis.call('SREM', claims .. claim.instance, task) end
  held = '{"token":' .. cjson.encode(token) .. ',"instance":' .. cjson.encode(ARGV[5]) ..
    ',"retries":' .. ARGV[3] .. ',"at":' .. string.format('%s.%06d', time[1], time[2]) ..
    (ARGV[9] ~= '' and ',"enclosing_task":' .. cjson.encode(ARGV[9]) or '') ..
    (ARGV[10] ~= '' and ',"node":' .. cjson.encode(ARGV[10]) or '') .. '}'
  rev = tonumber(rev) + 1
  redis.call('HSET', KEYS[1], 'rev', rev, 'k' .. i, held)
  if retries ~= seen then redis.call('HSET', KEYS[1], 'o' .. i, ref .. ' ' .. ARGV[3]) end
  redis.call('SADD', claims .. ARGV[5], task)
end
if #ARGV == 10 then
  return {'ok', '[' .. time[1] .. ',' .. time[2] .. ']', whole(KEYS[1], ARGV[7] == '1')}
end
local answer, records, last = {}, {time[1], time[2], rev, held}, 4 + tonumber(ARGV[11])
for j = 5, last do records[j] = found[j] or 'null' end
for j = last + 1, #found do answer[j - last + 1] = found[j] or '' end
answer[1] = '[' .. table.concat(records, ',') .. ']'
return table.concat(answer, string.char(0))
"""
)

# KEYS: saga hash, due. ARGV: prefix of all keys, due score | '-' | '', seconds to live | 'persist'
# | '', channel or '', retention of the status keys or '', run_id; then lists of: field, value... to
# set, beginning with the new revision and the token; messages; fields to delete; instance, ref...
# of claims that end; field, value... to set if they are new; result; old status keys; new ones. The
# result is nothing, or: text, '1' if the context comes behind it, text behind that; then the length
# and the parts of each command, which ends in the text. Answers {1} when saved (also by this token
# before), {0} when the revision is another one, {-1, why the broker refused}.
SAVE = (
    LISTS
    + NOTIFY
    + WRITE
    + """
at = 7
local set, last = take()
local saved = redis.call('HMGET', KEYS[1], 'rev', 'w', 'run_id')
if (saved[3] or '') ~= ARGV[6] then return {0} end
if tonumber(saved[1] or -1) + 1 ~= tonumber(ARGV[set + 1]) then
  return {saved[2] == ARGV[set + 3] and 1 or 0}
end
local box, boxed = take()
local drop, dropped = take()
local claim, claims = take()
local place, places = take()
local result, results = take()
local refused = send(box, boxed)
  or publish_result(KEYS[1], result, results, {set, last}, {place, places}, {drop, dropped})
if refused then return {-1, refused} end
grown(KEYS[1], set + 4, last, drop, dropped)
write(KEYS[1], set, last)
for j = place, places, 2 do redis.call('HSETNX', KEYS[1], ARGV[j], ARGV[j + 1]) end
for j = drop, dropped, 1000 do
  redis.call('HDEL', KEYS[1], unpack(ARGV, j, math.min(j + 999, dropped)))
end
local id = string.sub(KEYS[1], #ARGV[1] + #'execution:' + 1)
for j = claim, claims, 2 do
  redis.call('SREM', ARGV[1] .. 'claims:' .. ARGV[j], id .. '~' .. ARGV[j + 1])
end
local old, olds = take()
for j = old, olds do redis.call('ZREM', ARGV[j], id) end
local new, last_new = take()
index(new, last_new, id, ARGV[5])
if ARGV[2] == '-' then redis.call('ZREM', KEYS[2], id)
elseif ARGV[2] ~= '' then redis.call('ZADD', KEYS[2], ARGV[2], id) end
if ARGV[3] == 'persist' then redis.call('PERSIST', KEYS[1])
elseif ARGV[3] ~= '' then redis.call('EXPIRE', KEYS[1], ARGV[3]) end
if ARGV[4] ~= '' then redis.call('PUBLISH', ARGV[4], '1') end
return {1}
"""
)

# KEYS: instances, reserved, sweeper. ARGV: instance, seconds to live, reserved messages as JSON or
# '', prefix of claim sets, seconds for which dead instances are retained that hold nothing. Answers
# {seconds, microseconds, 1 if this instance sweeps, task ids of its claims, dead instances that
# hold something...}.
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
  local instance, ended = dead[j], tonumber(dead[j + 1])
  local claims = redis.call('EXISTS', ARGV[4] .. instance)
  local messages = redis.call('HEXISTS', KEYS[2], instance)
  if claims + messages > 0 then out[#out + 1] = instance
  elseif ended < now - tonumber(ARGV[5]) then redis.call('ZREM', KEYS[1], instance) end
end
return out
"""

# KEYS: apps. ARGV: app or '', seconds for which apps are remembered. Answers their names.
MEET = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[2]))
if ARGV[1] ~= '' then
  redis.call('ZADD', KEYS[1], now, ARGV[1])
  redis.call('EXPIRE', KEYS[1], ARGV[2])
end
return redis.call('ZRANGE', KEYS[1], 0, -1)
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
  local step = string.match(name, '^k([%d.]+)$')
  local ref = step and string.match(fields['o' .. step] or '', '^%S+')
  if ref then
    local read, claim = pcall(cjson.decode, value)
    if read and type(claim) == 'table' and claim.instance then
      redis.call('SREM', ARGV[3] .. claim.instance, ARGV[1] .. '~' .. ref)
    end
  end
end
redis.call('ZREM', KEYS[2], ARGV[1])
for j = 4, #ARGV do redis.call('ZREM', ARGV[j], ARGV[1]) end
return redis.call('DEL', KEYS[1])
"""
