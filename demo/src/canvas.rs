//! Draws into a picture that lies somewhere else: rectangles, areas under a curve, text.
//!
//! The pixels are borrowed, so that a picture can be drawn straight into the shared memory of a loan. They
//! are packed RGB, three bytes each, rows from top to bottom, without padding. Whatever falls outside is
//! clipped.

use std::convert::Infallible;
use std::ops::Range;

use embedded_graphics::mono_font::{MonoFont, MonoTextStyle};
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::{DrawTarget, Drawable, OriginDimensions, Pixel, Point, RgbColor, Size};
use embedded_graphics::text::{Alignment, Baseline, Text, TextStyleBuilder};

/// Bytes of one pixel.
pub(crate) const PIXEL_BYTES: usize = 3;

/// Half the width of a curve, in pixels.
const CURVE_RADIUS: f32 = 1.1;

/// Red, green, blue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Color(pub(crate) u8, pub(crate) u8, pub(crate) u8);

impl Color {
    /// The same color, mixed with `other` by `share` of 256.
    fn mix(self, other: Color, share: u32) -> Color {
        let blend = |from: u8, to: u8| ((u32::from(from) * (256 - share) + u32::from(to) * share) >> 8) as u8;
        Color(blend(self.0, other.0), blend(self.1, other.1), blend(self.2, other.2))
    }
}

/// A rectangle of whole pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rect {
    pub(crate) x: usize,
    pub(crate) y: usize,
    pub(crate) width: usize,
    pub(crate) height: usize,
}

impl Rect {
    /// The rectangle without a border of `left`, `top`, `right`, `bottom` pixels.
    pub(crate) fn inset(self, left: usize, top: usize, right: usize, bottom: usize) -> Rect {
        Rect {
            x: self.x + left,
            y: self.y + top,
            width: self.width.saturating_sub(left + right),
            height: self.height.saturating_sub(top + bottom),
        }
    }

    fn columns(self, canvas_width: usize) -> Range<usize> {
        self.x.min(canvas_width)..(self.x + self.width).min(canvas_width)
    }

    fn rows(self, canvas_height: usize) -> Range<usize> {
        self.y.min(canvas_height)..(self.y + self.height).min(canvas_height)
    }
}

/// How a curve looks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stroke {
    pub(crate) color: Color,
    /// How strongly the area below is tinted right under the curve, of 256; it fades to a quarter at the
    /// bottom.
    pub(crate) fill: u32,
}

/// Where on a text its position lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Anchor {
    Left,
    Right,
}

/// A picture that is being drawn.
#[derive(Debug)]
pub(crate) struct Canvas<'a> {
    pixels: &'a mut [u8],
    width: usize,
    height: usize,
}

