-- Applies operations and moves the partition's offset, in one atomic step, if the stored offset is the expected one.
--
-- KEYS[1]  the hash of offsets
-- ARGV[1]  the partition's field in it
-- ARGV[2]  the position that must be stored there now, empty for none
-- ARGV[3]  the position to store at the end
-- ARGV[4]  what follows the offset in a position: nothing, or '@' and the topic's id
-- ARGV[5]  a MessagePack array of steps, one after the other: offset, number of words, words of the command. One large
--          argument costs the client and the server less than thousands of small ones.
--
-- Answers 'applied', or {'found', position} when another position is stored and nothing was done, or
-- {'stopped', offset, error}: everything before the step of that offset is applied and that offset is stored.
local stored = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if stored ~= ARGV[2] then
  return {'found', stored}
end
local call, unpack, type = redis.pcall, unpack, type
local steps = cmsgpack.unpack(ARGV[5])
local at, count = 1, #steps
while at < count do
  local last = at + 1 + steps[at + 1]
  local answer = call(unpack(steps, at + 2, last))
  if type(answer) == 'table' and answer.err then
    -- Redis does not roll back: what is done is done, and the offset says so. Not pcall: where even this can't be
    -- written nothing before it was, and the caller gets the server's own error.
    redis.call('HSET', KEYS[1], ARGV[1], steps[at] .. ARGV[4])
    return {'stopped', steps[at], answer.err}
  end
  at = last + 1
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 'applied'
