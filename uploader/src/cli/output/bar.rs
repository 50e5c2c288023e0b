//! The progress bar of a push. It fits into one line of a terminal of any width.

use std::sync::{Arc, Mutex};

use indicatif::{BinaryBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::terminal;
use crate::base::lock::lock;

/// The columns that the bar takes beside its texts: the spinner, and three spaces.
const FIXED: usize = 4;

/// A progress bar on standard error.
pub(super) struct Bar {
    bar: ProgressBar,
    remark: Arc<Mutex<String>>,
}

impl Bar {
    /// A bar that is not drawn before its length is known.
    pub(super) fn new() -> Self {
        Self::on(ProgressDrawTarget::stderr_with_hz(8), terminal::width)
    }

    /// A bar on a terminal with this width.
    fn on(target: ProgressDrawTarget, width: impl Fn() -> usize + Clone + Send + Sync + 'static) -> Self {
        let remark = Arc::new(Mutex::new(String::new()));
        let texts = {
            let remark = remark.clone();
            move |state: &ProgressState| texts(state, &lock(&remark), width())
        };
        let (left, right) = (texts.clone(), texts);
        let style = ProgressStyle::with_template("{spinner} {left} {wide_bar} {right}")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .with_key("left", move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                let _ = out.write_str(&left(state).0);
            })
            .with_key("right", move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                let _ = out.write_str(&right(state).1);
            });
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(style);
        Self { bar, remark }
    }

    /// Sets the number of bytes that are to be read.
    pub(super) fn set_length(&self, bytes: u64) {
        self.bar.set_length(bytes);
    }

    /// Notes that so many more bytes were read.
    pub(super) fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// Sets the text beside the bar. A narrow terminal does not show it.
    pub(super) fn set_remark(&self, text: String) {
        *lock(&self.remark) = text;
    }

    /// Prints lines above the bar.
    pub(super) fn above(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }

    /// Removes the bar.
    pub(super) fn remove(&self) {
        self.bar.finish_and_clear();
    }
}

/// The texts on the left and on the right of the bar. On a narrow terminal, the remark is missing, then also the rate, then
/// also the remaining time, and at last percents replace the sizes.
fn texts(state: &ProgressState, remark: &str, width: usize) -> (String, String) {
    let mut free = width.saturating_sub(FIXED);
    let (read, all) = (BinaryBytes(state.pos()), BinaryBytes(state.len().unwrap_or(0)));
    let mut left = format!("{read}/{all}");
    if left.len() > free {
        left = format!("{:.0} %", state.fraction() * 100.0).chars().take(free).collect();
    }
    free -= left.len();
    let rate = format!("{}/s", BinaryBytes(state.per_sec() as u64));
    let eta = format!("{:#}", HumanDuration(state.eta()));
    let mut fits = |text: &str| {
        let needed = text.len() + 1;
        let fits = needed <= free;
        free -= if fits { needed } else { 0 };
        fits
    };
    // In the order of their importance.
    let [eta, rate, remark] =
        [eta.as_str(), rate.as_str(), remark].map(|text| if fits(text) { text } else { "" });
    let right: Vec<_> = [rate, remark, eta].into_iter().filter(|text| !text.is_empty()).collect();
    (left, right.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A terminal that keeps what is written.
    #[derive(Clone, Debug)]
    struct Terminal {
        width: u16,
        written: Arc<Mutex<Vec<String>>>,
    }

    impl indicatif::TermLike for Terminal {
        fn width(&self) -> u16 {
            self.width
        }

        fn move_cursor_up(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> std::io::Result<()> {
            self.write_str(text)
        }

        fn write_str(&self, text: &str) -> std::io::Result<()> {
            lock(&self.written).push(text.to_owned());
            Ok(())
        }

        fn clear_line(&self) -> std::io::Result<()> {
            Ok(())
        }

        fn flush(&self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// The longest line that a bar draws on a terminal of this width.
    fn longest(width: u16) -> String {
        let terminal = Terminal { width, written: Arc::default() };
        let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()));
        let bar = Bar::on(target, move || usize::from(width));
        bar.set_length(3 << 30);
        for step in 0..8 {
            bar.set_remark(format!("level {step}, to 23 %"));
            bar.advance(100 << 20);
            bar.bar.tick();
        }
        let written = lock(&terminal.written);
        written.iter().max_by_key(|text| text.chars().count()).cloned().unwrap_or_default()
    }

    #[test]
    fn the_bar_fits_into_a_line_of_any_width() {
        for width in 5..150 {
            let line = longest(width);
            assert!(line.chars().count() <= usize::from(width), "{width} columns: {line:?}");
        }
        let wide = longest(100);
        assert!(wide.contains("3.00 GiB") && wide.contains("level") && wide.contains("/s"), "{wide:?}");
        assert!(longest(20).contains(" %"), "{:?}", longest(20));
    }
}
