-- Tells what this user may not run on a key, where the server can tell (Redis 7 and newer).
--
-- KEYS[1]  the key
-- ARGV     names of commands
local refused = {}
if redis.acl_check_cmd then
  for _, name in ipairs(ARGV) do
    local known, allowed = pcall(redis.acl_check_cmd, name, KEYS[1])
    if known and not allowed then
      refused[#refused + 1] = name
    end
  end
end
return refused
