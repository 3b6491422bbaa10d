"""What travels over HTTP: requests as pydantic models, replies as typed dicts."""