impl<'a> Canvas<'a> {
    /// Draws into `pixels`, which must hold `width * height` pixels.
    ///
    /// # Panics
    ///
    /// If `pixels` has another length.
    pub(crate) fn new(pixels: &'a mut [u8], width: usize, height: usize) -> Canvas<'a> {
        assert_eq!(pixels.len(), width * height * PIXEL_BYTES, "the pixels are not {width} x {height}");
        Canvas { pixels, width, height }
    }

    /// Fills a rectangle.
    pub(crate) fn fill(&mut self, rect: Rect, color: Color) {
        let columns = rect.columns(self.width);
        for y in rect.rows(self.height) {
            for pixel in self.row(y, columns.clone()).chunks_exact_mut(PIXEL_BYTES) {
                pixel.copy_from_slice(&[color.0, color.1, color.2]);
            }
        }
    }

    /// Draws the border of a rectangle, one pixel wide, inside it.
    pub(crate) fn frame(&mut self, rect: Rect, color: Color) {
        let Rect { x, y, width, height } = rect;
        self.fill(Rect { height: 1, ..rect }, color);
        self.fill(Rect { width: 1, ..rect }, color);
        self.fill(Rect { y: y + height.saturating_sub(1), height: 1, ..rect }, color);
        self.fill(Rect { x: x + width.saturating_sub(1), width: 1, ..rect }, color);
    }

    /// Draws a curve and tints the area below it. `tops` has for each column of `rect`, from the left, the
    /// distance of the curve from the upper edge of `rect`; columns beyond its end stay as they are.
    pub(crate) fn curve(&mut self, rect: Rect, tops: &[f32], stroke: Stroke) {
        let columns = rect.columns(self.width);
        let tops = &tops[..tops.len().min(columns.len())];
        let highest = tops.iter().copied().fold(f32::INFINITY, f32::min) - CURVE_RADIUS - 1.0;
        for y in rect.rows(self.height) {
            let depth = (y - rect.y) as f32 + 0.5;
            if depth < highest {
                continue;
            }
            // The tint fades from the middle of nowhere to a quarter at the bottom.
            let fade = 1.0 - 0.75 * depth / rect.height as f32;
            let tint = (stroke.fill as f32 * fade) as u32;
            let row = self.row(y, columns.clone());
            for (x, pixel) in row.chunks_exact_mut(PIXEL_BYTES).take(tops.len()).enumerate() {
                let top = tops[x];
                // A steep curve passes many rows between two columns: it covers them all.
                let neighbour = tops[x.saturating_sub(1)];
                let (upper, lower) = if neighbour < top { (neighbour, top) } else { (top, neighbour) };
                let outside = (upper - depth).max(depth - lower).max(0.0);
                let line = ((CURVE_RADIUS + 0.5 - outside).clamp(0.0, 1.0) * 256.0) as u32;
                let share = if depth > top { line.max(tint) } else { line };
                if share > 0 {
                    let color = Color(pixel[0], pixel[1], pixel[2]).mix(stroke.color, share);
                    pixel.copy_from_slice(&[color.0, color.1, color.2]);
                }
            }
        }
    }

    /// Writes one line of text whose vertical middle is `y`, each of its pixels `scale` wide and high.
    pub(crate) fn text(
        &mut self,
        text: &str,
        (x, y): (usize, usize),
        font: &MonoFont<'_>,
        color: Color,
        (anchor, scale): (Anchor, usize),
    ) {
        let alignment = match anchor {
            Anchor::Left => Alignment::Left,
            Anchor::Right => Alignment::Right,
        };
        let style = TextStyleBuilder::new().alignment(alignment).baseline(Baseline::Middle).build();
        let character = MonoTextStyle::new(font, Rgb888::new(color.0, color.1, color.2));
        let position = Point::new((x / scale) as i32, (y / scale) as i32);
        let mut target = Scaled { canvas: self, scale };
        let Ok(_end) = Text::with_text_style(text, position, character, style).draw(&mut target);
    }

    fn row(&mut self, y: usize, columns: Range<usize>) -> &mut [u8] {
        let start = y * self.width;
        &mut self.pixels[(start + columns.start) * PIXEL_BYTES..(start + columns.end) * PIXEL_BYTES]
    }
}

/// The canvas with every pixel `scale` times as wide and high: how text gets large.
struct Scaled<'c, 'a> {
    canvas: &'c mut Canvas<'a>,
    scale: usize,
}

impl OriginDimensions for Scaled<'_, '_> {
    fn size(&self) -> Size {
        Size::new((self.canvas.width / self.scale) as u32, (self.canvas.height / self.scale) as u32)
    }
}

impl DrawTarget for Scaled<'_, '_> {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: I) -> Result<(), Infallible> {
        for Pixel(Point { x, y }, color) in pixels {
            let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else { continue };
            let scale = self.scale;
            let rect = Rect { x: x * scale, y: y * scale, width: scale, height: scale };
            self.canvas.fill(rect, Color(color.r(), color.g(), color.b()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use profont::PROFONT_24_POINT;

    use super::*;

    const WHITE: Color = Color(255, 255, 255);

    fn lit(pixels: &[u8]) -> usize {
        pixels.chunks(PIXEL_BYTES).filter(|pixel| pixel.iter().any(|&byte| byte > 0)).count()
    }

    #[test]
    fn a_filled_rectangle_touches_only_its_own_pixels() {
        let mut pixels = vec![0; 10 * 8 * PIXEL_BYTES];
        Canvas::new(&mut pixels, 10, 8).fill(Rect { x: 2, y: 3, width: 4, height: 2 }, WHITE);
        assert_eq!(lit(&pixels), 8);
        assert_eq!(pixels[(3 * 10 + 2) * PIXEL_BYTES], 255);
    }

    #[test]
    fn what_lies_outside_is_clipped() {
        let mut pixels = vec![0; 10 * 8 * PIXEL_BYTES];
        let mut canvas = Canvas::new(&mut pixels, 10, 8);
        canvas.fill(Rect { x: 8, y: 7, width: 40, height: 40 }, WHITE);
        canvas.fill(Rect { x: 80, y: 70, width: 4, height: 4 }, WHITE);
        canvas.frame(Rect { x: 80, y: 70, width: 0, height: 0 }, WHITE);
        canvas.text("clipped at the right", (5, 4), &PROFONT_24_POINT, WHITE, (Anchor::Left, 2));
        canvas.curve(
            Rect { x: 9, y: 6, width: 9, height: 9 },
            &[0.0; 20],
            Stroke { color: WHITE, fill: 256 },
        );
    }

    #[test]
    fn a_curve_tints_what_lies_below_it() {
        let mut pixels = vec![0; 10 * 20 * PIXEL_BYTES];
        let rect = Rect { x: 0, y: 0, width: 10, height: 20 };
        Canvas::new(&mut pixels, 10, 20).curve(rect, &[10.0; 10], Stroke { color: WHITE, fill: 128 });
        let red = |y: usize| pixels[(y * 10 + 5) * PIXEL_BYTES];
        assert_eq!(red(5), 0, "above the curve nothing changes");
        assert!(red(10) > 200, "the curve itself is bright: {}", red(10));
        assert!(red(15) > 0 && red(15) < 128, "below it there is a tint: {}", red(15));
    }
}
