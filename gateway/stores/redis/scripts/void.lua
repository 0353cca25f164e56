-- Give up the id of a run that was claimed and never made, so that it cannot be made later.
-- ARGV: server, run, for how many ms. Gives 1 if the run is there after all.
if call('EXISTS', run_key(ARGV[2])) == 1 then
  return 1
end
call('SET', base .. 'void:' .. ARGV[2], '1', 'PX', ARGV[3])
return 0
