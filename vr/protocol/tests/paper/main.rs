//! Sentences of *Viewstamped Replication Revisited* (Liskov and Cowling, 2012), each a test.

mod bench;
mod fetching;
mod normal;
mod outside;
mod view_change;
mod walk_ins;
