//! The examples of RFC 7541, appendix C; tables checked against a plain model of them; what no client may send.

use std::collections::VecDeque;

use bytes::BytesMut;
use proptest::collection::vec;
use proptest::prelude::*;

use super::table::STATIC;
use super::*;

mod said;

type Field = (Vec<u8>, Vec<u8>);

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap()).collect()
}

fn fields(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<Field>, Malformed> {
    let mut fields = Vec::new();
    decoder.decode(block, |name, value| fields.push((name.to_vec(), value.to_vec())))?;
    Ok(fields)
}

/// The fields as the appendix writes them.
fn text(decoder: &mut Decoder, block: &[u8]) -> Vec<String> {
    let line = |(name, value)| [name, b": ".to_vec(), value].concat();
    let lines = fields(decoder, block).unwrap().into_iter().map(line);
    lines.map(|line| String::from_utf8(line).unwrap()).collect()
}

fn refused(block: &str) -> Malformed {
    fields(&mut Decoder::default(), &hex(block)).unwrap_err()
}

/// Blocks of one connection: each with its fields and the size of the table behind it.
fn check(limit: usize, blocks: &[(&str, &[&str], usize)]) {
    let mut decoder = Decoder::announced(limit);
    for (block, expected, size) in blocks {
        assert_eq!(text(&mut decoder, &hex(block)), *expected, "{block}");
        assert_eq!(decoder.table().size(), *size, "{block}");
    }
}

#[test]
fn single_fields_are_read() {
    let literal = "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572";
    check(4096, &[(literal, &["custom-key: custom-header"], 55)]);
    check(4096, &[("040c 2f73 616d 706c 652f 7061 7468", &[":path: /sample/path"], 0)]);
    check(4096, &[("1008 7061 7373 776f 7264 0673 6563 7265 74", &["password: secret"], 0)]);
    check(4096, &[("82", &[":method: GET"], 0)]);
}

const REQUESTS: [&[&str]; 3] = [
    &[":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com"],
    &[":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com", "cache-control: no-cache"],
    &[
        ":method: GET",
        ":scheme: https",
        ":path: /index.html",
        ":authority: www.example.com",
        "custom-key: custom-value",
    ],
];

#[test]
fn requests_of_one_connection_are_read() {
    let third = "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65";
    let blocks = [
        ("8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", REQUESTS[0], 57),
        ("8286 84be 5808 6e6f 2d63 6163 6865", REQUESTS[1], 110),
        (third, REQUESTS[2], 164),
    ];
    check(4096, &blocks);
}

#[test]
fn requests_are_read_with_huffman_coding() {
    let blocks = [
        ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", REQUESTS[0], 57),
        ("8286 84be 5886 a8eb 1064 9cbf", REQUESTS[1], 110),
        ("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf", REQUESTS[2], 164),
    ];
    check(4096, &blocks);
}

const FIRST_DATE: &str = "date: Mon, 21 Oct 2013 20:13:21 GMT";
const PRIVATE: &str = "cache-control: private";
const LOCATION: &str = "location: https://www.example.com";
const RESPONSES: [&[&str]; 3] = [
    &[":status: 302", PRIVATE, FIRST_DATE, LOCATION],
    &[":status: 307", PRIVATE, FIRST_DATE, LOCATION],
    &[
        ":status: 200",
        PRIVATE,
        "date: Mon, 21 Oct 2013 20:13:22 GMT",
        LOCATION,
        "content-encoding: gzip",
        "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
    ],
];

#[test]
fn old_entries_make_room_in_a_small_table() {
    let first = "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32
        3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d";
    let third = "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970
        7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33
        3630 303b 2076 6572 7369 6f6e 3d31";
    check(256, &[(first, RESPONSES[0], 222), ("4803 3330 37c1 c0bf", RESPONSES[1], 222), (third, RESPONSES[2], 215)]);
}

#[test]
fn old_entries_make_room_with_huffman_coding() {
    let first = "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad
        1718 63c7 8f0b 97c8 e9ae 82ae 43d3";
    let third = "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2
        e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07";
    check(256, &[(first, RESPONSES[0], 222), ("4883 640e ffc1 c0bf", RESPONSES[1], 222), (third, RESPONSES[2], 215)]);
}

#[test]
fn a_new_entry_may_be_named_by_one_that_it_drives_out() {
    let mut decoder = Decoder::announced(40);
    assert_eq!(text(&mut decoder, &hex("4001 6101 31")), ["a: 1"]);
    assert_eq!(text(&mut decoder, &hex("7e02 3333")), ["a: 33"]);
    assert_eq!(text(&mut decoder, &hex("be")), ["a: 33"]);
    assert_eq!(fields(&mut decoder, &hex("bf")), Err(Malformed::Index));
}

#[test]
fn an_entry_that_is_larger_than_the_table_empties_it() {
    let mut decoder = Decoder::announced(64);
    assert_eq!(text(&mut decoder, &hex("4001 6101 31")), ["a: 1"]);
    let large = [&[0x40, 1, b'b', 40][..], &[b'x'; 40]].concat();
    assert_eq!(fields(&mut decoder, &large).unwrap().len(), 1);
    assert_eq!(decoder.table().size(), 0);
    assert_eq!(fields(&mut decoder, &[0xbe]), Err(Malformed::Index));
}

#[test]
fn a_block_that_ends_within_a_field_is_refused() {
    for whole in
        ["400a6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572", "3fe11f04 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff"]
    {
        let whole = hex(whole);
        let head = usize::from(whole[0] == 0x3f) * 3;
        for length in (1..whole.len()).filter(|length| *length != head) {
            let outcome = fields(&mut Decoder::default(), &whole[..length]);
            assert_eq!(outcome, Err(Malformed::Truncated), "{length}");
        }
        assert_eq!(fields(&mut Decoder::default(), &whole).unwrap().len(), 1);
    }
}

#[test]
fn numbers_have_an_end() {
    assert_eq!(refused("ff ff ff ff ff ff 0f"), Malformed::Number);
    assert_eq!(refused("ff 80 80 80 80 80 00"), Malformed::Number);
    assert_eq!(refused("ff ff ff ff ff 7f"), Malformed::Number);
    // The largest that is one, and means nothing.
    assert_eq!(refused("ff 80 ff ff ff 0f"), Malformed::Index);
    assert_eq!(refused("00 7f ff ff ff ff 0f"), Malformed::Number);
    assert_eq!(refused("00 7f 80 ff ff ff 0f"), Malformed::Truncated);
    // A long way to say 31 entries is one nevertheless.
    assert_eq!(text(&mut Decoder::default(), &hex("0f 90 80 00 00")), ["content-type: "]);
}

#[test]
fn what_is_not_in_a_table_is_refused() {
    for block in ["80", "be", "ff 00", "7e 00", "0f 2f 00", "1f 2f 00", "40 01 61 01 62 bf"] {
        assert_eq!(refused(block), Malformed::Index, "{block}");
    }
}

#[test]
fn padding_is_less_than_a_byte_of_ones() {
    let of = |string: &str| {
        let string = hex(string);
        let mut out = Vec::new();
        huffman::decode(&string, &mut out).map(|()| out)
    };
    assert_eq!(of(""), Ok(Vec::new()));
    assert_eq!(of("1f"), Ok(b"a".to_vec()));
    // Zeros behind the last symbol, a byte of ones, EOS itself, and EOS behind a symbol.
    for bad in ["18", "1e", "1f ff", "ff", "ff ff ff ff", "ff ff ff fc", "1f ff ff ff ff", "ff ff ff fb ff ff ff ff"] {
        assert_eq!(of(bad), Err(Malformed::Huffman), "{bad}");
    }
    assert_eq!(refused("00 01 61 81 18"), Malformed::Huffman);
}

#[test]
fn all_symbols_have_codes() {
    let all: Vec<u8> = (0..=255).collect();
    let mut out = Vec::new();
    huffman::decode(&huffman::encode(&all), &mut out).unwrap();
    assert_eq!(out, all);
    for byte in all {
        let mut out = Vec::new();
        huffman::decode(&huffman::encode(&[byte]), &mut out).unwrap();
        assert_eq!(out, [byte]);
    }
}

#[test]
fn the_size_of_the_table_changes_at_the_head_of_a_block_alone() {
    assert_eq!(text(&mut Decoder::default(), &hex("20 3f e1 1f 82")), [":method: GET"]);
    assert_eq!(refused("3f e2 1f"), Malformed::TableSize);
    assert_eq!(refused("82 20"), Malformed::TableSize);
    assert_eq!(refused("20 20 20"), Malformed::TableSize);
    let mut decoder = Decoder::default();
    assert_eq!(text(&mut decoder, &hex("4001 6101 31 be")), ["a: 1", "a: 1"]);
    assert_eq!(text(&mut decoder, &hex("3f 02 4001 6201 32")), ["b: 2"]);
    assert_eq!(decoder.table().size(), 0, "33 bytes are room for neither");
    assert_eq!(text(&mut decoder, &hex("3f 03 4001 6201 32")), ["b: 2"]);
    assert_eq!(decoder.table().size(), 34);
    assert_eq!(text(&mut decoder, &hex("20")), [""; 0]);
    assert_eq!(decoder.table().size(), 0);
}

#[test]
fn a_block_that_stands_for_far_too_much_is_refused() {
    let mut decoder = Decoder::default();
    let value = vec![b'x'; 4000];
    let block = [&hex("4001 61 7f a11e"), &value[..]].concat();
    assert_eq!(fields(&mut decoder, &block).unwrap(), [(b"a".to_vec(), value)]);
    assert_eq!(fields(&mut decoder, &[0xbe; 64]).unwrap().len(), 64);
    let mut seen = 0;
    let outcome = decoder.decode(&[0xbe; 16 << 10], |_, _| seen += 1);
    assert_eq!((outcome, seen), (Err(Malformed::Large), 64));
}

/// A field as a client may write it.
#[derive(Debug, Clone)]
enum Step {
    /// An entry of a table; the number is cut to those that there are.
    Indexed(usize),
    /// First byte and bits of the name's index, which may be one of a table, and what is Huffman-coded.
    Literal { kind: (u8, u32), name: Result<Vec<u8>, usize>, value: Vec<u8>, coded: bool },
    /// Ends a block, and begins one with another size of the table.
    Resize(usize),
    /// Ends a block.
    End,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kind = prop_oneof![4 => Just((0x40_u8, 6_u32)), 1 => Just((0, 4)), 1 => Just((0x10, 4))];
    let name = prop_oneof![2 => vec(any::<u8>(), 0..60).prop_map(Ok), 1 => any::<usize>().prop_map(Err)];
    let value = prop_oneof![4 => vec(any::<u8>(), 0..100), 1 => vec(any::<u8>(), 0..2500)];
    let literal = (kind, name, value, any::<bool>());
    let step = prop_oneof![
        10 => literal.prop_map(|(kind, name, value, coded)| Step::Literal { kind, name, value, coded }),
        10 => any::<usize>().prop_map(Step::Indexed),
        1 => (0_usize..=4096).prop_map(Step::Resize),
        2 => Just(Step::End),
    ];
    vec(step, 0..150)
}

fn put_number(out: &mut Vec<u8>, kind: u8, bits: u32, value: usize) {
    let mut coded = BytesMut::new();
    encode::number(&mut coded, kind, bits, value);
    out.extend_from_slice(&coded);
}

fn put_string(out: &mut Vec<u8>, string: &[u8], coded: bool) {
    if coded {
        let string = huffman::encode(string);
        put_number(out, 0x80, 7, string.len());
        out.extend(string);
    } else {
        put_number(out, 0, 7, string.len());
        out.extend(string);
    }
}

/// A client with the plainest of tables.
#[derive(Default)]
struct Model {
    /// Newest first.
    table: VecDeque<Field>,
    max: usize,
    block: Vec<u8>,
    fields: Vec<Field>,
}

impl Model {
    fn cut(&mut self) {
        let size =
            |table: &VecDeque<Field>| table.iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>();
        while size(&self.table) > self.max {
            self.table.pop_back();
        }
    }

    fn at(&self, number: usize) -> (usize, Field) {
        let number = number % (STATIC.len() + self.table.len());
        let field = match number.checked_sub(STATIC.len()) {
            None => (STATIC[number].0.into(), STATIC[number].1.into()),
            Some(place) => self.table[place].clone(),
        };
        (number + 1, field)
    }

    fn write(&mut self, step: Step) {
        match step {
            Step::Indexed(number) => {
                let (index, field) = self.at(number);
                put_number(&mut self.block, 0x80, 7, index);
                self.fields.push(field);
            }
            Step::Literal { kind: (first, bits), name, value, coded } => {
                let (index, name) = match name {
                    Ok(name) => (0, name),
                    Err(number) => {
                        let (index, (name, _)) = self.at(number);
                        (index, name)
                    }
                };
                put_number(&mut self.block, first, bits, index);
                if index == 0 {
                    put_string(&mut self.block, &name, coded);
                }
                put_string(&mut self.block, &value, coded);
                if first == 0x40 {
                    self.table.push_front((name.clone(), value.clone()));
                    self.cut();
                }
                self.fields.push((name, value));
            }
            Step::Resize(max) => {
                put_number(&mut self.block, 0x20, 5, max);
                self.max = max;
                self.cut();
            }
            Step::End => {}
        }
    }
}

proptest! {
    #[test]
    fn a_clients_blocks_are_read_as_it_meant_them(steps in steps()) {
        let mut decoder = Decoder::default();
        let mut model = Model { max: TABLE_SIZE, ..Model::default() };
        for step in steps.into_iter().chain([Step::End]) {
            if matches!(step, Step::End | Step::Resize(_)) {
                let (block, expected) = (std::mem::take(&mut model.block), std::mem::take(&mut model.fields));
                match fields(&mut decoder, &block) {
                    Err(Malformed::Large) => return Ok(()),
                    outcome => prop_assert_eq!(outcome, Ok(expected)),
                }
                prop_assert!(decoder.table().held() <= 2 * TABLE_SIZE);
            }
            model.write(step);
        }
    }

    #[test]
    fn any_bytes_give_fields_or_an_error(blocks in vec(vec(any::<u8>(), 0..300), 0..20)) {
        let mut decoder = Decoder::default();
        for block in blocks {
            let mut total = 0;
            let outcome = decoder.decode(&block, |name, value| total += name.len() + value.len());
            prop_assert!(total <= MAX_LIST);
            prop_assert!(decoder.table().size() <= TABLE_SIZE && decoder.table().held() <= 2 * TABLE_SIZE);
            if outcome.is_err() {
                break;
            }
        }
    }

    #[test]
    fn what_is_huffman_coded_is_read(bytes in vec(any::<u8>(), 0..500)) {
        let mut out = b"before".to_vec();
        huffman::decode(&huffman::encode(&bytes), &mut out).unwrap();
        prop_assert_eq!(&out[6..], bytes);
    }
}
