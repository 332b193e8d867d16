"""What every process needs whatever it does: clock, logging, failpoints, supervision."""
