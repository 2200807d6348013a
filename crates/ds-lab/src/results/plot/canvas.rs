//! A sheet to draw on, in CSS pixels, and the two forms it is written in.

use super::palette::INK;
use anyhow::{Context, Result, anyhow};
use plotters::backend::{BitMapBackend, DrawingBackend, SVGBackend};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontStyle, FontTransform, IntoFont, RGBColor, ShapeStyle, TextStyle, register_font};
use std::io;

/// Coordinates of the backends are whole numbers: one CSS pixel has this many of them a side.
const SCALE: u32 = 4;
/// A PNG has this many pixels for a CSS pixel a side.
const PNG_SCALE: u32 = 2;

/// The font of the PNG files is embedded; viewers of the SVG files take the first of these that they have.
const FAMILY: &str = "DejaVu Sans, Verdana, Helvetica, Arial, sans-serif";
const FONT: &[u8] = include_bytes!("font/DejaVuSans-subset.ttf");

/// Where a text hangs at its point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    /// The point is at the left end, at half height.
    Left,
    /// The point is in the middle.
    Centre,
    /// The point is at the right end, at half height.
    Right,
    /// The text runs upwards, its middle is at the point.
    Upwards,
}

/// A picture: how large it is and what is on it.
pub trait Figure {
    /// Width and height in CSS pixels.
    fn size(&self) -> (u32, u32);

    /// Draws it on a white sheet.
    fn draw<B: DrawingBackend>(&self, canvas: &mut Canvas<B>) -> Result<()>;
}

/// How a backend's text is made the same as that of the others.
#[derive(Clone, Copy)]
struct Lettering {
    /// What it takes for the size of a font, in font sizes.
    size: f64,
    /// How much lower a centred text must be for its digits to be in the middle, in font sizes.
    lower: f64,
}

/// Writes 1/1.24 of the size that it is given into the document.
const SVG_TEXT: Lettering = Lettering { size: 1.24, lower: 0.06 };
/// Takes the size for the height from the font's ascent to its descent.
const BITMAP_TEXT: Lettering = Lettering { size: 1.164, lower: 0.22 };

/// A sheet of a backend.
pub struct Canvas<B> {
    backend: B,
    lettering: Lettering,
}

fn drawn<E: std::fmt::Display>(result: std::result::Result<(), E>) -> Result<()> {
    result.map_err(|error| anyhow!("cannot draw: {error}"))
}

fn fine(v: f64) -> i32 {
    (v * f64::from(SCALE)).round() as i32
}

fn point((x, y): (f64, f64)) -> (i32, i32) {
    (fine(x), fine(y))
}

fn font(size: f64) -> plotters::style::FontDesc<'static> {
    (FAMILY, size * f64::from(SCALE)).into_font()
}

/// The width of a text in CSS pixels, at a font size in CSS pixels.
///
/// # Errors
/// If the embedded font cannot be read.
pub fn text_width(text: &str, size: f64) -> Result<f64> {
    embed_font()?;
    let ((left, _), (right, _)) =
        font(size * BITMAP_TEXT.size).layout_box(text).map_err(|error| anyhow!("cannot measure a text: {error}"))?;
    Ok(f64::from(right - left) / f64::from(SCALE))
}

fn embed_font() -> Result<()> {
    register_font(FAMILY, FontStyle::Normal, FONT).map_err(|_| anyhow!("the embedded font is not a font"))
}

impl<B: DrawingBackend> Canvas<B> {
    /// A line through points.
    pub fn line(&mut self, points: &[(f64, f64)], colour: RGBColor, width: f64) -> Result<()> {
        if points.len() < 2 {
            return Ok(());
        }
        let style = ShapeStyle { color: colour.to_rgba(), filled: false, stroke_width: fine(width).max(2) as u32 };
        drawn(self.backend.draw_path(points.iter().copied().map(point), &style))
    }

