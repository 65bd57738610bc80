//! Names: generation from a prefix, and the grammars that names of different kinds follow.
