"""What the Redis store's scripts have in common."""

# Lists among ARGV are written as their length and then their items; those at the end may be left
# out if they are empty. They are not copied: a list is where it begins and ends. A list of messages
# to send is empty, or: own database, broker's database, then command, key, value for each. It is
# carried out first, because a broker that refuses (its ACL, its memory) must leave no checkpoint
# behind that says that a message is on its way; what was pushed before the refusal is stale and
# harmless.
LISTS = """
local at = 1
local function take()
  local first = at + 1
  at = first + tonumber(ARGV[at] or 0)
  return first, at - 1
end
local function refusal(answer)
  return type(answer) == 'table' and answer.err or nil
end
local function send(first, last)
  if last < first then return nil end
  local apart, refused = ARGV[first] ~= ARGV[first + 1], nil
  if apart then refused = refusal(redis.pcall('SELECT', ARGV[first + 1])) end
  if refused then return refused end
  for j = first + 2, last, 3 do
    refused = refusal(redis.pcall(ARGV[j], ARGV[j + 1], ARGV[j + 2]))
    if refused then break end
  end
  if apart then redis.call('SELECT', ARGV[first]) end
  return refused
end
"""

ORDER = """
local function in_order(keys, places)
  table.sort(keys, function(a, b) return (places[a] or 0) < (places[b] or 0) end)
  return keys
end
"""

# Answers the records of a saga as one JSON object, its plan unless it is known, then each context
# key and its text; bare: without the context, which is not read then either.
WHOLE = (
    ORDER
    + """
local function read(key, bare)
  if not bare then return redis.call('HGETALL', key) end
  local names, flat = {}, {}
  for _, name in ipairs(redis.call('HKEYS', key)) do
    if not string.find(name, '^[cn]:') then names[#names + 1] = name end
  end
  for j = 1, #names, 1000 do
    local values = redis.call('HMGET', key, unpack(names, j, math.min(j + 999, #names)))
    for k, value in ipairs(values) do
      flat[#flat + 1] = names[j + k - 1]
      flat[#flat + 1] = value
    end
  end
  return flat
end
local function whole(key, known, bare)
  local flat, plan = read(key, bare), ''
  local records, keys, texts, places = {}, {}, {}, {}
  for j = 1, #flat, 2 do
    local name, value = flat[j], flat[j + 1]
    local kind, rest = string.sub(name, 1, 2), string.sub(name, 3)
    if kind == 'c:' then keys[#keys + 1], texts[rest] = rest, value
    elseif kind == 'n:' then places[rest] = tonumber(value)
    elseif name == 'plan' then plan = not known and value or ''
    elseif string.find(name, '^o') then records[#records + 1] = '"' .. name .. '":"' .. value .. '"'
    elseif string.find(name, '^[skhz]') or name == 'rev' then
      records[#records + 1] = '"' .. name .. '":' .. value
    end
  end
  local out = {'{' .. table.concat(records, ',') .. '}', plan}
  for _, name in ipairs(in_order(keys, places)) do
    out[#out + 1] = name
    out[#out + 1] = texts[name]
  end
  return out
end
"""
)

# Stores the result of a saga, with its context as it will be after the fields set[1] to set[2] are
# written, the places of new keys, and the fields drop[1] to drop[2] are dropped.
NOTIFY = (
    ORDER
    + """
local function context_after(key, set, new, drop)
  local flat, texts, keys, places = redis.call('HGETALL', key), {}, {}, {}
  local function note(name, value, fresh)
    local kind, rest = string.sub(name, 1, 2), string.sub(name, 3)
    if kind == 'c:' and string.byte(rest) ~= 31 then texts[rest] = value  -- not of a branch
    elseif kind == 'n:' and not (fresh and places[rest]) then places[rest] = tonumber(value) end
  end
  for j = 1, #flat, 2 do note(flat[j], flat[j + 1]) end
  for j = set[1], set[2], 2 do note(ARGV[j], ARGV[j + 1]) end
  for j = new[1], new[2], 2 do note(ARGV[j], ARGV[j + 1], true) end
  for j = drop[1], drop[2] do
    if string.sub(ARGV[j], 1, 2) == 'c:' then texts[string.sub(ARGV[j], 3)] = nil end
  end
  for name in pairs(texts) do keys[#keys + 1] = name end
  local out = {}
  for j, name in ipairs(in_order(keys, places)) do
    out[j] = cjson.encode(name) .. ':' .. texts[name]
  end
  return '{' .. table.concat(out, ',') .. '}'
end
local function publish_result(key, first, last, set, new, drop)
  if last < first then return nil end
  local text, j = ARGV[first], first + 3
  if ARGV[first + 1] == '1' then
    text = text .. context_after(key, set, new, drop) .. ARGV[first + 2]
  end
  while j <= last do
    local count = tonumber(ARGV[j])
    local command = {unpack(ARGV, j + 1, j + count)}
    command[count + 1] = text
    local refused = refusal(redis.pcall(unpack(command)))
    if refused then return refused end
    j = j + count + 1
  end
end
"""
)

# Writes the fields ARGV[first] to ARGV[last], and keeps count of the context's characters.
WRITE = """
local function grown(key, first, last, drop, dropped)
  local by = 0
  for j = first, last, 2 do
    if string.sub(ARGV[j], 1, 2) == 'c:' then
      by = by + #ARGV[j + 1] - redis.call('HSTRLEN', key, ARGV[j])
    end
  end
  for j = drop, dropped do
    if string.sub(ARGV[j], 1, 2) == 'c:' then by = by - redis.call('HSTRLEN', key, ARGV[j]) end
  end
  if by ~= 0 then redis.call('HINCRBY', key, 'z', by) end
end
local function index(first, last, id, keep)
  if last < first then return end
  local now = tonumber(redis.call('TIME')[1])
  for j = first, last do
    redis.call('ZADD', ARGV[j], now, id)
    if keep ~= '' then
      redis.call('ZREMRANGEBYSCORE', ARGV[j], '-inf', now - tonumber(keep))
      redis.call('EXPIRE', ARGV[j], keep)
    end
  end
end
local function write(key, first, last)
  for j = first, last, 1000 do
    redis.call('HSET', key, unpack(ARGV, j, math.min(j + 999, last)))
  end
end
"""
