"""HTTP routes, one file a subject. They check who calls, decode, call the service and encode; nothing more."""
