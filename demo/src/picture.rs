//! The picture of this machine: what the `frames` node draws thirty times a second.
//!
//! A [`Picture`] keeps the recent past as one value per frame and curve. What never changes (panels, titles,
//! grid lines) is drawn once into a private background; [`Picture::draw`] copies that and draws the curves,
//! bars and figures over it, straight into the pixels that it is given.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};

use profont::{PROFONT_18_POINT, PROFONT_24_POINT};

use super::canvas::{Anchor, Canvas, Color, PIXEL_BYTES, Rect, Stroke};

/// Size of the picture.
pub(crate) const WIDTH: usize = 1920;
pub(crate) const HEIGHT: usize = 1080;
/// Bytes of one frame.
pub(crate) const FRAME_BYTES: usize = WIDTH * HEIGHT * PIXEL_BYTES;

/// One value of the past takes so many columns.
const COLUMNS_PER_VALUE: usize = 3;
/// Values kept per curve: enough for the widest panel.
const PAST: usize = CPU.width / COLUMNS_PER_VALUE + 2;
/// Cores with a curve of their own; the others count in the total alone.
const MAX_CORES: usize = 32;
/// Cores stand one below the other, so many in a column.
const CORES_PER_COLUMN: usize = 8;

const CPU: Rect = Rect { x: 40, y: 120, width: 1216, height: 432 };
const CORES: Rect = Rect { x: 1280, y: 120, width: 600, height: 432 };
const MEMORY: Rect = Rect { x: 40, y: 576, width: 596, height: 416 };
const NET: Rect = Rect { x: 660, y: 576, width: 596, height: 416 };
const DISK: Rect = Rect { x: 1280, y: 576, width: 600, height: 416 };
/// A panel's heading.
const HEADING: usize = 56;
/// Where the footer's middle lies.
const FOOTER: usize = 1034;

const NIGHT: Color = Color(0x0b, 0x0f, 0x15);
const PANEL: Color = Color(0x12, 0x18, 0x21);
const BORDER: Color = Color(0x23, 0x2d, 0x3a);
const GRID: Color = Color(0x1a, 0x22, 0x2d);
const TEXT: Color = Color(0xdc, 0xe4, 0xed);
const QUIET: Color = Color(0x7c, 0x8a, 0x9a);
const TEAL: Color = Color(0x3f, 0xd0, 0xc9);
const AMBER: Color = Color(0xf2, 0xb8, 0x4b);
const VIOLET: Color = Color(0xa7, 0x8b, 0xfa);
const GREEN: Color = Color(0x5a, 0xd1, 0x7a);
const RED: Color = Color(0xf0, 0x61, 0x6d);
const BLUE: Color = Color(0x58, 0xa6, 0xff);

/// What the picture shows of one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Moment {
    /// Shares of 1.
    pub(crate) cpu_user: f32,
    pub(crate) cpu_system: f32,
    pub(crate) cores: Vec<f32>,
    pub(crate) memory_total_bytes: u64,
    pub(crate) memory_used_bytes: u64,
    pub(crate) memory_cached_bytes: u64,
    pub(crate) received_bytes_per_second: f64,
    pub(crate) sent_bytes_per_second: f64,
    pub(crate) read_bytes_per_second: f64,
    pub(crate) written_bytes_per_second: f64,
    pub(crate) load: [f64; 3],
    pub(crate) threads: u32,
    /// Messages of the `machine` node that were read for this picture, in total.
    pub(crate) messages: u64,
}

/// The past of one curve, newest value last.
#[derive(Debug, Clone, Default)]
struct Past(VecDeque<f32>);

impl Past {
    fn push(&mut self, value: f32) {
        if self.0.len() == PAST {
            self.0.pop_front();
        }
        self.0.push_back(value);
    }

    fn largest(&self) -> f32 {
        self.0.iter().copied().fold(0.0, f32::max)
    }
}

/// The recent past, ready to be drawn.
#[derive(Debug)]
pub(crate) struct Picture {
    background: Vec<u8>,
    now: Moment,
    cpu: Past,
    system: Past,
    cores: Vec<Past>,
    used: Past,
    cached: Past,
    received: Past,
    sent: Past,
    read: Past,
    written: Past,
    /// Scratch memory for one curve and one text.
    tops: Vec<f32>,
    line: String,
}

impl Picture {
    /// An empty past.
    pub(crate) fn new() -> Picture {
        let mut background = vec![0; FRAME_BYTES];
        draw_background(&mut Canvas::new(&mut background, WIDTH, HEIGHT));
        Picture {
            background,
            now: Moment::default(),
            cpu: Past::default(),
            system: Past::default(),
            cores: Vec::new(),
            used: Past::default(),
            cached: Past::default(),
            received: Past::default(),
            sent: Past::default(),
            read: Past::default(),
            written: Past::default(),
            tops: Vec::with_capacity(CPU.width),
            line: String::with_capacity(128),
        }
    }

