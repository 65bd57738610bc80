//! The protobuf wire format: tags, varints, length-delimited fields.

use super::ProtobufError;

/// A field as it stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Field<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// Reads the fields of one message.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next field and its number; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Field<'a>)>, ProtobufError> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| *number > 0).ok_or_else(|| self.malformed())?;
        let field = match tag & 7 {
            0 => Field::Varint(self.varint()?),
            1 => Field::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| self.malformed())?;
                Field::Bytes(self.take(length)?)
            }
            5 => Field::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err(self.malformed()),
        };
        Ok(Some((number, field)))
    }

    fn malformed(&self) -> ProtobufError {
        ProtobufError::Malformed(self.at)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], ProtobufError> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len()).ok_or_else(|| self.malformed())?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtobufError> {
        let at = self.at;
        self.take(N)?.try_into().map_err(|_| ProtobufError::Malformed(at))
    }

    fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.malformed())
    }
}

/// Writes fields.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl From<Vec<u8>> for Writer {
    fn from(bytes: Vec<u8>) -> Writer {
        Writer { bytes }
    }
}

impl Writer {
    pub(super) fn finish(self) -> Vec<u8> {
        self.bytes
    }

    /// What is written so far.
    pub(super) fn written(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub(super) fn put(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.bytes.push(value.to_le_bytes()[0]);
    }

    /// The tag of a length-delimited field; the length and the bytes follow.
    pub(super) fn delimited(&mut self, number: u32) {
        self.tag(number, 2);
    }

    fn tag(&mut self, number: u32, wire_type: u64) {
        self.put(u64::from(number) << 3 | wire_type);
    }

    /// Negative numbers are sign-extended, as int32 and int64 are.
    pub(super) fn integer(&mut self, number: u32, value: i64) {
        self.tag(number, 0);
        self.put(value.cast_unsigned());
    }

    pub(super) fn double(&mut self, number: u32, value: f64) {
        self.tag(number, 1);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn bytes(&mut self, number: u32, value: &[u8]) {
        self.delimited(number);
        self.put(value.len() as u64);
        self.bytes.extend_from_slice(value);
    }

    pub(super) fn text(&mut self, number: u32, value: &str) {
        self.bytes(number, value.as_bytes());
    }

    /// Where what is to get its length in front begins, when it is written; see [`Writer::close`].
    pub(super) fn open(&mut self) -> usize {
        self.bytes.push(0);
        self.bytes.len()
    }

    /// Writes the length of all since [`Writer::open`] in front of it: one byte has been left for it.
    pub(super) fn close(&mut self, begin: usize) {
        let length = self.bytes.len() - begin;
        let more = varint_size(length) - 1;
        if more > 0 {
            let end = self.bytes.len();
            self.bytes.resize(end + more, 0);
            self.bytes.copy_within(begin..end, begin + more);
        }
        let mut rest = length;
        for at in begin - 1..begin + more {
            let last = at + 1 == begin + more;
            self.bytes[at] = rest.to_le_bytes()[0] & 0x7f | if last { 0 } else { 0x80 };
            rest >>= 7;
        }
    }
}

/// Bytes that a number takes as a varint.
pub(super) fn varint_size(value: usize) -> usize {
    (value.checked_ilog2().unwrap_or(0) / 7 + 1) as usize
}
