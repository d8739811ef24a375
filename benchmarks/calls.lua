-- The original's calls, for wrk: wrk -s calls.lua URL -- PUT|GET KEYS VALUE_BYTES [NAME=VALUE ...]
--
--   width=5     digits of a key's number             first=0   number of the first key
--   stride=1    from each key's number to the next   query=    what follows the path, such as ?consistency=one
--   fresh=      anything: no key comes twice, however many requests there are
--
-- Every request is put together before the clock starts, since wrk shares the cores with the servers it measures. Fresh
-- keys cannot be: each is set into a request that is there.

dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "done.lua")

local requests, at = {}, 0
local before, after, name

function init(args)
  local method, keys, value = args[1], tonumber(args[2]), string.rep("v", tonumber(args[3]))
  local given = { width = "5", first = "0", stride = "1", query = "", fresh = "" }
  for number = 4, #args do
    local what, text = args[number]:match("^(%l+)=(.*)$")
    given[what] = text
  end
  name = "k%0" .. given.width .. "d"

  local function request_for(key)
    local body = string.format('{"Key":"%s"}', key)
    if method == "PUT" then
      body = string.format('{"Key":"%s","Value":"%s"}', key, value)
    end
    return wrk.format(method, "/" .. method .. given.query, { ["Content-Type"] = "application/json" }, body)
  end

  at = tonumber(given.first)
  if given.fresh ~= "" then
    local key = string.format(name, at)
    local whole = request_for(key)
    local from, to = whole:find(key, 1, true)
    before, after = whole:sub(1, from - 1), whole:sub(to + 1)
    request = fresh_request
    return
  end
  for number = 0, keys - 1 do
    requests[number + 1] = request_for(string.format(name, at + number * tonumber(given.stride)))
  end
  at = 0
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function fresh_request()
  at = at + 1
  return before .. string.format(name, at) .. after
end