    /// Moves the past by one value.
    pub(crate) fn push(&mut self, now: &Moment) {
        self.now.clone_from(now);
        self.cpu.push(now.cpu_user + now.cpu_system);
        self.system.push(now.cpu_system);
        self.cores.resize(now.cores.len().min(MAX_CORES), Past::default());
        for (past, &busy) in self.cores.iter_mut().zip(&now.cores) {
            past.push(busy);
        }
        let total = now.memory_total_bytes.max(1) as f32;
        self.used.push(now.memory_used_bytes as f32 / total);
        self.cached.push((now.memory_used_bytes + now.memory_cached_bytes) as f32 / total);
        self.received.push(now.received_bytes_per_second as f32);
        self.sent.push(now.sent_bytes_per_second as f32);
        self.read.push(now.read_bytes_per_second as f32);
        self.written.push(now.written_bytes_per_second as f32);
    }

    /// Draws frame `sequence` over whatever the pixels hold.
    ///
    /// # Panics
    ///
    /// If `pixels` is not [`FRAME_BYTES`] long.
    pub(crate) fn draw(&mut self, pixels: &mut [u8], sequence: u64) {
        pixels.copy_from_slice(&self.background);
        let mut canvas = Canvas::new(pixels, WIDTH, HEIGHT);
        let Picture { now, tops, line, .. } = self;
        let mut pen = Pen { canvas: &mut canvas, tops, line };

        pen.right((1880, 56), TEXT, format_args!("frame {sequence:06}"));

        pen.curve(CPU, &self.cpu, 1.0, Stroke { color: TEAL, fill: 120 });
        pen.curve(CPU, &self.system, 1.0, Stroke { color: AMBER, fill: 110 });
        let busy = (now.cpu_user + now.cpu_system) * 100.0;
        pen.value(CPU, format_args!("{busy:5.1} %"));
        pen.legend((CPU.x + 140, CPU.y + HEADING / 2 + 4), TEAL, "user");
        pen.legend((CPU.x + 260, CPU.y + HEADING / 2 + 4), AMBER, "system");

        draw_cores(&mut pen, &self.cores);

        pen.curve(MEMORY, &self.cached, 1.0, Stroke { color: BLUE, fill: 60 });
        pen.curve(MEMORY, &self.used, 1.0, Stroke { color: VIOLET, fill: 140 });
        pen.legend((MEMORY.x + 20, MEMORY.y + HEADING + 14), VIOLET, "used");
        pen.legend((MEMORY.x + 110, MEMORY.y + HEADING + 14), BLUE, "cached");
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        let (used, total) = (gib(now.memory_used_bytes), gib(now.memory_total_bytes));
        pen.value(MEMORY, format_args!("{used:.2} of {total:.1} GiB"));

        let most = ceiling(self.received.largest().max(self.sent.largest()));
        pen.curve(NET, &self.received, most, Stroke { color: GREEN, fill: 110 });
        pen.curve(NET, &self.sent, most, Stroke { color: RED, fill: 70 });
        pen.axis(NET, most);
        pen.pair(NET, (GREEN, "in", now.received_bytes_per_second), (RED, "out", now.sent_bytes_per_second));

        let most = ceiling(self.read.largest().max(self.written.largest()));
        pen.curve(DISK, &self.written, most, Stroke { color: AMBER, fill: 110 });
        pen.curve(DISK, &self.read, most, Stroke { color: BLUE, fill: 70 });
        pen.axis(DISK, most);
        pen.pair(
            DISK,
            (BLUE, "read", now.read_bytes_per_second),
            (AMBER, "write", now.written_bytes_per_second),
        );

        let [one, five, fifteen] = now.load;
        let (threads, messages) = (now.threads, now.messages);
        pen.left(
            (40, FOOTER),
            QUIET,
            format_args!(
                "load {one:.2} {five:.2} {fifteen:.2}   threads {threads}   drawn from {messages} messages"
            ),
        );
    }
}

