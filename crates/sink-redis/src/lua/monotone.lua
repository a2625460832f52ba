-- The same in one slot of a cluster, where the offsets of other slots are out of sight: what is stored must not lie
-- behind the first operation.
--
-- KEYS[1]  the hash of offsets of this slot
-- KEYS[2…] the keys that are written, so that the server refuses the script while some of them are on another node
-- ARGV[1]  the partition's field in it
-- ARGV[2]  the offset of the first operation
--
-- Answers {'found', position} when the position lies behind it, or is of another life of the topic.
local stored = redis.call('HGET', KEYS[1], ARGV[1])
if stored then
  local offset, life = string.match(stored, '^(%d+)(.*)$')
  if not offset or (life ~= '' and life ~= ARGV[4]) or tonumber(offset) > tonumber(ARGV[2]) then
    return {'found', stored}
  end
end
local marker = nil
