-- The newest runs of a set and the version of each that its log has come to, as of one moment.
-- ARGV: server, set, limit
local set = ARGV[2]
local log = load(set, '$runs') or { epoch = '', next = 0 }
local runs = call('ZREVRANGEBYLEX', base .. set .. ':members', '+', '-', 'LIMIT', 0, ARGV[3])
local versions = #runs > 0 and call('HMGET', base .. set .. ':seen', unpack(runs)) or {}
return { log.epoch, log.next, runs, versions }
