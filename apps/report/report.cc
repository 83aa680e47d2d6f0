namespace spikefold {}
