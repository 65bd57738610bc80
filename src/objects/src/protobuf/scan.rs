//! A cursor over JSON text that yields one token after the other and copies nothing. It is made for text that a JSON
//! writer wrote (the store's): what is not JSON is refused or misread, but never read beyond. Used by `encode`.

use std::borrow::Cow;

use super::ProtobufError;

pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(json: &'a [u8]) -> Result<Scanner<'a>, ProtobufError> {
        let text = std::str::from_utf8(json).map_err(|error| ProtobufError::Json(error.valid_up_to()))?;
        Ok(Scanner { text, at: 0 })
    }

    fn malformed(&self) -> ProtobufError {
        ProtobufError::Json(self.at)
    }

    /// The first byte of the next token.
    pub(super) fn peek(&mut self) -> Result<u8, ProtobufError> {
        while let Some(byte) = self.text.as_bytes().get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Ok(*byte);
            }
            self.at += 1;
        }
        Err(self.malformed())
    }

    /// Passes the next token if it is this byte.
    pub(super) fn passes(&mut self, byte: u8) -> Result<bool, ProtobufError> {
        let is = self.peek()? == byte;
        self.at += usize::from(is);
        Ok(is)
    }

    fn pass(&mut self, byte: u8) -> Result<(), ProtobufError> {
        if self.passes(byte)? { Ok(()) } else { Err(self.malformed()) }
    }

    /// The next member's name of an object whose brace is passed; `None` passes the closing one. `first` is true for
    /// the first call.
    pub(super) fn member(&mut self, first: &mut bool) -> Result<Option<Cow<'a, str>>, ProtobufError> {
        if !self.item(b'}', first)? {
            return Ok(None);
        }
        let name = self.string()?;
        self.pass(b':')?;
        Ok(Some(name))
    }

    /// Whether another item of a list follows whose bracket is passed; passes what stands before it, or `close`.
    pub(super) fn item(&mut self, close: u8, first: &mut bool) -> Result<bool, ProtobufError> {
        if self.passes(close)? {
            return Ok(false);
        }
        if !std::mem::take(first) {
            self.pass(b',')?;
        }
        Ok(true)
    }

    /// A string's value.
    pub(super) fn string(&mut self) -> Result<Cow<'a, str>, ProtobufError> {
        self.pass(b'"')?;
        let begin = self.at;
        let escaped = self.pass_string()?;
        if escaped {
            let quoted = &self.text[begin - 1..self.at];
            return serde_json::from_str(quoted).map(Cow::Owned).map_err(|_| self.malformed());
        }
        Ok(Cow::Borrowed(&self.text[begin..self.at - 1]))
    }

    /// Moves behind the closing quote; whether an escape stood before it.
    fn pass_string(&mut self) -> Result<bool, ProtobufError> {
        let bytes = self.text.as_bytes();
        let mut escaped = false;
        loop {
            match bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escaped);
                }
                Some(b'\\') => {
                    escaped = true;
                    self.at += 2;
                }
                Some(_) => self.at += 1,
                None => return Err(self.malformed()),
            }
            while let Some(chunk) = bytes.get(self.at..).and_then(<[u8]>::first_chunk)
                && !holds_quote(u64::from_le_bytes(*chunk))
            {
                self.at += 8;
            }
        }
    }

    /// The text of the next value, whatever it is; passes it.
    pub(super) fn value(&mut self) -> Result<&'a str, ProtobufError> {
        let first = self.peek()?;
        let begin = self.at;
        match first {
            b'"' => {
                self.at += 1;
                self.pass_string()?;
            }
            b'{' | b'[' => self.nested()?,
            b',' | b':' | b'}' | b']' => return Err(self.malformed()),
            _ => self.word(),
        }
        self.text.get(begin..self.at).ok_or(ProtobufError::Json(begin))
    }

    fn word(&mut self) {
        let rest = &self.text.as_bytes()[self.at..];
        let end = rest.iter().position(|byte| matches!(byte, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t'));
        self.at += end.unwrap_or(rest.len());
    }

    fn nested(&mut self) -> Result<(), ProtobufError> {
        let mut depth = 0_usize;
        loop {
            let byte = *self.text.as_bytes().get(self.at).ok_or_else(|| self.malformed())?;
            self.at += 1;
            match byte {
                b'"' => {
                    self.pass_string()?;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => {
                    depth -= 1;
                    if depth == 0 {
                        return Ok(());
                    }
                }
                _ => {}
            }
        }
    }
}

/// Whether one of eight bytes is a quote or a backslash: a byte is zero where subtracting one borrows.
fn holds_quote(bytes: u64) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let zero = |word: u64| word.wrapping_sub(ONES) & !word & (ONES << 7);
    (zero(bytes ^ (ONES * 0x22)) | zero(bytes ^ (ONES * 0x5c))) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_end_at_their_own_quote() {
        for text in [
            "",
            "a",
            "12345678",
            "1234567\"",
            "\\",
            "\"\"\"\"\"\"\"\"\"",
            "1234567\\8\"9",
            "a\u{1F600}\n\u{7f}é",
            "\\\\\"",
        ] {
            let json = serde_json::to_string(&[text, "next"]).unwrap();
            let mut scanner = Scanner::new(json.as_bytes()).unwrap();
            assert!(scanner.passes(b'[').unwrap());
            let mut first = true;
            for expected in [text, "next"] {
                assert!(scanner.item(b']', &mut first).unwrap());
                assert_eq!(scanner.string().unwrap(), expected);
            }
            assert!(!scanner.item(b']', &mut first).unwrap());
        }
    }

    #[test]
    fn a_value_is_passed_whole() {
        for value in [r#"{"a":[1,{"b":"]}\""}],"c":{}}"#, "[]", "-1.5e3", "null", r#""a,b""#] {
            let json = format!(" {value} ,");
            assert_eq!(Scanner::new(json.as_bytes()).unwrap().value().unwrap(), value);
        }
    }

    #[test]
    fn what_is_cut_short_is_refused() {
        for json in ["", " ", "\"", "\"\\", "\"\\\"", "{", "[\"", "{\"a\":[}", "\"aaaaaaaaaaaaaaaa"] {
            let mut scanner = Scanner::new(json.as_bytes()).unwrap();
            assert!(scanner.value().is_err(), "{json}");
        }
        assert_eq!(Scanner::new(b"\"\xff\"").err(), Some(ProtobufError::Json(1)));
    }
}
