//! Times by how often: buckets that are a 64th of their own value wide, so a percentile is right to 1.6 %.

/// Buckets per power of two.
const SUB: u64 = 64;
const SUB_BITS: u32 = SUB.trailing_zeros();
/// One row of `SUB` for what is below `SUB`, and one per further bit.
const ROWS: usize = 64 - SUB_BITS as usize + 1;

/// A histogram of nanoseconds.
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; ROWS * SUB as usize], count: 0, max: 0 }
    }
}

impl Histogram {
    /// Adds one time.
    pub fn record(&mut self, nanoseconds: u64) {
        self.buckets[index(nanoseconds)] += 1;
        self.count += 1;
        self.max = self.max.max(nanoseconds);
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest, exactly.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The time that this share (0 to 1) of all did not exceed; 0 if there are none.
    pub fn percentile(&self, share: f64) -> u64 {
        let wanted = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return middle(index).min(self.max);
            }
        }
        self.max
    }
}

fn index(value: u64) -> usize {
    if value < SUB {
        return value as usize;
    }
    let row = value.ilog2() - SUB_BITS + 1;
    let column = (value >> (row - 1)) - SUB;
    (u64::from(row) * SUB + column) as usize
}

fn middle(index: usize) -> u64 {
    let (row, column) = (index as u64 / SUB, index as u64 % SUB);
    if row == 0 {
        return column;
    }
    let width = 1_u64 << (row - 1);
    (SUB + column) * width + width / 2
}

#[cfg(test)]
mod tests;
