"""From a request that was accepted to its answer: admission, slots, dispatch, the fleet."""
