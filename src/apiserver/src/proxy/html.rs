//! Links in HTML that comes through a proxy: an absolute path gets the proxy's prefix, so that the browser stays
//! below it. Everything else passes byte for byte, in pieces of any size. Pure; called by `forward`.

/// A longer tag passes as it is.
const MAX_TAG: usize = 64 << 10;

/// Attributes that hold a URL, and their elements.
const LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("track", &["src"]),
    ("video", &["poster", "src"]),
];

/// Where links are to lead.
#[derive(Clone)]
pub(super) struct Prefix {
    /// Path of the proxy, without a slash at its end.
    pub(super) path: String,
    /// Hosts that are the target itself: its address, and the one that the client called.
    pub(super) hosts: Vec<String>,
}

impl Prefix {
    /// The URL as the client has to see it; `None` when it is right already.
    pub(super) fn rewrite(&self, url: &str) -> Option<String> {
        let path = match url.split_once("://").filter(|(s, _)| is_scheme(s)) {
            Some((_, rest)) => self.own_path(rest)?,
            None => match url.strip_prefix("//") {
                Some(rest) => self.own_path(rest)?,
                None => url,
            },
        };
        // A relative one stays below the proxy by itself; one that has the prefix needs no second.
        let bare = path.split(['?', '#']).next().unwrap_or_default();
        if !path.starts_with('/') || bare.starts_with(&self.path) {
            return (path.len() != url.len()).then(|| path.to_owned());
        }
        Some(format!("{}{path}", self.path))
    }

    /// The path of `HOST/PATH`, when the host is the target.
    fn own_path<'u>(&self, rest: &'u str) -> Option<&'u str> {
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (host, path) = rest.split_at(end);
        let path = if path.is_empty() { "/" } else { path };
        self.hosts.iter().any(|own| own == host).then_some(path)
    }
}

fn is_scheme(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}

/// What the next byte belongs to.
#[derive(Clone, Copy, PartialEq)]
enum State {
    Text,
    /// From `<` on; the quote that is open.
    Tag(Option<u8>),
    /// Until `-->`.
    Comment,
    /// The text of a script or a style, until its end tag.
    Raw(&'static str),
    /// A tag too long to hold, until `>`.
    Passing(Option<u8>),
}

/// Rewrites a document piece by piece.
pub(super) struct Rewriter {
    prefix: Prefix,
    state: State,
    /// What may still turn out to be a tag.
    held: Vec<u8>,
}

impl Rewriter {
    pub(super) fn new(prefix: Prefix) -> Rewriter {
        Rewriter { prefix, state: State::Text, held: Vec::new() }
    }

    pub(super) fn feed(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(piece.len() + 64);
        for byte in piece {
            self.byte(*byte, &mut out);
        }
        out
    }

    /// What was held back when the document ends.
    pub(super) fn finish(self) -> Vec<u8> {
        self.held
    }

    fn byte(&mut self, byte: u8, out: &mut Vec<u8>) {
        match self.state {
            State::Text if byte == b'<' => {
                self.held.push(byte);
                self.state = State::Tag(None);
            }
            State::Text => out.push(byte),
            State::Tag(quote) => self.tag(byte, quote, out),
            State::Passing(quote) => {
                out.push(byte);
                self.state = match after_quote(quote, byte) {
                    None if byte == b'>' => State::Text,
                    quote => State::Passing(quote),
                };
            }
            State::Comment => {
                out.push(byte);
                self.held.push(byte);
                if self.held.ends_with(b"-->") {
                    self.held.clear();
                    self.state = State::Text;
                } else if self.held.len() > 2 {
                    self.held.remove(0);
                }
            }
            State::Raw(element) => self.raw(byte, element, out),
        }
    }

    fn tag(&mut self, byte: u8, quote: Option<u8>, out: &mut Vec<u8>) {
        // `<` before something else than a name is text.
        if self.held.len() == 1 && !(byte.is_ascii_alphabetic() || matches!(byte, b'/' | b'!' | b'?')) {
            out.append(&mut self.held);
            self.state = State::Text;
            return self.byte(byte, out);
        }
        self.held.push(byte);
        if self.held == b"<!--" {
            out.append(&mut self.held);
            self.state = State::Comment;
            return;
        }
        let quote = after_quote(quote, byte);
        if quote.is_none() && byte == b'>' {
            let tag = std::mem::take(&mut self.held);
            self.state = raw_element(&tag).map_or(State::Text, State::Raw);
            rewrite_tag(&tag, &self.prefix, out);
        } else if self.held.len() > MAX_TAG {
            out.append(&mut self.held);
            self.state = State::Passing(quote);
        } else {
            self.state = State::Tag(quote);
        }
    }

    fn raw(&mut self, byte: u8, element: &'static str, out: &mut Vec<u8>) {
        out.push(byte);
        self.held.push(byte);
        // Held is what could be the beginning of `</element`.
        while !self.held.is_empty() && !is_beginning_of_end(&self.held, element) {
            self.held.remove(0);
        }
        if self.held.len() == element.len() + 2 {
            self.held.clear();
            self.state = State::Passing(None);
        }
    }
}

fn is_beginning_of_end(held: &[u8], element: &str) -> bool {
    let end = b"</".iter().chain(element.as_bytes());
    held.len() <= element.len() + 2 && held.iter().zip(end).all(|(a, b)| a.eq_ignore_ascii_case(b))
}

fn after_quote(open: Option<u8>, byte: u8) -> Option<u8> {
    match open {
        Some(quote) if quote == byte => None,
        None if matches!(byte, b'"' | b'\'') => Some(byte),
        open => open,
    }
}

/// The name of an opening tag.
fn name(tag: &[u8]) -> &str {
    let rest = tag.get(1..).unwrap_or_default();
    let end = rest.iter().position(|b| !b.is_ascii_alphanumeric()).unwrap_or(rest.len());
    std::str::from_utf8(&rest[..end]).unwrap_or_default()
}

/// The element whose text, up to its end tag, is not HTML.
fn raw_element(tag: &[u8]) -> Option<&'static str> {
    let name = name(tag);
    ["script", "style", "textarea", "title"].into_iter().find(|raw| name.eq_ignore_ascii_case(raw))
}

