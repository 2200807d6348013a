//! The colours of all pictures: one an activation, and a map for probabilities. They are told apart by colour-blind readers.

use plotters::style::RGBColor;

/// Text and frames.
pub const INK: RGBColor = RGBColor(0x26, 0x26, 0x26);
/// Notes and what is only to compare with.
pub const GREY: RGBColor = RGBColor(0x8c, 0x8c, 0x8c);
/// Grid lines.
pub const GRID: RGBColor = RGBColor(0xe6, 0xe6, 0xe6);
/// What is left after sparsification.
pub const SPARSE: RGBColor = RGBColor(0xd5, 0x5e, 0x00);

// Okabe and Ito 2008, without the yellow, which white swallows.
const BLUE: RGBColor = RGBColor(0x00, 0x72, 0xb2);
const GREEN: RGBColor = RGBColor(0x00, 0x9e, 0x73);
const SKY: RGBColor = RGBColor(0x56, 0xb4, 0xe9);
const ORANGE: RGBColor = RGBColor(0xe6, 0x9f, 0x00);
const PURPLE: RGBColor = RGBColor(0xcc, 0x79, 0xa7);

const SERIES: [RGBColor; 7] = [BLUE, SPARSE, GREEN, PURPLE, ORANGE, SKY, INK];

/// The colour of an activation, by its name in configs; [`INK`] for one that is not known.
pub fn activation(name: &str) -> RGBColor {
    match name {
        "bspline" => BLUE,
        "explicit_linear" => SKY,
        "relu_spline" => GREEN,
        "relu" => SPARSE,
        "leaky_relu" => ORANGE,
        "prelu" => PURPLE,
        "apl" => GREY,
        "lipschitz_spline" => RGBColor(177, 89, 40),
        "absolute" => RGBColor(120, 150, 60),
        "max_min" => RGBColor(200, 60, 140),
        "householder" => RGBColor(60, 110, 120),
        "clipped_prelu" => RGBColor(150, 130, 90),
        _ => INK,
    }
}

/// The colour of series `k` where activations do not tell the series apart; the eighth is like the first.
pub fn series(k: usize) -> RGBColor {
    SERIES[k % SERIES.len()]
}

/// A colour mixed with white; `share` of it is left.
pub fn tint(colour: RGBColor, share: f64) -> RGBColor {
    let mix = |c: u8| (f64::from(c) * share + 255.0 * (1.0 - share)).round() as u8;
    RGBColor(mix(colour.0), mix(colour.1), mix(colour.2))
}

// ColorBrewer's PuOr, reversed, without its darkest ends, so that lines in ink can be seen everywhere: orange is 0, purple 1.
const MAP: [(u8, u8, u8); 7] = [
    (224, 130, 20),
    (253, 184, 99),
    (254, 224, 182),
    (247, 247, 247),
    (216, 218, 235),
    (178, 171, 210),
    (128, 115, 172),
];

/// The colour of a probability; what is not in [0, 1] is taken for the nearest that is.
pub fn probability(p: f64) -> RGBColor {
    let position = p.clamp(0.0, 1.0) * (MAP.len() - 1) as f64;
    let k = (position as usize).min(MAP.len() - 2);
    let t = position - k as f64;
    let mix = |a: u8, b: u8| (f64::from(a) + t * (f64::from(b) - f64::from(a))).round() as u8;
    let ((r, g, b), (r1, g1, b1)) = (MAP[k], MAP[k + 1]);
    RGBColor(mix(r, r1), mix(g, g1), mix(b, b1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use ds_core::activation::ActivationKind;

    #[test]
    fn every_activation_has_a_colour_of_its_own() {
        let colours: Vec<_> = ActivationKind::NAMES.iter().map(|name| activation(name)).collect();
        for (i, a) in colours.iter().enumerate() {
            assert!(*a != INK && colours[..i].iter().all(|b| a != b), "{}", ActivationKind::NAMES[i]);
        }
    }

    #[test]
    fn the_map_goes_from_orange_over_white_to_purple() {
        assert_eq!(probability(-1.0), RGBColor(224, 130, 20));
        assert_eq!(probability(0.5), RGBColor(247, 247, 247));
        assert_eq!(probability(1.0), RGBColor(128, 115, 172));
        assert_eq!(tint(RGBColor(0, 100, 200), 0.5), RGBColor(128, 178, 228));
    }
}
