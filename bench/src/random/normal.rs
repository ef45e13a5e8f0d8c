//! Normal variates by a ziggurat of 256 layers (G. Marsaglia, W. W. Tsang, "The Ziggurat Method for Generating Random
//! Variables", Journal of Statistical Software 5, 2000), with 52 bits of a draw for the place in the layer.
//!
//! Layer 255 ends at [`EDGE`], every layer has the same [`AREA`], and layer 0 is the base strip with the tail.

use super::Random;
use std::sync::LazyLock;

const LAYERS: usize = 256;

/// Where the tail begins.
const EDGE: f64 = 3.654_152_885_361_009;

/// What a layer covers, as the published tables round it.
const AREA: f64 = 0.004_928_673_233_974_652;

/// Height of the density at the edge of layer 38. The true value lies all but half-way between two floats; the tables
/// that numpy carries come from a rounding up, and every layer below it follows from it.
const HEIGHT_38: (usize, u64) = (38, 0x3fe5_ad29_acc8_5c89);

/// What the ziggurat needs of its layers.
struct Tables {
    /// Width of a layer for each of the 2^52 places in it.
    width: [f64; LAYERS],
    /// Places below this lie wholly under the curve.
    inside: [u64; LAYERS],
    /// Height of the density at the layer's edge.
    height: [f64; LAYERS],
}

static TABLES: LazyLock<Tables> = LazyLock::new(Tables::new);

impl Tables {
    fn new() -> Tables {
        let places = (1u64 << 52) as f64;
        let density = |x: f64| (-0.5 * x * x).exp();
        let mut edge = [0.0; LAYERS];
        let mut height = [1.0; LAYERS];
        edge[LAYERS - 1] = EDGE;
        height[LAYERS - 1] = density(EDGE);
        for i in (1..LAYERS - 1).rev() {
            edge[i] = (-2.0 * (AREA / edge[i + 1] + height[i + 1]).ln()).sqrt();
            height[i] = density(edge[i]);
            if i == HEIGHT_38.0 {
                height[i] = f64::from_bits(HEIGHT_38.1);
            }
        }
        // The base strip is as wide as a rectangle of the same area and height.
        edge[0] = AREA / height[LAYERS - 1];
        let mut inside = [0; LAYERS];
        inside[0] = (EDGE / edge[0] * places) as u64;
        for i in 2..LAYERS {
            inside[i] = (edge[i - 1] / edge[i] * places) as u64;
        }
        Tables {
            width: edge.map(|x| x / places),
            inside,
            height,
        }
    }
}

impl Random {
    /// Normal with mean 0 and deviation 1.
    pub(super) fn standard_normal(&mut self) -> f64 {
        let tables = &*TABLES;
        loop {
            let bits = self.bits.next();
            let layer = (bits & 0xff) as usize;
            let negative = bits >> 8 & 1 == 1;
            let place = bits >> 9 & ((1 << 52) - 1);
            let sign = |x: f64| if negative { -x } else { x };
            let x = place as f64 * tables.width[layer];
            if place < tables.inside[layer] {
                return sign(x);
            }
            if layer == 0 {
                let (beyond, side) = (self.tail(), place >> 8 & 1 == 1);
                return if side { -beyond } else { beyond };
            }
            let (low, high) = (tables.height[layer], tables.height[layer - 1]);
            if (high - low) * self.unit() + low < (-0.5 * x * x).exp() {
                return sign(x);
            }
        }
    }

    /// A draw from the tail, beyond [`EDGE`].
    fn tail(&mut self) -> f64 {
        loop {
            let x = -(1.0 / EDGE) * (-self.unit()).ln_1p();
            let y = -(-self.unit()).ln_1p();
            if y + y > x * x {
                return EDGE + x;
            }
        }
    }
}
