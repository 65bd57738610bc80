//! Reads a client's header blocks, RFC 7541, 6.

use super::table::Table;
use super::{MAX_LIST, Malformed, OVERHEAD, TABLE_SIZE, huffman};

/// Room for a field in work that is kept from one block to the next.
const KEPT: usize = 4096;

/// What a connection knows of its client's headers.
#[derive(Debug)]
pub(in crate::etcd) struct Decoder {
    table: Table,
    /// What the client may make of the table's size.
    limit: usize,
    /// A field that does not stand in a table: its name, and its value behind that.
    field: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::with_table(TABLE_SIZE)
    }
}

impl Decoder {
    fn with_table(limit: usize) -> Self {
        Self { table: Table::new(limit), limit, field: Vec::new() }
    }

    /// Decodes a whole header block, and hands each field over, in order. An error is one of the connection
    /// (`COMPRESSION_ERROR`): the table is out of step for good.
    pub(in crate::etcd) fn decode(
        &mut self,
        block: &[u8],
        mut field: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), Malformed> {
        let mut input = Input { rest: block };
        let mut room = MAX_LIST;
        self.resize(&mut input)?;
        while let Some(first) = input.take() {
            let (name, value) = match first {
                0x80.. => self.table.get(input.number(first, 7)?).ok_or(Malformed::Index)?,
                0x40..0x80 => {
                    let name = self.literal(&mut input, first, 6)?;
                    self.table.insert(&self.field, name);
                    self.field.split_at(name)
                }
                // At the head of a block only: there it has been read already.
                0x20..0x40 => return Err(Malformed::TableSize),
                // Without indexing, and never to be indexed: the same to one that passes nothing on.
                ..0x20 => {
                    let name = self.literal(&mut input, first, 4)?;
                    self.field.split_at(name)
                }
            };
            room = room.checked_sub(name.len() + value.len() + OVERHEAD).ok_or(Malformed::Large)?;
            field(name, value);
        }
        if self.field.capacity() > KEPT {
            self.field = Vec::new();
        }
        Ok(())
    }

    /// Changes of the table's size, of which there may be two: the smallest since the last block, and the last (4.2).
    fn resize(&mut self, input: &mut Input<'_>) -> Result<(), Malformed> {
        for _ in 0..2 {
            let Some(&first @ 0x20..0x40) = input.rest.first() else { break };
            input.take();
            let size = input.number(first, 5)?;
            if size > self.limit {
                return Err(Malformed::TableSize);
            }
            self.table.resize(size);
        }
        Ok(())
    }

    /// Reads name and value into `self.field`, and says how long the name is. `bits` of the first byte are an index.
    fn literal(&mut self, input: &mut Input<'_>, first: u8, bits: u32) -> Result<usize, Malformed> {
        self.field.clear();
        match input.number(first, bits)? {
            0 => input.string(&mut self.field)?,
            index => self.field.extend_from_slice(self.table.get(index).ok_or(Malformed::Index)?.0),
        }
        let name = self.field.len();
        input.string(&mut self.field)?;
        Ok(name)
    }
}

/// What is left of a block.
struct Input<'a> {
    rest: &'a [u8],
}

impl Input<'_> {
    #[inline]
    fn take(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    /// The number that begins in the lower `bits` of a byte (5.1).
    #[inline]
    fn number(&mut self, first: u8, bits: u32) -> Result<usize, Malformed> {
        let most = (1_u8 << bits) - 1;
        let low = first & most;
        if low < most { Ok(usize::from(low)) } else { self.rest_of_number(most) }
    }

    /// Five bytes more at the most: what does not fit them is more than anything here can mean.
    fn rest_of_number(&mut self, low: u8) -> Result<usize, Malformed> {
        let mut value = u64::from(low);
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.take().ok_or(Malformed::Truncated)?;
            value += u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                let value = u32::try_from(value).map_err(|_| Malformed::Number)?;
                return usize::try_from(value).map_err(|_| Malformed::Number);
            }
        }
        Err(Malformed::Number)
    }

    /// Appends a string (5.2). It is taken no longer than what has come in of it.
    fn string(&mut self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        let first = self.take().ok_or(Malformed::Truncated)?;
        let length = self.number(first, 7)?;
        let (string, rest) = self.rest.split_at_checked(length).ok_or(Malformed::Truncated)?;
        self.rest = rest;
        if first & 0x80 == 0 {
            out.extend_from_slice(string);
            return Ok(());
        }
        huffman::decode(string, out)
    }
}

#[cfg(test)]
impl Decoder {
    /// The decoder of one that has announced a table of another size.
    pub(super) fn announced(limit: usize) -> Self {
        Self::with_table(limit)
    }

    /// Announces another size, as a client's end of a connection does.
    pub(super) fn announce(&mut self, limit: usize) {
        self.limit = limit;
    }

    pub(super) fn table(&self) -> &Table {
        &self.table
    }
}
