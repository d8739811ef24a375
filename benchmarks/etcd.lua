-- Puts and ranges of one key through etcd's JSON gateway, for wrk: wrk -s etcd.lua URL -- PUT|GET KEYS VALUE_BYTES
-- The gateway wants keys and values in base64. Every request is put together before the clock starts.

dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "done.lua")

local LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
local requests, at = {}, 0

local function letter(number)
  return LETTERS:sub(number + 1, number + 1)
end

local function base64(text)
  local coded = text:gsub("..?.?", function(three)
    local a, b, c = three:byte(1, 3)
    local bits = a * 65536 + (b or 0) * 256 + (c or 0)
    return letter(math.floor(bits / 262144)) .. letter(math.floor(bits / 4096) % 64)
      .. (b and letter(math.floor(bits / 64) % 64) or "=") .. (c and letter(bits % 64) or "=")
  end)
  return coded
end

function init(args)
  local method, keys, value = args[1], tonumber(args[2]), base64(string.rep("v", tonumber(args[3])))
  for number = 0, keys - 1 do
    local key = base64(string.format("k%05d", number))
    local path, body = "/v3/kv/range", string.format('{"key":"%s"}', key)
    if method == "PUT" then
      path, body = "/v3/kv/put", string.format('{"key":"%s","value":"%s"}', key, value)
    end
    requests[number + 1] = wrk.format("POST", path, { ["Content-Type"] = "application/json" }, body)
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end