    /// A line through points, of dashes; `dash` and the gap after it have this length.
    pub fn dashed(&mut self, points: &[(f64, f64)], colour: RGBColor, width: f64, dash: f64) -> Result<()> {
        dashes(points, dash).iter().try_for_each(|dash| self.line(dash, colour, width))
    }

    /// A filled polygon.
    pub fn polygon(&mut self, points: &[(f64, f64)], colour: RGBColor, opacity: f64) -> Result<()> {
        drawn(self.backend.fill_polygon(points.iter().copied().map(point), &colour.mix(opacity)))
    }

    /// A filled rectangle between two corners.
    pub fn rectangle(&mut self, from: (f64, f64), to: (f64, f64), colour: RGBColor) -> Result<()> {
        drawn(self.backend.draw_rect(point(from), point(to), &colour, true))
    }

    /// A filled disc.
    pub fn dot(&mut self, centre: (f64, f64), radius: f64, colour: RGBColor) -> Result<()> {
        drawn(self.backend.draw_circle(point(centre), fine(radius).max(1) as u32, &colour, true))
    }

    /// A disc in a colour with a white inside.
    pub fn ring(&mut self, centre: (f64, f64), radius: f64, colour: RGBColor) -> Result<()> {
        self.dot(centre, radius, colour)?;
        self.dot(centre, radius * 0.55, plotters::style::WHITE)
    }

    /// One line of text in [`INK`].
    pub fn text(&mut self, text: &str, at: (f64, f64), size: f64, anchor: Anchor) -> Result<()> {
        self.coloured_text(text, at, size, anchor, INK)
    }

    /// One line of text.
    pub fn coloured_text(
        &mut self,
        text: &str,
        at: (f64, f64),
        size: f64,
        anchor: Anchor,
        colour: RGBColor,
    ) -> Result<()> {
        let h = match anchor {
            Anchor::Left => HPos::Left,
            Anchor::Centre | Anchor::Upwards => HPos::Center,
            Anchor::Right => HPos::Right,
        };
        let style = TextStyle::from(font(size * self.lettering.size)).pos(Pos::new(h, VPos::Center));
        let mut style = style.color(&colour);
        let (mut x, mut y) = at;
        if anchor == Anchor::Upwards {
            style = style.transform(FontTransform::Rotate270);
            x += self.lettering.lower * size;
        } else {
            y += self.lettering.lower * size;
        }
        drawn(self.backend.draw_text(text, &style, point((x, y))))
    }
}

fn dashes(points: &[(f64, f64)], length: f64) -> Vec<Vec<(f64, f64)>> {
    let (mut all, mut current, mut left, mut inked) = (Vec::new(), Vec::new(), length, true);
    for pair in points.windows(2) {
        let ((mut x, mut y), (x1, y1)) = (pair[0], pair[1]);
        if inked && current.is_empty() {
            current.push((x, y));
        }
        loop {
            let rest = (x1 - x).hypot(y1 - y);
            if rest < left {
                left -= rest;
                if inked {
                    current.push((x1, y1));
                }
                break;
            }
            (x, y) = (x + (x1 - x) * left / rest, y + (y1 - y) * left / rest);
            left = length;
            if inked {
                current.push((x, y));
                all.push(std::mem::take(&mut current));
            } else {
                current.push((x, y));
            }
            inked = !inked;
        }
    }
    if current.len() > 1 {
        all.push(current);
    }
    all
}

fn draw_on<B: DrawingBackend>(figure: &impl Figure, backend: B, lettering: Lettering) -> Result<()> {
    embed_font()?;
    let (width, height) = figure.size();
    let mut canvas = Canvas { backend, lettering };
    canvas.rectangle((0.0, 0.0), (f64::from(width), f64::from(height)), plotters::style::WHITE)?;
    figure.draw(&mut canvas)?;
    drawn(canvas.backend.present())
}

