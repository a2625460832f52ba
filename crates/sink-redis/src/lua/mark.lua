-- Makes the marker of a partition, or changes it. Not beside no offsets: in an empty database it would look like data of
-- which the offsets are lost.
--
-- KEYS[1]  the hash of offsets
-- KEYS[2]  the marker
-- ARGV[1]  how long it lives, in milliseconds
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('SET', KEYS[2], 'looked at', 'PX', ARGV[1])
end
return redis.status_reply('OK')
