"""What Valkey does in one step, as scripts in Lua: see `esource.log.valkey` for the keys.

    [answer] = HEAD.run(link, keys, [generation, end, nonce, "0"])

Nothing else runs while a script does, and nothing is taken back if it fails: so it looks first, and
writes once nothing can be in the way. Numbers are floating point, exact up to 2^53 = 9 PB.
"""

from collections.abc import Sequence
from hashlib import sha1
from typing import Any

from redis import exceptions

from esource.log.valkey_servers import Link


class Script:
    """A script, by its digest."""

    def __init__(self, text: str) -> None:
        """Take its text."""
        self.text = PRELUDE + text
        self.digest = sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def run(
        self, link: Link, keys: Sequence[bytes], arguments: Sequence[object],
        *others: Sequence[object],
    ) -> list[Any]:  # fmt: skip
        """Return what it returns, and what is answered to other commands right after it."""
        call = ("EVALSHA", self.digest, len(keys), *keys, *arguments)
        try:
            return link.ask(call, *others)
        except exceptions.NoScriptError:  # a new server, or one that was told to forget it
            link.ask(("SCRIPT", "LOAD", self.text))
            return link.ask(call, *others)


# KEYS: hash, stream. ARGV: the generation of the stream, and the end and nonce of a known block.
PRELUDE = """
local h = redis.call('HMGET', KEYS[1],
    'generation', 'start', 'first', 'end', 'nonce', 'erasures', 'modified', 'floor')
local generation, known, known_nonce = ARGV[1], ARGV[2], ARGV[3]
local function number(n) return string.format('%.0f', n) end
local function micros()
    local t = redis.call('TIME')
    return math.max(t[1] * 1000000 + t[2], tonumber(h[7] or 0))
end
-- Whether a block is in the stream.
local function has(stop, nonce)
    local id = stop .. '-' .. nonce
    return #redis.call('XRANGE', KEYS[2], id, id) == 1
end
-- Whether the rows before the known end are those of which the last block had this nonce.
local function goes_on()
    if generation == '0' then return true end
    if generation ~= h[1] or tonumber(known) > tonumber(h[4]) then return false end
    if tonumber(known) <= tonumber(h[2]) then return true end
    if known == h[4] then return known_nonce == h[5] end
    return has(known, known_nonce)
end
-- Something to be waited for, which stands behind all that is there.
local function stamp() redis.call('HSET', KEYS[1], 'nonce', h[5]) end
local function answer(is_known, at) return {h, is_known and 1 or 0, at} end
-- The same of rows that nothing was appended to; they are to be waited for if they are not known.
local function refused()
    if known ~= h[4] or known_nonce ~= h[5] then stamp() end
    return answer(true, false)
end
-- Let go of what the index (KEYS 3) has of parts: of those for which something is true.
local function forget(goes)
    for _, field in ipairs(redis.call('HKEYS', KEYS[3])) do
        local kind, size, from = string.match(field, '^([^/]*)/(%d+)/(%d+)')
        if goes(kind, tonumber(from), tonumber(size)) then redis.call('HDEL', KEYS[3], field) end
    end
end
"""
# Says whether there is something that is not known. ARGV: 4 '1': that is to be waited for
HEAD = Script("""
if not h[1] then return answer(generation == '0', false) end
local is_new = generation ~= h[1] or known ~= h[4] or known_nonce ~= h[5]
if is_new and ARGV[4] == '1' then stamp() end
return answer(goes_on(), is_new and '1')
""")
# Without a known generation the stream is that of a new one, in which a second try finds the first.
# ARGV: 4 that generation, 5 expected offset or '', 6 least and 7 greatest default id or '',
# 8 newest id, 9 first row, 10 nonce, 11... rows
APPEND = Script("""
local expected, least, nonce, floor = ARGV[5], ARGV[6], ARGV[10], h[8] or ''
if not h[1] then
    if generation ~= '0' or (tonumber(expected) or 0) ~= 0 then
        return answer(generation == '0', false)
    end
    h = {ARGV[4], '0', ARGV[9], '0', '0', '0', '0'}
elseif generation == '0' and h[1] ~= ARGV[4] then
    return refused()
end
if not goes_on() then return answer(false, false) end
if tonumber(h[4]) > tonumber(known) then  -- did an earlier try get through?
    if tonumber(h[2]) > tonumber(known) then return refused() end
    local at, behind = known, redis.call('XRANGE', KEYS[2], number(known + 1), '+', 'COUNT', 65)
    for _, block in ipairs(behind) do
        local stop, found = string.match(block[1], '^(%d+)-(%d+)$')
        if found == nonce then
            stamp()
            return answer(true, at)
        end
        at = stop
    end
    if #behind > 64 then return refused() end
end
if (expected ~= '' and expected ~= h[4]) or (least ~= '' and least <= floor) then
    return refused()
end
-- Nothing is taken back if a script fails. The first write may, for want of memory or disk.
local now, at, stop = number(micros()), h[4], tonumber(h[4])
for i = 11, #ARGV do
    stop = stop + #ARGV[i]
    redis.call('XADD', KEYS[2], number(stop) .. '-' .. nonce, 't', now, 'r', ARGV[i])
end
h[4], h[5], h[7] = number(stop), nonce, now
redis.call('HSET', KEYS[1], 'generation', h[1], 'start', h[2], 'first', h[3], 'end', h[4],
    'nonce', h[5], 'erasures', h[6], 'modified', h[7],
    'floor', ARGV[7] > floor and ARGV[7] or floor)
if at == h[2] then redis.call('HSET', KEYS[1], 'oldest', now) end
if ARGV[8] ~= '' then redis.call('HSET', KEYS[1], 'newest', ARGV[8]) end
return answer(true, at)
""")
# ARGV: 4 offset, 5 stop, 6 bytes of a block at most, but for single rows
READ = Script("""
if not (generation == h[1] and known == h[4] and known_nonce == h[5])
    and not has(known, known_nonce) then return {} end
local offset, stop, last = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(known)
local from = number(offset + 1)
if offset >= last then return {} end
local found = redis.call('XRANGE', KEYS[2], from, number(math.min(stop + ARGV[6], last)))
if #found == 0 then found = redis.call('XRANGE', KEYS[2], from, known, 'COUNT', 1) end
local rows = {}
for i, block in ipairs(found) do
    local size = #block[2][4]
    local start = string.match(block[1], '^%d+') - size
    if start >= stop then break end
    if i == 1 then rows[1] = number(start) end
    rows[i + 1] = block[2][4]
end
return rows
""")
# The times of blocks never go back. ARGV: 4 age in seconds or '', 5 bytes or '', 6 bytes at a time
TRIM = Script("""
if generation ~= h[1] then return 0 end
local age, size, start, last = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(h[2]), tonumber(h[4])
local cut, stop, now = start, last, micros()
while cut < stop do  -- a block ends at `cut`, and goes; one begins at `stop`, and stays
    local middle = math.floor((cut + stop) / 2)
    local block = redis.call('XRANGE', KEYS[2], number(middle + 1), '+', 'COUNT', 1)[1]
    local ends = tonumber(string.match(block[1], '^%d+'))
    local begins, is_old = ends - #block[2][4], age and tonumber(block[2][2]) < now - age * 1000000
    if ends < last and (ends - start <= tonumber(ARGV[6]) or begins == start)
        and (is_old or size and last - ends >= size)
    then cut = ends else stop = begins end
end
if cut > start and ARGV[7] == '1' then
    forget(function(_, from, size) return from + size <= cut end)
    redis.call('XTRIM', KEYS[2], 'MINID', number(cut + 1))
    local first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
    redis.call('HSET', KEYS[1], 'start', number(cut), 'first', number(cut), 'oldest', first[2][2])
end
return cut - start
""")
# ARGV: 4 offset
CREATE = Script("""
if h[1] then return 0 end
redis.call('HSET', KEYS[1], 'generation', generation, 'start', ARGV[4], 'first', ARGV[4],
    'end', ARGV[4], 'nonce', '0', 'erasures', '0', 'modified', number(micros()))
return 1
""")
REMOVE = Script("""
if generation == h[1] then return redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3]) end
return 0
""")
# ARGV: 4 known erasures, 5 kind, 6 size and 7 start of the part, 8 line, 9... pieces of hashes
LEARN = Script("""
if generation ~= h[1] or ARGV[4] ~= h[6] or not goes_on() then return 0 end
local kind, size, from = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
local field = kind .. '/' .. ARGV[6] .. '/' .. ARGV[7]
if redis.call('HEXISTS', KEYS[3], field) == 1 then return 0 end
for i = 9, #ARGV do redis.call('HSET', KEYS[3], field .. '/' .. i - 9, ARGV[i]) end
redis.call('HSET', KEYS[3], field, ARGV[8])
if #ARGV < 9 then return 1 end
forget(function(each, start, bytes)
    return each == kind and bytes < size and start >= from and start + bytes <= from + size
end)
return 1
""")
# Entries never change: the next blocks go to another stream (KEYS 4), which takes the place of the
# first one once it has all of them. ARGV: 4 the end of the last one that was copied,
# 5 how many at a time, 6 seconds, 7 and 8 offsets between which blocks end that get the time 9,
# 10 offset of a row that is to be 11, 12 what is noted about that, in a list (KEYS 5), 13 where the
# first block begins
REWRITE = Script("""
if generation ~= h[1] then return -1 end
local there = redis.call('XREVRANGE', KEYS[4], '+', '-', 'COUNT', 1)[1]
if (there and string.match(there[1], '^%d+') or ARGV[13]) ~= ARGV[4] then
    return redis.error_reply('ERR esource: the copy was broken off')  -- the answer to it was lost
end
local blocks = redis.call('XRANGE', KEYS[2], number(ARGV[4] + 1), '+', 'COUNT', ARGV[5])
local last, at, row = ARGV[4], tonumber(ARGV[10]), ARGV[11]
for _, block in ipairs(blocks) do
    local time, rows, ends = block[2][2], block[2][4], tonumber(string.match(block[1], '^%d+'))
    if ends > tonumber(ARGV[7]) and ends <= tonumber(ARGV[8]) then time = ARGV[9] end
    local place = at and at - ends + #rows
    if place and place >= 0 and at < ends then
        rows = string.sub(rows, 1, place) .. row .. string.sub(rows, place + #row + 1)
    end
    redis.call('XADD', KEYS[4], block[1], 't', time, 'r', rows)
    last = number(ends)
end
redis.call('EXPIRE', KEYS[4], ARGV[6])
if last ~= h[4] then return tonumber(last) end
if at then
    local block = redis.call('XRANGE', KEYS[4], number(at + 1), '+', 'COUNT', 1)[1]
    local ends = tonumber(string.match(block[1], '^%d+'))
    forget(function(kind, from, size)
        return kind == 'zone' and from < ends and from + size > ends - #block[2][4]
    end)
end
redis.call('PERSIST', KEYS[4])
redis.call('RENAME', KEYS[4], KEYS[2])
redis.call('XTRIM', KEYS[2], 'MINID', number(h[2] + 1))
local first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
redis.call('HSET', KEYS[1], 'oldest', first[2][2])
if at then
    redis.call('HINCRBY', KEYS[1], 'erasures', 1)
    redis.call('RPUSH', KEYS[5], number(micros()) .. ' ' .. ARGV[12])
else
    redis.call('HSET', KEYS[1], 'modified', ARGV[9])
end
return -1
""")
