//! The first copy of the tables, in chunks that can be resumed.
