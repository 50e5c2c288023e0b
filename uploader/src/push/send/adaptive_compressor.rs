//! A compressor that adapts its effort while a NAR streams through it.

use std::io::{self, Write};

use super::compress::Compressor;
use super::effort_control::EffortControl;
use super::part_sink::PartSink;
use crate::push::progress::{Effort, Progress};
use crate::store::HashingWriter;

/// The number of bytes of a NAR between two adaptations.
const INTERVAL: u64 = 4 << 20;

/// A compressor whose effort follows the effort control.
pub(super) struct AdaptiveCompressor<'a, 'b> {
    out: Compressor<HashingWriter<PartSink<'b>>>,
    meter: Meter<'a>,
    nar_size: u64,
}

impl<'a, 'b> AdaptiveCompressor<'a, 'b> {
    /// Lets `out` compress a NAR of `nar_size` bytes.
    pub(super) fn new(
        out: Compressor<HashingWriter<PartSink<'b>>>,
        control: &'a EffortControl,
        progress: &'a dyn Progress,
        nar_size: u64,
    ) -> Self {
        Self { out, meter: Meter { control, progress, passed: 0, reported: 0 }, nar_size }
    }

    /// Ends the stream.
    pub(super) fn finish(mut self) -> io::Result<HashingWriter<PartSink<'b>>> {
        let effort = self.out.effort();
        let sink = self.out.finish()?;
        self.meter.report(sink.size(), effort);
        Ok(sink)
    }
}

impl Write for AdaptiveCompressor<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write_all(bytes)?;
        self.meter.passed += bytes.len() as u64;
        if self.meter.passed >= INTERVAL {
            let effort = self.out.effort();
            let size = self.out.get_mut().map_or(self.meter.reported, |sink| sink.size());
            self.meter.report(size, effort);
            self.out.change(self.meter.control.effort(self.nar_size))?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Reports the work of the compressor to the effort control and to the progress.
struct Meter<'a> {
    control: &'a EffortControl,
    progress: &'a dyn Progress,
    /// Bytes of the NAR since the last report.
    passed: u64,
    /// Bytes of the object until the last report.
    reported: u64,
}

impl Meter<'_> {
    /// Reports that the object has `size` bytes now. `effort` is the effort since the last report.
    fn report(&mut self, size: u64, effort: Effort) {
        self.control.adjust();
        self.progress.compressed(std::mem::take(&mut self.passed), size - self.reported, effort);
        self.reported = size;
    }
}