fn draw_background(canvas: &mut Canvas<'_>) {
    canvas.fill(Rect { x: 0, y: 0, width: WIDTH, height: HEIGHT }, NIGHT);
    canvas.text("hivemind", (40, 56), &PROFONT_24_POINT, TEXT, (Anchor::Left, 2));
    let subtitle = "this machine, drawn in place in shared memory";
    canvas.text(subtitle, (460, 58), &PROFONT_24_POINT, QUIET, (Anchor::Left, 1));
    let right = "frames/screen   1920 x 1080 RGB";
    canvas.text(right, (1880, FOOTER), &PROFONT_24_POINT, QUIET, (Anchor::Right, 1));
    for (rect, title) in
        [(CPU, "CPU"), (CORES, "Cores"), (MEMORY, "Memory"), (NET, "Network"), (DISK, "Disk")]
    {
        canvas.fill(rect, PANEL);
        canvas.text(
            title,
            (rect.x + 20, rect.y + HEADING / 2 + 4),
            &PROFONT_24_POINT,
            TEXT,
            (Anchor::Left, 1),
        );
        if rect != CORES {
            let plot = plot(rect);
            for quarter in 1..4 {
                let y = plot.y + plot.height * quarter / 4;
                canvas.fill(Rect { y, height: 1, ..plot }, GRID);
            }
        }
        canvas.frame(rect, BORDER);
    }
}

/// The part of a panel that curves are drawn in.
fn plot(panel: Rect) -> Rect {
    panel.inset(1, HEADING, 1, 1)
}

fn draw_cores(pen: &mut Pen<'_, '_>, cores: &[Past]) {
    let columns = cores.len().div_ceil(CORES_PER_COLUMN).max(1);
    let rows = cores.len().div_ceil(columns).max(1);
    let area = plot(CORES).inset(19, 0, 19, 14);
    let (width, height) = (area.width / columns, area.height / rows);
    for (index, past) in cores.iter().enumerate() {
        let cell =
            Rect { x: area.x + index / rows * width, y: area.y + index % rows * height, width, height };
        let cell = cell.inset(0, 4, if columns == 1 { 0 } else { 8 }, 4);
        pen.canvas.fill(cell, NIGHT);
        pen.curve_in(cell, past, 1.0, Stroke { color: TEAL, fill: 130 });
        pen.canvas.frame(cell, GRID);
        let busy = past.0.back().copied().unwrap_or_default() * 100.0;
        let y = cell.y + 18.min(cell.height / 2);
        pen.small((cell.x + 10, y), Anchor::Left, QUIET, format_args!("{index}"));
        pen.small((cell.x + cell.width - 10, y), Anchor::Right, TEXT, format_args!("{busy:.0} %"));
    }
}

/// The round number at or above `value` that a scale ends with: 1, 2 or 5 times a power of ten, at least 10
/// kB/s.
fn ceiling(value: f32) -> f32 {
    const LEAST: f32 = 10_000.0;
    let value = value.max(LEAST);
    let power = 10_f32.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|step| step * power)
        .find(|&round| round >= value * 0.999)
        .unwrap_or(value)
}

/// Bytes per second in words.
struct Rate(f64);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            rate if rate >= 999.5e6 => write!(f, "{:.1} GB/s", rate / 1e9),
            rate if rate >= 99.95e6 => write!(f, "{:.0} MB/s", rate / 1e6),
            rate if rate >= 999.5e3 => write!(f, "{:.1} MB/s", rate / 1e6),
            rate if rate >= 999.5 => write!(f, "{:.0} kB/s", rate / 1e3),
            rate => write!(f, "{rate:.0} B/s"),
        }
    }
}

/// The canvas with the scratch memory that drawing needs, so that a frame allocates nothing.
struct Pen<'p, 'a> {
    canvas: &'p mut Canvas<'a>,
    tops: &'p mut Vec<f32>,
    line: &'p mut String,
}

impl Pen<'_, '_> {
    fn curve(&mut self, panel: Rect, past: &Past, most: f32, stroke: Stroke) {
        self.curve_in(plot(panel), past, most, stroke);
    }

    /// The newest value stands at the right edge. What is older than the past stays empty.
    fn curve_in(&mut self, rect: Rect, past: &Past, most: f32, stroke: Stroke) {
        let Some(newest) = past.0.len().checked_sub(1) else { return };
        let columns = (newest * COLUMNS_PER_VALUE + 1).min(rect.width);
        let height = rect.height as f32;
        self.tops.clear();
        self.tops.extend((0..columns).map(|column| {
            let age = columns - 1 - column;
            let (behind, part) = (age / COLUMNS_PER_VALUE, (age % COLUMNS_PER_VALUE) as f32);
            let later = past.0[newest - behind];
            let earlier = past.0[newest.saturating_sub(behind + 1)];
            let value = later + (earlier - later) * part / COLUMNS_PER_VALUE as f32;
            // The curve stays a little below the upper edge, so that a full scale is still seen as a line.
            height - (value / most).clamp(0.0, 1.0) * (height - 4.0) - 2.0
        }));
        self.canvas.curve(rect.inset(rect.width - columns, 0, 0, 0), self.tops, stroke);
    }

    fn value(&mut self, panel: Rect, text: fmt::Arguments<'_>) {
        self.right((panel.x + panel.width - 20, panel.y + HEADING / 2 + 4), TEXT, text);
    }

