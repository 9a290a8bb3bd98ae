//! Line plots as SVG, small enough to be written by hand: two servers, a line each.

use std::fmt::{self, Write};

/// Size of the picture and of what is left for words around the lines, in pixels.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 60.0;
/// Told apart by people who see no red, and in grey.
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#555555"];
/// About so many numbers along an axis.
const TICKS: f64 = 6.0;

/// How an axis is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Equal steps, from zero.
    Linear,
    /// Equal factors. Values must be above zero; others are left out.
    Logarithmic,
}

/// What an axis says.
#[derive(Clone, Debug)]
pub struct Axis {
    /// With its unit.
    pub label: &'static str,
    /// How it is divided.
    pub scale: Scale,
}

/// One server's points.
#[derive(Clone, Debug)]
pub struct Line {
    /// As the legend has it.
    pub name: String,
    /// In the order in which they are joined.
    pub points: Vec<(f64, f64)>,
}

/// A picture; [`fmt::Display`] makes the SVG.
#[derive(Clone, Debug)]
pub struct Plot {
    /// Above it.
    pub title: String,
    /// Along the bottom.
    pub x: Axis,
    /// Along the left side.
    pub y: Axis,
    /// Up to four.
    pub lines: Vec<Line>,
}

/// An axis with the range that it shows.
struct Ruler {
    scale: Scale,
    least: f64,
    most: f64,
}

impl Ruler {
    fn of(scale: Scale, values: impl Iterator<Item = f64>) -> Self {
        let shown = values.filter(|value| scale == Scale::Linear || *value > 0.0);
        let (least, most) = shown.fold((f64::INFINITY, 0.0_f64), |(least, most), value| {
            (least.min(value), most.max(value))
        });
        match scale {
            Scale::Linear => Self {
                scale,
                least: 0.0,
                most: if most > 0.0 { most * 1.05 } else { 1.0 },
            },
            Scale::Logarithmic if least.is_finite() => Self {
                scale,
                least: 10_f64.powf(least.log10().floor()),
                most: 10_f64.powf(most.log10().ceil()).max(least * 10.0),
            },
            Scale::Logarithmic => Self {
                scale,
                least: 1.0,
                most: 10.0,
            },
        }
    }

    /// Where a value is, from 0 to 1; none if it cannot be shown.
    fn place(&self, value: f64) -> Option<f64> {
        let place = match self.scale {
            Scale::Linear => (value - self.least) / (self.most - self.least),
            Scale::Logarithmic => (value / self.least).log10() / (self.most / self.least).log10(),
        };
        place.is_finite().then_some(place)
    }

    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let step = nice(self.most / TICKS);
                let count = (self.most / step).floor();
                std::iter::successors(Some(0.0), |tick| Some(tick + 1.0))
                    .take_while(|tick| *tick <= count)
                    .map(|tick| tick * step)
                    .collect()
            }
            Scale::Logarithmic => std::iter::successors(Some(self.least), |tick| Some(tick * 10.0))
                .take_while(|tick| *tick <= self.most * 1.001)
                .collect(),
        }
    }
}

