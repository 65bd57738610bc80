//! The grammar of label selector strings (`k8s.io/apimachinery/pkg/labels`).

use super::{Operator, Requirement, SelectorError};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Open,
    Close,
    Comma,
    Not,
    Equals,
    DoubleEquals,
    NotEquals,
    Greater,
    Less,
    In,
    NotIn,
    Word,
    End,
    /// Symbols that make no operator.
    Broken,
}

struct Tokens<'a> {
    items: Vec<(Token, &'a str)>,
    at: usize,
}

fn is_symbol(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// Splits into tokens; a run of symbols gives the longest operators.
fn tokens(text: &str) -> Vec<(Token, &str)> {
    let mut out = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while let Some(first) = rest.chars().next() {
        let (token, length) = if is_symbol(first) {
            symbol(rest)
        } else {
            let end = rest.find(|c: char| is_symbol(c) || is_space(c)).unwrap_or(rest.len());
            let token = match &rest[..end] {
                "in" => Token::In,
                "notin" => Token::NotIn,
                _ => Token::Word,
            };
            (token, end)
        };
        out.push((token, &rest[..length]));
        rest = rest[length..].trim_start_matches(is_space);
    }
    out
}

fn symbol(rest: &str) -> (Token, usize) {
    let two = [("==", Token::DoubleEquals), ("!=", Token::NotEquals)];
    if let Some((_, token)) = two.iter().find(|(text, _)| rest.starts_with(text)) {
        return (*token, 2);
    }
    let token = match rest.as_bytes()[0] {
        b'(' => Token::Open,
        b')' => Token::Close,
        b',' => Token::Comma,
        b'!' => Token::Not,
        b'=' => Token::Equals,
        b'>' => Token::Greater,
        b'<' => Token::Less,
        _ => Token::Broken,
    };
    (token, 1)
}

impl<'a> Tokens<'a> {
    fn peek(&self, values: bool) -> (Token, &'a str) {
        let (token, text) = self.items.get(self.at).copied().unwrap_or((Token::End, ""));
        // Among values, the keywords are ordinary words.
        if values && matches!(token, Token::In | Token::NotIn) { (Token::Word, text) } else { (token, text) }
    }

    fn next(&mut self, values: bool) -> (Token, &'a str) {
        let item = self.peek(values);
        self.at += 1;
        item
    }
}

fn unparsable(message: impl std::fmt::Display) -> SelectorError {
    SelectorError(format!("unable to parse requirement: {message}"))
}

pub(super) fn requirements(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut tokens = Tokens { items: tokens(text), at: 0 };
    let mut out = Vec::new();
    loop {
        match tokens.peek(true) {
            (Token::Word | Token::Not, _) => {
                out.push(requirement(&mut tokens)?);
                match tokens.next(false) {
                    (Token::End, _) => return Ok(out),
                    (Token::Comma, _) => match tokens.peek(true) {
                        (Token::Word | Token::Not, _) => {}
                        (_, found) => {
                            return Err(SelectorError(format!("found '{found}', expected: identifier after ','")));
                        }
                    },
                    (_, found) => {
                        return Err(SelectorError(format!("found '{found}', expected: ',' or 'end of string'")));
                    }
                }
            }
            (Token::End, _) => return Ok(out),
            (_, found) => {
                return Err(SelectorError(format!("found '{found}', expected: !, identifier, or 'end of string'")));
            }
        }
    }
}

fn requirement(tokens: &mut Tokens<'_>) -> Result<Requirement, SelectorError> {
    let negated = tokens.peek(false).0 == Token::Not;
    if negated {
        tokens.next(false);
    }
    let (token, key) = tokens.next(true);
    if token != Token::Word {
        return Err(unparsable(format!("found '{key}', expected: identifier")));
    }
    if matches!(tokens.peek(false).0, Token::End | Token::Comma) {
        let operator = if negated { Operator::DoesNotExist } else { Operator::Exists };
        return Requirement::new(key, operator, Vec::new()).map_err(unparsable);
    }
    if negated {
        let (_, found) = tokens.next(false);
        return Err(unparsable(format!("found '{found}', expected: ',' or 'end of string'")));
    }
    let (token, text) = tokens.next(false);
    let operator = match token {
        Token::In => Operator::In,
        Token::NotIn => Operator::NotIn,
        Token::Equals => Operator::Equals,
        Token::DoubleEquals => Operator::DoubleEquals,
        Token::NotEquals => Operator::NotEquals,
        Token::Greater => Operator::GreaterThan,
        Token::Less => Operator::LessThan,
        _ => {
            return Err(unparsable(format!("found '{text}', expected: in, notin, =, ==, !=, gt, lt")));
        }
    };
    let values = match operator {
        Operator::In | Operator::NotIn => listed(tokens)?,
        _ => vec![single(tokens)?],
    };
    Requirement::new(key, operator, values).map_err(unparsable)
}

/// One value, which may be empty.
fn single(tokens: &mut Tokens<'_>) -> Result<String, SelectorError> {
    match tokens.peek(true) {
        (Token::End | Token::Comma, _) => Ok(String::new()),
        (Token::Word, text) => {
            tokens.next(true);
            Ok(text.to_owned())
        }
        (_, found) => Err(unparsable(format!("found '{found}', expected: identifier"))),
    }
}

/// `(a,b)`, where values may be empty.
fn listed(tokens: &mut Tokens<'_>) -> Result<Vec<String>, SelectorError> {
    let (token, found) = tokens.next(false);
    if token != Token::Open {
        return Err(unparsable(format!("found '{found}', expected: '('")));
    }
    let mut values = Vec::new();
    loop {
        match tokens.next(true) {
            (Token::Word, text) => {
                values.push(text.to_owned());
                match tokens.next(true) {
                    (Token::Comma, _) => {
                        if tokens.peek(true).0 == Token::Close {
                            values.push(String::new());
                        }
                    }
                    (Token::Close, _) => return Ok(values),
                    (_, found) => return Err(unparsable(format!("found '{found}', expected: ',' or ')'"))),
                }
            }
            (Token::Close, _) => {
                if values.is_empty() {
                    values.push(String::new());
                }
                return Ok(values);
            }
            (Token::Comma, _) => values.push(String::new()),
            (_, found) => return Err(unparsable(format!("found '{found}', expected: ',', ')' or identifier"))),
        }
    }
}
