-- wrk -s wrk.lua URL -- PATH BODY COUNT
-- Requests go to COUNT paths in turn (`%d` in PATH becomes a number from 0), so that with COUNT
-- connections each session has about one request in flight. Ends with one line of JSON.

local requests, place = {}, 0

function init(args)
  local path, body, count = args[1], args[2], tonumber(args[3])
  for number = 1, count do
    local own = path:gsub("%%d", tostring(number - 1))
    requests[number] = wrk.format("POST", own, {["Content-Type"] = "application/json"}, body)
  end
end

function request()
  place = place % #requests + 1
  return requests[place]
end

function done(summary, latency, _)
  local errors = summary.errors
  print(string.format(
    '{"steps_per_s": %f, "p50_ms": %f, "p99_ms": %f, "count": %d, "num_failed": %d}',
    summary.requests / summary.duration * 1e6,
    latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3,
    summary.requests,
    errors.status + errors.connect + errors.read + errors.write + errors.timeout
  ))
end
