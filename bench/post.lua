-- wrk's part in `bench/publishers.py`: POST a body, to one channel or to many in turn, and print
-- one line of JSON at the end. Arguments: the path's start, how many channels, the body's size.
local requests, turn = {}, 0

function init(arguments)
    local path, channels, size = arguments[1], tonumber(arguments[2]), tonumber(arguments[3])
    local body = string.rep("x", size)
    wrk.headers["Content-Type"] = "text/plain"
    for n = 1, channels do
        local name = channels == 1 and path or path .. n
        requests[n] = wrk.format("POST", name, nil, body)
    end
end

function request()
    turn = turn % #requests + 1
    return requests[turn]
end

function done(summary, latency)
    local errors = summary.errors
    print(string.format(
        '{"requests": %d, "seconds": %f, "errors": %d, "p50_ms": %f, "p99_ms": %f}',
        summary.requests, summary.duration / 1e6,
        errors.connect + errors.read + errors.write + errors.status + errors.timeout,
        latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
