//! Every latency, in the format of the client that the field compares with: specpaxos'
//! `bench/client -l FILE` writes it to `FILE.raw`.
//!
//! Nanoseconds, 64 bits each, in this machine's byte order; the latencies of one client after
//! those of the other, each sorted.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::cannot_write;
use crate::exit::Failure;

/// Writes the file. Sorts the latencies.
pub(super) fn write(path: &Path, latencies: &mut [Vec<u64>]) -> Result<(), Failure> {
    let written = fs::File::create(path).and_then(|file| {
        let mut file = BufWriter::new(file);
        encode(latencies, &mut file)?;
        file.flush()
    });
    written.map_err(|error| cannot_write(path, &error))
}

fn encode(latencies: &mut [Vec<u64>], out: &mut impl Write) -> io::Result<()> {
    for of_client in latencies {
        of_client.sort_unstable();
        for ns in of_client {
            out.write_all(&ns.to_ne_bytes())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_sorted_by_client_and_native_words() {
        let mut latencies = [vec![81_000, 79_500], vec![], vec![1]];
        let mut bytes = Vec::new();
        encode(&mut latencies, &mut bytes).expect("memory takes everything");
        let golden = [
            [0x8c, 0x36, 0x01, 0, 0, 0, 0, 0],
            [0x68, 0x3c, 0x01, 0, 0, 0, 0, 0],
            [1, 0, 0, 0, 0, 0, 0, 0],
        ];
        let native = golden.map(|word| u64::from_le_bytes(word).to_ne_bytes());
        assert_eq!(bytes, native.concat());
    }
}