    fn legend(&mut self, (x, y): (usize, usize), color: Color, name: &str) {
        self.canvas.fill(Rect { x, y: y - 6, width: 14, height: 14 }, color);
        self.small((x + 22, y), Anchor::Left, QUIET, format_args!("{name}"));
    }

    fn axis(&mut self, panel: Rect, most: f32) {
        let plot = plot(panel);
        self.small(
            (plot.x + 12, plot.y + 14),
            Anchor::Left,
            QUIET,
            format_args!("{}", Rate(f64::from(most))),
        );
    }

    /// Two rates with their colors, at the right of a panel's heading.
    fn pair(&mut self, panel: Rect, left: (Color, &str, f64), right: (Color, &str, f64)) {
        let y = panel.y + HEADING / 2 + 4;
        for ((color, name, rate), x) in
            [(left, panel.x + panel.width - 220), (right, panel.x + panel.width - 20)]
        {
            self.small((x, y), Anchor::Right, color, format_args!("{name} {}", Rate(rate)));
        }
    }

    fn left(&mut self, position: (usize, usize), color: Color, text: fmt::Arguments<'_>) {
        self.write(text);
        self.canvas.text(self.line, position, &PROFONT_24_POINT, color, (Anchor::Left, 1));
    }

    fn right(&mut self, position: (usize, usize), color: Color, text: fmt::Arguments<'_>) {
        self.write(text);
        self.canvas.text(self.line, position, &PROFONT_24_POINT, color, (Anchor::Right, 1));
    }

    fn small(&mut self, position: (usize, usize), anchor: Anchor, color: Color, text: fmt::Arguments<'_>) {
        self.write(text);
        self.canvas.text(self.line, position, &PROFONT_18_POINT, color, (anchor, 1));
    }

    fn write(&mut self, text: fmt::Arguments<'_>) {
        self.line.clear();
        // Writing into a `String` cannot fail.
        let _infallible = self.line.write_fmt(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine that is busy in waves.
    fn wave(step: usize, cores: usize) -> Moment {
        let phase = step as f32 / 40.0;
        let busy = 0.4 + 0.3 * phase.sin();
        Moment {
            cpu_user: busy * 0.7,
            cpu_system: busy * 0.3,
            cores: (0..cores).map(|core| 0.5 + 0.4 * (phase + core as f32).cos()).collect(),
            memory_total_bytes: 24 << 30,
            memory_used_bytes: ((3.0 + 2.0 * (phase / 3.0).sin()) * f64::from(1 << 30) as f32) as u64,
            memory_cached_bytes: 5 << 30,
            received_bytes_per_second: 4e6 * f64::from(phase.sin().abs()),
            sent_bytes_per_second: 1e6 * f64::from((phase * 2.0).cos().abs()),
            read_bytes_per_second: if step % 90 < 12 { 3e7 } else { 0.0 },
            written_bytes_per_second: 2e7 * f64::from((phase * 3.0).sin().max(0.0)),
            load: [0.52, 0.4, 0.31],
            threads: 188,
            messages: step as u64 * 460,
        }
    }

    #[test]
    fn a_picture_does_not_depend_on_what_the_memory_held_before() {
        let mut picture = Picture::new();
        (0..50).for_each(|step| picture.push(&wave(step, 2)));
        let (mut clean, mut dirty) = (vec![0; FRAME_BYTES], vec![0xa5; FRAME_BYTES]);
        picture.draw(&mut clean, 1);
        picture.draw(&mut dirty, 1);
        assert!(clean == dirty);
    }

    #[test]
    fn machines_of_any_number_of_cores_can_be_drawn() {
        let mut pixels = vec![0; FRAME_BYTES];
        for cores in [0, 1, 3, 8, 9, 32, 256] {
            let mut picture = Picture::new();
            (0..3).for_each(|step| picture.push(&wave(step, cores)));
            picture.draw(&mut pixels, 0);
        }
    }

    #[test]
    fn values_that_are_no_numbers_do_not_stop_the_drawing() {
        let mut picture = Picture::new();
        let odd = Moment {
            cpu_user: f32::NAN,
            cores: vec![f32::INFINITY, -1.0],
            received_bytes_per_second: f64::INFINITY,
            written_bytes_per_second: f64::NAN,
            ..Moment::default()
        };
        (0..3).for_each(|_| picture.push(&odd));
        picture.draw(&mut vec![0; FRAME_BYTES], 0);
    }

    #[test]
    fn scales_end_with_round_numbers() {
        assert_eq!(ceiling(0.0), 10_000.0);
        assert_eq!(ceiling(23_000.0), 50_000.0);
        assert_eq!(ceiling(1e6), 1e6);
        assert_eq!(ceiling(1.1e6), 2e6);
    }
}
