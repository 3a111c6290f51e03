//! A real PostgreSQL for tests, in a temporary folder on a free port.
