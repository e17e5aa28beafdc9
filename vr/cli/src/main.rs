//! The program `viewring`.
fn main() {}
