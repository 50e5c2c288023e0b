//! Cuts the compressed stream of a NAR into parts, and hands the full parts to the async side.

use std::io::{self, Write};

use tokio::sync::mpsc;

use super::budget::{Budget, Part, Share};
use super::buffer::Buffer;

/// The usual size of a part in bytes: the minimum that S3 accepts. Small parts divide the budget evenly among the
/// uploads.
pub(super) const PART: u64 = 5 << 20;
/// The largest number of parts for the bytes of a NAR. S3 accepts 10,000 parts. The difference is for a stream that
/// compression makes longer than the NAR.
const PARTS: u64 = 9_500;

/// The size in bytes of the parts of a NAR with `nar_size` bytes.
fn part_size(nar_size: u64) -> u64 {
    (nar_size / PARTS).max(PART).next_multiple_of(1 << 20)
}

/// A writer that cuts a stream into parts. A write blocks while the budget is used up or the receiver is busy.
pub(super) struct PartSink<'a> {
    part_size: u64,
    /// The part that is being filled, with its share of the budget.
    filling: Option<(Buffer, Share)>,
    sender: &'a mpsc::Sender<Part>,
    runtime: &'a tokio::runtime::Handle,
    budget: &'a Budget,
}

impl<'a> PartSink<'a> {
    /// A sink for the NAR of `nar_size` bytes. Full parts go to `sender`; their memory comes from `budget`.
    pub(super) fn new(
        nar_size: u64,
        sender: &'a mpsc::Sender<Part>,
        runtime: &'a tokio::runtime::Handle,
        budget: &'a Budget,
    ) -> Self {
        // A NAR smaller than a part needs less memory. Compression makes incompressible data a little longer.
        let part_size = part_size(nar_size).min(nar_size + nar_size / 128 + 4096);
        Self { part_size, filling: None, sender, runtime, budget }
    }

    /// The part that is being filled.
    fn filling(&mut self) -> io::Result<&mut Buffer> {
        let part = match self.filling.take() {
            Some(part) => part,
            None => {
                let share =
                    self.runtime.block_on(self.budget.take(self.part_size)).map_err(io::Error::other)?;
                (Buffer::new(usize::try_from(self.part_size).unwrap_or(usize::MAX))?, share)
            }
        };
        Ok(&mut self.filling.insert(part).0)
    }

    /// Hands the full part to the async side.
    fn send(&mut self) -> io::Result<()> {
        self.sender.blocking_send(self.rest()).map_err(|_| io::Error::other("the upload was given up"))
    }

    /// Takes out the part that is being filled. The result is empty when no part has been begun.
    pub(super) fn rest(&mut self) -> Part {
        match self.filling.take() {
            Some((buffer, share)) => Part::new(buffer.into_bytes(), share),
            None => Part::default(),
        }
    }
}

impl Write for PartSink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let buffer = self.filling()?;
        let count = buffer.fill(bytes);
        if buffer.is_full() {
            self.send()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
