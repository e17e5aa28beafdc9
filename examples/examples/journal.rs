//! An append-only journal: what it has acknowledged is there after any crash. Run it again, and it
//! goes on where it was.
//!
//! ```text
//! cargo run -p viewring-examples --example journal
//! ```

use std::error::Error;
use std::io;
use std::path::Path;

use viewring::runtime::block_on;
use viewring::runtime::fs::File;
use viewring::runtime::time::Instant;

/// A record is its length, a checksum, and its bytes.
const HEADER: usize = 8;

struct Journal {
    file: File,
    end: u64,
}

impl Journal {
    /// Opens it, or makes it, and gives the records that are whole. What comes after them was never
    /// acknowledged: a crash tore it, and the next append overwrites it.
    async fn open(path: &Path) -> io::Result<(Self, Vec<Vec<u8>>)> {
        let file = File::create_durable(path).await?;
        let bytes = file.read_to_end().await?;
        let (mut records, mut end) = (Vec::new(), 0);
        while let Some(record) = read_record(&bytes, end) {
            end += HEADER + record.len();
            records.push(record.to_vec());
        }
        // What was read may be in memory only: from here on it is on the disk.
        file.write_durable_at(&bytes[..end], 0).await?;
        let end = end as u64;
        Ok((Self { file, end }, records))
    }

    /// When it returns the record is on the disk: one trip through the ring wrote and synced it.
    ///
    /// # Cancel safety
    /// Dropping it leaves open whether the record is there; the next one takes its place.
    async fn append(&mut self, record: &[u8]) -> io::Result<()> {
        let mut framed = (record.len() as u32).to_le_bytes().to_vec();
        framed.extend(checksum(self.end, record).to_le_bytes());
        framed.extend(record);
        self.file.write_durable_at(&framed, self.end).await?;
        self.end += framed.len() as u64;
        Ok(())
    }
}

fn read_record(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let (header, rest) = bytes.get(at..)?.split_at_checked(HEADER)?;
    let len = u32::from_le_bytes(*header.first_chunk()?) as usize;
    let record = rest.get(..len)?;
    let is_whole = header[4..] == checksum(at as u64, record).to_le_bytes();
    is_whole.then_some(record)
}

/// FNV-1a over the place and the bytes, so that an old record at another place is none.
fn checksum(at: u64, record: &[u8]) -> u32 {
    let bytes = at.to_le_bytes().into_iter().chain(record.iter().copied());
    bytes.fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::temp_dir().join("viewring-example.journal");
    block_on(async {
        let (mut journal, found) = Journal::open(&path).await?;
        println!("{}: {} records found", path.display(), found.len());
        let begun = Instant::now();
        for number in found.len()..found.len() + 10 {
            journal
                .append(format!("record {number}").as_bytes())
                .await?;
        }
        println!("ten more are durable after {:?}", begun.elapsed());
        let (_, records) = Journal::open(&path).await?;
        assert_eq!(records.len(), found.len() + 10);
        assert_eq!(
            records[found.len()..][3],
            format!("record {}", found.len() + 3).as_bytes()
        );
        Ok(())
    })?
}
