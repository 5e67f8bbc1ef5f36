//! Standard output and error of guests that have them: cut into lines, on their way to the log.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backstitch_core::limits;
use tokio::io::AsyncWrite;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::guest_log::GuestLog;
use crate::world::types::Level;

/// Bytes on their way to becoming lines. Holds at most one line.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    unfinished: Vec<u8>,
}

impl Lines {
    /// Takes bytes, gives the lines that they finish. What is too long for one line is several.
    pub(crate) fn write(&mut self, bytes: &[u8], mut line: impl FnMut(&str)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, is_finished) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            for part in text.chunks(limits::LOG_LINE_BYTES_MAX) {
                if self.unfinished.len() + part.len() > limits::LOG_LINE_BYTES_MAX {
                    self.flush(&mut line);
                }
                self.unfinished.extend_from_slice(part);
            }
            if is_finished {
                line(&String::from_utf8_lossy(&self.unfinished));
                self.unfinished.clear();
            }
        }
    }

    /// Gives what has no end yet as a line.
    pub(crate) fn flush(&mut self, mut line: impl FnMut(&str)) {
        if !self.unfinished.is_empty() {
            line(&String::from_utf8_lossy(&self.unfinished));
            self.unfinished.clear();
        }
    }
}

/// Which of the two a guest writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Out,
    Err,
}

/// Both streams of one guest.
#[derive(Debug, Default)]
pub(crate) struct Stdio {
    out: Lines,
    err: Lines,
}

impl Stdio {
    /// Takes what a guest wrote.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8], log: &mut GuestLog) {
        match stream {
            Stream::Out => self.out.write(bytes, |line| log.line(Level::Info, line)),
            Stream::Err => self.err.write(bytes, |line| log.line(Level::Warn, line)),
        }
    }

    /// Gives the lines that have no end yet.
    pub(crate) fn flush(&mut self, log: &mut GuestLog) {
        self.out.flush(|line| log.line(Level::Info, line));
        self.err.flush(|line| log.line(Level::Warn, line));
    }
}

/// The streams of one activity attempt, which outlive its store. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct SharedStdio(Arc<Mutex<(Stdio, GuestLog)>>);

impl SharedStdio {
    /// Streams into `log`.
    pub(crate) fn new(log: GuestLog) -> Self {
        Self(Arc::new(Mutex::new((Stdio::default(), log))))
    }

    /// One of the two, as WASI wants it.
    pub(crate) fn stream(&self, stream: Stream) -> impl StdoutStream + 'static {
        SharedStream { stdio: self.clone(), stream }
    }

    /// Ends the attempt: gives the last lines, and how many were too many.
    pub(crate) fn close(&self) {
        let (stdio, log) = &mut *self.lock();
        stdio.flush(log);
        log.close();
    }

    fn lock(&self) -> MutexGuard<'_, (Stdio, GuestLog)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Debug)]
struct SharedStream {
    stdio: SharedStdio,
    stream: Stream,
}

impl IsTerminal for SharedStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for SharedStream {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        // Only WASI 0.3 would ask for it, and no guest here has that.
        Box::new(tokio::io::sink())
    }
}

#[async_trait]
impl Pollable for SharedStream {
    async fn ready(&mut self) {}
}

impl OutputStream for SharedStream {
    fn write(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        let (stdio, log) = &mut *self.stdio.lock();
        stdio.write(self.stream, &bytes, log);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(limits::LOG_LINE_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(writes: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut out) = (Lines::default(), Vec::new());
        for bytes in writes {
            lines.write(bytes, |line| out.push(line.to_owned()));
        }
        lines.flush(|line| out.push(line.to_owned()));
        out
    }

    #[test]
    fn lines_are_found_however_they_were_written() {
        assert_eq!(lines(&[b"a\nb", b"c\n\n", b"d"]), ["a", "bc", "", "d"]);
        assert_eq!(lines(&[b"\xff\n"]), ["\u{fffd}"]);
    }

    #[test]
    fn a_line_without_an_end_does_not_grow_without_one() {
        let endless = vec![b'x'; 3 * limits::LOG_LINE_BYTES_MAX + 1];
        let lines = lines(&[&endless, &endless]);
        assert!(lines.iter().all(|line| line.len() <= limits::LOG_LINE_BYTES_MAX));
        assert_eq!(lines.iter().map(String::len).sum::<usize>(), 2 * endless.len());
    }
}
