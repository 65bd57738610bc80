//! What the runtime says of a pod, with the messages its containers left.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use jiff::Timestamp;
use runtime::{ContainerSpec, ContainerStatus, PodId};

use crate::context::Context;
use crate::plan::view::{ContainerView, Exit, PodView, State};
use crate::spec::pod::labels;

/// Bytes of a termination message, from its file and from the log.
const MAX_MESSAGE: u64 = 4096;
const MAX_LOG_MESSAGE: u64 = 2048;
const MAX_LOG_LINES: usize = 80;
/// The exit code of a container that could not be run.
const CANNOT_RUN: i32 = 128;

/// Termination messages read once, by container id.
#[derive(Default)]
pub(super) struct Messages {
    read: HashMap<String, Option<String>>,
    /// Instances whose program could not be run: they ended before the runtime had anything to record.
    stillborn: Vec<ContainerView>,
    /// How images are told to the API, by id.
    images: HashMap<String, String>,
}

impl Messages {
    /// Records an instance that could not even begin.
    pub(super) fn note_stillborn(&mut self, spec: &ContainerSpec, image: &str, message: &str) {
        let now = Timestamp::now();
        let exit = Exit {
            code: CANNOT_RUN,
            reason: "StartError".to_owned(),
            message: Some(message.to_owned()),
            started_at: Some(now),
            finished_at: Some(now),
        };
        self.stillborn.retain(|s| s.name != spec.name || s.attempt + 1 >= spec.attempt);
        self.stillborn.push(ContainerView {
            id: format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>()),
            name: spec.name.clone(),
            attempt: spec.attempt,
            state: State::Exited(exit),
            image: spec.annotations.get(labels::IMAGE).cloned().unwrap_or_default(),
            image_id: image.to_owned(),
        });
    }

    /// The pod as it is now.
    pub(super) fn view(&mut self, context: &Context, uid: &str) -> PodView {
        let status = context.runtime.pod_status(&PodId::new(uid)).ok();
        let read = std::cell::RefCell::new(std::mem::take(&mut self.read));
        let mut view = PodView::of(status.as_ref(), |container| {
            let id = container.id.to_string();
            read.borrow_mut().entry(id).or_insert_with(|| message(container)).clone()
        });
        self.read = read.into_inner();
        for container in &mut view.containers {
            let images = &mut self.images;
            let known =
                images.entry(container.image_id.clone()).or_insert_with(|| digest(context, &container.image_id));
            container.image_id.clone_from(known);
        }
        self.read.retain(|id, _| view.containers.iter().any(|c| c.id == *id));
        self.stillborn.retain(|s| view.latest(&s.name).is_none_or(|latest| latest.attempt <= s.attempt + 1));
        view.containers.extend(self.stillborn.iter().cloned());
        view.containers.sort_by_key(|c| c.attempt);
        view
    }
}

/// `name@sha256:…` where the image came from a registry, else its id.
fn digest(context: &Context, id: &str) -> String {
    let record = context.runtime.images().get(id);
    record.and_then(|r| r.repo_digests.first().cloned()).unwrap_or_else(|| id.to_owned())
}

fn message(container: &ContainerStatus) -> Option<String> {
    let notes = &container.spec.annotations;
    let from_file = notes.get(labels::TERMINATION_LOG).and_then(|path| head(Path::new(path)).ok());
    if let Some(text) = from_file.filter(|t| !t.is_empty()) {
        return Some(text);
    }
    let failed = container.exit.as_ref().is_some_and(|e| e.code != 0);
    let from_log = notes.get(labels::TERMINATION_POLICY).is_some_and(|p| p == "FallbackToLogsOnError");
    let log = container.spec.log_path.as_deref().filter(|_| failed && from_log)?;
    tail(log).ok().filter(|t| !t.is_empty())
}

fn head(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_MESSAGE).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last lines of a CRI-format log, without its prefixes.
fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    // The prefixes take about as much again as short lines do.
    file.seek(SeekFrom::Start(size.saturating_sub(MAX_LOG_MESSAGE * 4)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(last_lines(&String::from_utf8_lossy(&bytes)))
}

fn last_lines(log: &str) -> String {
    let mut pieces = Vec::new();
    let (mut size, mut lines) = (0, 0);
    for entry in log.lines().rev() {
        let mut fields = entry.splitn(4, ' ').skip(2);
        let (Some(tags), Some(text)) = (fields.next(), fields.next()) else { continue };
        // A line that goes on, or that the container did not end, has no line feed.
        let end = if tags.starts_with('P') { "" } else { "\n" };
        lines += end.len();
        size += (text.len() + end.len()) as u64;
        if lines > MAX_LOG_LINES || size > MAX_LOG_MESSAGE {
            break;
        }
        pieces.extend([end, text]);
    }
    pieces.into_iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_prefixes_are_taken_off() {
        let log = "2026-01-01T00:00:00Z stdout F one two\n2026-01-01T00:00:01Z stderr F three\n";
        assert_eq!(last_lines(log), "one two\nthree\n");
        assert_eq!(last_lines(""), "");
    }

    #[test]
    fn a_line_that_was_not_ended_gets_no_line_feed() {
        assert_eq!(last_lines("t stdout F one\nt stdout P DONE\n"), "one\nDONE");
        assert_eq!(last_lines("t stdout P long \nt stdout F line\n"), "long line\n");
    }

    #[test]
    fn only_the_end_of_a_long_log_is_taken() {
        let log: String = (0..200).map(|n| format!("t stdout F line {n:04} {}\n", "x".repeat(40))).collect();
        let text = last_lines(&log);
        assert!(text.len() <= 2048 && text.contains("line 0199") && !text.contains("line 0100"));
    }
}
