//! Terminal sizes as clients send them: JSON objects `{"Width":80,"Height":24}`, one after another.

use runtime::spec::TtySize;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

/// More than any number of sizes that can wait.
const LONGEST: usize = 4 << 10;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

/// Collects bytes and gives sizes as they become whole.
#[derive(Debug, Default)]
struct Sizes {
    pending: Vec<u8>,
}

impl Sizes {
    fn push(&mut self, data: &[u8]) -> Vec<TtySize> {
        self.pending.extend_from_slice(data);
        let mut sizes = Vec::new();
        let mut stream = serde_json::Deserializer::from_slice(&self.pending).into_iter::<Size>();
        let (mut taken, mut broken) = (0, false);
        while let Some(size) = stream.next() {
            match size {
                Ok(Size { width, height }) => {
                    sizes.push(TtySize { width, height });
                    taken = stream.byte_offset();
                }
                Err(error) => {
                    broken = !error.is_eof();
                    break;
                }
            }
        }
        // What can't be a size is dropped, so that the next one can be read.
        let drop = if broken || self.pending.len() > LONGEST { self.pending.len() } else { taken };
        self.pending.drain(..drop);
        sizes
    }
}

/// Passes sizes on until the stream ends or nobody wants them.
pub(crate) async fn forward(mut input: impl AsyncRead + Unpin, sizes: mpsc::Sender<TtySize>) {
    let mut pending = Sizes::default();
    let mut buffer = [0; 512];
    while let Ok(read @ 1..) = input.read(&mut buffer).await {
        for size in pending.push(&buffer[..read]) {
            if sizes.send(size).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_whole_in_pieces_and_together() {
        let mut sizes = Sizes::default();
        assert_eq!(sizes.push(br#"{"Width":80,"#), []);
        assert_eq!(sizes.push(b"\"Height\":24}\n"), [TtySize { width: 80, height: 24 }]);
        let two = sizes.push(br#"{"Width":1,"Height":2}{"Height":4,"Width":3}"#);
        assert_eq!(two, [TtySize { width: 1, height: 2 }, TtySize { width: 3, height: 4 }]);
    }

    #[test]
    fn rubbish_is_dropped() {
        let mut sizes = Sizes::default();
        assert_eq!(sizes.push(b"hello"), []);
        assert_eq!(sizes.push(br#"{"Width":80,"Height":99999}"#), []);
        assert_eq!(sizes.push(br#"{"Width":80,"Height":24}"#), [TtySize { width: 80, height: 24 }]);
    }
}
