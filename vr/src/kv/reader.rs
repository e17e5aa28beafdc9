//! Reads what [`Operation`](super::Operation) and [`Outcome`](super::Outcome) are written in:
//! single bytes, little-endian numbers, and strings of bytes behind their length.

/// The bytes that are still to be read. Every method is `None` where they do not suffice.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn u8(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_le_bytes(*number))
    }

    /// 0 or 1, nothing else.
    pub(super) fn bool(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    /// A length and so many bytes, at most `max`.
    pub(super) fn bytes(&mut self, max: usize) -> Option<&'a [u8]> {
        let len = usize::from(self.u16()?);
        if len > max {
            return None;
        }
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    /// Whether there are bytes, and they.
    pub(super) fn optional(&mut self, max: usize) -> Option<Option<&'a [u8]>> {
        if self.bool()? {
            self.bytes(max).map(Some)
        } else {
            Some(None)
        }
    }

    /// `value`, if nothing is left.
    pub(super) fn finish<T>(self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }
}

/// # Panics
/// When there are more than 65,535 bytes.
pub(super) fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    let len = u16::try_from(bytes.len()).expect("keys and values have limits far below 64 KiB");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(bytes);
}

/// # Panics
/// As [`put_bytes`].
pub(super) fn put_optional(bytes: Option<&[u8]>, out: &mut Vec<u8>) {
    out.push(u8::from(bytes.is_some()));
    if let Some(bytes) = bytes {
        put_bytes(bytes, out);
    }
}
