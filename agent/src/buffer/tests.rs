//! Stories of a buffer with real files and a real sled.
