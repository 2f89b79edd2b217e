"""HTTP routes, one file a subject. They decode, call the service and encode; who may call, the gate has checked."""
