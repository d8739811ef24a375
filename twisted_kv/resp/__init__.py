"""The Redis door: RESP2 and RESP3 on a port of its own."""
