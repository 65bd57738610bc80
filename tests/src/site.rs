//! A small HTTP/1.1 server of a test: releases for `install.sh`, images for pulls. One request a connection.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// What is served, by path.
#[derive(Debug, Default, Clone)]
pub struct Pages {
    pub pages: BTreeMap<String, Page>,
    /// `user:password` in base64: whoever does not show it gets 401.
    pub basic: Option<String>,
}

#[derive(Debug, Clone)]
pub struct Page {
    pub content_type: &'static str,
    pub body: Vec<u8>,
}

/// A running server; it ends with the test's process.
#[derive(Debug)]
pub struct Site {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Pages {
    pub fn add(&mut self, path: impl Into<String>, content_type: &'static str, body: impl Into<Vec<u8>>) {
        self.pages.insert(path.into(), Page { content_type, body: body.into() });
    }
}

impl Site {
    pub fn start(listener: TcpListener, pages: Pages) -> Self {
        let address = listener.local_addr().expect("a listener has an address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let record = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away is no concern of the test.
                if let Err(error) = answer(&stream, &pages, &record) {
                    eprintln!("test site: {error}");
                }
            }
        });
        Self { address, asked }
    }

    /// `METHOD PATH` of every request so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn answer(mut stream: &TcpStream, pages: &Pages, record: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut credentials = None;
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(": ")
            && name.eq_ignore_ascii_case("authorization")
        {
            credentials = value.strip_prefix("Basic ").map(str::to_owned);
        }
    }
    record.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{method} {path}"));
    let (status, page) = match pages.pages.get(path) {
        _ if pages.basic.is_some() && pages.basic != credentials => {
            ("401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"test\"", None)
        }
        Some(page) => ("200 OK", Some(page)),
        None => ("404 Not Found", None),
    };
    let (content_type, body) = page.map_or(("text/plain", &[][..]), |page| (page.content_type, &page.body));
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    if method != "HEAD" {
        stream.write_all(body)?;
    }
    stream.flush()
}