/// The picture as an SVG document.
pub fn to_svg(figure: &impl Figure) -> Result<String> {
    let (width, height) = figure.size();
    let mut text = String::new();
    draw_on(figure, SVGBackend::with_string(&mut text, (width * SCALE, height * SCALE)), SVG_TEXT)?;
    // The backend's own width and height count its finer pixels.
    let fine = format!("width=\"{}\" height=\"{}\" viewBox", width * SCALE, height * SCALE);
    let text = text.replacen(&fine, &format!("width=\"{width}\" height=\"{height}\" viewBox"), 1);
    // What is the default anyway makes half of the document.
    Ok(text.replace(" opacity=\"1\"", "").replace(" stroke=\"none\"", ""))
}

/// The picture as a PNG file of twice its size in CSS pixels.
pub fn to_png(figure: &impl Figure) -> Result<Vec<u8>> {
    let (width, height) = figure.size();
    let mut fine = vec![0; (3 * width * SCALE * height * SCALE) as usize];
    draw_on(figure, BitMapBackend::with_buffer(&mut fine, (width * SCALE, height * SCALE)), BITMAP_TEXT)?;
    let (side, row) = ((SCALE / PNG_SCALE) as usize, (width * SCALE) as usize);
    let (width, height) = (width * PNG_SCALE, height * PNG_SCALE);
    let mean = |x: u32, y: u32| {
        let (x, y) = (x as usize * side, y as usize * side);
        image::Rgb(std::array::from_fn(|channel| {
            let cells = (0..side * side).map(|k| (y + k / side) * row + x + k % side);
            let sum: usize = cells.map(|cell| usize::from(fine[3 * cell + channel])).sum();
            ((sum + side * side / 2) / (side * side)) as u8
        }))
    };
    let mut png = io::Cursor::new(Vec::new());
    image::RgbImage::from_fn(width, height, mean)
        .write_to(&mut png, image::ImageFormat::Png)
        .context("cannot encode a picture as PNG")?;
    Ok(png.into_inner())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    struct Sheet;

    impl Figure for Sheet {
        fn size(&self) -> (u32, u32) {
            (60, 40)
        }

        fn draw<B: DrawingBackend>(&self, canvas: &mut Canvas<B>) -> Result<()> {
            canvas.rectangle((0.0, 0.0), (30.0, 40.0), RGBColor(10, 20, 30))?;
            canvas.line(&[(0.0, 0.0), (60.0, 40.0)], INK, 1.0)?;
            canvas.text("σ < 1", (45.0, 10.0), 10.0, Anchor::Centre)
        }
    }

    #[test]
    fn both_forms_show_the_same() {
        let svg = to_svg(&Sheet).unwrap();
        assert!(svg.starts_with("<svg width=\"60\" height=\"40\" viewBox=\"0 0 240 160\""), "{svg}");
        assert!(svg.contains("points=\"0,0 240,160 \"") && svg.contains("σ &lt; 1"), "{svg}");
        let png = image::load_from_memory(&to_png(&Sheet).unwrap()).unwrap().to_rgb8();
        assert_eq!(png.dimensions(), (120, 80));
        assert_eq!(png.get_pixel(10, 70).0, [10, 20, 30]);
        assert_eq!(png.get_pixel(100, 10).0, [255, 255, 255]);
        // The text is drawn in the embedded font.
        let dark = (62..118).any(|x| (10..30).any(|y| png.get_pixel(x, y).0[0] < 100));
        assert!(dark);
    }

    #[test]
    fn dashes_have_their_length() {
        let all = dashes(&[(0.0, 0.0), (4.0, 0.0), (10.0, 0.0)], 3.0);
        assert_eq!(all, [vec![(0.0, 0.0), (3.0, 0.0)], vec![(6.0, 0.0), (9.0, 0.0)]]);
    }

    #[test]
    fn the_font_has_the_signs_of_the_field() {
        let missing = text_width("\u{4e2d}", 100.0).unwrap();
        for sign in "λσβ⁻⁶²‖≤≥±−·→∑∞".chars().filter(|c| *c != '∑') {
            assert!((text_width(&sign.to_string(), 100.0).unwrap() - missing).abs() > 0.5, "{sign}");
        }
    }
}
