//! Strings by number, so that keys and extremes of text are compared as numbers where they are equal.

use std::collections::HashMap;
use std::rc::Rc;

/// Known strings.
#[derive(Default)]
pub struct Strings {
    numbers: HashMap<Rc<[u8]>, u32>,
    strings: Vec<Rc<[u8]>>,
}

impl Strings {
    /// The number of a string, which becomes known.
    pub fn number(&mut self, string: &[u8]) -> i64 {
        if let Some(number) = self.numbers.get(string) {
            return i64::from(*number);
        }
        let number = self.strings.len() as u32;
        let string: Rc<[u8]> = string.into();
        self.strings.push(string.clone());
        self.numbers.insert(string, number);
        i64::from(number)
    }

    /// The string of a number.
    pub fn get(&self, number: i64) -> &[u8] {
        usize::try_from(number)
            .ok()
            .and_then(|n| self.strings.get(n))
            .map_or(&[], |s| s)
    }
}