/// The next of 1, 2, 5, 10, 20, ... at or above `step`.
fn nice(step: f64) -> f64 {
    let decade = 10_f64.powf(step.log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    let factor = factors.into_iter().find(|factor| factor * decade >= step * 0.999);
    factor.unwrap_or(10.0) * decade
}

/// A number in a few letters: 1.5 k, 2 M.
fn short(value: f64) -> String {
    let (value, unit) = match value.abs() {
        large if large >= 1e6 => (value / 1e6, " M"),
        large if large >= 1e3 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}{unit}")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

impl fmt::Display for Plot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let x = Ruler::of(self.x.scale, points().map(|point| point.0));
        let y = Ruler::of(self.y.scale, points().map(|point| point.1));
        let (wide, high) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
        let at_x = |value| x.place(value).map(|place| LEFT + place * wide);
        let at_y = |value| y.place(value).map(|place| TOP + (1.0 - place) * high);
        writeln!(
            f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"13\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n<text x=\"{LEFT}\" y=\"28\" \
             font-size=\"17\">{}</text>",
            escaped(&self.title)
        )?;
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        for tick in x.ticks() {
            if let Some(at) = at_x(tick) {
                writeln!(
                    f,
                    "<path d=\"M{at:.1} {TOP}V{bottom}\" stroke=\"#dddddd\"/><text x=\"{at:.1}\" y=\"{:.1}\" \
                     text-anchor=\"middle\">{}</text>",
                    bottom + 18.0,
                    short(tick)
                )?;
            }
        }
        for tick in y.ticks() {
            if let Some(at) = at_y(tick) {
                writeln!(
                    f,
                    "<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#dddddd\"/><text x=\"{:.1}\" y=\"{:.1}\" \
                     text-anchor=\"end\">{}</text>",
                    LEFT - 8.0,
                    at + 4.0,
                    short(tick)
                )?;
            }
        }
        writeln!(
            f,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n<text transform=\"translate(20 {:.1}) \
             rotate(-90)\" text-anchor=\"middle\">{}</text>",
            LEFT + wide / 2.0,
            HEIGHT - 16.0,
            escaped(self.x.label),
            TOP + high / 2.0,
            escaped(self.y.label)
        )?;
        for (place, line) in self.lines.iter().enumerate() {
            let colour = COLOURS[place % COLOURS.len()];
            let places: Vec<(f64, f64)> = line
                .points
                .iter()
                .filter_map(|point| Some((at_x(point.0)?, at_y(point.1)?)))
                .collect();
            let mut path = String::new();
            for (number, (x, y)) in places.iter().enumerate() {
                let pen = if number == 0 { 'M' } else { 'L' };
                write!(path, "{pen}{x:.1} {y:.1}")?;
                writeln!(
                    f,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>"
                )?;
            }
            #[expect(clippy::cast_precision_loss, reason = "up to four lines")]
            let legend = LEFT + 12.0 + 170.0 * place as f64;
            writeln!(
                f,
                "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n<text x=\"{legend:.1}\" \
                 y=\"{:.1}\" fill=\"{colour}\">{}</text>",
                TOP - 6.0,
                escaped(&line.name)
            )?;
        }
        writeln!(f, "</svg>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_numbers() {
        let linear = Ruler::of(Scale::Linear, [3.0, 27.0].into_iter());
        assert_eq!(linear.ticks(), [0.0, 5.0, 10.0, 15.0, 20.0, 25.0]);
        assert_eq!(linear.place(0.0), Some(0.0));
        let decades = Ruler::of(Scale::Logarithmic, [12.0, 0.0, 4000.0].into_iter());
        assert_eq!(decades.ticks(), [10.0, 100.0, 1000.0, 10_000.0]);
        assert_eq!(decades.place(0.0), None);
        assert!((decades.place(100.0).unwrap() - 1.0 / 3.0).abs() < 1e-9);
        assert_eq!(
            [1500.0, 2e6, 0.25, 10.0].map(short),
            ["1.5 k", "2 M", "0.25", "10"]
        );
    }

    #[test]
    fn a_plot_is_well_formed_whatever_its_names_are() {
        let plot = Plot {
            title: "put <latency> & load".to_owned(),
            x: Axis {
                label: "puts/s",
                scale: Scale::Linear,
            },
            y: Axis {
                label: "p99, ms",
                scale: Scale::Logarithmic,
            },
            lines: vec![
                Line {
                    name: "a".to_owned(),
                    points: vec![(1.0, 2.0), (2.0, 0.0), (3.0, 30.0)],
                },
                Line {
                    name: "none".to_owned(),
                    points: Vec::new(),
                },
            ],
        };
        let svg = plot.to_string();
        assert!(svg.contains("put &lt;latency&gt; &amp; load"), "{svg}");
        // What cannot be shown on a logarithmic axis is left out.
        assert_eq!(svg.matches("<circle").count(), 2, "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    }
}
