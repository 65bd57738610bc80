//! What the server says, read by a client that insists on the rules for its table.

use bytes::BytesMut;
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::{Decoder, Encoder, TABLE_SIZE};
use super::{fields, hex, text};

/// A client that takes from a server what the RFC lets it say.
struct Client {
    decoder: Decoder,
    limit: usize,
}

impl Client {
    fn reads(&mut self, block: &[u8]) -> Vec<String> {
        let lines = text(&mut self.decoder, block);
        assert!(self.decoder.table().max() <= self.limit, "the table is still larger than the client allows");
        lines
    }
}

fn pair() -> (Encoder, Client) {
    (Encoder::default(), Client { decoder: Decoder::announced(TABLE_SIZE), limit: TABLE_SIZE })
}

fn announce(encoder: &mut Encoder, client: &mut Client, size: u32) {
    client.limit = size as usize;
    client.decoder.announce(client.limit);
    encoder.table_size(size);
}

fn written(write: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut out = BytesMut::new();
    write(&mut out);
    out
}

const HEAD: [&str; 2] = [":status: 200", "content-type: application/grpc"];
const TRAILERS: [&str; 1] = ["grpc-status: 0"];

#[test]
fn what_is_said_again_and_again_is_short() {
    for trailers_first in [false, true] {
        let (mut encoder, mut client) = pair();
        if trailers_first {
            assert_eq!(client.reads(&written(|out| encoder.ok_trailers(out))), TRAILERS);
        }
        assert_eq!(client.reads(&written(|out| encoder.answer_head(out))), HEAD);
        assert_eq!(client.reads(&written(|out| encoder.ok_trailers(out))), TRAILERS);
        for _ in 0..3 {
            let (head, trailers) = (written(|out| encoder.answer_head(out)), written(|out| encoder.ok_trailers(out)));
            assert_eq!((head.len(), trailers.len()), (2, 1));
            assert_eq!(
                (client.reads(&head), client.reads(&trailers)),
                (HEAD.map(Into::into).into(), TRAILERS.map(Into::into).into())
            );
        }
        let refusal = written(|out| {
            let mut block = encoder.block(out);
            block.status(200).field("content-type", b"application/grpc");
            block.field("grpc-status", b"12").field("grpc-message", b"unknown method /x");
        });
        let status = ["grpc-status: 12", "grpc-message: unknown method /x"];
        assert_eq!(client.reads(&refusal), [&HEAD[..], &status].concat());
        assert_eq!(written(|out| encoder.answer_head(out)).len(), 2);
    }
}

#[test]
fn plain_answers_are_read() {
    let (mut encoder, mut client) = pair();
    for code in [200, 204, 400, 404, 405, 415, 500, 503] {
        let block = written(|out| {
            encoder.block(out).status(code).field("content-type", b"text/plain").field("content-length", b"12");
        });
        let status = format!(":status: {code}");
        assert_eq!(client.reads(&block), [&status, "content-type: text/plain", "content-length: 12"]);
    }
    assert_eq!(client.decoder.table().size(), 0);
    let message = "é".repeat(300);
    let block = written(|out| {
        encoder.block(out).field("grpc-message", message.as_bytes());
    });
    assert_eq!(client.reads(&block), [format!("grpc-message: {message}")]);
}

#[test]
fn a_table_without_room_is_left_alone() {
    let (mut encoder, mut client) = pair();
    announce(&mut encoder, &mut client, 103);
    let head = written(|out| encoder.answer_head(out));
    assert_eq!(head[..3], [0x3f, 72, 0x88], "the size comes first");
    assert_eq!(client.reads(&head), HEAD);
    for _ in 0..2 {
        assert_eq!(client.reads(&written(|out| encoder.ok_trailers(out))), TRAILERS);
        assert_eq!(client.reads(&written(|out| encoder.answer_head(out))), HEAD);
    }
    assert_eq!(client.decoder.table().size(), 0);
    announce(&mut encoder, &mut client, 104);
    client.reads(&written(|out| encoder.ok_trailers(out)));
    client.reads(&written(|out| encoder.answer_head(out)));
    assert_eq!(client.decoder.table().size(), 104);
    assert_eq!(written(|out| encoder.answer_head(out)).len(), 2);
    assert_eq!(client.reads(&written(|out| encoder.ok_trailers(out))), TRAILERS);
}

#[test]
fn the_smallest_size_between_two_blocks_is_told_and_then_the_last() {
    let (mut encoder, mut client) = pair();
    client.reads(&written(|out| encoder.answer_head(out)));
    announce(&mut encoder, &mut client, 0);
    announce(&mut encoder, &mut client, 1 << 20);
    let head = written(|out| encoder.answer_head(out));
    assert_eq!(head[..6], hex("20 3fe11f 88 5f"));
    client.decoder.announce(TABLE_SIZE);
    assert_eq!(client.reads(&head), HEAD);
    // A table that grows beyond what is used changes nothing.
    announce(&mut encoder, &mut client, u32::MAX);
    assert_eq!(client.reads(&written(|out| encoder.answer_head(out))), HEAD);
    assert_eq!(written(|out| encoder.answer_head(out)).len(), 2);
}

proptest! {
    #[test]
    fn a_client_reads_what_the_server_says(steps in vec((0..6_u8, 0..300_u32, vec(any::<u8>(), 0..300)), 0..100)) {
        let (mut encoder, mut client) = pair();
        let name = |decoder: &mut Decoder, block: &[u8]| fields(decoder, block).unwrap();
        for (step, size, value) in steps {
            match step {
                0 => announce(&mut encoder, &mut client, size),
                1 => announce(&mut encoder, &mut client, size * 30),
                2 | 3 => prop_assert_eq!(client.reads(&written(|out| encoder.answer_head(out))), HEAD),
                4 => prop_assert_eq!(client.reads(&written(|out| encoder.ok_trailers(out))), TRAILERS),
                _ => {
                    let block = written(|out| { encoder.block(out).status(404).field("grpc-message", &value); });
                    let expected = [(b":status".to_vec(), b"404".to_vec()), (b"grpc-message".to_vec(), value)];
                    prop_assert_eq!(name(&mut client.decoder, &block), expected);
                }
            }
        }
    }
}
