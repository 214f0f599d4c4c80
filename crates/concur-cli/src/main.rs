//! The `concur` program.
fn main() {}
