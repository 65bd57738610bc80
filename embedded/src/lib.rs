//! Files packed into the executable.
