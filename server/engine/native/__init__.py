"""Machine code of our own, where what torch brings is not the fastest or not exact."""
