//! One System value that describes a replicated system: validate it, run it, embed it.
