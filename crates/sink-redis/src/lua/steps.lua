-- The second half of both scripts that write: `stored` was found to be right.
--
-- ARGV[3]  the position to store at the end
-- ARGV[4]  what follows the offset in a position: nothing, or '@' and the topic's id
-- ARGV[5]  a MessagePack array of steps, one after the other: offset, number of words, words of the command. One large
--          argument costs the client and the server less than thousands of small ones.
--
-- Answers 'applied', or {'stopped', offset, error}: everything before the record of that offset is applied and that
-- offset is stored, or {'torn', offset, error}: of that record a command behind the first failed, which only a missing
-- permission makes happen. Its effect is there, so the record counts as applied and the offset behind it is stored.
local call, unpack, type = redis.pcall, unpack, type
local function keep(position)
  redis.call('HSET', KEYS[1], ARGV[1], position)
  if marker and redis.call('EXISTS', marker) == 1 then
    redis.call('SET', marker, position, 'KEEPTTL')
  end
end
local steps = cmsgpack.unpack(ARGV[5])
local at, count, before = 1, #steps, nil
while at < count do
  local last = at + 1 + steps[at + 1]
  local answer = call(unpack(steps, at + 2, last))
  if type(answer) == 'table' and answer.err then
    -- Redis does not roll back: what is done is done, and the offset says so. Not pcall: where even this can't be
    -- written nothing before it was, and the caller gets the server's own error.
    local offset = steps[at]
    if offset ~= before then
      keep(offset .. ARGV[4])
      return {'stopped', offset, answer.err}
    end
    while at < count and steps[at] == offset do
      at = at + 2 + steps[at + 1]
    end
    keep(at < count and steps[at] .. ARGV[4] or ARGV[3])
    return {'torn', offset, answer.err}
  end
  before = steps[at]
  at = last + 1
end
keep(ARGV[3])
return 'applied'
