"""Benches of the product against its stated figures (docs/performance.md): real server, raw client, all logging on."""
