-- What every script of ours prints when wrk is done: one line of JSON behind wrk's own text. Times are in microseconds;
-- errors.status counts answers of 400 and above.
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"bytes":%d,' ..
    '"status":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), summary.bytes,
    errors.status, errors.connect, errors.read, errors.write, errors.timeout
  ))
end
