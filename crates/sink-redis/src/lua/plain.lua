-- Applies operations without a guard, for offsets that are kept in Kafka alone.
--
-- KEYS[1]  the key of the first operation; in a cluster all keys follow
-- ARGV[1]  a MessagePack array of steps, one after the other: offset, number of words, words of the command
--
-- Answers an array: offset and error of each record that could not be applied; the others are.
local call, unpack, type = redis.pcall, unpack, type
local steps = cmsgpack.unpack(ARGV[1])
local at, count, failed, errors = 1, #steps, nil, {}
while at < count do
  local last = at + 1 + steps[at + 1]
  if steps[at] ~= failed then
    local answer = call(unpack(steps, at + 2, last))
    if type(answer) == 'table' and answer.err then
      failed = steps[at]
      errors[#errors + 1] = failed
      errors[#errors + 1] = answer.err
    end
  end
  at = last + 1
end
return errors
