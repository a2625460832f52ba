-- Tells where a partition stands, and marks the hash of offsets as this connector's when there is none yet.
--
-- KEYS[1]  the hash of offsets
-- ARGV[1]  the partition's field in it
-- ARGV[2]  the fingerprint of this connector
--
-- Answers {position or false, fingerprint, origin}. The origin says whether the database was empty when the hash was
-- made: then a partition that has no offset has no data either, whatever the others have written meanwhile.
if redis.call('EXISTS', KEYS[1]) == 0 then
  local origin = redis.call('DBSIZE') == 0 and 'empty' or 'data'
  redis.call('HSET', KEYS[1], 'fingerprint', ARGV[2], 'origin', origin)
end
return redis.call('HMGET', KEYS[1], ARGV[1], 'fingerprint', 'origin')
