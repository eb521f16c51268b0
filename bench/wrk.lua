-- Posts the given files in turn, and prints the result as one line of JSON.
local requests, last = {}, 0

function init(paths)
   for number, path in ipairs(paths) do
      local file = assert(io.open(path, "rb"))
      requests[number] = wrk.format("POST", nil, nil, file:read("*a"))
      file:close()
   end
end

function request()
   last = last % #requests + 1
   return requests[last]
end

function done(summary, latency)
   local failed = summary.errors
   print(string.format(
      '{"requests":%d,"seconds":%.6f,"octets":%d,"p50":%.3f,"p99":%.3f,"refused":%d,"broken":%d}',
      summary.requests, summary.duration / 1e6, summary.bytes,
      latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, failed.status,
      failed.connect + failed.read + failed.write + failed.timeout
   ))
end
