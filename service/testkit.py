"""A pytest plugin with an in-process service for a shop's own tests. It is not used by the service itself."""
