#!lua name=tapekeeper_1

-- This function decides "only if newer". The code of a library never changes: changed code gets another
-- number, so that recorders of different versions can share a server.

-- Compares the integers a and b: -1 if a is lower, 0 if equal, 1 if higher. It compares text, because Lua's numbers
-- are exact only up to 2^53, and an exchange may number its trades higher.
local function compare(a, b)
  local a_negative, b_negative = a:sub(1, 1) == '-', b:sub(1, 1) == '-'
  if a_negative ~= b_negative then
    return a_negative and -1 or 1
  end
  local after = a_negative and -1 or 1
  if a == b then
    return 0
  end
  if #a ~= #b then
    return #a > #b and after or -after
  end
  -- With the same number of digits the bytes decide, independent of the server's locale.
  for i = 1, #a do
    local x, y = a:byte(i), b:byte(i)
    if x ~= y then
      return x > y and after or -after
    end
  end
  return 0
end

local function is_newer(key, order, args)
  local names = {}
  for i = 1, order do
    names[i] = args[2 * i]
  end
  local held = redis.call('HMGET', key, unpack(names))
  for i = 1, order do
    -- This function did not write a field that is not an integer: replace it.
    if not held[i] or not held[i]:match('^%-?%d+$') then
      return true
    end
    local standing = compare(args[2 * i + 1], held[i])
    if standing ~= 0 then
      return standing > 0
    end
  end
  return false
end

-- FCALL tapekeeper_forward_1 1 KEY ORDER NAME VALUE [NAME VALUE ...]
-- Writes the fields if the first ORDER of them, compared one after the other as integers, are newer than the stored
-- ones. Returns 1 if it wrote them, else 0.
redis.register_function('tapekeeper_forward_1', function(keys, args)
  if not is_newer(keys[1], tonumber(args[1]), args) then
    return 0
  end
  redis.call('HSET', keys[1], unpack(args, 2))
  return 1
end)
