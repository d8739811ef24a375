-- The calls that wrk makes, given as arguments: wrk -s calls.lua URL -- PUT|GET KEYS VALUE_BYTES
-- Every request is put together before the clock starts, since wrk shares the cores with the servers it measures.

local requests, at = {}, 0

function init(args)
  local method, keys, value = args[1], tonumber(args[2]), string.rep("v", tonumber(args[3]))
  for number = 0, keys - 1 do
    local body = string.format('{"Key":"k%05d"}', number)
    if method == "PUT" then
      body = string.format('{"Key":"k%05d","Value":"%s"}', number, value)
    end
    requests[number + 1] = wrk.format(method, "/" .. method, { ["Content-Type"] = "application/json" }, body)
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end

-- One line of JSON behind wrk's own text. Times are in microseconds; errors.status counts answers of 400 and above.
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"bytes":%d,' ..
    '"status":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), summary.bytes,
    errors.status, errors.connect, errors.read, errors.write, errors.timeout
  ))
end