fn rewrite_tag(tag: &[u8], prefix: &Prefix, out: &mut Vec<u8>) {
    let name = name(tag);
    let known = LINKS.iter().find(|(element, _)| name.eq_ignore_ascii_case(element));
    let (Some((_, attributes)), Ok(text)) = (known, std::str::from_utf8(tag)) else {
        return out.extend_from_slice(tag);
    };
    let mut written = 0;
    let mut at = 1 + name.len();
    while let Some((attribute, value, next)) = attribute(text, at) {
        at = next;
        if !attributes.iter().any(|known| attribute.eq_ignore_ascii_case(known)) {
            continue;
        }
        if let Some(url) = prefix.rewrite(&text[value.clone()]) {
            out.extend_from_slice(&tag[written..value.start]);
            out.extend_from_slice(url.as_bytes());
            written = value.end;
        }
    }
    out.extend_from_slice(&tag[written..]);
}

/// The next attribute from `at` on: its name, where its value stands, and where to go on.
fn attribute(tag: &str, at: usize) -> Option<(&str, std::ops::Range<usize>, usize)> {
    let bytes = tag.as_bytes();
    let skip = |from: usize, these: fn(&u8) -> bool| {
        bytes[from..].iter().position(|b| !these(b)).map_or(bytes.len(), |n| from + n)
    };
    let start = skip(at, |b| b.is_ascii_whitespace() || *b == b'/');
    let end = skip(start, |b| !(b.is_ascii_whitespace() || matches!(b, b'=' | b'>' | b'/')));
    if start == end {
        return None;
    }
    let equals = skip(end, u8::is_ascii_whitespace);
    if bytes.get(equals) != Some(&b'=') {
        return Some((&tag[start..end], end..end, end));
    }
    let value = skip(equals + 1, u8::is_ascii_whitespace);
    if let Some(quote) = bytes.get(value).copied().filter(|b| matches!(b, b'"' | b'\'')) {
        let close = bytes[value + 1..].iter().position(|b| *b == quote).map(|n| value + 1 + n)?;
        return Some((&tag[start..end], value + 1..close, close + 1));
    }
    let close = skip(value, |b| !(b.is_ascii_whitespace() || *b == b'>'));
    Some((&tag[start..end], value..close, close))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix() -> Prefix {
        Prefix { path: "/p".into(), hosts: vec!["10.0.0.1:80".into(), "api:6443".into()] }
    }

    /// The same in one piece and byte by byte.
    fn rewritten(html: &str) -> String {
        let run = |size: usize| {
            let mut rewriter = Rewriter::new(prefix());
            let mut out = Vec::new();
            for piece in html.as_bytes().chunks(size) {
                out.extend(rewriter.feed(piece));
            }
            out.extend(rewriter.finish());
            String::from_utf8(out).unwrap()
        };
        let whole = run(html.len());
        assert_eq!(whole, run(1));
        whole
    }

    #[test]
    fn absolute_paths_of_link_attributes_get_the_prefix() {
        assert_eq!(rewritten(r#"<a href="/x">t</a>"#), r#"<a href="/p/x">t</a>"#);
        assert_eq!(
            rewritten("<IMG alt='a > b' SRC='/i.png?q=/z' longdesc=/d>x<br/>"),
            "<IMG alt='a > b' SRC='/p/i.png?q=/z' longdesc=/p/d>x<br/>"
        );
        assert_eq!(rewritten(r#"<link rel=icon href = "/i">"#), r#"<link rel=icon href = "/p/i">"#);
    }

    #[test]
    fn the_targets_own_host_is_left_out_and_others_stay() {
        assert_eq!(rewritten(r#"<a href="http://10.0.0.1:80/x">"#), r#"<a href="/p/x">"#);
        assert_eq!(rewritten(r#"<a href="https://api:6443">"#), r#"<a href="/p/">"#);
        for same in [
            r#"<a href="http://example.com/x">"#,
            r#"<a href="//example.com/x">"#,
            r#"<a href="x/y"><a href="../z"><a href="?q"><a href="mailto:a@b"><a href="/p/x">"#,
            r#"<td href="/x"><a title="/x" disabled>"#,
        ] {
            assert_eq!(rewritten(same), same);
        }
    }

    #[test]
    fn what_is_no_tag_passes_as_it_is() {
        for same in [
            "1 < 2 <3 <",
            "<!-- <a href=\"/x\"> - -- > --><p>",
            "<script>if (a<b) s = '<a href=\"/x\">'</script ><p>",
            "<style>a{}</style>",
            "<a href=\"/x",
            "",
        ] {
            if !same.is_empty() {
                assert_eq!(rewritten(same), same);
            }
        }
        let after = "<script>x</script><a href=\"/y\"><!-- --><a href=\"/z\">";
        assert_eq!(rewritten(after), "<script>x</script><a href=\"/p/y\"><!-- --><a href=\"/p/z\">");
    }

    #[test]
    fn a_tag_without_end_is_not_held_for_ever() {
        let long = format!("<a title=\"{}\" href=\"/x\"><a href=\"/y\">", "x".repeat(MAX_TAG));
        let out = rewritten(&long);
        assert!(out.ends_with("href=\"/x\"><a href=\"/p/y\">"), "{}", &out[out.len() - 40..]);
    }
}
