"""What the Redis store's scripts have in common."""

# Lists among ARGV are written as their length and then their items. A list of messages to send is
# empty, or: own database, broker's database, then command, key, value for each. It is carried out
# first, because a broker that refuses (its ACL, its memory) must leave no checkpoint behind that
# says that a message is on its way; what was pushed before the refusal is stale and harmless.
COMMON = """
local at = 1
local function take()
  local n, out = tonumber(ARGV[at]), {}
  for j = at + 1, at + n do out[#out + 1] = ARGV[j] end
  at = at + n + 1
  return out
end
local function send(box)
  if #box == 0 then return nil end
  local apart, refused = box[1] ~= box[2], nil
  local function try(...)
    local answer = redis.pcall(...)
    if type(answer) == 'table' and answer.err then refused = answer.err end
    return not refused
  end
  if apart and not try('SELECT', box[2]) then return refused end
  for j = 3, #box, 3 do
    if not try(box[j], box[j + 1], box[j + 2]) then break end
  end
  if apart then redis.call('SELECT', box[1]) end
  return refused
end
local function id_of(key, prefix)
  return string.sub(key, #prefix + #'execution:' + 1)
end
local function in_order(keys, places)
  table.sort(keys, function(a, b) return (places[a] or 0) < (places[b] or 0) end)
  return keys
end
local function whole(key, known)
  local flat, plan = redis.call('HGETALL', key), ''
  local records, keys, texts, places = {}, {}, {}, {}
  for j = 1, #flat, 2 do
    local name, value = flat[j], flat[j + 1]
    local kind, rest = string.sub(name, 1, 2), string.sub(name, 3)
    if kind == 'c:' then keys[#keys + 1], texts[rest] = rest, value
    elseif kind == 'n:' then places[rest] = tonumber(value)
    elseif name == 'plan' then plan = not known and value or ''
    elseif string.find(name, '^[srkhz]') or name == 'rev' then
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
local function context_after(key, set, new, drop)
  local flat, texts, keys, places = redis.call('HGETALL', key), {}, {}, {}
  local function note(name, value, fresh)
    local kind, rest = string.sub(name, 1, 2), string.sub(name, 3)
    if kind == 'c:' then texts[rest] = value
    elseif kind == 'n:' and not (fresh and places[rest]) then places[rest] = tonumber(value) end
  end
  for j = 1, #flat, 2 do note(flat[j], flat[j + 1]) end
  for j = 1, #set, 2 do note(set[j], set[j + 1]) end
  for j = 1, #new, 2 do note(new[j], new[j + 1], true) end
  for _, name in ipairs(drop) do
    if string.sub(name, 1, 2) == 'c:' then texts[string.sub(name, 3)] = nil end
  end
  for name in pairs(texts) do keys[#keys + 1] = name end
  local out = {}
  for j, name in ipairs(in_order(keys, places)) do
    out[j] = cjson.encode(name) .. ':' .. texts[name]
  end
  return '{' .. table.concat(out, ',') .. '}'
end
local function tell(key, result, set, new, drop)
  if #result == 0 then return nil end
  local text, j = result[1], 4
  if result[2] == '1' then text = text .. context_after(key, set, new, drop) .. result[3] end
  while j <= #result do
    local count = tonumber(result[j])
    local command = {unpack(result, j + 1, j + count)}
    command[count + 1] = text
    local answer = redis.pcall(unpack(command))
    if type(answer) == 'table' and answer.err then return answer.err end
    j = j + count + 1
  end
end
local function grown(key, set, drop)
  local by = 0
  for j = 1, #set, 2 do
    if string.sub(set[j], 1, 2) == 'c:' then
      by = by + #set[j + 1] - redis.call('HSTRLEN', key, set[j])
    end
  end
  for _, name in ipairs(drop) do
    if string.sub(name, 1, 2) == 'c:' then by = by - redis.call('HSTRLEN', key, name) end
  end
  if by ~= 0 then redis.call('HINCRBY', key, 'z', by) end
end
local function index(keys, id, keep)
  local now = tonumber(redis.call('TIME')[1])
  for _, key in ipairs(keys) do
    redis.call('ZADD', key, now, id)
    if keep ~= '' then
      redis.call('ZREMRANGEBYSCORE', key, '-inf', now - tonumber(keep))
      redis.call('EXPIRE', key, keep)
    end
  end
end
local function write(key, set)
  for j = 1, #set, 1000 do
    redis.call('HSET', key, unpack(set, j, math.min(j + 999, #set)))
  end
end
"""
