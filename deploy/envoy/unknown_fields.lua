-- Refuses a JSON body with fields that the request does not have. The transcoder would drop them without a word, and a caller who
-- wrote "num_inference_step" would wonder. Envoy runs this before it transcodes; what else is wrong is told by what comes after.
local ROOT = "GenerateImageRequest"
local MOST = 20 -- fields that are named
-- message -> field -> message of the field, "" if it has no fields that are known here
local KNOWN = {} -- http_edge/configure.py puts the contract here

-- Returns the paths of the fields that are unknown, in order. A text that is no JSON is looked at as far as it goes.
function unknown_fields(text)
  local found, open, at = {}, {}, 1
  while true do
    at = text:find('[{}%[%]"]', at)
    if not at then return found end
    local mark, inner = text:sub(at, at), open[#open]
    if mark == '"' then
      local last = at
      repeat
        last = text:find('["\\]', last + 1)
        if not last then return found end
        local escaped = text:byte(last) == 92
        if escaped then last = last + 1 end
      until not escaped
      if inner and inner.fields and text:find("^%s*:", last + 1) then
        local name = text:sub(at + 1, last - 1)
        inner.path, inner.message = inner.prefix .. name, inner.fields[name]
        if not inner.message then found[#found + 1] = inner.path end
      end
      at = last
    elseif mark == "{" then
      local message = inner and inner.message or (not inner and ROOT)
      open[#open + 1] = { fields = KNOWN[message], prefix = inner and inner.path and inner.path .. "." or "" }
    elseif mark == "[" then
      open[#open + 1] = { message = inner and inner.message, path = inner and inner.path } -- the elements are of the field's kind
    else
      open[#open] = nil
    end
    at = at + 1
  end
end

local function refusal(found)
  local told, violations = {}, {}
  for number = 1, math.min(#found, MOST) do
    local path = found[number]:gsub("[^%w_.$-]", "?"):sub(1, 100)
    told[number] = path .. ": is not a field of the request"
    violations[number] = '{"field":"' .. path .. '","description":"is not a field of the request"}'
  end
  local counted = #found > 1 and #found .. " violations: " or ""
  return '{"code":3,"message":"' .. counted .. table.concat(told, "; ") .. '","details":['
    .. '{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"INVALID_REQUEST","domain":"imagegen.v1","metadata":{}},'
    .. '{"@type":"type.googleapis.com/google.rpc.BadRequest","field_violations":[' .. table.concat(violations, ",") .. ']}]}\n'
end

function envoy_on_request(handle)
  local body = handle:body()
  if not body then return end
  local found = unknown_fields(body:getBytes(0, body:length()))
  if #found == 0 then return end
  handle:streamInfo():dynamicMetadata():set("imagegen", "refusal", "complete") -- it needs no other form
  handle:respond({ [":status"] = "400", ["content-type"] = "application/json", ["x-error-reason"] = "INVALID_REQUEST" }, refusal(found))
end
