//! Writes a server's header blocks.
//!
//! A server of gRPC says two fields again and again: what its content is, and that all is well. Those two are put into
//! the client's table when they are said first, and nothing else ever is; so they stay there, and are one byte each. A
//! client whose table has no room for both gets all fields in full. Nothing is Huffman-coded: what is not in a table is
//! rare.

use bytes::{BufMut, BytesMut};

use super::table::STATIC;
use super::{OVERHEAD, TABLE_SIZE};

const GRPC: (&str, &[u8]) = ("content-type", b"application/grpc");
const OK: (&str, &[u8]) = ("grpc-status", b"0");
/// What the client's table must have room for.
const NEEDED: usize = GRPC.0.len() + GRPC.1.len() + OK.0.len() + OK.1.len() + 2 * OVERHEAD;
/// The field with the newest entry of the client's table.
const NEWEST: u8 = 0x80 | 62;
const STATUS_200: u8 = 0x80 | 8;
/// Indices of the static table.
const STATUS: u8 = 8;
const CONTENT_LENGTH: u8 = 28;
const CONTENT_TYPE: u8 = 31;

const fn same(left: &str, right: &str) -> bool {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    let mut at = 0;
    while at < left.len() && at < right.len() && left[at] == right[at] {
        at += 1;
    }
    at == left.len() && at == right.len()
}
const _: () = assert!(same(STATIC[STATUS as usize - 1].0, ":status") && same(STATIC[7].1, "200"));
const _: () = assert!(same(STATIC[CONTENT_LENGTH as usize - 1].0, "content-length"));
const _: () = assert!(same(STATIC[CONTENT_TYPE as usize - 1].0, "content-type"));

/// What a connection knows of its client's table.
#[derive(Debug)]
pub(in crate::etcd) struct Encoder {
    /// The byte that says [`GRPC`], 0 while it is not in the table (or the table's size is to be written first).
    grpc: u8,
    /// The same for [`OK`].
    ok: u8,
    /// What the client has been told that its table has.
    size: usize,
    /// The smallest and the last that the client has allowed since it was told.
    lowest: usize,
    limit: usize,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { grpc: 0, ok: 0, size: TABLE_SIZE, lowest: TABLE_SIZE, limit: TABLE_SIZE }
    }
}

impl Encoder {
    /// The client's `SETTINGS_HEADER_TABLE_SIZE`. Told in the next block, if that is a must (RFC 7541, 4.2).
    pub(in crate::etcd) fn table_size(&mut self, announced: u32) {
        // More than we use need not be told, and is not.
        self.limit = usize::try_from(announced).map_or(TABLE_SIZE, |announced| announced.min(TABLE_SIZE));
        self.lowest = self.lowest.min(self.limit);
        if self.lowest < self.size {
            // They may be gone from the table. If they are not, they become old there, and do no harm.
            (self.grpc, self.ok) = (0, 0);
        }
    }

    /// The head of an answer that has messages: `:status` 200 and gRPC's content type.
    #[inline]
    pub(in crate::etcd) fn answer_head(&mut self, out: &mut BytesMut) {
        if self.grpc == 0 {
            self.block(out).status(200).field(GRPC.0, GRPC.1);
        } else {
            out.put_slice(&[STATUS_200, self.grpc]);
        }
    }

    /// The trailers of a call that went well.
    #[inline]
    pub(in crate::etcd) fn ok_trailers(&mut self, out: &mut BytesMut) {
        if self.ok == 0 {
            self.block(out).field(OK.0, OK.1);
        } else {
            out.put_u8(self.ok);
        }
    }

    /// Begins a block of other fields. Whoever begins one sends it, before another is begun.
    pub(in crate::etcd) fn block<'a>(&'a mut self, out: &'a mut BytesMut) -> Block<'a> {
        if self.lowest < self.size {
            number(out, 0x20, 5, self.lowest);
            self.size = self.lowest;
        }
        if self.limit > self.size {
            number(out, 0x20, 5, self.limit);
            self.size = self.limit;
        }
        self.lowest = self.limit;
        Block { encoder: self, out }
    }
}

/// A header block that is being written.
pub(in crate::etcd) struct Block<'a> {
    encoder: &'a mut Encoder,
    out: &'a mut BytesMut,
}

impl Block<'_> {
    /// `:status`, the first of an answer.
    pub(in crate::etcd) fn status(&mut self, code: u16) -> &mut Self {
        match code {
            200 => self.out.put_u8(STATUS_200),
            204 => self.out.put_u8(0x80 | 9),
            400 => self.out.put_u8(0x80 | 12),
            404 => self.out.put_u8(0x80 | 13),
            500 => self.out.put_u8(0x80 | 14),
            _ => {
                number(self.out, 0, 4, usize::from(STATUS));
                string(self.out, code.to_string().as_bytes());
            }
        }
        self
    }

    /// Any field. Its name has to be in lower case, and its value one that may stand in a field.
    pub(in crate::etcd) fn field(&mut self, name: &'static str, value: &[u8]) -> &mut Self {
        debug_assert!(!name.bytes().any(|byte| byte.is_ascii_uppercase()), "{name} is not in lower case");
        let Self { encoder, out } = self;
        let Encoder { grpc, ok, size, .. } = &mut **encoder;
        let repeated = match (name, value) {
            GRPC => Some((grpc, ok)),
            OK => Some((ok, grpc)),
            _ => None,
        };
        match repeated {
            Some((this, _)) if *this != 0 => {
                out.put_u8(*this);
                return self;
            }
            Some((this, other)) if *size >= NEEDED => {
                *this = NEWEST;
                if *other != 0 {
                    *other += 1;
                }
                self.name(0x40, 6, name);
            }
            _ => self.name(0, 4, name),
        }
        string(self.out, value);
        self
    }

    /// The name of a field whose value follows; `kind` and `bits` say whether it is put into the table.
    fn name(&mut self, kind: u8, bits: u32, name: &'static str) {
        match name {
            "content-type" => number(self.out, kind, bits, usize::from(CONTENT_TYPE)),
            "content-length" => number(self.out, kind, bits, usize::from(CONTENT_LENGTH)),
            _ => {
                self.out.put_u8(kind);
                string(self.out, name.as_bytes());
            }
        }
    }
}

/// A number in the lower `bits` of a byte whose others are `kind`, and in bytes behind it if it has to be (5.1).
#[expect(clippy::cast_possible_truncation, reason = "what is cast is below 256")]
pub(super) fn number(out: &mut BytesMut, kind: u8, bits: u32, value: usize) {
    let most = (1_usize << bits) - 1;
    if value < most {
        out.put_u8(kind | value as u8);
        return;
    }
    out.put_u8(kind | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        out.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

fn string(out: &mut BytesMut, bytes: &[u8]) {
    number(out, 0, 7, bytes.len());
    out.put_slice(bytes);
}
