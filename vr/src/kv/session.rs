//! A client of the store.

use std::num::NonZeroU16;
use std::rc::Rc;

use thiserror::Error;
use viewring_protocol::ReadConsistency;

use super::{KEY_BYTES_MAX, Operation, Outcome, VALUE_BYTES_MAX};
use crate::client::{CallError, Client, Session};

/// A [`Session`] whose group runs [`Kv`](super::Kv): its operations as methods.
///
/// What changes something waits for one call: see [`Session::call`] for what it means to drop it.
/// What only looks is a read, linearizable unless [asked otherwise](Self::consistency).
#[derive(Debug)]
pub struct KvSession {
    session: Session,
    reader: KvReader,
    encoded: Vec<u8>,
}

/// A [`Client`] whose group runs [`Kv`](super::Kv), and that only looks: it needs no session.
#[derive(Clone, Debug)]
pub struct KvReader {
    client: Client,
    /// How fresh answers must be.
    pub consistency: ReadConsistency,
}

/// Why there is no answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum KvError {
    /// The call had no result.
    #[error(transparent)]
    Call(#[from] CallError),
    /// It was not sent.
    #[error("a key of {0} bytes: at most {KEY_BYTES_MAX} are allowed")]
    KeyTooLong(usize),
    /// It was not sent.
    #[error("a value of {0} bytes: at most {VALUE_BYTES_MAX} are allowed")]
    ValueTooLong(usize),
    /// The answer is none to what was asked: the group runs another state machine.
    #[error("the group does not run the key-value store, or another version of it")]
    NotKv,
}

/// One page of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Keys and values, in the order of the keys.
    pub entries: Vec<(Vec<u8>, Vec<u8>)>,
    /// Whether there are entries after these: scan again, after the last key.
    pub more: bool,
}

impl KvSession {
    /// Speaks with the store through `session`.
    pub fn new(session: Session) -> Self {
        Self {
            reader: KvReader::new(session.client().clone()),
            session,
            encoded: Vec::new(),
        }
    }

    /// How fresh the answers to [`get`](Self::get) and [`scan`](Self::scan) are to be from now on.
    pub fn consistency(&mut self, consistency: ReadConsistency) {
        self.reader.consistency = consistency;
    }

    /// Makes `key` hold `value`.
    ///
    /// # Cancel safety
    /// Dropping it leaves the outcome unknown: [`settle`](Self::settle).
    ///
    /// # Errors
    /// See [`KvError`].
    pub async fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), KvError> {
        match Outcome::decode(&self.call(Operation::Put { key, value }).await?) {
            Some(Outcome::Stored) => Ok(()),
            _ => Err(KvError::NotKv),
        }
    }

    /// As [`KvReader::get`].
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    ///
    /// # Errors
    /// See [`KvError`].
    pub async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.reader.get(key).await
    }

    /// Removes `key`; returns whether it had been there.
    ///
    /// # Cancel safety
    /// Dropping it leaves the outcome unknown: [`settle`](Self::settle).
    ///
    /// # Errors
    /// See [`KvError`].
    pub async fn delete(&mut self, key: &[u8]) -> Result<bool, KvError> {
        match Outcome::decode(&self.call(Operation::Delete { key }).await?) {
            Some(Outcome::Deleted(existed)) => Ok(existed),
            _ => Err(KvError::NotKv),
        }
    }

    /// Makes `key` hold `new` if it holds `expected` now (`None`: is missing now). Otherwise
    /// returns, as the inner error, what it holds.
    ///
    /// # Cancel safety
    /// Dropping it leaves the outcome unknown: [`settle`](Self::settle).
    ///
    /// # Errors
    /// See [`KvError`].
    pub async fn compare_and_swap(
        &mut self,
        key: &[u8],
        expected: Option<&[u8]>,
        new: &[u8],
    ) -> Result<Result<(), Option<Vec<u8>>>, KvError> {
        let operation = Operation::CompareAndSwap { key, expected, new };
        match Outcome::decode(&self.call(operation).await?) {
            Some(Outcome::Swapped) => Ok(Ok(())),
            Some(Outcome::NotSwapped(current)) => Ok(Err(current.map(<[u8]>::to_vec))),
            _ => Err(KvError::NotKv),
        }
    }

    /// As [`KvReader::scan`].
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    ///
    /// # Errors
    /// See [`KvError`].
    pub async fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: NonZeroU16,
    ) -> Result<Page, KvError> {
        self.reader.scan(prefix, after, limit).await
    }

    /// Asks again for the operation whose outcome is unknown, and returns its outcome as bytes, for
    /// [`Outcome::decode`].
    ///
    /// # Cancel safety
    /// Dropping it leaves the outcome unknown.
    ///
    /// # Errors
    /// Those of [`Session::settle`].
    pub async fn settle(&mut self) -> Result<Rc<[u8]>, CallError> {
        self.session.settle().await
    }

    /// The session underneath.
    pub fn session(&self) -> &Session {
        &self.session
    }

    async fn call(&mut self, operation: Operation<'_>) -> Result<Rc<[u8]>, KvError> {
        check_lengths(&operation)?;
        self.encoded.clear();
        operation.encode(&mut self.encoded);
        Ok(self.session.call(&self.encoded).await?)
    }
}

