//! Small to large: see the files under `examples/`, each of which opens with what it shows and the
//! command to run it.
