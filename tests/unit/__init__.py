"""The core against working fakes: no server, no sleep."""
