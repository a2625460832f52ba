-- Applies operations and moves the partition's offset, in one atomic step, if the stored position is the expected one.
--
-- KEYS[1]  the hash of offsets
-- KEYS[2]  the partition's marker, if there is one: a transaction that watches it does nothing once its offset was moved
-- ARGV[1]  the partition's field in it
-- ARGV[2]  the position that must be stored there now, empty for none
-- ARGV[6]  the fingerprint of this connector
--
-- Answers {'found', position} when another position is stored and nothing was done.
local stored = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if stored ~= ARGV[2] then
  return {'found', stored}
end
if stored == '' and redis.call('EXISTS', KEYS[1]) == 0 then
  -- It went since the partition was taken up. Whose it is and whether there was data is to be known, as in resume.lua.
  redis.call('HSET', KEYS[1], 'fingerprint', ARGV[6], 'origin', redis.call('DBSIZE') == 0 and 'empty' or 'data')
end
local marker = KEYS[2]