impl KvReader {
    /// Reads through `client`, linearizably.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            consistency: ReadConsistency::default(),
        }
    }

    /// What `key` holds; `None` if it is missing.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    ///
    /// # Errors
    /// See [`KvError`].
    pub async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        match Outcome::decode(&self.query(Operation::Get { key }).await?) {
            Some(Outcome::Value(value)) => Ok(value.map(<[u8]>::to_vec)),
            _ => Err(KvError::NotKv),
        }
    }

    /// The entries whose keys begin with `prefix` and come after `after`, in order: a page of at
    /// most `limit`. Another operation may come between two pages.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    ///
    /// # Errors
    /// See [`KvError`].
    pub async fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: NonZeroU16,
    ) -> Result<Page, KvError> {
        let operation = Operation::Scan {
            prefix,
            after,
            limit,
        };
        let reply = self.query(operation).await?;
        let Some(Outcome::Page { entries, more }) = Outcome::decode(&reply) else {
            return Err(KvError::NotKv);
        };
        let owned = entries
            .into_iter()
            .map(|(key, value)| (key.to_vec(), value.to_vec()));
        Ok(Page {
            entries: owned.collect(),
            more,
        })
    }

    async fn query(&self, operation: Operation<'_>) -> Result<Rc<[u8]>, KvError> {
        check_lengths(&operation)?;
        let query = operation.to_bytes();
        let reading = self.client.query(&query, self.consistency).await?;
        Ok(reading.result)
    }
}

/// Whether every key and value is within its limit.
fn check_lengths(operation: &Operation<'_>) -> Result<(), KvError> {
    let (keys, values) = match *operation {
        Operation::Put { key, value } => ([Some(key), None], [Some(value), None]),
        Operation::Get { key } | Operation::Delete { key } => ([Some(key), None], [None; 2]),
        Operation::CompareAndSwap { key, expected, new } => {
            ([Some(key), None], [expected, Some(new)])
        }
        Operation::Scan { prefix, after, .. } => ([Some(prefix), after], [None; 2]),
    };
    let too_long = |parts: [Option<&[u8]>; 2], max| {
        parts
            .into_iter()
            .flatten()
            .map(<[u8]>::len)
            .find(|&len| len > max)
    };
    if let Some(len) = too_long(keys, KEY_BYTES_MAX) {
        return Err(KvError::KeyTooLong(len));
    }
    too_long(values, VALUE_BYTES_MAX).map_or(Ok(()), |len| Err(KvError::ValueTooLong(len)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_told_with_its_length_and_the_limit() {
        let (long_key, long_value) = (vec![0; KEY_BYTES_MAX + 1], vec![0; VALUE_BYTES_MAX + 1]);
        let check = |operation| check_lengths(&operation).map_err(|error| error.to_string());
        assert_eq!(
            check(Operation::Get {
                key: &long_key[1..]
            }),
            Ok(())
        );
        assert_eq!(
            check(Operation::Delete { key: &long_key }),
            Err("a key of 1025 bytes: at most 1024 are allowed".into())
        );
        let expected = Some(&long_value[..]);
        assert_eq!(
            check(Operation::CompareAndSwap {
                key: b"",
                expected,
                new: b""
            }),
            Err("a value of 15361 bytes: at most 15360 are allowed".into())
        );
    }
}
