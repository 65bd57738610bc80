//! Why making a container failed. libcontainer passes only the outermost words of an error from the new container to
//! its maker and logs the rest, so the forked child that uses it collects error events in a file and quotes the first,
//! which is the innermost.

use std::fmt::{Debug, Write as _};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

pub(super) struct Diagnostics {
    path: PathBuf,
}

impl Diagnostics {
    /// Collects the error events of this process and of those it forks.
    pub(super) fn start(path: PathBuf) -> io::Result<Self> {
        let file = fs::OpenOptions::new().create(true).append(true).open(&path)?;
        tracing::subscriber::set_global_default(Collector { file }).map_err(io::Error::other)?;
        Ok(Self { path })
    }

    /// What was said first, if anything.
    pub(super) fn innermost(&self) -> Option<String> {
        let text = fs::read_to_string(&self.path).ok()?;
        text.lines().next().map(str::to_owned)
    }

    pub(super) fn discard(self) {
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        eprintln!("{}: {error}", path.display());
    }
}

struct Collector {
    file: File,
}

/// An event as `message (field: value, …)`.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string cannot fail.
        if field.name() == "message" {
            write!(self.message, "{value:?}").unwrap_or_default();
        } else {
            let separator = if self.fields.is_empty() { "" } else { ", " };
            write!(self.fields, "{separator}{}: {value:?}", field.name()).unwrap_or_default();
        }
    }
}

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let text = if line.fields.is_empty() { line.message } else { format!("{} ({})", line.message, line.fields) };
        // Nobody could be told that this failed.
        (&self.file).write_all(format!("{}\n", text.replace('\n', " ")).as_bytes()).unwrap_or_default();
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
