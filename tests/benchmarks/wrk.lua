-- wrk -s wrk.lua URL -- PATH BODY COUNT [TAIL]
-- Sends COUNT requests in turn (`%d` in PATH and BODY becomes a number from 0), so that with COUNT
-- connections each session has about one request in flight. TAIL, in hexadecimal digits, holds the
-- binary tensors of `/v2` that follow the JSON. Ends with one line of JSON.

local requests, place = {}, 0

function init(args)
  local path, body, count, tail = args[1], args[2], tonumber(args[3]), args[4] or ""
  local binary = tail:gsub("..", function(digits) return string.char(tonumber(digits, 16)) end)
  for number = 1, count do
    local headers = {["Content-Type"] = "application/json"}
    local own_path = path:gsub("%%d", tostring(number - 1))
    local own_body = body:gsub("%%d", tostring(number - 1))
    if binary ~= "" then
      headers["Content-Type"] = "application/octet-stream"
      headers["Inference-Header-Content-Length"] = tostring(#own_body)
    end
    requests[number] = wrk.format("POST", own_path, headers, own_body .. binary)
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
