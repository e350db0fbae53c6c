"""Search among sentences and images: indexes, the engine, the server and its page."""
