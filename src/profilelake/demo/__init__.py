"""A believable shop with a known truth, sent to a real server by an official SDK, and scored."""
